"""The rows of a manifest in JSON and in JSON lines."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import IO

from pipeline.errors import SourceError
from pipeline.sources.manifest_rows import ADDRESS_COLUMNS, LONGEST_LINE, Lines, Row, lines, too_long

_LARGEST_WHOLE = 2**24
"""The most characters of a file that is parsed whole; objects take up to 40 times as much memory as their text."""

_LONGEST_WORD = 16
"""No word or escape of JSON is longer: an error this near to the end of what was read may only say that it was cut."""

_WHITE_SPACE = re.compile(r"[ \t\n\r]*")
_CUT_NUMBER = 3
"""A number with fewer characters after it may be longer, as `1` before `.`, `e` or `e+`."""

_NOT_A_LIST = 'write [{"uri": "a.jpg", "id": "7"}, ...] or ["a.jpg", ...]'


def json_rows(address: str, file: IO[str]) -> Iterator[Row]:
    """Yields the rows of a JSON file: an array of addresses or objects, or JSON lines.

    An object with an array `images`, as in COCO's files, stands for that array. A large file is parsed item by item.

    Raises:
        SourceError: The file is none of these, or a row has no address, or is too long.
    """
    text = file.read(_LARGEST_WHOLE + 1)
    if len(text) > _LARGEST_WHOLE:
        yield from _large(address, text, file)
        return
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
        raise SourceError("not a list of images", where=address, remedy=_NOT_A_LIST)
    yield from _item_rows(address, iter(content))


def _item_rows(address: str, items: Iterator[object]) -> Iterator[Row]:
    for number, item in enumerate(items, start=1):
        yield _json_row({"uri": item} if isinstance(item, str) else item, f"{address}, item {number}")


def _large(address: str, text: str, file: IO[str]) -> Iterator[Row]:
    """Yields the rows of a file that is too large to be parsed whole."""
    beginning = text.lstrip()[:LONGEST_LINE]
    if beginning.startswith("{"):
        line = beginning.partition("\n")[0]
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            pass
        else:
            yield from json_line_rows(address, _Resumed(text, file))
            return
    yield from _item_rows(address, _Parser(address, text, file).items())


class _Resumed:
    """The lines of a file whose beginning was read."""

    def __init__(self, text: str, file: IO[str]) -> None:
        self._text, self._file = io.StringIO(text, newline=""), file

    def readline(self, size: int, /) -> str:
        """Returns the next line, or its first `size` characters."""
        line = self._text.readline(size)
        if line.endswith("\n") or len(line) == size:
            return line
        return line + self._file.readline(size - len(line))


class _Parser:
    """Parses an array item by item, or an object for its array `images`, and holds one item at a time."""

    def __init__(self, address: str, text: str, file: IO[str]) -> None:
        self._address, self._text, self._file = address, text, file
        self._position = 0
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[object]:
        """Yields the items.

        Raises:
            SourceError: The text is not JSON, or is neither such an array nor such an object; an item is too long.
        """
        opening = self._next()
        if opening == "[":
            yield from self._array()
        elif opening == "{":
            yield from self._images()
        else:
            raise SourceError("not a list of images", where=self._address, remedy=_NOT_A_LIST)
        if self._peek():
            raise self._malformed("text after its end")

    def _images(self) -> Iterator[object]:
        has_images, comma = False, ""
        while comma or self._peek() != "}":
            name = self._value()
            self._expect(":")
            if self._peek() == "[":
                self._next()
                for item in self._array():
                    if name == "images":
                        yield item
                has_images |= name == "images"
            else:
                self._value()
            comma = self._next() if self._peek() == "," else ""
            if not comma:
                break
        self._expect("}")
        if not has_images:
            raise SourceError("not a list of images", where=self._address, remedy=_NOT_A_LIST)

    def _array(self) -> Iterator[object]:
        """Yields the items of an array whose bracket was read."""
        if self._peek() == "]":
            self._next()
            return
        while True:
            yield self._value()
            if self._next_of(",]") == "]":
                return

    def _value(self) -> object:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except RecursionError as error:
                raise self._malformed("too many brackets in brackets") from error
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_WORD
                if is_cut and len(self._text) - self._position > LONGEST_LINE:
                    raise too_long("an item", self._address) from error
                if not is_cut or not self._read_on():
                    raise self._malformed(error.msg) from error
                continue
            if end > len(self._text) - _CUT_NUMBER:
                length = end - self._position
                if self._read_on():
                    continue
                end = length
            self._position = end
            return value

    def _read_on(self) -> bool:
        """Drops what was parsed, reads more, and returns whether there was more."""
        more = self._file.read(LONGEST_LINE)
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)

    def _peek(self) -> str:
        """Returns the next character that is not white space; empty at the end."""
        while True:
            match = _WHITE_SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_on():
                return ""

    def _next(self) -> str:
        character = self._peek()
        self._position += len(character)
        return character

    def _next_of(self, expected: str) -> str:
        character = self._next()
        if not character or character not in expected:
            raise self._malformed(f"{character or 'the end'!r} where one of {expected!r} is expected")
        return character

    def _expect(self, character: str) -> None:
        self._next_of(character)

    def _malformed(self, what: str) -> SourceError:
        return SourceError(f"not JSON: {what}", where=self._address, remedy=_NOT_A_LIST)


def json_line_rows(address: str, file: Lines) -> Iterator[Row]:
    """Yields the rows of JSON lines.

    Raises:
        SourceError: A line is not an object, is too long, or has no address.
    """
    for number, line in enumerate(lines(address, file), start=1):
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
