"""VGG-16: the deploy definition."""
