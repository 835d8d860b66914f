"""The file of a model's published weights, and the files beside it: what is accepted, and what is remembered."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.entry import CatalogEntry, PublishedWeights
from models.errors import DigestError, FetchError


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The wanted file, and the files beside it."""

    entry: CatalogEntry
    published: PublishedWeights
    file: Path

    @property
    def partial(self) -> Path:
        """The file of the bytes that have arrived."""
        return self.beside(".partial")

    def beside(self, suffix: str) -> Path:
        """Returns a file beside the weights, by what follows their name."""
        return self.file.with_name(self.file.name + suffix)

    def failure(self, why: str) -> FetchError:
        """Returns the error to raise, with all that a user needs to get the file by hand."""
        by_hand = f"download {self.published.url} by hand and put it at {self.file}"
        if self.published.sha1:
            by_hand += f" (SHA-1 {self.published.sha1})"
        kept = (
            f"call again to continue after the {size_of(self.partial)} bytes that arrived; or "
            if size_of(self.partial)
            else ""
        )
        return FetchError(
            f"the weights of {self.entry.name} could not be fetched",
            where=self.published.url,
            why=why,
            remedy=f"{kept}{by_hand}",
        )

    def not_weights(self, kept: str = "") -> FetchError:
        """Returns the error for a web page instead of weights."""
        return self.failure(
            f"the server sent a web page (HTML) instead of weights{kept}: from a proxy or a login, or the file moved"
        )

    @property
    def seen(self) -> str:
        """The SHA-256 of the content that was accepted before, where the publisher states no digest; empty if none."""
        if self.published.sha1 is not None:
            return ""
        with suppress(FileNotFoundError):
            words = self.beside(".sha256").read_text(encoding="ascii", errors="replace").split()
            return words[0].lower() if words else ""
        return ""

    def is_intact(self, file: Path) -> bool:
        """Returns whether the file has the published SHA-1.

        If there is none: whether it has the SHA-256 that was seen before; if there is none either, whether it is not a
        web page.
        """
        if self.published.sha1 is not None:
            return _digest(file, "sha1") == self.published.sha1.lower()
        return _digest(file, "sha256") == self.seen if self.seen else not _is_html(_first_bytes(file))

    def accept(self, file: Path) -> None:
        """Moves `file` to its final name if it is intact, and to `<file>.rejected` if not.

        Raises:
            DigestError: The file has another digest than published, or than the one that was seen before.
            FetchError: The file is a web page.
        """
        if self.is_intact(file):
            self.note(file)
            if file != self.file:
                # The bytes are written before the name: a crash in between must not leave the name with other bytes.
                with file.open("r+b") as stream:
                    os.fsync(stream.fileno())
                file.replace(self.file)
                _sync_directory(self.file.parent)
            self._forget_version()
            return
        sha1, sha256 = _digest(file, "sha1"), _digest(file, "sha256")
        kept = self._rejected(sha1)
        file.replace(kept)
        self._forget_version()
        if _is_html(_first_bytes(kept)):
            raise self.not_weights(f" (kept at {kept})")
        if self.seen:
            note = self.beside(".sha256")
            raise DigestError(
                f"not the weights of {self.entry.name} that were fetched before: expected SHA-256 {self.seen}, got"
                f" {sha256}",
                where=str(self.file),
                why=f"the publisher states no digest, and {note} has that of the first download; the file's"
                f" {size_of(kept)} bytes were moved to {kept}",
                remedy=f"ask the publisher which one is right; if it is the new file, delete {note} and call again",
            )
        raise DigestError(
            f"not the weights of {self.entry.name} as published: expected SHA-1 {self.published.sha1}, got {sha1}",
            where=str(self.file),
            why=f"the file is damaged, or another file; its {size_of(kept)} bytes were moved to {kept}",
            remedy=f"call again to download it once more; if it has the SHA-1 {sha1} again, the file at "
            f"{self.published.url} has changed: get the original elsewhere and put it at {self.file}",
        )

    def note(self, file: Path) -> None:
        """Keeps the digest of an accepted file beside it, in the form of `sha256sum`, if the publisher states none."""
        if self.published.sha1 is None and not self.seen:
            line = f"{_digest(file, 'sha256')}  {self.file.name}\n"
            self.beside(".sha256").write_text(line, encoding="ascii")

    def _rejected(self, digest: str) -> Path:
        """Returns a name for a rejected file that replaces no file of other content."""
        number, name = 1, self.beside(".rejected")
        while name.exists() and _digest(name, "sha1") != digest:
            number += 1
            name = self.beside(f".rejected-{number}")
        return name

    def version(self) -> str | None:
        """Returns the version that the partial file belongs to, in the form of an If-Range header."""
        try:
            return self.beside(".partial.version").read_text(encoding="latin-1") or None
        except FileNotFoundError:
            return None

    def start(self, version: str | None) -> None:
        """Empties the partial file, and notes the version that it will belong to."""
        self.partial.write_bytes(b"")
        self._forget_version()
        if version is not None:
            self.beside(".partial.version").write_text(version, encoding="latin-1")

    def _forget_version(self) -> None:
        self.beside(".partial.version").unlink(missing_ok=True)


def size_of(file: Path) -> int:
    """Returns the size in bytes; 0 for a missing or inaccessible file, since the next access reports that."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _digest(file: Path, algorithm: str) -> str:
    def empty() -> Any:  # hashlib has no public type of a hash
        # Publishers state SHA-1. It detects damage, and nobody knows how to make a second file of a given SHA-1.
        return hashlib.new(algorithm, usedforsecurity=False)

    with file.open("rb") as stream:
        return hashlib.file_digest(stream, empty).hexdigest()


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(1024)


def _is_html(first: bytes) -> bool:
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _sync_directory(directory: Path) -> None:
    """Makes a rename durable; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
