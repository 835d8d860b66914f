"""What all tests share."""

from __future__ import annotations

import os

# Before TensorFlow is imported: its C++ side logs to standard error otherwise, which no filter of ours reaches.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from hypothesis import settings

# One and the same examples everywhere, so that a failure in CI is a failure at home; no deadline on a shared machine.
settings.register_profile("densecast", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("densecast")
