"""DenseNet-121: the deploy definition."""
