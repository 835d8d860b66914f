"""The content of a web server's answer: what its `Content-Encoding` means in practice."""

from __future__ import annotations

import gzip
import io
import zlib

from pipeline.rejection import Reason, Rejected
from pipeline.sources.streams import check_inflation, most_of_part

# RFC 9110 and IANA's registry: codings that change the bytes. Servers also write other names there: object stores
# repeat the `aws-chunked` of the upload, others write a charset, `binary` or `none`. These leave the bytes as they are.
_GZIP = frozenset({"gzip", "x-gzip"})
_NOT_READ = frozenset({"br", "zstd", "deflate", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip"})
_GZIP_MARK = b"\x1f\x8b"


def check_encoding(header: str) -> None:
    """Checks that the content of an answer can be read.

    Raises:
        Rejected: UNREADABLE: it is encoded in a way that was not requested and that densecast does not read.
    """
    unread = sorted(_NOT_READ.intersection(_codings(header)))
    if unread:
        raise Rejected(Reason.UNREADABLE, f"it has the encoding {unread[0]}, which was not requested")


def decoded(data: bytes, header: str, max_bytes: int) -> bytes:
    """Returns the content of an answer.

    Args:
        data: The bytes that arrived.
        header: The value of `Content-Encoding`; of a coding that `check_encoding` accepts.
        max_bytes: The largest content.

    Raises:
        Rejected: TOO_MANY_BYTES, COMPRESSION_BOMB: it inflates to more; TRUNCATED, CORRUPT.
    """
    # A server may send gzip though it was not requested, since the file is stored so. It may also only say so.
    for coding in _codings(header):
        if coding not in _GZIP or not data.startswith(_GZIP_MARK):
            continue
        packed = len(data)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(min(max_bytes, most_of_part(packed)) + 1)
        except EOFError as error:
            raise Rejected(Reason.TRUNCATED, f"the compressed answer ends early: {error}") from error
        except (OSError, zlib.error) as error:
            raise Rejected(Reason.CORRUPT, f"the compressed answer is damaged: {error}") from error
        if len(data) > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"the answer inflates to more than {max_bytes:,} bytes")
        check_inflation("the answer", packed, len(data))
    return data


def _codings(header: str) -> list[str]:
    """Returns the codings in the order in which they are undone, in lower case."""
    return [coding.strip().lower() for coding in reversed(header.split(","))]
