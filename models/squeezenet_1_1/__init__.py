"""SqueezeNet 1.1: the deploy definition."""
