"""Caffe in, SavedModel out: reading, casting, evaluating and converting Caffe networks.

The names are listed in `__init__.pyi` and imported on first use: reading a table needs the errors, not the layers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
