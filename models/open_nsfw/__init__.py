"""open_nsfw: the deploy definition and the class names."""
