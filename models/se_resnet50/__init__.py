"""SE-ResNet-50: the deploy definition."""
