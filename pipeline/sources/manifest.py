"""Manifests: lists of images in a file, as text or as CSV."""

import bz2
import contextlib
import csv
import gzip
import io
import posixpath
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import IO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipeline.errors import SourceError
from pipeline.sources.reference import ImageReference, resolve

EXTENSIONS = (".txt", ".csv")
"""What a manifest's name ends in, perhaps followed by `.gz` or `.bz2`."""

_PACKED: dict[str, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
}
_ADDRESS_COLUMNS = ("uri", "path", "image")
_DELIMITERS = ",;\t"


def is_manifest(address: str) -> bool:
    """Whether a name is a manifest's.

    >>> is_manifest("s3://b/list.CSV"), is_manifest("list.txt.gz"), is_manifest("cats.jpg")
    (True, True, False)
    """
    return _unpacked(address).endswith(EXTENSIONS)


def read_manifest(address: str) -> Generator[ImageReference, None, None]:
    """The images that a manifest lists, in its order, each once; read as they are asked for.

    UTF-8, with or without a byte order mark, lines ended in any of the usual ways; unpacked if its name says `.gz`
    or `.bz2`. A name that ends in `.csv` (before that) means CSV, any other text.

    - Text: an address a line. Empty lines and lines that begin with `#` are left out.
    - CSV: a header, then an image a row. The address is in the column `uri`, or else `path`, or else `image`; column
      `id`, if any, holds the user's own names. Other columns are left out. Fields are separated by comma, semicolon or
      tab, as the header is.

    Relative addresses are relative to the manifest's folder. Identical rows count once.

    Raises:
        SourceError: The manifest cannot be read or lists nothing, a row has no address, or one address has two ids;
            it names the file and the line.
    """
    found = False
    seen: dict[str, _Listed] = {}
    folder = posixpath.dirname(resolve(address))
    with _open(address) as file:
        for line, uri, name in _rows(address, file):
            try:
                reference = ImageReference(resolve(uri, folder), name)
            except SourceError as error:
                raise SourceError(error.what, where=f"{address}, line {line}", remedy=error.remedy) from error
            before = seen.setdefault(reference.uri, _Listed(line, name))
            if before.name != name:
                raise SourceError(
                    f"{reference.uri} is listed as {name!r}, and on line {before.line} as {before.name!r}",
                    where=f"{address}, line {line}",
                    why="one image has one id, and one map",
                    remedy="keep one of the two lines",
                )
            if before.line == line:
                found = True
                yield reference
    if not found:
        raise SourceError("the manifest lists no image", where=address)


def check(address: str) -> None:
    """Reads a manifest's first image.

    Raises:
        SourceError: The manifest cannot be read, its header names no known column, or its first row has no address.
    """
    with contextlib.closing(read_manifest(address)) as references:
        next(references)


class _Listed(NamedTuple):
    line: int
    name: str


@contextlib.contextmanager
def _open(address: str) -> Iterator[io.TextIOWrapper]:
    try:
        # Unpacked here: what Beam unpacks is no file to TextIOWrapper (2.77: it has no `writable`).
        unpack = next((_PACKED[end] for end in _PACKED if address.lower().endswith(end)), None)
        with (
            FileSystems.open(resolve(address), compression_type=CompressionTypes.UNCOMPRESSED) as raw,
            unpack(raw) if unpack else contextlib.nullcontext(raw) as plain,
            # newline="": the csv module looks for line ends itself, those within quotes among them.
            io.TextIOWrapper(plain, "utf-8-sig", newline="") as file,
        ):
            yield file
    except UnicodeDecodeError as error:
        raise SourceError(
            f"the manifest is not UTF-8: {error.reason}", where=address, remedy="save it as UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise SourceError(
            "there is no such manifest", where=address, remedy="check the address for a typing error"
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
    return _csv_rows(address, file) if _unpacked(address).endswith(".csv") else _text_rows(file)


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
