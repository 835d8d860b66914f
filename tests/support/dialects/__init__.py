"""Golden cases for what forks of Caffe added: `python -m tests.support.dialects` writes them; see tests/golden."""
