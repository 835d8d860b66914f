"""The child process that decodes images. `pipeline.images.decoder_process` starts it; it ends with its parent.

It imports as little as possible, because the parent waits for every start: no Beam, no TensorFlow, no `conversion`
beyond its errors, and not the user's main script.

A message is three lengths (of the pickle, of the table of buffer lengths, of the buffers), then these three parts. The
buffers are what pickle's protocol 5 sends out of band, so pixels are copied once into the socket and once out of it.
"""

import contextlib
import fcntl
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from pipeline.rejection import Rejected

LENGTHS = struct.Struct("<3Q")
"""The head of every message: bytes of the pickle, of the table of buffer lengths (8 each), and of all buffers."""

PROTOCOL = 5
"""The pickle protocol: 5 is the first that sends buffers out of band."""

STATUS_NOT_FOUND = 3
"""Exit status if the function to run cannot be imported; standard error has the reason."""

_SMALL = 2**16


def message(content: object) -> list[bytes | memoryview]:
    """Returns a message that holds `content`, as the pieces to send one after the other."""
    out_of_band: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(content, PROTOCOL, buffer_callback=out_of_band.append)
    buffers = [buffer.raw() for buffer in out_of_band]
    sizes = [buffer.nbytes for buffer in buffers]
    table = struct.pack(f"<{len(sizes)}Q", *sizes)
    head = LENGTHS.pack(len(pickled), len(table), sum(sizes)) + pickled + table
    return joined([head, *buffers])


def joined(pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Returns the pieces, joined if they are small: each piece wakes the reader, and a large one is costly to copy."""
    return [b"".join(pieces)] if sum(map(len, pieces)) < _SMALL else pieces


def content(pickled: bytes | memoryview, table: bytes | memoryview, buffers: memoryview) -> Any:
    """Returns what `message` packed, from its three parts. Arrays in it are views of `buffers`."""
    sizes = struct.unpack(f"<{len(table) // 8}Q", table)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    views = [buffers[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return pickle.loads(pickled, buffers=views)  # noqa: S301 - sent by a process that runs our own code


class Outcome:
    """How a call ended: its `value`, or the `error` that it raised, with its traceback as a note.

    As a context manager it catches what its body raises, and `get` raises that again, in any process. SystemExit and
    KeyboardInterrupt pass through.

    >>> with Outcome() as outcome:
    ...     outcome.value = 1 // 0
    >>> pickle.loads(pickle.dumps(outcome)).error
    ZeroDivisionError('integer division or modulo by zero')
    """

    def __init__(self) -> None:
        self.value: object = None
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, Rejected):  # a bug: pickling loses its traceback
            error.add_note("".join(traceback.format_exception(error)))
        self.error = error
        return True

    def get(self) -> object:
        """Returns `value`; raises `error` if there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def serve(descriptor: int, function: str, memory_bytes: int) -> None:
    """Answers requests until the socket is closed.

    A request holds the bytes to decode, positional arguments and keyword arguments. The answer is an `Outcome`. The
    first answer is sent before any request: it says that the function was imported.

    Args:
        descriptor: File descriptor of the socket.
        function: The function to call for each request, as "module:name".
        memory_bytes: Limit of this process's address space (Linux).
    """
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(memory_bytes)
    try:
        called = _resolve(function)
    except (ImportError, AttributeError, ValueError):
        traceback.print_exc()
        sys.exit(STATUS_NOT_FOUND)
    _silence_libraries()
    with (
        socket.socket(fileno=descriptor) as connection,
        connection.makefile("rb") as requests,
        contextlib.suppress(ConnectionError),  # the parent has ended
    ):
        _send(connection, message(Outcome()))
        while header := requests.read(LENGTHS.size):
            _answer(called, header, requests, connection)


def _resolve(function: str) -> Callable[..., object]:
    """Returns the function "module:name"."""
    module, _, name = function.partition(":")
    resolved: Callable[..., object] = getattr(importlib.import_module(module), name)
    return resolved


def _answer(called: Callable[..., object], header: bytes, requests: BinaryIO, connection: socket.socket) -> None:
    """Answers one request. A separate function, so that its pixels are freed before the next request is awaited."""
    pickled, table, data = (requests.read(length) for length in LENGTHS.unpack(header))
    arguments, options = content(pickled, table, memoryview(b""))
    with Outcome() as outcome:
        outcome.value = called(data, *arguments, **options)
    _send(connection, message(outcome))


def _send(connection: socket.socket, pieces: Sequence[bytes | memoryview]) -> None:
    for piece in pieces:
        connection.sendall(piece)


def _die_with_parent() -> None:
    """Asks the kernel to end this process when its standard input is closed, which happens when the parent dies.

    Watching the socket is not enough: a decoder that hangs neither reads it nor runs Python code. On Linux the default
    action of SIGIO ends the process.
    """
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _silence_libraries() -> None:
    """Keeps C libraries from writing to standard error, where libtiff repeats what a rejection says."""
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 - open until the process ends
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)


def _limit_memory(memory_bytes: int) -> None:
    """Caps the address space, and makes this process the kernel's first choice if the machine runs out of memory."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        # Some containers lack the file or do not allow writing it. Then the kernel chooses as usual.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
