"""Flickr style: the deploy definition and the class names."""
