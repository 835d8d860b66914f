"""AlexNet: the deploy definition."""
