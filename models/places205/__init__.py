"""Places205-CNN: the deploy definition."""
