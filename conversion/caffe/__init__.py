"""Caffe's files: reading, checking, upgrading and writing them."""
