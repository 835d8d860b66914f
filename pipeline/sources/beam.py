"""`ListImages`: what a user names, as a PCollection of references."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline.errors import SourceError
from pipeline.sources import globs, manifest
from pipeline.sources.reference import ImageReference, resolve


class _Argument(NamedTuple):
    address: str
    is_manifest: bool


class ListImages(beam.PTransform):
    """A pipeline -> PCollection[ImageReference], each address once.

    The listing runs on a worker, so that a submission is quick and the collection is listed when the job runs; only
    what costs a request or two is found out here.

    Args:
        arguments: Files, folders and patterns (see `pipeline.sources.globs`), and manifests: `@list.csv`, or any name
            that ends in `.txt` or `.csv` (see `pipeline.sources.manifest`). Relative ones are relative to the folder
            in which this is constructed.
        check: Whether to look now for what is named. False where only the workers see the files.

    Raises:
        SourceError: There is no argument, one is malformed, or what it names is not there. On a worker: nothing
            matches, a manifest is damaged, or one address has two ids.
    """

    def __init__(self, arguments: Sequence[str], *, check: bool = True) -> None:
        super().__init__()
        if isinstance(arguments, str) or not arguments:
            raise SourceError(
                f"the images are {arguments!r}", why="a list is needed", remedy="name at least one file, folder or list"
            )
        self._arguments = [_parse(argument) for argument in arguments]
        if check:
            for address, is_manifest in self._arguments:
                (manifest if is_manifest else globs).check(address)

    def expand(self, pipeline: Any) -> Any:
        """See the class."""
        return (
            pipeline
            | "Arguments" >> beam.Create(self._arguments, reshuffle=True)
            | "List" >> beam.FlatMap(_list)
            | "Key by address" >> beam.Map(_with_key)
            | "One of each" >> beam.CombinePerKey(_merge)
            | "References" >> beam.Values()
        )


def _parse(argument: str) -> _Argument:
    address = argument.removeprefix("@")
    is_manifest = address != argument or manifest.is_manifest(address)
    # Absolute here, where the user's current folder is known; the slash says that a pattern means folders.
    slash = "/" if address.endswith("/") and not resolve(address).endswith("/") else ""
    return _Argument(resolve(address) + slash, is_manifest)


def _list(argument: _Argument) -> Iterator[ImageReference]:
    return (manifest.read_manifest if argument.is_manifest else globs.match)(argument.address)


def _with_key(reference: ImageReference) -> tuple[bytes, ImageReference]:
    # Bytes: names of files need not be UTF-8, which Beam's coder of strings insists on.
    return reference.uri.encode("utf-8", "surrogateescape"), reference


def _merge(references: Iterable[ImageReference]) -> ImageReference:
    """The one reference to an address that a folder and a manifest, say, both name."""
    merged: ImageReference | None = None
    for reference in references:
        if merged is None:
            merged = reference
            continue
        if merged.id and reference.id and merged.id != reference.id:
            first, second = sorted([merged.id, reference.id])
            raise SourceError(
                f"listed as {first!r} and as {second!r}",
                where=reference.uri,
                why="one image has one id, and one map",
                remedy="keep one of the two lines in the manifests",
            )
        merged = merged._replace(id=merged.id or reference.id, size_bytes=max(merged.size_bytes, reference.size_bytes))
    if merged is None:
        raise SourceError("no reference to merge")
    return merged
