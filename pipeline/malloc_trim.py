"""Returns freed memory to the operating system, so that a process is no larger than what it uses."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import pyarrow as pa


def release_free_memory() -> None:
    """Makes the allocators return freed memory to the system; takes a few milliseconds.

    By itself glibc shrinks its heap only from the end, and the buffers in which the local runner holds a listing lie in
    the middle. With 100,000 images, 370 bytes per image stayed resident at the end of a run, and 160 with this call.
    """
    pa.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], object] | None:
    """Returns glibc's malloc_trim(3); None with other C libraries."""
    try:
        malloc_trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; on Windows, CDLL(None) raises TypeError
        return None
    return malloc_trim
