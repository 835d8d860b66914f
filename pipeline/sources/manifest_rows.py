"""The rows of a manifest in each of its formats: plain text with Caffe's labels, CSV and TSV, JSON and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipeline.errors import SourceError

ADDRESS_COLUMNS = ("uri", "path", "image", "url", "file_name", "filepath")
"""The columns that may hold the address: the first one that exists is used."""

_DELIMITERS = ",;\t"
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


def text_rows(address: str, file: IO[str]) -> Iterator[Row]:
    """Yields the lines of a plain list; a label is still part of the address, see `split_label`."""
    for number, line in enumerate(file, start=1):
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
        SourceError: The header names no known column, or a row is malformed or has no address.
    """
    header = file.readline()
    delimiter = delimiter or max(_DELIMITERS, key=header.count)
    columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    column = next((columns.index(name) for name in ADDRESS_COLUMNS if name in columns), None)
    if column is None:
        raise SourceError(
            f"the header has the columns {', '.join(columns) or 'none'}",
            where=f"{address}, line 1",
            why=f"the address has to be in one of the columns {', '.join(ADDRESS_COLUMNS)}",
            remedy="add a header, or save a plain list of addresses as .txt",
        )
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for fields in reader:
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
        raise SourceError(f"not CSV: {error}", where=f"{address}, line {reader.line_num + 1}") from error


def json_rows(address: str, file: IO[str]) -> Iterator[Row]:
    """Yields the rows of a JSON file, which is read whole: an array of addresses or objects, or JSON lines.

    An object with an array `images`, as in COCO's files, stands for that array.

    Raises:
        SourceError: The file is none of these, or a row has no address.
    """
    text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        # Often JSON lines have this extension too; their errors name the line.
        yield from json_line_rows(address, io.StringIO(text))
        return
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = content["images"]
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise SourceError(
            "not a list of images", where=address, remedy='write [{"uri": "a.jpg", "id": "7"}, ...] or ["a.jpg", ...]'
        )
    for number, item in enumerate(content, start=1):
        where = f"{address}, item {number}"
        yield _json_row({"uri": item} if isinstance(item, str) else item, where)


def json_line_rows(address: str, file: IO[str]) -> Iterator[Row]:
    """Yields the rows of JSON lines.

    Raises:
        SourceError: A line is not an object, or has no address.
    """
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{address}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"not JSON: {error}", where=where, remedy="write one object per line") from error
        yield _json_row(row, where)


def _json_row(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise SourceError("not an object", where=where, remedy='write lines such as {"uri": "a.jpg", "id": "7"}')
    name = next((name for name in ADDRESS_COLUMNS if name in row), None)
    if name is None:
        raise SourceError(
            f"the object has the names {', '.join(map(repr, row)) or 'none'}",
            where=where,
            why=f"the address has to have one of the names {', '.join(ADDRESS_COLUMNS)}",
        )
    uri = row[name]
    if not isinstance(uri, str) or not uri.strip():
        raise SourceError(f"{name} is {uri!r}", where=where, why="an address is a text", remedy="fill it in")
    return Row(where, uri.strip(), _json_id(row.get("id"), where), _json_label(row.get("label")))


def _json_id(value: object, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SourceError(f"id is {value!r}", where=where, why="an id is a text or a whole number")
    return str(value).strip()


def _json_label(value: object) -> str:
    """Returns a label as text; of a value that is neither a text nor null its JSON."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)
