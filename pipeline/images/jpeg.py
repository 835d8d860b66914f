"""JPEG files: their scans, their end, and their luma.

Sources: ITU-T T.81 (annexes B and G), JFIF 1.02, and libjpeg's rules on colour spaces (jdapimin.c).
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

File: TypeAlias = bytes | mmap.mmap

END = b"\xff\xd9"
_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN, _JFIF, _ADOBE = 0xDA, 0xE0, 0xEE
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_COEFFICIENTS = 64
_UNCONVERTED = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""A segment that says that the stored colours are RGB."""


class _Segment(NamedTuple):
    marker: int
    start: int  # of the marker
    end: int  # after its contents


def _segments(data: File, position: int = 2) -> Iterator[_Segment]:
    """Yields the segments from `position` on, up to the first scan."""
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, length = struct.unpack_from(">BH", data, position + 1)
        if marker == 0xFF:  # filler
            position += 1
            continue
        yield _Segment(marker, position, position + 2 + length)
        if marker == _SCAN:
            return
        position += 2 + length


def only_scan(data: File) -> int:
    """Returns where the data of the only scan of a Huffman-coded JPEG begins; 0 for any other kind of JPEG.

    For several scans (progressive JPEG) a decoder holds the coefficients of all pixels.
    """
    components = b""
    for marker, start, end in _segments(data):
        if marker in (0xC0, 0xC1):
            components = data[start + 9 : start + 10]
        elif marker == _SCAN and components and data[start + 4 : start + 5] == components:
            return end
    return 0


def marker_in_scan(data: File) -> tuple[bytes, int]:
    """Returns the first marker after the beginning of the only scan, and its position; empty if there is none.

    It should be `END`. At any other, libjpeg gives grey rows and only warns; Pillow fails on it after the last row.
    """
    marker = _MARKER.search(data, only_scan(data))
    return (marker.group(), marker.start()) if marker else (b"", len(data))


def has_all_scans(data: File) -> bool:
    """Returns whether the scans of a Huffman-coded JPEG begin that define every coefficient to its last bit.

    If the file lacks its end marker, a decoder cannot tell whether more scans would follow.
    """
    missing: set[tuple[int, int]] = set()
    position = 2
    while True:
        scan = None
        for marker, start, end in _segments(data, position):
            if marker in _FRAMES:
                if marker not in _HUFFMAN:
                    return False
                frame = data[start + 10 : end]
                missing = {(component, k) for component in frame[::3] for k in range(_COEFFICIENTS)}
            elif marker == _SCAN:
                scan = data[start + 4 : end]
                position = end
        if not scan or len(scan) != 4 + 2 * scan[0]:
            break
        first, last, approximation = scan[-3:]
        if not approximation & 0x0F:  # the last bit
            missing -= {(component, k) for component in scan[1:-3:2] for k in range(first, last + 1)}
        following = _MARKER.search(data, position)
        if following is None or following.group() == END:
            break
        position = following.start()
    return not missing and position > 2


def luma_parts(data: File) -> tuple[bytes | memoryview, ...] | None:
    """Returns a JPEG whose first colour is the luma, in parts, for decoders that only give colours.

    Its header says that its colours are RGB, so that a decoder leaves Y, Cb and Cr as they are.

    Returns:
        The parts; the file itself if it is grey; None if its colours are not stored as Y, Cb and Cr.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [view[:2], _UNCONVERTED]
    components, is_jfif, transform = b"", False, None
    position = 2
    for marker, start, end in _segments(data):
        is_adobe = marker == _ADOBE and data[start + 4 : start + 9] == b"Adobe"
        is_header = marker == _JFIF and data[start + 4 : start + 9] == b"JFIF\0"
        if marker in _FRAMES:
            components = data[start + 10 : end : 3]
        is_jfif = is_jfif or is_header
        transform = data[start + 15] if is_adobe else transform
        if not is_adobe and not is_header:
            kept.append(view[start:end])
        position = end
    if len(components) == 1:
        return (view,)
    is_rgb = components == b"RGB" if transform is None else transform == 0
    if len(components) != 3 or (is_rgb and not is_jfif):
        return None
    return (*kept, view[position:])
