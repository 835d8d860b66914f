"""Recognises common files that users pass in place of a Caffe file, by their first bytes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_TAB = 9
HEAD = 512  # bytes that `sniff` looks at


class Look(NamedTuple):
    """What a file seems to be, and what the user can do."""

    what: str
    remedy: str


_UNPACK = "unpack it, and give the file inside"
_OTHER = "give the file that Caffe saved; models of other frameworks cannot be read"
_IMAGE = (
    "give Caffe's files: a definition, weights, and a mean as .binaryproto, .npy or numbers; a picture is scored by a "
    "model, with: densecast score MODEL IMAGES --output TABLE"
)
_MAGIC: tuple[tuple[bytes, Look], ...] = (
    (
        b"version https://git-lfs.github.com/",
        Look("a git-lfs pointer", "fetch the file itself: git lfs pull"),
    ),
    (b"PK\x03\x04", Look("a zip archive (as PyTorch and Keras write)", _UNPACK)),
    (b"PK\x05\x06", Look("an empty zip archive", _UNPACK)),
    (b"\x1f\x8b", Look("gzip data", _UNPACK)),
    (b"BZh", Look("bzip2 data", _UNPACK)),
    (b"\xfd7zXZ\x00", Look("xz data", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Look("zstd data", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Look("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Look("a rar archive", _UNPACK)),
    (b"\x89HDF\r\n\x1a\n", Look("an HDF5 file", "if Caffe saved it, pass it as the weights")),
    (b"\x93NUMPY", Look("a NumPy array", "name it .npy if it is a mean")),
    (b"\x89PNG\r\n", Look("a picture (PNG)", _IMAGE)),
    (b"\xff\xd8\xff", Look("a picture (JPEG)", _IMAGE)),
    (b"GIF8", Look("a picture (GIF)", _IMAGE)),
    (b"II*\x00", Look("a picture (TIFF)", _IMAGE)),
    (b"MM\x00*", Look("a picture (TIFF)", _IMAGE)),
    (b"%PDF-", Look("a PDF document", _OTHER)),
    (b"\x7fELF", Look("a program", _OTHER)),
    *((bytes((0x80, version)), Look("a Python pickle (PyTorch?)", _OTHER)) for version in range(2, 6)),
    # ModelProto: ir_version, then producer_name, its version, domain, graph or opset. A NetParameter has text there.
    *(
        (bytes((8, version, field)), Look("an ONNX model", _OTHER))
        for version in range(3, 16)
        for field in (0x12, 0x1A, 0x22, 0x3A, 0x42)
    ),
)
_PAGE = Look("a web page", "the server sent a page in place of the file: download the file from its direct address")
# A few fields that a solver has and a net has not.
_SOLVER = frozenset(
    {
        *("average_loss", "base_lr", "iter_size", "lr_policy", "max_iter", "momentum", "random_seed", "snapshot"),
        *("snapshot_prefix", "solver_mode", "solver_type", "stepsize", "test_initialization", "test_interval"),
        *("test_iter", "test_net", "train_net"),
    }
)
_SOLVED = re.compile(r"""^\s*(?:train_)?net\s*:\s*["']([^"'\n]*)["']""", re.MULTILINE)
_BEGINS_DEFINITION = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s|#[^\n]*\n)*[A-Za-z_]+\s*[:{]")
_WORDS = re.compile(rb"[\t\n\r -~]*")
_FEW_LETTERS = 3
_UTF_16 = Look(
    "text in UTF-16", "save it as UTF-8; Caffe reads no other: iconv --from-code UTF-16 --to-code UTF-8 FILE > NEW"
)
SWAPPED = "give the .prototxt first and the .caffemodel second"
_TAGS = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<script", b"<!--")


def is_text(data: bytes) -> bool:
    """Returns whether a file may be text in some encoding: binary files have bytes (tags, lengths) that no text has."""
    return not any(byte < _TAB for byte in data[:4096])


def sniff(data: bytes) -> Look | None:
    r"""Returns what a file that begins with these bytes seems to be; None if it may be a Caffe file.

    >>> sniff(b"\x1f\x8b\x08").what
    'gzip data'
    >>> sniff(b'name: "CaffeNet"') is None
    True
    """
    head = data[:HEAD]
    for magic, look in _MAGIC:
        if head.startswith(magic):
            return look
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_wide(head):
        return _UTF_16
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower().startswith(_TAGS):
        return _PAGE
    if head[257:262] == b"ustar":
        return Look("a tar archive", _UNPACK)
    if head[8:10] == b'{"' and head[5:8] == bytes(3):
        return Look("a safetensors file", _OTHER)
    return None


def _is_wide(head: bytes) -> bool:
    """Returns whether every second byte is 0 and the others are words: text of 16 bits a character without a mark.

    A binary file of empty fields has such zeros too, but no words.
    """
    for zeros in (0, 1):
        text = head[1 - zeros :: 2]
        if not any(head[zeros::2]) and _WORDS.fullmatch(text) and len(set(re.findall(rb"[a-z]", text))) > _FEW_LETTERS:
            return True
    return False


def is_definition(data: bytes) -> bool:
    """Returns whether a file that should be weights is text that begins as a definition does."""
    return bool(_BEGINS_DEFINITION.match(data[:4096])) and is_text(data)


def sniff_solver(unknown: Sequence[str], text: str, where: str) -> Look | None:
    """Returns what to say of a solver that is given as a definition; None if its fields are not a solver's.

    No file is opened; the definition that the solver names is looked for beside it, by the last part of its path.

    Args:
        unknown: The fields that a definition does not have, as `text_limits.scan` lists them.
        text: The file.
        where: Its path.
    """
    fields = sorted({entry.split(" ", 1)[0] for entry in unknown if "(in NetParameter," in entry} & _SOLVER)
    if not fields:
        return None
    net = _SOLVED.search(text)
    named = f" in `net`: {net[1]!r}" if net else ""
    names = ("deploy.prototxt", *([PurePosixPath(net[1]).name] if net else []))
    found = next((path for name in names if name and (path := Path(where).parent / name).is_file()), None)
    command = f"densecast convert {shlex.quote(str(found))} WEIGHTS --output MODEL"
    return Look(
        f"it is a solver, which says how a net is trained ({', '.join(fields)})",
        f"give the definition that it names{named}; or better the one for use, deploy.prototxt"
        + (f". One is beside it: {command}" if found else ""),
    )
