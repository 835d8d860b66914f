"""Images in TFRecord files of `tf.train.Example`, without TensorFlow.

Sources: TensorFlow's `lib/io/record_writer.h` defines the framing (length, its checksum, data, its checksum; CRC-32C,
masked), and `core/example/example.proto` and `feature.proto` define the messages.
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
"""The features that may hold images: the first one that exists is used."""

ID_FEATURES = ("image/filename", "image/source_id", "id", "image/id", "__key__", "filename", "image/file_name")
"""The features that may hold ids: the first one that has a value is used."""

_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_GZIP = b"\x1f\x8b\x08"
_LONGEST_KEY = 4096
_MOST_FEATURES = 10_000
_WINDOW = 512
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class _Value(NamedTuple):
    """A value of a feature.

    Attributes:
        begin: The position of its first byte.
        end: The position after its last byte.
        number: The value, if it is an integer.
        short: The value, if it is short enough to be an id.
    """

    begin: int
    end: int
    number: int | None = None
    short: bytes | None = None


def list_tfrecord(stream: FileStream) -> Iterator[ImageReference]:
    """Yields the records of a file in order, named by their number from 0. Skips the images without reading them.

    The listing verifies the checksums of lengths; reading an image verifies that of its data. A damaged length loses
    all records after it: the last reference, to the file itself, then has a fault.

    Raises:
        StorageError: The file cannot be read.
    """
    members = Members(stream.path, "tfrecord", stream.facts.version)
    try:
        window = _Window(_plain(stream))
        offset = 0
        for number in itertools.count():
            length = _length(window, offset)
            if length is None:
                return
            begin, end = offset + _LENGTH.size, offset + _LENGTH.size + length
            fault, key, size = None, "", -1
            try:
                features = _features(window, begin, end)
                image = _image(features)
                size = image.end - image.begin
                key = _id(features)
            except _UnusableRecordError as error:
                fault = error.rejected
            if not window.at(end + _CHECKSUM.size - 1, 1):
                raise _cut_off(offset)
            yield members.numbered(number, offset=offset, size=size, key=key, fault=fault)
            offset = end + _CHECKSUM.size
    except Rejected as rejected:
        yield members.lost(rejected)


class OpenTFRecord:
    """Reads the records of a TFRecord file. Reading a compressed one is cheap in the order of the file only."""

    def __init__(self, stream: FileStream) -> None:
        self._plain = _plain(stream)

    @property
    def held_bytes(self) -> int:
        """The memory for content that was decompressed."""
        return self._plain.held_bytes if isinstance(self._plain, Unpacked) else 0

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """Returns the image of a record after the checksum of the record is verified.

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
            raise Rejected(Reason.CORRUPT, "the checksum of the record does not match its data")
        try:
            image = _image(_features(_Window(io.BytesIO(data)), 0, length))
        except _UnusableRecordError as error:
            raise error.rejected from error
        return data[image.begin : image.end]

    def close(self) -> None:
        """Does nothing: the owner of the stream closes it."""


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _plain(stream: FileStream) -> FileStream | Unpacked:
    stream.seek(0)
    beginning = stream.read(_LENGTH.size)
    stream.seek(0)
    # TensorFlow's writers compress files whose names do not show it. The bytes may also be a length with its checksum.
    packed = beginning.startswith(_GZIP) or packing(stream.path) == "gz"
    return Unpacked(stream, "gz") if packed and not is_length(beginning) else stream


def is_length(header: bytes) -> bool:
    """Returns whether 12 bytes are the length of a record with its checksum."""
    return len(header) == _LENGTH.size and _masked(header[:8]) == _LENGTH.unpack(header)[1]


class _Readable(Protocol):
    def seek(self, offset: int, /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


class _Window:
    """Reads bytes at any position of a stream with few calls: numbers lie side by side, and images are skipped."""

    def __init__(self, plain: _Readable) -> None:
        self._plain, self._begin, self._data = plain, 0, b""

    def at(self, begin: int, size: int) -> bytes:
        """Returns `size` bytes from `begin` on, and fewer only at the end."""
        start = begin - self._begin
        if start < 0 or start + size > len(self._data):
            self._plain.seek(begin)
            self._begin, self._data, start = begin, self._plain.read(max(size, _WINDOW)), 0
        return self._data[start : start + size]


def _length(window: _Window, offset: int) -> int | None:
    """Returns the length of the data of the record at `offset`; None at the end of the file.

    Raises:
        Rejected: TRUNCATED, CORRUPT.
    """
    header = window.at(offset, _LENGTH.size)
    if not header:
        return None
    if len(header) < _LENGTH.size:
        raise _cut_off(offset)
    if not is_length(header):
        raise Rejected(
            Reason.CORRUPT, f"the length of the record at byte {offset:,} fails its checksum; what follows is lost"
        )
    return int(_LENGTH.unpack(header)[0])


def _cut_off(offset: int) -> Rejected:
    return Rejected(Reason.TRUNCATED, f"the TFRecord file ends within the record at byte {offset:,}")


class _UnusableRecordError(Exception):
    """A record does not hold an image that can be read."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(str(rejected))
        self.rejected = rejected


class _DamagedError(_UnusableRecordError):
    """The bytes of a record are not a valid message."""

    def __init__(self, what: str) -> None:
        super().__init__(Rejected(Reason.CORRUPT, f"the record is not a tf.train.Example: {what}"))


def _features(window: _Window, begin: int, end: int) -> dict[str, list[_Value]]:
    """Returns the values of the features of an Example, by the name of the feature."""
    values_by_name: dict[str, list[_Value]] = {}
    for outer, features in _fields(window, begin, end):
        if outer != 1:
            continue
        for number, entry in _fields(window, features.begin, features.end):
            if number == 1:
                name, values = _entry(window, entry)
                values_by_name[name] = values  # the last of equal keys counts, as in every map of protobuf
            if len(values_by_name) > _MOST_FEATURES:
                raise _DamagedError(f"more than {_MOST_FEATURES:,} features")
    return values_by_name


def _entry(window: _Window, entry: _Value) -> tuple[str, list[_Value]]:
    name = ""
    values: list[_Value] = []
    for number, field in _fields(window, entry.begin, entry.end):
        if number == 1:
            if field.short is None:
                raise _DamagedError(f"a feature whose name has {field.end - field.begin:,} bytes")
            name = field.short.decode("utf-8", "backslashreplace")
        elif number == 2:
            values = list(itertools.islice(_values(window, field), 2))  # two values are enough to refuse the feature
    return name, values


def _values(window: _Window, feature: _Value) -> Iterator[_Value]:
    """Yields the values of a Feature: those of a bytes_list (1) or an int64_list (3); of packed integers the first."""
    for kind, values in _fields(window, feature.begin, feature.end):
        if kind not in (1, 3):
            continue
        for number, value in _fields(window, values.begin, values.end):
            if number == 1 and kind == 3 and value.number is None:
                yield value._replace(number=_varint(window, value.begin, value.end)[0])
            elif number == 1:
                yield value


def _fields(window: _Window, begin: int, end: int) -> Iterator[tuple[int, _Value]]:
    """Yields the number and the content of each field of a message; long contents are skipped.

    Raises:
        _DamagedError: The bytes are not a message.
    """
    position = begin
    while position < end:
        tag, start = _varint(window, position, end)
        kind, number, short = tag & 7, None, None
        if kind == _VARINT:
            number, start = _varint(window, start, end)
            position = start
        elif kind == _BYTES:
            size, start = _varint(window, start, end)
            position = start + size
            short = window.at(start, size) if size <= _LONGEST_KEY and position <= end else None
        elif kind in (_FIXED32, _FIXED64):
            position = start + (4 if kind == _FIXED32 else 8)
        else:
            raise _DamagedError(f"wire type {kind}")
        if position > end:
            raise _DamagedError("a field reaches beyond its message")
        yield tag >> 3, _Value(start, position, number, short)


def _varint(window: _Window, begin: int, end: int) -> tuple[int, int]:
    """Returns a number in base 128, and the position after it."""
    value = 0
    for index, byte in enumerate(window.at(begin, min(_LONGEST_VARINT, end - begin))):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, begin + index + 1
    raise _DamagedError("a number is cut off")


def _image(features: dict[str, list[_Value]]) -> _Value:
    """Returns the image of an Example.

    Raises:
        _UnusableRecordError: It does not have exactly one.
    """
    name = first_of(IMAGE_FEATURES, features)
    if name is None:
        detail = f"no feature of an image among {', '.join(features) or 'none'}"
        raise _UnusableRecordError(Rejected(Reason.UNKNOWN_FORMAT, detail))
    values = features[name]
    if not values:
        raise _UnusableRecordError(Rejected(Reason.EMPTY, f"the feature {name} has no bytes"))
    if len(values) > 1 or values[0].number is not None:
        detail = f"the feature {name} does not hold exactly one image"
        raise _UnusableRecordError(Rejected(Reason.UNKNOWN_FORMAT, detail))
    return values[0]


def _id(features: dict[str, list[_Value]]) -> str:
    """Returns the id of an Example; empty where it has none.

    Raises:
        _UnusableRecordError: The id is too long.
    """
    value = next((features[name][0] for name in ID_FEATURES if features.get(name)), None)
    if value is None:
        return ""
    if value.number is not None:
        return str(value.number - (value.number >> 63 << 64))  # an int64 that is stored as unsigned
    if value.short is None:
        raise _UnusableRecordError(Rejected(Reason.UNSAFE_NAME, f"its id has {value.end - value.begin:,} bytes"))
    return value.short.decode("utf-8", "backslashreplace")
