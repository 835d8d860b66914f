"""A file system of Beam in a dictionary: `fakeremote://`."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem


class FakeRemote(FileSystem):
    """A remote file system in a dictionary; its renames can be made to fail, loudly or silently."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - one store for all instances, as Beam makes a new one a call
    rename_does = "work"

    @classmethod
    def scheme(cls) -> str:
        return "fakeremote"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath, *paths])

    def split(self, path: str) -> tuple[str, ...]:
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, data in self.files.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data), 0)

    def create(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> io.BytesIO:
        files = self.files

        class File(io.BytesIO):
            def close(self) -> None:
                files[path] = self.getvalue()
                super().close()

        return File()

    def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> io.BytesIO:
        if path not in self.files:
            raise BeamIOError("Open failed", {path: OSError(errno.ENOENT, "nothing there")})
        return io.BytesIO(self.files[path])

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        if self.rename_does == "raise":
            raise BeamIOError("Rename operation failed", {source_file_names[0]: "denied"})
        if self.rename_does == "work":
            for source, destination in zip(source_file_names, destination_file_names, strict=True):
                self.files[destination] = self.files.pop(source)

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self.files[path])

    def last_updated(self, path: str) -> float:
        return 0

    def checksum(self, path: str) -> str:
        return ""

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(self.files[path]), 0)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.files[path]
