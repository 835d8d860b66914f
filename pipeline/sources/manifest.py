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
from typing import IO, Any

from pipeline.errors import SourceError
from pipeline.sources.listing import expand, is_container
from pipeline.sources.reference import ImageReference, resolve
from pipeline.storage.address import is_remote
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions

EXTENSIONS = (".txt", ".csv", ".jsonl", ".ndjson")
"""What a manifest's name ends in, perhaps followed by `.gz` or `.bz2`."""

_PACKED: dict[str, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
}
_ADDRESS_COLUMNS = ("uri", "path", "image")
_DELIMITERS = ",;\t"
_JSON = (".jsonl", ".ndjson")


def is_manifest(address: str) -> bool:
    """Whether a name is a manifest's.

    >>> is_manifest("s3://b/list.CSV"), is_manifest("list.txt.gz"), is_manifest("cats.jpg")
    (True, True, False)
    """
    return _unpacked(address).endswith(EXTENSIONS)


def read_manifest(address: str, options: StorageOptions | None = None) -> Generator[ImageReference, None, None]:
    """The images that a manifest lists, in its order; read as they are asked for. What it lists twice comes twice.

    UTF-8, with or without a byte order mark, lines ended in any of the usual ways; unpacked if its name says `.gz`
    or `.bz2`. A name that ends in `.csv` (before that) means CSV, in `.jsonl` or `.ndjson` JSON lines, any other text.

    - Text: an address a line. Empty lines and lines that begin with `#` are left out.
    - CSV: a header, then an image a row. The address is in the column `uri`, or else `path`, or else `image`; column
      `id`, if any, holds the user's own names. Other columns are left out. Fields are separated by comma, semicolon or
      tab, as the header is.
    - JSON lines: an object a line, with the same names; an id is text or a whole number.

    Relative addresses are relative to the manifest's folder. A container (`pipeline.sources.file_types.container_kind`)
    means the images in it; an `id` would not say which. Local files are looked up for their size and version, and one
    that is not there is listed, for the reader to reject; remote ones are not looked up.

    Raises:
        SourceError: The manifest cannot be read or lists nothing, a row has no address or is malformed, or a container
            has an id; it names the file and the line.
    """
    with contextlib.closing(read_files(address, options)) as references:
        yield from expand(references, options)


def read_files(address: str, options: StorageOptions | None = None) -> Generator[ImageReference, None, None]:
    """As `read_manifest`, but containers are not looked into: the references are to the files themselves."""
    found = False
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
                    why="an id names one image, and a container has many, with ids of their own",
                    remedy="leave the id empty",
                )
            found = True
            yield reference
    if not found:
        raise SourceError("the manifest lists no image", where=address)


def _storable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"the id {name!r} is no text: {error.reason}", remedy="write it as UTF-8") from error
    return name


def _looked_up(reference: ImageReference) -> ImageReference:
    if is_remote(reference.uri):
        return reference
    try:
        facts = open_store(reference.uri).facts(reference.uri)
    except StorageError:  # for the reader to find out again, and to reject
        return reference
    return reference._replace(size_bytes=facts.size_bytes, version=facts.version) if facts else reference


def check(address: str, options: StorageOptions | None = None) -> None:
    """Reads a manifest's first image.

    Raises:
        SourceError: The manifest cannot be read, its header names no known column, or its first row has no address.
    """
    with contextlib.closing(read_files(address, options)) as references:
        next(references)


@contextlib.contextmanager
def _open(address: str, options: StorageOptions | None) -> Iterator[io.TextIOWrapper]:
    try:
        # Unpacked here: what Beam unpacks is no file to TextIOWrapper (2.77: it has no `writable`).
        unpack = next((_PACKED[end] for end in _PACKED if address.lower().endswith(end)), None)
        with (
            open_store(address, options).open_stream(resolve(address)) as raw,
            unpack(raw) if unpack else contextlib.nullcontext(raw) as plain,
            # newline="": the csv module looks for line ends itself, those within quotes among them.
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
            f"the manifest cannot be read: {error}", where=address, remedy="check that it is whole, and who may read it"
        ) from error


def _unpacked(address: str) -> str:
    name = address.lower()
    for end in _PACKED:
        name = name.removesuffix(end)
    return name


def _rows(address: str, file: io.TextIOWrapper) -> Iterator[tuple[int, str, str]]:
    """(line, address, id) of each row."""
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
            why=f"the address is looked for in a column {', '.join(_ADDRESS_COLUMNS)}",
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
                    f"{len(row)} fields, where the header has {len(columns)}",
                    where=f"{address}, line {line}",
                    remedy=f"put what contains a {delimiter!r} in double quotes",
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
            raise SourceError(f"not JSON: {error}", where=where, remedy="write one object a line") from error
        if not isinstance(row, dict):
            raise SourceError("not an object", where=where, remedy='write lines such as {"uri": "a.jpg", "id": "7"}')
        yield number, _json_address(row, where), _json_id(row.get("id"), where)


def _json_address(row: dict[str, Any], where: str) -> str:
    name = next((name for name in _ADDRESS_COLUMNS if name in row), None)
    if name is None:
        raise SourceError(
            f"the object has the names {', '.join(map(repr, row)) or 'none'}",
            where=where,
            why=f"the address is looked for under {', '.join(_ADDRESS_COLUMNS)}",
        )
    uri = row[name]
    if not isinstance(uri, str) or not uri.strip():
        raise SourceError(f"{name} is {uri!r}", where=where, why="an address is text", remedy="fill it in")
    return uri.strip()


def _json_id(value: object, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SourceError(f"id is {value!r}", where=where, why="an id is text or a whole number")
    return str(value).strip()
