"""The map that engines are compared with: the model's own, or, for models of older versions, computed once here."""

from __future__ import annotations

import base64
import io
import zipfile

import numpy as np

from conversion import (
    ModelMetadata,
    ReferenceExample,
    compute_reference,
    load_stored,
    model_weights,
    read_reference,
)
from pipeline.scoring.machine import recall, remember


def known_reference(model: str, metadata: ModelMetadata) -> ReferenceExample | None:
    """Returns the reference's map of an image, if it is in the model directory or was computed on this machine.

    Raises:
        ModelError: It cannot be read.
    """
    example = read_reference(model, metadata)
    if example is not None:
        return example
    try:
        with np.load(io.BytesIO(base64.b64decode(recall(_key(metadata)) or "")), allow_pickle=False) as kept:
            return ReferenceExample(*(kept[name] for name in ReferenceExample._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def reference_of(model: str, metadata: ModelMetadata) -> ReferenceExample:
    """Returns the reference's map of an image; computes it, and keeps it for the next process, where it is not known.

    Raises:
        ModelError: The model cannot be read.
    """
    example = known_reference(model, metadata)
    if example is None:
        example = compute_reference(load_stored(model, model_weights(model)), metadata)
        data = io.BytesIO()
        np.savez_compressed(data, **example._asdict())
        remember(_key(metadata), base64.b64encode(data.getvalue()).decode())
    return example


def _key(metadata: ModelMetadata) -> tuple[str, ...]:
    return "reference", metadata.digest
