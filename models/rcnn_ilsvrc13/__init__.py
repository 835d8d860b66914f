"""R-CNN ILSVRC13: the deploy definition."""
