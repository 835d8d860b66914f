"""Caffe in, SavedModel out: reading, casting, evaluating and converting Caffe networks."""
