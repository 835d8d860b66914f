"""A web page that a download brought in place of the file."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import ReadingError
from tests.attacks.attack import Attack, each

PAGES = {
    "doctype": b"<!DOCTYPE html>\n<html><body>404</body></html>",
    "after blanks": b"\n\n   <html lang='en'><title>Sign in</title>",
    "after a byte order mark": b"\xef\xbb\xbf<HTML>",
    "XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
}
ATTACKS = [
    Attack(f"{name} as {kind}{suffix}", page, ReadingError, ("looks like a web page", "direct address"), kind, suffix)
    for name, page in PAGES.items()
    for kind, suffix in (
        ("definition", ""),
        ("weights", ""),
        ("mean", ".npy"),
        ("mean", ".binaryproto"),
        ("labels", ""),
    )
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
