"""MobileNet: the deploy definition."""
