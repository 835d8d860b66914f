"""Deprecated, removed in 0.3: pass storage options as an argument, as in `MapTable(path, storage_options={...})`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from pipeline.storage.options import StorageOptions, set_default_options, storage_options


def use(options: StorageOptions | Mapping[str, str]) -> None:
    """Sets the options that this process opens object stores with where none are given.

    Raises:
        CredentialsError: An option does not exist, or a value is malformed.
    """
    warnings.warn(
        "pipeline.credentials.use is deprecated: give storage_options to MapTable, ScoreImages or ListImages",
        DeprecationWarning,
        stacklevel=2,
    )
    set_default_options(storage_options(options))
