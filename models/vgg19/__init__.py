"""VGG-19: the deploy definition."""
