"""Old Caffe files in the current form: `densecast upgrade`."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf import text_format

from conversion.caffe import reading
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.caffe.sniffing import is_text
from conversion.caffe.upgrade import upgrade
from conversion.errors import ReadingError
from conversion.files import write_atomically
from conversion.limits import DEFAULT_LIMITS, Limits

_OTHER_BYTES = re.compile(r"\\\\x[89a-f][0-9a-f]")  # as `reading` writes them, in text form


def upgrade_file(source: reading.PathLike, target: reading.PathLike, *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Writes a definition (text) or weights (binary) in Caffe's current form, as Caffe's upgrade tools do.

    Raises:
        ReadingError: The source cannot be read, or is neither.
        UnsupportedError: It has fields or types without a successor.
        OSError: The target cannot be written.
    """
    where = str(source)
    data = reading.read_bytes(source, "weights_bytes", limits)
    if is_text(data):
        definition = upgrade(reading.parse_definition(data, where=where, limits=limits), where=where)
        _refuse_other_names(definition, data, where)
        write_atomically(Path(target), text_format.MessageToString(definition).encode())
    else:
        weights = reading.parse_weights(data, where=where, limits=limits)
        weights.ClearField("input")  # the definition states the inputs; old weights name them without a shape
        weights = upgrade(weights, where=where)
        write_atomically(Path(target), weights.SerializeToString())


def _refuse_other_names(definition: NetParameter, data: bytes, where: str) -> None:
    """Raises ReadingError if names are not UTF-8: text that is written would not have their bytes any more."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if not _OTHER_BYTES.search(text_format.MessageToString(definition)):
            return  # they are in comments
        raise ReadingError(
            "names that are not UTF-8",
            where=where,
            why="Caffe matches weights by the bytes of names, and the written file would have others",
            remedy="rename the layers in both files, or `densecast cast` them together",
        ) from error
