"""CaffeNet: the deploy definition."""
