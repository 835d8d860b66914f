"""An image with the map that the NumPy reference computes of it, kept in the model directory.

Programs that run the model compare their maps with it, without the seconds that the reference takes.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conversion.arrays import Array
from conversion.errors import ModelError
from conversion.export.metadata import REFERENCE_FILE, ModelMetadata
from conversion.export.verification import verification_examples
from conversion.files import write_atomically
from conversion.net.network import Network


class ReferenceExample(NamedTuple):
    """An image of 2 x 2 cells, and its map.

    Attributes:
        images: uint8 RGB [1, H, W, 3].
        probabilities: float32 [1, h, w, C]; the reference computes in float64.
    """

    images: Array
    probabilities: Array


def compute_reference(network: Network, metadata: ModelMetadata) -> ReferenceExample:
    """Returns a seeded image and its map.

    Args:
        network: The model's, with weights.
        metadata: The model's.
    """
    (example,) = verification_examples(network, metadata.preprocessing, [(1, *metadata.size_of_four_cells)])
    (probabilities,) = (value for blob, value in example.blobs() if blob == metadata.output_blob)
    return ReferenceExample(example.images, probabilities.transpose(0, 2, 3, 1).astype(np.float32))


def write_reference(model: Path, example: ReferenceExample) -> None:
    """Writes the example into a model directory."""
    data = io.BytesIO()
    np.savez(data, **example._asdict())
    write_atomically(model / REFERENCE_FILE, data.getvalue())


def read_reference(model: str | Path, metadata: ModelMetadata) -> ReferenceExample | None:
    """Returns the example of a model directory; None in models of versions that did not write one.

    Raises:
        ModelError: The file cannot be read.
    """
    path = Path(model) / REFERENCE_FILE
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            example = ReferenceExample(*(stored[name] for name in ReferenceExample._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, str(error)) from error
    if example.images.shape != (1, *metadata.size_of_four_cells, 3) or example.images.dtype != np.uint8:
        raise _unreadable(path, "its image is not one of 2 x 2 cells")
    return example


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{REFERENCE_FILE} is not valid",
        where=str(path),
        why=why,
        remedy="make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL",
    )
