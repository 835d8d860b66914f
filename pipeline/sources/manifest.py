"""Manifests: lists of images in a file, as text, CSV or JSON lines."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import posixpath
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import IO

from pipeline.errors import SourceError
from pipeline.sources.listing import expand, is_container
from pipeline.sources.reference import ImageReference, resolve
from pipeline.storage.address import is_remote
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions

EXTENSIONS = (".txt", ".csv", ".jsonl", ".ndjson")
"""The extensions of manifests; `.gz` or `.bz2` may follow."""

_PACKED: dict[str, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
}
_ADDRESS_COLUMNS = ("uri", "path", "image")
_DELIMITERS = ",;\t"
_JSON = (".jsonl", ".ndjson")


def is_manifest(address: str) -> bool:
    """Returns whether a file is a manifest, by its name.

    >>> is_manifest("s3://b/list.CSV"), is_manifest("list.txt.gz"), is_manifest("cats.jpg")
    (True, True, False)
    """
    return _unpacked(address).endswith(EXTENSIONS)


def read_manifest(address: str, options: StorageOptions | None = None) -> Generator[ImageReference, None, None]:
    """Yields the images of a manifest lazily and in its order. An image that is listed twice occurs twice.

    A manifest is UTF-8 text, with or without a byte order mark, with any of the usual line ends. `.gz` and `.bz2` files
    are decompressed. The extension before that tells the format: `.csv` is CSV, `.jsonl` and `.ndjson` are JSON lines,
    and any other is plain text.

    - Text: one address per line. Empty lines and lines that begin with `#` are left out.
    - CSV: a header, then one image per row. The address is in the column `uri`, or else `path`, or else `image`. The
      optional column `id` holds the user's own name of the image. Other columns are ignored. The header shows whether
      commas, semicolons or tabs separate the fields.
    - JSON lines: one object per line, with the same names. An id is a text or a whole number.

    Relative addresses are relative to the manifest's folder. A container (`pipeline.sources.file_types.container_kind`)
    stands for its images and cannot have an `id`. Local files are looked up for their size and version; one that does
    not exist is listed all the same, and the reader rejects it. Remote files are not looked up.

    Raises:
        SourceError: The manifest cannot be read or is empty, a row is malformed or has no address, or a container has
            an id. The error names the file and the line.
    """
    with contextlib.closing(read_files(address, options)) as references:
        yield from expand(references, options)


def read_files(address: str, options: StorageOptions | None = None) -> Generator[ImageReference, None, None]:
    """Yields the files of a manifest, like `read_manifest`, but does not open containers: they count as files."""
    has_images = False
    folder = posixpath.dirname(resolve(address))
    with _open(address, options) as file:
        for line, uri, name in _rows(address, file):
            try:
                reference = _looked_up(ImageReference(resolve(uri, folder), _storable(name)))
            except SourceError as error:
                raise SourceError(error.what, where=f"{address}, line {line}", remedy=error.remedy) from error
            if reference.id and is_container(reference):
                raise SourceError(
                    f"{reference.uri} has the id {reference.id!r}",
                    where=f"{address}, line {line}",
                    why="an id names one image, but a container has many images with their own ids",
                    remedy="leave the id empty",
                )
            has_images = True
            yield reference
    if not has_images:
        raise SourceError("the manifest lists no images", where=address)


def _storable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"the id {name!r} is not valid text: {error.reason}", remedy="write it as UTF-8") from error
    return name


def _looked_up(reference: ImageReference) -> ImageReference:
    if is_remote(reference.uri):
        return reference
    try:
        facts = open_store(reference.uri).facts(reference.uri)
    except StorageError:  # the reader meets the error again, and rejects the image
        return reference
    return reference._replace(size_bytes=facts.size_bytes, version=facts.version) if facts else reference


def check(address: str, options: StorageOptions | None = None) -> None:
    """Checks a manifest by reading its first image.

    Raises:
        SourceError: The manifest cannot be read, its header names no known column, or its first row has no address.
    """
    with contextlib.closing(read_files(address, options)) as references:
        next(references)


@contextlib.contextmanager
def _open(address: str, options: StorageOptions | None) -> Iterator[io.TextIOWrapper]:
    try:
        # TextIOWrapper does not accept the streams that Beam decompresses (2.77: they have no `writable`).
        location = resolve(address)
        unpack = next((_PACKED[end] for end in _PACKED if address.lower().endswith(end)), None)
        with (
            open_store(location, options).open_stream(location) as raw,
            unpack(raw) if unpack else contextlib.nullcontext(raw) as plain,
            # newline="": the csv module splits lines itself, because quoted fields may contain line ends.
            io.TextIOWrapper(plain, "utf-8-sig", newline="") as file,
        ):
            yield file
    except UnicodeDecodeError as error:
        raise SourceError(
            f"the manifest is not UTF-8: {error.reason}", where=address, remedy="save it as UTF-8"
        ) from error
    except MissingFileError as error:
        raise SourceError(
            "there is no such manifest", where=address, remedy="check the address for a typing error"
        ) from error
    except StorageError as error:
        raise SourceError(
            f"the manifest {error.what}", where=error.where or address, why=error.why, remedy=error.remedy
        ) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SourceError(
            f"the manifest cannot be read: {error}",
            where=address,
            remedy="check that the file is complete and that you may read it",
        ) from error


def _unpacked(address: str) -> str:
    name = address.lower()
    for end in _PACKED:
        name = name.removesuffix(end)
    return name


def _rows(address: str, file: io.TextIOWrapper) -> Iterator[tuple[int, str, str]]:
    """Yields the number of the line, the address and the id of each row."""
    name = _unpacked(address)
    if name.endswith(".csv"):
        return _csv_rows(address, file)
    return _json_rows(address, file) if name.endswith(_JSON) else _text_rows(file)


def _text_rows(file: io.TextIOWrapper) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(file, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text, ""


def _csv_rows(address: str, file: io.TextIOWrapper) -> Iterator[tuple[int, str, str]]:
    header = file.readline()
    delimiter = max(_DELIMITERS, key=header.count)
    columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    column = next((columns.index(name) for name in _ADDRESS_COLUMNS if name in columns), None)
    if column is None:
        raise SourceError(
            f"the header has the columns {', '.join(columns) or 'none'}",
            where=f"{address}, line 1",
            why=f"the address has to be in one of the columns {', '.join(_ADDRESS_COLUMNS)}",
            remedy="add a header, or save a plain list of addresses as .txt",
        )
    ids = columns.index("id") if "id" in columns else None
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            line = reader.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if any(field.strip() for field in row[len(columns) :]):
                raise SourceError(
                    f"the row has {len(row)} fields, but the header has {len(columns)}",
                    where=f"{address}, line {line}",
                    remedy=f"put fields that contain {delimiter!r} in double quotes",
                )
            uri = row[column].strip() if column < len(row) else ""
            if not uri:
                raise SourceError(
                    f"the column {columns[column]} is empty", where=f"{address}, line {line}", remedy="fill it in"
                )
            yield line, uri, row[ids].strip() if ids is not None and ids < len(row) else ""
    except csv.Error as error:
        raise SourceError(f"not CSV: {error}", where=f"{address}, line {reader.line_num + 1}") from error


def _json_rows(address: str, file: io.TextIOWrapper) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{address}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"not JSON: {error}", where=where, remedy="write one object per line") from error
        if not isinstance(row, dict):
            raise SourceError("not an object", where=where, remedy='write lines such as {"uri": "a.jpg", "id": "7"}')
        yield number, _json_address(row, where), _json_id(row.get("id"), where)


def _json_address(row: dict[str, object], where: str) -> str:
    name = next((name for name in _ADDRESS_COLUMNS if name in row), None)
    if name is None:
        raise SourceError(
            f"the object has the names {', '.join(map(repr, row)) or 'none'}",
            where=where,
            why=f"the address has to have one of the names {', '.join(_ADDRESS_COLUMNS)}",
        )
    uri = row[name]
    if not isinstance(uri, str) or not uri.strip():
        raise SourceError(f"{name} is {uri!r}", where=where, why="an address is a text", remedy="fill it in")
    return uri.strip()


def _json_id(value: object, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SourceError(f"id is {value!r}", where=where, why="an id is a text or a whole number")
    return str(value).strip()
