"""`export_onnx`: a model directory -> one ONNX file that other programs run, verified before it is put in place."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from conversion.errors import UnsupportedError
from conversion.export.metadata import VerificationMetadata


class OnnxReport(BaseModel):
    """What `export_onnx` wrote.

    Attributes:
        path: The file.
        files: Its size in bytes, and that of the file of its weights where it has one, by path.
        inputs: Its inputs: name, and type with shape.
        outputs: Its outputs, in the same form.
        verification: The difference from the NumPy reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    files: dict[str, int]
    inputs: dict[str, str]
    outputs: dict[str, str]
    verification: VerificationMetadata


def export_onnx(
    model: str | Path,
    output: str | Path,
    *,
    classifier: bool = False,
    input_size: tuple[int, int] | None = None,
    fp16: bool = False,
    raw_input: bool = False,
    overwrite: bool = False,
) -> OnnxReport:
    """Writes a model as one ONNX file, verifies it, and only then puts it in place.

    Args:
        model: A model directory.
        output: The file to write.
        classifier: Whether to write the classifier as it was trained, for one window, instead of the dense model.
        input_size: (height, width) of the image, of which there is one then; any number and size by default.
        fp16: Whether weights and computation are in float16 where `Layer.narrow` allows it.
        raw_input: Whether the input is float32 [N, C, H, W], preprocessed already, instead of uint8 RGB [N, H, W, 3].
        overwrite: Whether to replace a file that exists.

    Raises:
        DensecastError: One of the errors in `conversion.errors`. What was at `output` before is unchanged then.
    """
    raise UnsupportedError("ONNX", where=str(model))
