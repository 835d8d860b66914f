"""Why an image gets no map: a closed list of reasons, and the exception that carries one of them.

A rejection concerns one image and becomes a row of the table; it never stops a run (what does: `pipeline.errors`).
"""

import enum
import unicodedata

MAX_DETAIL = 500
"""Characters of `Rejected.detail` at most: it is stored with every rejected image."""


class Reason(enum.StrEnum):
    """Why an image has no map. The values are stored in tables: add to them, never rename or reuse one.

    The listing and the bytes:

    Attributes:
        MISSING: Nothing is at the address, or no longer.
        UNREADABLE: Something is there and cannot be read: permissions, or a fault that outlived the retries.
        EMPTY: The file has no byte.
        TOO_MANY_BYTES: The file is larger than the job allows; it was not read.
        NOT_A_FILE: A folder, a pipe or a device; in an archive also a link or a sparse member.
        UNSAFE_NAME: A member of an archive whose name leads out of it (absolute, or with `..`), or is endless.
        COMPRESSION_BOMB: The archive inflates to so much that it was given up.

    The image:

    Attributes:
        UNKNOWN_FORMAT: The first bytes are those of no format that densecast decodes.
        FORMAT_NOT_ALLOWED: The format is one that densecast decodes, and the job leaves out.
        TRUNCATED: The file ends before its image does.
        CORRUPT: The file contradicts its format or itself.
        TOO_MANY_PIXELS: Its header announces more pixels than the job allows; none was decoded.
        TOO_SMALL: Its header announces fewer rows or columns than the job asks for, or than the model needs.
        UNSUPPORTED_MODE: The file is in order and of a kind that is not decoded: samples of no defined range
            (floating point, 32-bit integers), or a variant of its format that Pillow does not read.
        DECODER_HUNG: Its decoder did not come to an end in the time that the job gives; it was killed.
        DECODER_DIED: Its decoder took its process down: a crash, an exit, or a kill from outside, twice.

    The map:

    Attributes:
        OUT_OF_MEMORY: It does not fit in memory, not even alone in its batch.
        ENGINE_FAILED: The engine failed on it, not even alone in its batch did it give a map.
        MAP_TOO_LARGE: Its map, in the form that was asked for, does not fit in one row.
    """

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too-many-bytes"
    NOT_A_FILE = "not-a-file"
    UNSAFE_NAME = "unsafe-name"
    COMPRESSION_BOMB = "compression-bomb"
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


class Rejected(Exception):  # noqa: N818 - not an error of the program: the image's fate, and named after it
    r"""One image gets no map.

    Attributes:
        reason: One of the closed list.
        detail: One line for a person: what was found. No control characters, no surrogates (it is stored as UTF-8),
            at most `MAX_DETAIL` characters; empty where the reason says it all.

    >>> Rejected(Reason.CORRUPT, "two\nlines").detail
    'two lines'
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = _one_line(detail)
        # Both arguments, so that the default pickling rebuilds it: Beam pickles what workers raise.
        super().__init__(self.reason, self.detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)

    @classmethod
    def parse(cls, text: str) -> "Rejected":
        """What `str` of a rejection gave, back as one.

        Raises:
            ValueError: The text begins with no reason.

        >>> Rejected.parse("corrupt: a: b").args
        (<Reason.CORRUPT: 'corrupt'>, 'a: b')
        """
        reason, _, detail = text.partition(": ")
        return cls(Reason(reason), detail)


def _one_line(text: str) -> str:
    """`text` without what would break a line, a terminal or UTF-8, cut to `MAX_DETAIL` characters."""
    # Messages quote hostile files: cut before looking at every character of a very long one.
    head = text[: 4 * MAX_DETAIL]
    # C*: control, format (bidirectional overrides among them), surrogate, private, unassigned; Zl, Zp: line breaks.
    kept = (" " if (category := unicodedata.category(c))[0] == "C" or category in {"Zl", "Zp"} else c for c in head)
    line = " ".join("".join(kept).split())
    return line if len(line) <= MAX_DETAIL and len(head) == len(text) else line[: MAX_DETAIL - 1] + "…"
