"""Images in TFRecord files of `tf.train.Example`, without TensorFlow.

Facts: the framing (length, its checksum, data, its checksum; CRC-32C, masked) is that of TensorFlow's
`lib/io/record_writer.h`; the messages are those of `core/example/example.proto` and `feature.proto`.
"""

import io
import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import google_crc32c

from pipeline.rejection import Reason, Rejected
from pipeline.sources.members import Members, first_of
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream, Unpacked, packing

IMAGE_FEATURES = ("image/encoded", "image", "image_raw", "image_bytes", "encoded", "jpg", "jpeg", "png", "img")
"""Where images are looked for: the first of these features that is there."""

ID_FEATURES = ("image/filename", "image/source_id", "id", "image/id", "__key__", "filename", "image/file_name")
"""Where ids are looked for."""

_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_GZIP = b"\x1f\x8b\x08"
_LONGEST_KEY = 4096
_MOST_FEATURES = 10_000
_WINDOW = 512
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class _Value(NamedTuple):
    """A value of a feature: where it is, and what it is if it is an integer or short enough to be an id."""

    begin: int
    end: int
    number: int | None = None
    short: bytes | None = None


def list_tfrecord(stream: FileStream) -> Iterator[ImageReference]:
    """The records of a file, in order, named by their number from 0; images are passed over, not read.

    The checksums of lengths are compared here, those of the data when an image is read. What follows a damaged length
    is lost, and the last reference, to the file itself, says so.

    Raises:
        StorageError: The file cannot be read.
    """
    members = Members(stream.path, "tfrecord", stream.facts.version)
    try:
        window = _Window(_plain(stream))
        at = 0
        for number in itertools.count():
            length = _length(window, at)
            if length is None:
                return
            begin, end = at + _LENGTH.size, at + _LENGTH.size + length
            fault, key, size = None, "", -1
            try:
                found = _features(window, begin, end)
                image = _image(found)
                size = image.end - image.begin
                key = _id(found)
            except (_DamagedError, _OddError) as error:
                fault = error.rejected
            if not window.at(end + _CHECKSUM.size - 1, 1):
                raise _cut_off(at)
            yield members.numbered(number, offset=at, size=size, key=key, fault=fault)
            at = end + _CHECKSUM.size
    except Rejected as rejected:
        yield members.lost(rejected)


class OpenTFRecord:
    """A TFRecord file that records are read from; of a compressed one cheaply in the order of the file alone."""

    def __init__(self, stream: FileStream) -> None:
        self._plain = _plain(stream)

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """The image of a record, the record's checksum compared.

        Raises:
            Rejected: CORRUPT, TRUNCATED, UNKNOWN_FORMAT; TOO_MANY_BYTES: the whole record is larger than `max_bytes`.
            StorageError: The file cannot be read.
        """
        length = _length(_Window(self._plain), reference.offset)
        if length is None:
            raise _cut_off(reference.offset)
        if length > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"a record of {length:,} bytes")
        self._plain.seek(reference.offset + _LENGTH.size)
        data = self._plain.read(length)
        checksum = self._plain.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            raise _cut_off(reference.offset)
        if _masked(data) != _CHECKSUM.unpack(checksum)[0]:
            raise Rejected(Reason.CORRUPT, "the checksum of the record is not that of its data")
        try:
            image = _image(_features(_Window(io.BytesIO(data)), 0, length))
        except (_DamagedError, _OddError) as error:
            raise error.rejected from error
        return data[image.begin : image.end]

    def close(self) -> None:
        """Nothing: the stream is its owner's."""


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _plain(stream: FileStream) -> FileStream | Unpacked:
    stream.seek(0)
    beginning = stream.read(_LENGTH.size)
    stream.seek(0)
    # TensorFlow's writers compress without saying so in the name. These bytes can be a length, too; its checksum tells.
    packed = beginning.startswith(_GZIP) and not _is_length(beginning)
    return Unpacked(stream, "gz") if packed or packing(stream.path) == "gz" else stream


def _is_length(header: bytes) -> bool:
    return len(header) == _LENGTH.size and _masked(header[:8]) == _LENGTH.unpack(header)[1]


class _Readable(Protocol):
    def seek(self, offset: int, /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


class _Window:
    """Bytes at any place of a stream, with few reads: numbers lie side by side, images between them are passed over."""

    def __init__(self, plain: _Readable) -> None:
        self._plain, self._begin, self._data = plain, 0, b""

    def at(self, begin: int, size: int) -> bytes:
        """As many bytes as were asked for, less at the end."""
        start = begin - self._begin
        if start < 0 or start + size > len(self._data):
            self._plain.seek(begin)
            self._begin, self._data, start = begin, self._plain.read(max(size, _WINDOW)), 0
        return self._data[start : start + size]


def _length(window: _Window, at: int) -> int | None:
    """The length of the data of the record at `at`; None at the end of the file.

    Raises:
        Rejected: TRUNCATED, CORRUPT.
    """
    header = window.at(at, _LENGTH.size)
    if not header:
        return None
    if len(header) < _LENGTH.size:
        raise _cut_off(at)
    if not _is_length(header):
        raise Rejected(
            Reason.CORRUPT, f"the length of the record at byte {at:,} fails its checksum; what follows is lost"
        )
    return int(_LENGTH.unpack(header)[0])


def _cut_off(at: int) -> Rejected:
    return Rejected(Reason.TRUNCATED, f"the TFRecord file ends within the record at byte {at:,}")


class _OddError(Exception):
    """A record that is in order and holds no image, or one that cannot be taken."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(str(rejected))
        self.rejected = rejected


class _DamagedError(_OddError):
    """The bytes are no message of this kind."""

    def __init__(self, what: str) -> None:
        super().__init__(Rejected(Reason.CORRUPT, f"the record is no tf.train.Example: {what}"))


def _features(window: _Window, begin: int, end: int) -> dict[str, list[_Value]]:
    """The values of each feature of an Example."""
    found: dict[str, list[_Value]] = {}
    for outer, features in _fields(window, begin, end):
        if outer != 1:
            continue
        for number, entry in _fields(window, features.begin, features.end):
            if number == 1:
                name, values = _entry(window, entry)
                found[name] = values  # of equal keys the last counts, as in every map of protobuf
            if len(found) > _MOST_FEATURES:
                raise _DamagedError(f"more than {_MOST_FEATURES:,} features")
    return found


def _entry(window: _Window, entry: _Value) -> tuple[str, list[_Value]]:
    name = ""
    values: list[_Value] = []
    for number, field in _fields(window, entry.begin, entry.end):
        if number == 1:
            if field.short is None:
                raise _DamagedError(f"a feature whose name has {field.end - field.begin:,} bytes")
            name = field.short.decode("utf-8", "backslashreplace")
        elif number == 2:
            values = list(itertools.islice(_values(window, field), 2))  # two are enough to refuse
    return name, values


def _values(window: _Window, feature: _Value) -> Iterator[_Value]:
    """The values of a Feature: of a bytes_list (1) or an int64_list (3), of which packed ones are told by the first."""
    for kind, values in _fields(window, feature.begin, feature.end):
        if kind not in (1, 3):
            continue
        for number, value in _fields(window, values.begin, values.end):
            if number == 1 and kind == 3 and value.number is None:
                yield value._replace(number=_varint(window, value.begin, value.end)[0])
            elif number == 1:
                yield value


def _fields(window: _Window, begin: int, end: int) -> Iterator[tuple[int, _Value]]:
    """(field number, content) of each field of a message; long ones are passed over."""
    at = begin
    while at < end:
        tag, start = _varint(window, at, end)
        kind, number, short = tag & 7, None, None
        if kind == _VARINT:
            number, start = _varint(window, start, end)
            at = start
        elif kind == _BYTES:
            size, start = _varint(window, start, end)
            at = start + size
            short = window.at(start, size) if size <= _LONGEST_KEY and at <= end else None
        elif kind in (_FIXED32, _FIXED64):
            at = start + (4 if kind == _FIXED32 else 8)
        else:
            raise _DamagedError(f"wire type {kind}")
        if at > end:
            raise _DamagedError("a field reaches beyond its message")
        yield tag >> 3, _Value(start, at, number, short)


def _varint(window: _Window, at: int, end: int) -> tuple[int, int]:
    """A number in base 128, and where it ends."""
    value = 0
    for index, byte in enumerate(window.at(at, min(_LONGEST_VARINT, end - at))):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise _DamagedError("a number is cut off")


def _image(found: dict[str, list[_Value]]) -> _Value:
    name = first_of(IMAGE_FEATURES, found)
    if name is None:
        raise _OddError(Rejected(Reason.UNKNOWN_FORMAT, f"no feature of an image among {', '.join(found) or 'none'}"))
    values = found[name]
    if not values:
        raise _OddError(Rejected(Reason.EMPTY, f"the feature {name} holds no bytes"))
    if len(values) > 1 or values[0].number is not None:
        raise _OddError(Rejected(Reason.UNKNOWN_FORMAT, f"the feature {name} holds something else than one image"))
    return values[0]


def _id(found: dict[str, list[_Value]]) -> str:
    value = next((found[name][0] for name in ID_FEATURES if found.get(name)), None)
    if value is None:
        return ""
    if value.number is not None:
        return str(value.number - (value.number >> 63 << 64))  # stored as unsigned, meant as int64
    if value.short is None:
        raise _OddError(Rejected(Reason.UNSAFE_NAME, f"its id has {value.end - value.begin:,} bytes"))
    return value.short.decode("utf-8", "backslashreplace")
