"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from pipeline import malloc_trim
from pipeline.malloc_trim import release_free_memory

_BLOCK, _BLOCKS = 4096, 20_000


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.fixture(autouse=True)
def _forget() -> None:
    malloc_trim._trim.cache_clear()


def test_what_was_freed_in_the_middle_of_the_heap_is_given_back() -> None:
    if malloc_trim._trim() is None:  # another system: nothing to look at, and nothing raised
        release_free_memory()
        return
    blocks = [bytes([number % 256]) * _BLOCK for number in range(_BLOCKS)]
    filled = _resident()
    kept = blocks[-1]  # the end of the heap stays in use
    del blocks
    release_free_memory()
    assert len(kept) == _BLOCK
    assert filled - _resident() > _BLOCK * _BLOCKS // 2


def test_other_c_libraries_have_nothing_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert malloc_trim._trim() is None
    release_free_memory()
