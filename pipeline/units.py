"""Parses and formats shares, durations and sizes as people write them."""

from __future__ import annotations

import re

from pipeline.errors import JobError

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")
_DURATION = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)\s*(ms|s|m|h|d|w)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, None: 1.0}
_SIZE = re.compile(r"(\d{1,9})\s*([kMG]?)B?")
_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def parse_share(text: str) -> float:
    """Returns a share of a whole, 0 to 1.

    Raises:
        JobError: The text is not a share.

    >>> parse_share("5%"), parse_share("0.05"), parse_share("0"), parse_share("100%")
    (0.05, 0.05, 0.0, 1.0)
    """
    match = _SHARE.fullmatch(text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise JobError(f"{text!r} is not a share", remedy="write 5% or 0.05, between 0 and 100%")
    return value


def format_share(share: float) -> str:
    """Returns a share, 0 to 1, as a percentage with two significant digits.

    >>> format_share(0.42), format_share(0.0123)
    ('42%', '1.2%')
    """
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}"


def parse_duration(text: str) -> float:
    """Returns a duration in seconds; a number without a unit is seconds.

    Raises:
        JobError: The text is not a duration.

    >>> parse_duration("500ms"), parse_duration("2m"), parse_duration("30"), parse_duration("7d")
    (0.5, 120.0, 30.0, 604800.0)
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise JobError(f"{text!r} is not a duration", remedy="write a duration, as 500ms, 30s, 2m, 12h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """Returns a duration with its two largest units, to the second.

    >>> format_duration(75), format_duration(8000), format_duration(12)
    ('1m15s', '2h13m', '12s')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def parse_size(text: str) -> int:
    """Returns a size in bytes; k, M and G are powers of 1000.

    Raises:
        JobError: The text is not a size.

    >>> parse_size("500"), parse_size("64k"), parse_size("256 MB")
    (500, 64000, 256000000)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise JobError(f"{text!r} is not a size", remedy="write 500, 64k, 256M or 1G")
    return int(match[1]) * _BYTES[match[2]]
