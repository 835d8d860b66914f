"""Decoding in a process of its own, so that a decoder that hangs or crashes costs one image, not the run.

Why not the process pool of a library: a round trip with a 451 x 451 image costs 1.5 ms of CPU in pebble, 1.4 ms in
concurrent.futures and 1.8 ms in loky, which pickle the pixels through a pipe, and 0.3 ms here; one with a tiny image
0.27, 0.30 and 0.39 ms, and 0.11 ms (2 cores, one sitting). And multiprocessing, on which the first two rest, runs the
user's main script again in a child that is not forked, and lets its own daemonic processes have no children.
"""

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np

from conversion.errors import DensecastError
from pipeline.images import decoder_child
from pipeline.rejection import Reason, Rejected
from pipeline.settings import LimitSettings

TIMEOUT_S = LimitSettings.decode_timeout
"""Seconds that one decode may take. The largest images take a few; this is for a machine that is overloaded as well."""

MEMORY_BYTES = 8 * 2**30
"""Address space of the process. The largest image that `DecodeLimits` allows by default takes less than half of it."""

_START_S = 300.0
_SLICE_S = 1.0
_DYING_S = 10.0
_SOCKET_BYTES = 2**20


class IsolationError(DensecastError):
    """The process that decodes cannot be started; no image is to blame."""


class IsolatedDecoder:
    """Calls a function that decodes images in a child process.

    The child is started by the first call, and again by the first call after it was lost. It ends with `close`, with
    the garbage, and with this process, however that ends, even in the middle of a decode. Threads may share one, but
    wait for each other; each should have its own. After a fork the new process starts a child of its own.

    Args:
        timeout_s: Seconds that one decode may take, starting the child not counted. Only time in which this process
            runs too is counted: that a machine or a container was suspended is no image's fault.
        memory_bytes: Address space that the child may take (Linux); more ends in OUT_OF_MEMORY.
        function: What to call in the child, as "module:name"; its first argument is an image file.
        clock: Makes the clock of a wait from its limit in seconds.

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
        """The child's process id; None while there is none."""
        child = self._child
        return child.process.pid if child else None

    def call(self, data: bytes, *arguments: Any, **options: Any) -> Any:
        """What the function returns for these arguments; `data` is an image file.

        A child that is killed by a signal is replaced and asked once more: the kernel may have taken it because of
        something else on the machine. A time limit is not given twice.

        Raises:
            Rejected: What the function raises; DECODER_HUNG, DECODER_DIED.
            IsolationError: The child cannot be started.
            ValueError: The decoder was closed.
        """
        with self._lock:
            try:
                return self._outcome(data, arguments, options).get()
            except MemoryError as error:
                raise Rejected(Reason.OUT_OF_MEMORY, "the pixels do not fit in memory") from error

    def close(self) -> None:
        """Ends the child at once; a decode that runs in another thread raises ValueError there."""
        self._closed = True
        child = self._child
        if child and child.is_ours():
            child.process.kill()  # wakes the thread that waits for it
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _outcome(self, data: bytes, arguments: tuple[Any, ...], options: dict[str, Any]) -> decoder_child.Outcome:
        try:
            return self._call(data, arguments, options)
        except _DiedError as died:
            if not died.by_signal:
                raise Rejected(Reason.DECODER_DIED, str(died)) from None
            try:
                return self._call(data, arguments, options)
            except _DiedError as again:
                raise Rejected(Reason.DECODER_DIED, f"{died}, then {again}") from None

    def _call(self, data: bytes, arguments: tuple[Any, ...], options: dict[str, Any]) -> decoder_child.Outcome:
        child = self._started()
        answered = False
        try:
            child.send(data, arguments, options, self._timeout_s)
            outcome = child.receive(self._timeout_s)
            answered = True
        except _HungError:
            raise Rejected(Reason.DECODER_HUNG, f"no end after {self._timeout_s:g} s") from None
        finally:
            if not answered:  # for whatever reason: its answer, if it still came, would be taken for another image's
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
            child = self._child = _Child(self._function, self._memory_bytes, self._clock)
            ready = False
            try:
                child.receive(_START_S)
                ready = True
            except (_HungError, _DiedError) as error:
                self._check_open()
                raise IsolationError(
                    f"the process that decodes images could not be started: {error}",
                    where=self._function,
                    why="images are decoded in a process of its own, so that a crash costs one image",
                    remedy="see what it wrote to standard error",
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
    """No answer in time."""


class _DiedError(Exception):
    """The child is gone."""

    def __init__(self, status: int) -> None:
        self.by_signal = status < 0
        super().__init__(f"killed by {_signal_name(-status)}" if self.by_signal else f"ended with status {status}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"


_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[4:]; from pipeline.images.decoder_child import serve; "
    "serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
)
"""The parent's module path is taken over, so that the child finds what the parent found, wherever it was started."""


_ENVIRONMENT = {
    # NumPy's pool of threads, which nothing uses.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc otherwise gives an image's memory back after every image, and the next one pays its page faults again.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}


class _Child:
    """A process that runs `pipeline.images.decoder_child.serve`, and the socket to it."""

    def __init__(self, function: str, memory_bytes: int, clock: Callable[[float], WaitClock]) -> None:
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
                    stdin=subprocess.PIPE,  # never written to: its end tells the child that this process is gone
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # the terminal's Ctrl-C is for this process
                    env={**os.environ, **_ENVIRONMENT},
                )
            except OSError as error:
                ours.close()
                raise IsolationError(
                    f"the process that decodes images could not be started: {error}", where=sys.executable
                ) from error
        ours.setblocking(False)
        self._socket = ours
        self._clock = clock
        self._writable, self._readable = select.poll(), select.poll()
        self._writable.register(ours, select.POLLOUT)
        self._readable.register(ours, select.POLLIN)
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self.process, ours)

    def is_ours(self) -> bool:
        """False in a process that was forked from the one that started the child."""
        return os.getpid() == self._owner

    def end(self) -> None:
        """Kills the child and waits for it; may be called again, and from any thread."""
        self._finalizer()

    def send(self, data: bytes, arguments: tuple[object, ...], options: dict[str, object], timeout_s: float) -> None:
        """Sends a request."""
        pickled = pickle.dumps((arguments, options), decoder_child.PROTOCOL)
        head = decoder_child.LENGTHS.pack(len(pickled), 0, len(data)) + pickled
        clock = self._clock(timeout_s)
        for piece in decoder_child.joined([head, data]):
            rest = memoryview(piece)
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    clock.wait(self._writable)
                except OSError:
                    raise self._died() from None

    def receive(self, timeout_s: float) -> decoder_child.Outcome:
        """Waits for an answer.

        Raises:
            _HungError: None came in `timeout_s`.
            _DiedError: The child is gone.
        """
        clock = self._clock(timeout_s)
        lengths = decoder_child.LENGTHS.unpack(self._exactly(decoder_child.LENGTHS.size, clock))
        pickled, table, buffers = (self._exactly(length, clock) for length in lengths)
        outcome: decoder_child.Outcome = decoder_child.content(pickled, table, buffers)
        return outcome

    def _exactly(self, length: int, clock: WaitClock) -> memoryview:
        whole = rest = np.empty(length, np.uint8).data
        while rest:
            try:
                received = self._socket.recv_into(rest)
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
        except subprocess.TimeoutExpired:  # it closed its socket, and lives
            self.process.kill()
            return _DiedError(self.process.wait())


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    process.kill()  # in a fork's copy it sees that the child is not its own, and does nothing
    process.wait()
    if process.stdin:
        process.stdin.close()
    connection.close()


class _Clock:
    """A time limit that counts the seconds waited in vain, not those that passed.

    While this process does not run, because it was stopped or the machine slept, nothing is counted but one slice.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self, event: select.poll) -> None:
        """Waits for `event`; raises _HungError when the time is over."""
        while not event.poll(min(self._left, _SLICE_S) * 1000):
            self._left -= _SLICE_S
            if self._left <= 0:
                raise _HungError("no answer in time")
