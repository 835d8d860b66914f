"""A decoder that fails on images whose file ends with a certain word; runs in the process that decodes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from pipeline.images import multiscale


def decode_scaled(data: bytes, *args: Any, **options: Any) -> Any:
    """As `pipeline.images.multiscale.decode_scaled`."""
    tail = bytes(data[-8:])
    if tail.endswith(b"HANG"):
        time.sleep(600)
    if tail.endswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if tail.endswith(b"EXIT"):
        os._exit(1)
    if tail.endswith(b"EAT"):
        return bytearray(1 << 45)
    return multiscale.decode_scaled(data, *args, **options)
