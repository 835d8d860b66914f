"""Paths that are not files: a pipe would be waited on, a device read, for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conversion.errors import ReadingError
from tests.attacks.attack import Attack, each

KINDS = (("definition", ""), ("weights", ""), ("mean", ".npy"), ("mean", ".binaryproto"), ("labels", ""))


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


ATTACKS = [
    *(Attack(f"pipe as {k}{s}", os.mkfifo, ReadingError, ("not a regular file",), k, s) for k, s in KINDS),
    *(Attack(f"device as {k}{s}", zeros, ReadingError, ("not a regular file",), k, s) for k, s in KINDS),
    *(Attack(f"folder as {k}{s}", Path.mkdir, ReadingError, ("directory",), k, s) for k, s in KINDS),
    Attack("a link to itself", lambda path: path.symlink_to(path), ReadingError, ("cannot be read",)),
    Attack("a link to nothing", lambda path: path.symlink_to("nowhere"), ReadingError, ("No such file",)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_nul_in_the_path():
    from conversion.caffe.reading import read_definition

    with pytest.raises(ReadingError, match=r"null (byte|character)"):
        read_definition("net\x00.prototxt")
