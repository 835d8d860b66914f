"""Importing TensorFlow without the lines that it always prints."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow prints these while it is imported, whatever its log level: they are no news to a user.
_NOISE = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on", b"rebuild TensorFlow")


def load_tensorflow(*, debug: bool) -> None:
    """Imports TensorFlow without the lines that it always prints; anything else it prints is passed on.

    Raises:
        MissingExtraError: It is not installed.
    """
    from conversion import import_tensorflow

    with contextlib.nullcontext() if debug else _without_noise():
        import_tensorflow()


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Holds back what native code writes to standard error, and passes on all but the known noise at the end."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not any(noise in line for noise in _NOISE):
                    os.write(2, line)
