"""GoogLeNet: the deploy definition."""
