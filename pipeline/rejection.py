"""Why an image gets no map: a closed list of reasons, and the exception that carries one of them.

A rejection concerns one image and becomes a row of the table. It never stops a run; `pipeline.errors` do.
"""

import enum
import re
import unicodedata

MAX_DETAIL = 500
"""The most characters in `Rejected.detail`, which is stored with every rejected image."""

# Libraries quote the beginning of a file that they cannot read, which may be secret and not an image.
_BYTES = re.compile(r"""\(?\bb(?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?)\)?""", re.DOTALL)


class Reason(enum.StrEnum):
    """Why an image has no map. The values are stored in tables: add to them, never rename or reuse one.

    The listing and the bytes:

    Attributes:
        MISSING: There is nothing at the address, or it has been deleted since it was listed.
        UNREADABLE: The file exists and cannot be read: missing permissions, or a fault that outlasted the retries.
        EMPTY: The file has no bytes.
        TOO_MANY_BYTES: The file is larger than the job allows; it was not read.
        NOT_A_FILE: A folder, a pipe or a device; in an archive also a link or a sparse member.
        UNSAFE_NAME: The name of an archive member leads out of the archive (absolute, or with `..`), or is too long; or
            a link below a listed folder leads out of the folder.
        COMPRESSION_BOMB: The archive decompresses to far more bytes than an honest one; reading was stopped.
        ADDRESS_NOT_ALLOWED: A list that was itself fetched, or a redirect, names what only the user may name.

    The image:

    Attributes:
        UNKNOWN_FORMAT: The first bytes do not match a format that densecast decodes.
        FORMAT_NOT_ALLOWED: densecast decodes the format, but the job does not allow it.
        TRUNCATED: The file ends before its image does.
        CORRUPT: The file contradicts its format or itself.
        TOO_MANY_PIXELS: The header announces more pixels than the job allows; none was decoded.
        TOO_SMALL: The image has fewer rows or columns than the model needs, or would have to be enlarged too much.
        UNSUPPORTED_MODE: The file is valid but of a kind that is not decoded: samples without a defined range
            (floating point, 32-bit integers), or a variant of its format that Pillow does not read.
        DECODER_HUNG: The decoder did not finish in the time that the job allows; it was killed.
        DECODER_DIED: The decoder ended its process: a crash, an exit, or a kill from outside, twice.

    The map:

    Attributes:
        OUT_OF_MEMORY: The image does not fit in memory, even alone in a batch.
        ENGINE_FAILED: The engine failed on the image, even alone in a batch.
        MAP_TOO_LARGE: The map, in the requested form, does not fit in one row.
    """

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too-many-bytes"
    NOT_A_FILE = "not-a-file"
    UNSAFE_NAME = "unsafe-name"
    COMPRESSION_BOMB = "compression-bomb"
    ADDRESS_NOT_ALLOWED = "address-not-allowed"
    UNKNOWN_FORMAT = "unknown-format"
    FORMAT_NOT_ALLOWED = "format-not-allowed"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_SMALL = "too-small"
    UNSUPPORTED_MODE = "unsupported-mode"
    DECODER_HUNG = "decoder-hung"
    DECODER_DIED = "decoder-died"
    OUT_OF_MEMORY = "out-of-memory"
    ENGINE_FAILED = "engine-failed"
    MAP_TOO_LARGE = "map-too-large"


class Rejected(Exception):  # noqa: N818 - not an error of the program but what happens to an image
    r"""One image gets no map.

    Attributes:
        reason: One of the closed list.
        detail: One line for a person: what is wrong with the image. It has no control characters and no surrogates (it
            is stored as UTF-8), no bytes of the file, and at most `MAX_DETAIL` characters; empty if the reason says
            everything.

    >>> Rejected(Reason.CORRUPT, "two\nlines").detail, Rejected(Reason.CORRUPT, "no gzip: b'ro'").detail
    ('two lines', 'no gzip: ...')
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = _one_line(detail)
        # With both arguments default pickling can rebuild it: Beam pickles what workers raise.
        super().__init__(self.reason, self.detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)

    @classmethod
    def parse(cls, text: str) -> "Rejected":
        """Returns the rejection whose `str` is `text`.

        Raises:
            ValueError: The text does not begin with a reason.

        >>> Rejected.parse("corrupt: a: b").args
        (<Reason.CORRUPT: 'corrupt'>, 'a: b')
        """
        reason, _, detail = text.partition(": ")
        return cls(Reason(reason), detail)


def _one_line(text: str) -> str:
    """Returns `text` without characters that break a line, a terminal or UTF-8, cut to `MAX_DETAIL` characters."""
    # Messages quote hostile files: a very long one is cut before its characters are examined.
    head = _BYTES.sub("...", text[: 4 * MAX_DETAIL])
    # C*: control, format (bidirectional overrides among them), surrogate, private, unassigned; Zl, Zp: line breaks.
    kept = (" " if (category := unicodedata.category(c))[0] == "C" or category in {"Zl", "Zp"} else c for c in head)
    line = " ".join("".join(kept).split())
    return line if len(line) <= MAX_DETAIL and len(text) <= 4 * MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"
