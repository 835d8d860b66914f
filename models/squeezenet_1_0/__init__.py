"""SqueezeNet 1.0: the deploy definition."""
