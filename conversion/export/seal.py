"""The seal of a model directory: SHA-256 of its files in `densecast.json`, compared before anything is loaded."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from conversion.errors import ModelError
from conversion.export.graph_ops import GRAPH_FILE, check_graph
from conversion.export.metadata import (
    CLASSIFIER_FILE,
    FILE_NAME,
    REFERENCE_FILE,
    SCHEMA_VERSION,
    ModelMetadata,
    read_metadata,
)
from conversion.export.onnx_ops import check_onnx
from conversion.files import write_atomically
from conversion.hashing import ChangedFileError, file_sha256

_log = logging.getLogger("densecast")
# How the names of files begin that TensorFlow, ONNX Runtime or densecast read in a model directory.
_LOADED = (
    Path(GRAPH_FILE).stem,
    "fingerprint",
    "checkpoint",
    "model.onnx",
    "weights.",
    CLASSIFIER_FILE,
    REFERENCE_FILE,
)
_reported: set[str] = set()


def file_digests(model: str | Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of a model directory but `densecast.json`, by path within it.

    Hidden files are left out: they are not the model's.

    Raises:
        ModelError: A file cannot be read, or is not a regular file.
    """
    return {name: _digest(Path(model), name) for name in _files(Path(model))}


def check_files(model: str | Path, metadata: ModelMetadata) -> None:
    """Compares the files of a model directory with its seal; one without a seal is reported once a process.

    Raises:
        ModelError: A file is missing, was added, or has another content.
    """
    if metadata.files is None:
        if (path := os.path.realpath(model)) not in _reported:
            _reported.add(path)
            _log.warning(
                "%s records no digests of its files, so that its weights cannot be checked; add them with: "
                "densecast models seal %s",
                model,
                model,
            )
        return
    added = [name for name in _files(Path(model)) if name not in metadata.files and _is_loaded(name)]
    if added:
        raise _broken(model, added[0], "was added after the model was made")
    for name, expected in metadata.files.items():
        if _digest(Path(model), name) != expected:
            raise _broken(model, name, "is not the file that the model was made with: its SHA-256 is another")


def seal(model: str | Path) -> ModelMetadata:
    """Adds the digests of its files to a model directory that records none, and compares them in one that does.

    Returns:
        The metadata with the digests.

    Raises:
        ModelError: The directory is not a model, its graph is refused, or a file differs from the seal that it has.
    """
    metadata = read_metadata(model)
    if metadata.files is not None:
        check_files(model, metadata)
    if "savedmodel" in metadata.forms:
        check_graph(model)
    if "onnx" in metadata.forms:
        check_onnx(model)
    if metadata.files is not None:
        return metadata
    sealed = metadata.model_copy(update={"schema_version": SCHEMA_VERSION, "files": file_digests(model)})
    write_metadata(model, sealed)
    return sealed


def write_metadata(model: str | Path, metadata: ModelMetadata) -> None:
    """Writes `densecast.json`, in one step."""
    write_atomically(Path(model) / FILE_NAME, (metadata.model_dump_json(indent=2) + "\n").encode())


def _files(model: Path) -> list[str]:
    names = (path.relative_to(model) for path in model.rglob("*") if path.is_symlink() or not path.is_dir())
    shown = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return sorted(name.as_posix() for name in shown if name.as_posix() != FILE_NAME)


def _is_loaded(name: str) -> bool:
    """Returns whether some program would read a file of that name as the model's; a user's notes may change."""
    return "/" in name or name.startswith(_LOADED)


def _digest(model: Path, name: str) -> str:
    try:
        return file_sha256(model / name)
    except ChangedFileError as error:
        raise _broken(model, name, "changes while it is read") from error
    except OSError as error:
        raise _broken(model, name, f"cannot be read ({error.strerror})") from error


def _broken(model: str | Path, name: str, what: str) -> ModelError:
    return ModelError(
        f"file {name} {what}",
        where=str(model),
        why=f"{FILE_NAME} states the SHA-256 of every file, and maps of other files would be stored under this model",
        remedy="restore the file from a copy of the model, or make the model again: densecast convert PROTOTXT "
        "WEIGHTS --output MODEL",
    )
