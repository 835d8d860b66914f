"""`export_table`: the maps or features of a table as one file for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from conversion import partial_name, write_atomically
from pipeline.errors import SettingError, TableError
from pipeline.exports.formats import WRITERS, ExportFormat, check_npy, names_file, names_of
from pipeline.exports.gather import Selection, gather
from pipeline.storage.address import is_remote, local_path
from pipeline.table.paths import TableRoot

_SUFFIXES: Mapping[str, ExportFormat] = {
    ".npy": ExportFormat.NPY,
    ".npz": ExportFormat.NPZ,
    ".h5": ExportFormat.HDF5,
    ".hdf5": ExportFormat.HDF5,
    ".mat": ExportFormat.MAT,
    ".parquet": ExportFormat.PARQUET,
}


class ExportReport(BaseModel):
    """What was written.

    Attributes:
        files: The files, with their sizes in bytes.
        format: Their format.
        images: The number of images.
        scale: The scale of their maps; 0 for windows.
        arrays: The shape of each array over all images, by name.
    """

    model_config = ConfigDict(frozen=True)

    files: dict[str, int]
    format: ExportFormat
    images: int
    scale: float
    arrays: dict[str, tuple[int, ...]]


def format_of(output: str, wanted: str | None = None) -> ExportFormat:
    """Returns the format of a file: the one that is wanted, or the one that its ending says.

    Raises:
        SettingError: There is no such format, or the ending says none; or an `.npy` has another ending.
    """
    suffix = Path(output).suffix.lower()
    if wanted is None and suffix not in _SUFFIXES:
        raise SettingError(
            f"the ending of {output} does not say a format",
            remedy=f"give --format, or a file that ends in {', '.join(_SUFFIXES)}",
        )
    if wanted is not None and wanted not in list(ExportFormat):
        raise SettingError(f"there is no format {wanted!r}", remedy=f"use {', '.join(ExportFormat)}")
    form = _SUFFIXES[suffix] if wanted is None else ExportFormat(wanted)
    if form is ExportFormat.NPY and suffix != ".npy":
        raise SettingError(
            f"{output} does not end in .npy", why="the names of its rows are written beside it, in a file .json"
        )
    return form


def export_table(
    table: TableRoot, output: str, form: ExportFormat, selection: Selection, *, overwrite: bool = False
) -> ExportReport:
    """Writes maps or features of a table to a file, which appears when it is whole.

    Args:
        table: The table.
        output: The file, on this machine. Beside an `.npy`, its names are written first, to the same name with `.json`.
        form: The format.
        selection: What is taken.
        overwrite: Whether files that exist are replaced.

    Raises:
        TableError: There is nothing to export, or the format does not hold it.
        SettingError: The output is not a local file, or exists.
    """
    if is_remote(output):
        raise SettingError(
            "an export is written to a local file", where=output, remedy="write it here, and copy it to the store"
        )
    path = local_path(output)
    beside = [names_file(path)] if form is ExportFormat.NPY else []
    for file in (path, *beside):
        if file.is_dir() or (file.exists() and not overwrite):
            raise SettingError("the output exists", where=str(file), remedy="name another, or give --overwrite")
    if not path.parent.is_dir():
        raise SettingError("the folder of the output does not exist", where=str(path.parent), remedy="make it")
    with gather(table, selection, path.parent) as gathered:
        if not gathered.uris:
            raise TableError("no maps to export", where=table)
        if form is ExportFormat.NPY:
            check_npy(gathered)
        partial = path.with_name(partial_name(path.name))
        try:
            WRITERS[form](gathered, partial)
            for file in beside:
                write_atomically(file, names_of(gathered))
            Path(partial).replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return ExportReport(
            files={str(file): file.stat().st_size for file in (path, *beside)},
            format=form,
            images=len(gathered.uris),
            scale=gathered.facts["scale"],
            arrays={name: array.shape for name, array in gathered.arrays.items()},
        )
