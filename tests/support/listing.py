"""What the tests of containers share: listing one, and reading what was listed."""

from __future__ import annotations

from pathlib import Path

from pipeline.rejection import Rejected
from pipeline.sources import ImageReference, Reader, match


def members(path: Path) -> list[ImageReference]:
    """What a container holds."""
    return list(match(str(path)))


def fates(path: Path, max_bytes: int = 10**6) -> dict[str, bytes | str]:
    """Member -> its bytes, or the reason why it has none; the container itself is the member ''."""
    found: dict[str, bytes | str] = {}
    with Reader(max_bytes) as reader:
        for reference in members(path):
            member = reference.uri.removeprefix(str(path)).removeprefix("#")
            assert member not in found, "every member has an address of its own"
            found[member] = fate(reader, reference)
    return found


def fate(reader: Reader, reference: ImageReference) -> bytes | str:
    """The bytes, or the reason."""
    try:
        return reader.read(reference).data
    except Rejected as rejected:
        return str(rejected.reason)
