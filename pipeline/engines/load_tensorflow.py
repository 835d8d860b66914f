"""Imports TensorFlow without the lines that it always prints."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow prints these lines on import at every log level; they do not concern a user.
_NOISE = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on", b"rebuild TensorFlow")


def load_tensorflow(*, debug: bool) -> None:
    """Imports TensorFlow without the lines that it always prints; all other output is passed on.

    Raises:
        MissingExtraError: TensorFlow is not installed.
    """
    from conversion import import_tensorflow

    with contextlib.nullcontext() if debug else _without_noise():
        import_tensorflow()


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Captures what native code writes to standard error, and at the end passes on all but the known lines."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            captured.seek(0)
            for line in captured:
                if not any(noise in line for noise in _NOISE):
                    os.write(2, line)
