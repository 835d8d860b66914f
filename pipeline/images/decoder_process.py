"""Decoding in a child process, so that a decoder that hangs or crashes costs one image, not the run.

Why no process pool from a library is used: pebble, concurrent.futures and loky pickle the pixels through a pipe. A
round trip with a 451 x 451 image costs 1.5, 1.4 and 1.8 ms of CPU there and 0.3 ms here; with a tiny image it costs
0.27, 0.30 and 0.39 ms there and 0.11 ms here (measured together, on 2 cores). Also, the first two use multiprocessing,
which runs the user's main script again in a child that is not forked, and which does not allow a daemonic process to
have children.
"""

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import numpy as np

from conversion.errors import DensecastError
from pipeline.images import decoder_child
from pipeline.rejection import Reason, Rejected
from pipeline.settings import LimitSettings

TIMEOUT_S = LimitSettings.decode_timeout
"""Seconds that one decode may take. The largest images take a few; the rest is reserve for an overloaded machine."""

MEMORY_BYTES = 8 * 2**30
"""Address space of the child. The largest image that `DecodeLimits` allows by default needs less than half of it."""

_START_S = 300.0
_SLICE_S = 1.0
_DYING_S = 10.0
_SOCKET_BYTES = 2**20


class IsolationError(DensecastError):
    """The decoder process cannot be started. The cause is not an image."""


class IsolatedDecoder:
    """Calls a function that decodes images in a child process.

    The first call starts the child; if the child is lost, the next call starts another one. The child ends with
    `close`, when this object is garbage collected, and when this process ends in any way, also during a decode. Threads
    may share a decoder but then wait for each other, so each thread should have its own. After a fork the new process
    starts its own child.

    Args:
        timeout_s: Seconds that one decode may take, without the start of the child. Time in which this process does not
            run (a suspended machine or container) does not count.
        memory_bytes: Address space that the child may use (Linux). More ends in OUT_OF_MEMORY.
        function: The function to call in the child, as "module:name". Its first argument is an image file.
        clock: Makes the clock that a wait uses, from its time limit in seconds.

    Raises:
        ValueError: A limit is not positive.
    """

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        function: str = "pipeline.images.decode:decode",
        clock: "Callable[[float], WaitClock] | None" = None,
    ) -> None:
        if not timeout_s > 0 or memory_bytes < 1:
            raise ValueError(f"timeout_s is {timeout_s}, memory_bytes is {memory_bytes}; both must be positive")
        self._timeout_s, self._memory_bytes, self._function = timeout_s, memory_bytes, function
        self._clock = clock or _Clock
        self._child: _Child | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        child = self._child
        return child.process.pid if child else None

    def call(self, data: bytes, *arguments: object, **options: object) -> Any:
        """Returns what the function returns for these arguments.

        If a signal kills the child, the call is repeated once in a new child: the kernel may have killed it because of
        another process on the machine. A call that exceeds the time limit is not repeated.

        Args:
            data: An image file.
            *arguments: Further positional arguments of the function.
            **options: Its keyword arguments.

        Raises:
            Rejected: The function raised it; or DECODER_HUNG or DECODER_DIED.
            IsolationError: The child cannot be started.
            ValueError: The decoder was closed.
        """
        with self._lock:
            try:
                return self._outcome(data, arguments, options).get()
            except MemoryError as error:
                raise Rejected(Reason.OUT_OF_MEMORY, "the pixels do not fit in memory") from error

    def close(self) -> None:
        """Ends the child at once. A decode that runs in another thread raises ValueError there."""
        self._closed = True
        child = self._child
        if child and child.is_ours():
            child.process.kill()  # wakes a thread that waits for an answer
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _outcome(self, data: bytes, arguments: tuple[object, ...], options: dict[str, object]) -> decoder_child.Outcome:
        try:
            return self._call(data, arguments, options)
        except _DiedError as died:
            if not died.by_signal:
                raise Rejected(Reason.DECODER_DIED, str(died)) from None
            try:
                return self._call(data, arguments, options)
            except _DiedError as again:
                raise Rejected(Reason.DECODER_DIED, f"{died}, then {again}") from None

    def _call(self, data: bytes, arguments: tuple[object, ...], options: dict[str, object]) -> decoder_child.Outcome:
        child = self._started()
        answered = False
        try:
            child.send(data, arguments, options, self._timeout_s)
            outcome = child.receive(self._timeout_s)
            answered = True
        except _HungError:
            raise Rejected(Reason.DECODER_HUNG, f"not finished after {self._timeout_s:g} s") from None
        finally:
            if not answered:  # a late answer would be taken for that of the next image
                self._end()
        return outcome

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.end()

    def _started(self) -> "_Child":
        if self._child and not self._child.is_ours():
            self._child = None
        if self._child is None:
            self._check_open()
            child = _take_spare(self._function, self._memory_bytes) or _Child(self._function, self._memory_bytes)
            child.clock, self._child = self._clock, child
            ready = False
            try:
                child.receive(_START_S)
                ready = True
            except (_HungError, _DiedError) as error:
                self._check_open()
                raise IsolationError(
                    f"the process that decodes images could not be started: {error}",
                    where=self._function,
                    why="images are decoded in a separate process, so that a crash costs one image",
                    remedy="read what it wrote to standard error",
                ) from None
            finally:
                if not ready:
                    self._end()
        self._check_open()
        return self._child

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the decoder is closed")


class WaitClock(Protocol):
    """The time limit of one wait, or of several that share it."""

    def wait(self, event: select.poll) -> None:
        """Waits for `event`; raises _HungError when the time is over."""


class _HungError(Exception):
    """No answer came in time."""


class _DiedError(Exception):
    """The child has ended."""

    def __init__(self, status: int) -> None:
        self.by_signal = status < 0
        super().__init__(f"killed by {_signal_name(-status)}" if self.by_signal else f"ended with status {status}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[4:]; from pipeline.images.decoder_child import serve; "
    "serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
)
"""The child takes over the parent's module path, so that it finds the same modules from any working directory."""


_ENVIRONMENT = {
    # No thread pool for NumPy: nothing here uses it.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Otherwise glibc returns the memory after every image, and the next image causes the page faults again.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}


class _Child:
    """A process that runs `pipeline.images.decoder_child.serve`, and the socket to it."""

    def __init__(self, function: str, memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            number = str(theirs.fileno())
            command = [sys.executable, "-c", _BOOTSTRAP, number, function, str(memory_bytes), *sys.path]
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                    command,
                    bufsize=0,
                    stdin=subprocess.PIPE,  # never written to; when it closes, the child ends
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # the terminal's Ctrl-C then reaches only this process
                    env={**os.environ, **_ENVIRONMENT},
                )
            except OSError as error:
                ours.close()
                raise IsolationError(
                    f"the process that decodes images could not be started: {error}", where=sys.executable
                ) from error
        # Blocking, for pieces that are on their way; each wait ends, so that a child that is stopped is noticed.
        ours.setblocking(True)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
        self._socket = ours
        self.kind = (function, memory_bytes)
        self.clock: Callable[[float], WaitClock] = _Clock
        self._writable, self._readable = select.poll(), select.poll()
        self._writable.register(ours, select.POLLOUT)
        self._readable.register(ours, select.POLLIN)
        self._before: tuple[tuple[object, ...], dict[str, object], bytes] | None = None
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self.process, ours)

    def is_ours(self) -> bool:
        """Returns False in a process that was forked from the one that started the child."""
        return os.getpid() == self._owner

    def end(self) -> None:
        """Kills the child and waits for it. May be called repeatedly and from any thread."""
        self._finalizer()

    def send(self, data: bytes, arguments: tuple[object, ...], options: dict[str, object], timeout_s: float) -> None:
        """Sends a request."""
        pickled = self._pickled(arguments, options)
        head = decoder_child.LENGTHS.pack(len(pickled), 0, len(data)) + pickled
        clock = self.clock(timeout_s)
        for piece in decoder_child.joined([head, data]):
            rest = memoryview(piece)
            while rest:
                try:
                    rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    clock.wait(self._writable)
                except OSError:
                    raise self._died() from None

    def receive(self, timeout_s: float) -> decoder_child.Outcome:
        """Waits for an answer and returns it.

        Raises:
            _HungError: No answer came within `timeout_s`.
            _DiedError: The child has ended.
        """
        clock = self.clock(timeout_s)
        head = self._exactly(decoder_child.LENGTHS.size, clock)
        pickled, table, buffers = decoder_child.LENGTHS.unpack(head)
        described = self._exactly(pickled + table, clock, sent=True)
        pixels = self._exactly(buffers, clock, sent=True)
        outcome: decoder_child.Outcome = decoder_child.content(described[:pickled], described[pickled:], pixels)
        return outcome

    def _pickled(self, arguments: tuple[object, ...], options: dict[str, object]) -> bytes:
        """Returns the arguments of a call as they are sent; those of the call before are mostly the same objects.

        What a decoder is called with does not change.
        """
        before = self._before
        same = (
            before is not None
            and len(before[0]) == len(arguments)
            and all(one is other for one, other in zip(before[0], arguments, strict=True))
        )
        if before is None or not same or before[1] != options:
            pickled = pickle.dumps((arguments, options), decoder_child.PROTOCOL)
            before = self._before = (arguments, options, pickled)
        return before[2]

    def _exactly(self, length: int, clock: WaitClock, *, sent: bool = False) -> memoryview:
        """Receives so many bytes.

        Args:
            length: The number of bytes.
            clock: The time limit.
            sent: Whether the child is sending them. Then the kernel waits for all of them, which wakes this process
                once, not for each piece that fits into the socket.
        """
        flags = socket.MSG_WAITALL if sent else socket.MSG_DONTWAIT
        whole = rest = np.empty(length, np.uint8).data
        while rest:
            try:
                received = self._socket.recv_into(rest, 0, flags)
            except BlockingIOError:
                clock.wait(self._readable)
                continue
            except OSError:
                raise self._died() from None
            if not received:
                raise self._died()
            rest = rest[received:]
        return whole

    def _died(self) -> _DiedError:
        try:
            return _DiedError(self.process.wait(_DYING_S))
        except subprocess.TimeoutExpired:  # it closed its socket but still runs
            self.process.kill()
            return _DiedError(self.process.wait())


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    process.kill()  # does nothing in a forked process, whose child it is not
    process.wait()
    if process.stdin:
        process.stdin.close()
    connection.close()


class _Clock:
    """A time limit that counts the seconds spent waiting, not the seconds that passed.

    Time in which this process does not run (it was stopped, or the machine slept) counts as one slice at most.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self, event: select.poll) -> None:
        """Waits for `event`; raises _HungError when the time is up."""
        while not event.poll(min(self._left, _SLICE_S) * 1000):
            self._left -= _SLICE_S
            if self._left <= 0:
                raise _HungError("no answer in time")


_spares: list[_Child] = []


@contextlib.contextmanager
def decoders_ahead(count: int, function: str, memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Starts children for the decoders that will be used in a block, so that their start is not waited for.

    A decoder with the same function and memory takes a child that was started, instead of starting one.

    Args:
        count: How many children are started. Those that no decoder has taken end with the block.
        function: See `IsolatedDecoder`.
        memory_bytes: See `IsolatedDecoder`.

    Raises:
        IsolationError: A child cannot be started.
    """
    try:
        _spares.extend(_Child(function, memory_bytes) for _ in range(count))
        yield
    finally:
        while (child := _take_spare(function, memory_bytes)) is not None:
            child.end()


def _take_spare(function: str, memory_bytes: int) -> _Child | None:
    """Removes and returns a child of this process that was started ahead and lives; None where there is none."""
    for child in list(_spares):
        if child.kind == (function, memory_bytes) and child.is_ours():
            with contextlib.suppress(ValueError):  # another thread has taken it
                _spares.remove(child)
                if child.process.poll() is None:
                    return child
                child.end()
    return None
