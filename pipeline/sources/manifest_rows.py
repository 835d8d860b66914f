"""The rows of a manifest as plain text with Caffe's labels, as CSV and as TSV."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from typing import IO, NamedTuple, Protocol

from pipeline.errors import SourceError

ADDRESS_COLUMNS = ("uri", "path", "image", "url", "file_name", "filepath")
"""The columns that may hold the address: the first one that exists is used."""

LONGEST_LINE = 2**20
"""The most characters of a line, of a row of CSV and of an item of JSON: no more of a manifest is held in memory."""

_DELIMITERS = ",;\t"
_CSV_REMEDY = "put fields that contain the delimiter in double quotes, and close every quote"
_LABELLED = re.compile(r"(?P<path>.*\S)[ \t]+(?P<label>[+-]?\d+)")


class Row(NamedTuple):
    """A row of a manifest.

    Attributes:
        where: The manifest and the line or item, for messages.
        uri: The address, as it is written.
        id: The user's own name of the image; empty where there is none.
        label: The label of the image; empty where there is none.
    """

    where: str
    uri: str
    id: str = ""
    label: str = ""


def split_label(line: str) -> tuple[str, str] | None:
    """Returns path and label of a line as in Caffe's lists; None where the line does not end in a whole number.

    Caffe's `convert_imageset` and `ImageData` layer take what stands after the last space as the label.

    >>> split_label("cats/my cat.jpg 281"), split_label("cats/1.jpg")
    (('cats/my cat.jpg', '281'), None)
    """
    match = _LABELLED.fullmatch(line)
    return match and (match["path"], match["label"])


class Lines(Protocol):
    """A text that is read by lines."""

    def readline(self, size: int, /) -> str:
        """Returns the next line, or its first `size` characters."""


def lines(address: str, file: Lines) -> Iterator[str]:
    """Yields the lines of a file.

    Raises:
        SourceError: A line is longer than `LONGEST_LINE`.
    """
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise too_long("a line", f"{address}, line {number}")
        yield line


def too_long(what: str, where: str) -> SourceError:
    """Returns the error for a line, row or item that is too long to be one of a manifest."""
    return SourceError(
        f"{what} of more than {LONGEST_LINE:,} characters",
        where=where,
        why="a manifest has an address in each line, and reading a longer one could take all memory",
        remedy="check that this is a manifest, and that each image has a line of its own",
    )


def text_rows(address: str, file: IO[str]) -> Iterator[Row]:
    """Yields the lines of a plain list; a label is still part of the address, see `split_label`.

    Raises:
        SourceError: A line is too long.
    """
    for number, line in enumerate(lines(address, file), start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield Row(f"{address}, line {number}", text)


def csv_rows(address: str, file: IO[str], delimiter: str = "") -> Iterator[Row]:
    """Yields the rows of a table with a header.

    Args:
        address: The manifest, for messages.
        file: Its text.
        delimiter: What separates the fields; empty for the one of commas, semicolons and tabs that the header has most.

    Raises:
        SourceError: The header names no known column, or a row is malformed, too long or has no address.
    """
    rest = lines(address, file)
    header = next(rest, "")
    delimiter = delimiter or max(_DELIMITERS, key=header.count)
    try:
        columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error as error:
        raise SourceError(f"not CSV: {error}", where=f"{address}, line 1", remedy=_CSV_REMEDY) from error
    column = next((columns.index(name) for name in ADDRESS_COLUMNS if name in columns), None)
    if column is None:
        raise SourceError(
            f"the header has the columns {', '.join(columns) or 'none'}",
            where=f"{address}, line 1",
            why=f"the address has to be in one of the columns {', '.join(ADDRESS_COLUMNS)}",
            remedy="add a header, or save a plain list of addresses as .txt",
        )
    row = _RowLines(address, rest)
    reader = csv.reader(row, delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            row.begin()
            where = f"{address}, line {reader.line_num + 1}"
            if not any(field.strip() for field in fields):
                continue
            if any(field.strip() for field in fields[len(columns) :]):
                raise SourceError(
                    f"the row has {len(fields)} fields, but the header has {len(columns)}",
                    where=where,
                    remedy=f"put fields that contain {delimiter!r} in double quotes",
                )
            values = dict(zip(columns, (field.strip() for field in fields), strict=False))
            uri = values.get(columns[column], "")
            if not uri:
                raise SourceError(f"the column {columns[column]} is empty", where=where, remedy="fill it in")
            yield Row(where, uri, values.get("id", ""), values.get("label", ""))
    except csv.Error as error:
        where = f"{address}, line {reader.line_num + 1}"
        raise SourceError(f"not CSV: {error}", where=where, remedy=_CSV_REMEDY) from error


class _RowLines:
    """The lines of a CSV file after its header, with a limit on a row: quoted fields may hold any number of lines."""

    def __init__(self, address: str, rest: Iterator[str]) -> None:
        self._address, self._rest = address, rest
        self._number, self._length = 1, 0

    def begin(self) -> None:
        """Begins the next row."""
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._rest)
        self._number += 1
        self._length += len(line)
        if self._length > LONGEST_LINE:
            raise too_long("a row", f"{self._address}, line {self._number}")
        return line
