"""Apache Beam: run a dense model over image collections and keep the classification maps in a Delta table.

The names are listed in `__init__.pyi` and imported on first use: reading a table needs neither Beam nor TensorFlow.
"""

import lazy_loader

from pipeline.own_packages import import_own

import_own("conversion")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
