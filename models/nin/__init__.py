"""Network in Network: the deploy definition."""
