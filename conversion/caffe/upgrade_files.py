"""Old Caffe files in the current form: `densecast upgrade`."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format

from conversion.caffe import reading
from conversion.caffe.upgrade import upgrade
from conversion.files import write_atomically
from conversion.limits import DEFAULT_LIMITS, Limits


def upgrade_file(source: reading.PathLike, target: reading.PathLike, *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Writes a definition (text) or weights (binary) in Caffe's current form, as Caffe's upgrade tools do.

    Raises:
        ReadingError: The source cannot be read, or is neither.
        UnsupportedError: It has fields or types without a successor.
        OSError: The target cannot be written.
    """
    where = str(source)
    data = reading.read_bytes(source, "weights_bytes", limits)
    if _is_text(data):
        definition = upgrade(reading.parse_definition(data, where=where, limits=limits), where=where)
        write_atomically(Path(target), text_format.MessageToString(definition).encode())
    else:
        weights = reading.parse_weights(data, where=where, limits=limits)
        weights.ClearField("input")  # the definition states the inputs; old weights name them without a shape
        weights = upgrade(weights, where=where)
        write_atomically(Path(target), weights.SerializeToString())


def _is_text(data: bytes) -> bool:
    """Returns whether a file is a definition: a model has bytes that no text has (tags and lengths below 9)."""
    return not any(byte < 9 for byte in data[:4096])
