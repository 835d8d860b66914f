"""Decoders for tests/pipeline/images/test_decoder_process.py, most of them hostile: the bytes say what they do."""

import os
import re
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.rejection import Reason, Rejected


class UnsendableError(Exception):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("not to be pickled")


def decode(data, limits, **options):
    """Does what `data` says: a verb, and what it is about."""
    verb, _, rest = data.decode().partition(" ")
    return globals()[verb](rest, limits, **options)


def sleep(path, limits):
    """Makes a file at `path`, as a sign that it has begun, and does not end in the time of a test."""
    Path(path).touch()
    time.sleep(600)


def hold_the_lock(path, limits):
    """Makes a file at `path`; then runs for years in C, without letting another thread of Python run."""
    Path(path).touch()
    re.match("(a*)*b", "a" * 60)


def wait_for(path, limits):
    """Makes a file at `path` and ends when it is removed."""
    Path(path).touch()
    while Path(path).exists():
        time.sleep(0.001)
    return "awake"


def die(number, limits):
    os.kill(os.getpid(), int(number))
    signal.pause()


def die_once(path, limits):
    """Is killed where `path` does not exist, and makes it."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second child"


def leave(status, limits):
    os._exit(int(status))


def hang_up(_, limits):
    """Closes the socket and lives."""
    os.closerange(3, 100)
    time.sleep(60)


def reject(detail, limits):
    raise Rejected(Reason.CORRUPT, detail)


def fail(text, limits):
    raise KeyError(text)


def fail_unsendably(_, limits):
    raise UnsendableError


def allocate(size, limits):
    return np.ones(int(size), np.uint8)


def arrays(_, limits):
    return [np.arange(5), np.zeros((0, 3)), np.full((200, 200, 3), 7, np.uint8)]


def name_process(_, limits, **options):
    return os.getpid(), limits, options


def limits_of_process(name, limits):
    return resource.getrlimit(getattr(resource, name))


def loaded_modules(data, limits, scaling):
    """Decodes an image as a run does; the modules that are loaded then, without those of this helper."""
    from pipeline.images.multiscale import decode_scaled

    decode_scaled(data, limits, scaling)
    return sorted(set(sys.modules) - {"hostile_decoders"})


def speak(text, limits):
    os.write(1, b"library on 1")
    os.write(2, b"library on 2")
    sys.stderr.write(f"{text}\n")
