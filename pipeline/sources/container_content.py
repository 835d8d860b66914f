"""What kind of container a file is, by its first bytes: names are often wrong about it."""

from __future__ import annotations

from pipeline.rejection import Rejected
from pipeline.sources.file_types import Kind
from pipeline.sources.streams import FileStream, Unpacked, packing_by_content
from pipeline.sources.tar import HEADER_BYTES, is_tar_header
from pipeline.sources.tfrecord import is_length

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET = b"PAR1"


def kind_by_content(stream: FileStream) -> Kind | None:
    """Returns the kind of a container; None where its first bytes do not tell.

    Tar and TFRecord have checksums there; they are tried first, because an archive may begin with any name.

    Raises:
        StorageError: The file cannot be read.
    """
    stream.seek(0)
    beginning = stream.read(HEADER_BYTES)
    kind = _kind(beginning)
    packing = "" if kind else packing_by_content(beginning)
    if packing:
        try:
            kind = _kind(Unpacked(stream, packing, 0).read(HEADER_BYTES))
        except Rejected:  # the reader of the container meets the damage again, and reports it
            kind = None
        kind = kind if kind == "tar" or (kind, packing) == ("tfrecord", "gz") else None
    stream.seek(0)
    return kind


def _kind(beginning: bytes) -> Kind | None:
    if is_tar_header(beginning):
        return "tar"
    if is_length(beginning[:12]):
        return "tfrecord"
    if beginning.startswith(_PARQUET):
        return "parquet"
    return "zip" if beginning.startswith(_ZIP) else None
