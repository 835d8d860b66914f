"""The process that decodes for `pipeline.images.decoder_process`, which starts it; it ends with its parent.

Imports little, because every start of it is waited for: no Beam, no TensorFlow, nothing of the user's main script.

A message is three lengths (the pickle, the table of buffer lengths, the buffers), then these three parts. The buffers
are what pickle's protocol 5 leaves out of band: pixels travel once, from array to socket to array.
"""

import contextlib
import fcntl
import os
import pickle
import pkgutil
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
"""Begins every message: bytes of the pickle, of the table of buffer lengths (8 each), and of all buffers."""

PROTOCOL = 5
"""Of pickle: the first that leaves buffers out of band."""

STATUS_NOT_FOUND = 3
"""Exit status where the function to run cannot be imported; the reason is on standard error."""

_SMALL = 2**16


def message(content: object) -> list[bytes | memoryview]:
    """`content`, pickled, in the pieces to send one after the other."""
    kept: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(content, PROTOCOL, buffer_callback=kept.append)
    buffers = [buffer.raw() for buffer in kept]
    sizes = [buffer.nbytes for buffer in buffers]
    table = struct.pack(f"<{len(sizes)}Q", *sizes)
    head = LENGTHS.pack(len(pickled), len(table), sum(sizes)) + pickled + table
    return joined([head, *buffers])


def joined(pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """One piece of several, if it is small: each wakes the reader. The copy of a large one would cost more."""
    return [b"".join(pieces)] if sum(map(len, pieces)) < _SMALL else pieces


def content(pickled: bytes | memoryview, table: bytes | memoryview, buffers: memoryview) -> Any:
    """What `message` packed, from its three parts; arrays in it are views of `buffers`."""
    sizes = struct.unpack(f"<{len(table) // 8}Q", table)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    views = [buffers[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return pickle.loads(pickled, buffers=views)  # noqa: S301 - of a process that runs our own code


class Outcome:
    """How a call ended: `value`, or the `error` that it raised, where it came from noted in it.

    A context: what its body raises is kept for `get`, in whatever process that is called; SystemExit and
    KeyboardInterrupt pass.

    >>> with Outcome() as outcome:
    ...     outcome.value = 1 // 0
    >>> pickle.loads(pickle.dumps(outcome)).error
    ZeroDivisionError('integer division or modulo by zero')
    """

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, Rejected):  # an error of the program, whose origin does not survive pickling
            error.add_note("".join(traceback.format_exception(error)))
        self.error = error
        return True

    def get(self) -> Any:
        """`value`; raises `error` if there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def serve(descriptor: int, function: str, memory_bytes: int) -> None:
    """Answers requests from the socket `descriptor` until it is closed: calls `function`, "module:name", on them.

    A request is the bytes to decode, then positional and keyword arguments; the answer is an `Outcome`. The first
    answer, to no request, says that the function was found.
    """
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(memory_bytes)
    try:
        called: Callable[..., Any] = pkgutil.resolve_name(function)
    except (ImportError, AttributeError, ValueError):
        traceback.print_exc()
        sys.exit(STATUS_NOT_FOUND)
    _silence_libraries()
    with (
        socket.socket(fileno=descriptor) as connection,
        connection.makefile("rb") as requests,
        contextlib.suppress(ConnectionError),  # the parent is gone
    ):
        _send(connection, message(Outcome()))
        while header := requests.read(LENGTHS.size):
            _answer(called, header, requests, connection)


def _answer(called: Callable[..., Any], header: bytes, requests: BinaryIO, connection: socket.socket) -> None:
    """In a function of its own, so that no pixels are held while the next request is waited for."""
    pickled, table, data = (requests.read(length) for length in LENGTHS.unpack(header))
    arguments, options = content(pickled, table, memoryview(b""))
    with Outcome() as outcome:
        outcome.value = called(data, *arguments, **options)
    _send(connection, message(outcome))


def _send(connection: socket.socket, pieces: Sequence[bytes | memoryview]) -> None:
    for piece in pieces:
        connection.sendall(piece)


def _die_with_parent() -> None:
    """Has the kernel end this process when its standard input is closed, as it is when the parent dies.

    The socket's end alone would not do: a decoder that hangs does not read it, nor runs it any Python code. SIGIO's
    default action on Linux is to end the process.
    """
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _silence_libraries() -> None:
    """Leaves standard error to Python: of every damaged TIFF libtiff prints there what its rejection says as well."""
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 - as long as the process
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _limit_memory(memory_bytes: int) -> None:
    """Caps the address space, and offers this process first where the machine runs out of memory all the same."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        # Not every container has the file, or lets it be written; then the largest process is taken, as ever.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
