"""The mean image of a model directory: kept as it was given, for windows that Caffe would have given the classifier."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from conversion.arrays import Array
from conversion.caffe.reading import read_npy
from conversion.errors import ModelError
from conversion.export.metadata import MEAN_FILE, ModelMetadata
from conversion.export.seal import check_files
from conversion.files import write_atomically


def write_mean_image(model: str | Path, image: Array) -> None:
    """Writes the mean image [C, H, W] of a model that is being made."""
    data = io.BytesIO()
    np.save(data, image, allow_pickle=False)
    write_atomically(Path(model) / MEAN_FILE, data.getvalue())


def read_mean_image(model: str | Path, metadata: ModelMetadata) -> Array:
    """Returns the mean image of a model, float32 or float64 [C, H, W], channels in the network's order.

    Args:
        model: The model directory.
        metadata: Its `densecast.json`.

    Raises:
        ModelError: The model keeps no mean image, or the file is not the one that the model was made with.
        ReadingError: The file cannot be read.
    """
    if metadata.mean_image is None:
        raise ModelError(
            "the model has no mean image",
            where=str(model),
            why="an older version of densecast kept its channel mean only"
            if metadata.lost_mean_image
            else "it was converted without one",
            remedy="convert it again, with --mean and the mean image that it was trained with",
        )
    check_files(model, metadata)
    image = read_npy(Path(model) / MEAN_FILE)
    wanted = (len(metadata.preprocessing.mean), *metadata.mean_image)
    if image.shape != wanted:
        raise ModelError(
            f"{MEAN_FILE} has the shape {image.shape}",
            where=str(model),
            why=f"densecast.json states {wanted}",
            remedy="convert the model again",
        )
    return image
