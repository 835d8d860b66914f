"""Imports Beam without what it prints where its BigQuery client is missing, and on demand without what nobody uses."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec

_UNUSED = ("pandas", "pymongo", "bson", "apache_beam.io.gcp.bigquery")
"""What Beam and Arrow import where it is installed, to support it: about half of the seconds that Beam takes."""


def _is_useful(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("apitools not found", "Could not find a compatible bson"))


def import_beam() -> None:
    """Imports Beam; its warnings about missing clients are dropped, and the root logger stays as it is.

    The function `logging.warning`, which Beam calls, would otherwise add a handler to the root logger.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    mongo = logging.getLogger("apache_beam.io.mongodbio")
    for logger in (root, mongo):
        logger.addFilter(_is_useful)
    root.addHandler(handler)
    try:
        import apache_beam  # noqa: F401
    finally:
        root.removeHandler(handler)
        for logger in (root, mongo):
            logger.removeFilter(_is_useful)


def import_lean_beam() -> None:
    """Imports Beam, and lets Arrow start, without packages that densecast does not use; they can be imported later.

    For a process that is densecast's alone: Beam's connectors to BigQuery and MongoDB, and what Beam and Arrow do for
    pandas, are missing in it from then on. Does nothing where Beam is already imported.
    """
    if "apache_beam" in sys.modules:
        return
    # For each transform Beam asks IPython whether it runs in a notebook; where IPython is not imported it does not.
    sys.modules.setdefault("IPython", None)  # type: ignore[arg-type]  # "not importable" in Python's own documentation
    with hidden(_UNUSED), without_collections():
        import_beam()
        import pyarrow as pa

        pa.array([0])  # Arrow looks for pandas once, at its first conversion
    # Each row makes objects, so that Python often looks for cycles: a tenth of the time among what Beam has imported.
    gc.freeze()


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Does without Python's search for garbage in a block that imports: it goes through all modules again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """Makes modules that are not imported yet impossible to import in a block, as if they were not installed."""
    finder = _Hides(frozenset(names))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Hides:
    """A finder, asked before all others, that says of some modules that there are none."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Returns None, so that other finders are asked; raises ModuleNotFoundError for a hidden module."""
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)
        return None
