"""`ListImages`: a PCollection of references to the images that a user names."""

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline.beam_counters import count
from pipeline.counters import LEFT_OUT
from pipeline.errors import NoImagesError, SourceError
from pipeline.sources import globs, manifest
from pipeline.sources.listing import is_container, list_container
from pipeline.sources.reference import ImageReference, resolve
from pipeline.storage.options import StorageOptions
from pipeline.storage.options import storage_options as parse_storage_options
from pipeline.transforms.shuffle import pack, unpack


class _Argument(NamedTuple):
    address: str
    is_manifest: bool


class ListImages(beam.PTransform):
    """A pipeline -> PCollection[ImageReference]; an image that several arguments name occurs several times.

    `pipeline.sources.merge` merges several references to an address.

    Workers list the collection when the job runs, so that a submission is quick; the constructor makes only checks that
    take one or two requests. Containers are spread over the workers and listed one by one.

    Args:
        arguments: Files, folders and patterns (see `pipeline.sources.match`), addresses behind HTTP, and manifests:
            `@list.csv`, or any name that ends in `.txt`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.ndjson` (see
            `pipeline.sources.read_manifest`). Relative ones are relative to the folder in which this is constructed.
        check: Whether to check now that the arguments name files. False if only the workers see the files.
        storage_options: How object stores are opened, as `{"aws_region": "eu-west-1"}`; by default as the environment
            says.
        allow_empty: Whether a folder, a pattern or a manifest may have no images.

    Raises:
        SourceError: There is no argument, one is malformed, or the file that it names is missing. On a worker: nothing
            matches, or a manifest is damaged.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        check: bool = True,
        storage_options: StorageOptions | Mapping[str, str] | None = None,
        allow_empty: bool = False,
    ) -> None:
        super().__init__()
        self._allow_empty = allow_empty
        self._options = parse_storage_options(storage_options)
        if isinstance(arguments, str) or not arguments:
            raise SourceError(
                f"the images are {arguments!r}", why="a list is needed", remedy="name at least one file, folder or list"
            )
        self._arguments = [_parse(argument) for argument in arguments]
        if check:
            for address, is_manifest in self._arguments:
                with _empty_allowed(allow_empty):
                    if is_manifest:
                        manifest.check(address, self._options)
                    else:
                        globs.check(address)

    def expand(self, pipeline: Any) -> Any:
        """Implements the transform; see the class."""
        files = (
            pipeline
            | "Arguments" >> beam.Create(self._arguments, reshuffle=True)
            | "List files"
            >> beam.FlatMap(functools.partial(_list, self._options, self._allow_empty)).with_outputs(
                _CONTAINERS, main=_IMAGES
            )
        )
        members = (
            files[_CONTAINERS]
            | "Spread containers" >> beam.Reshuffle()
            | "List containers" >> beam.FlatMap(functools.partial(_list_packed, self._options))
        )
        # Packed up to here: a runner may hold flattened elements, 25 bytes an image packed and 300 as a reference.
        return (
            (files[_IMAGES], members)
            | "References" >> beam.Flatten()
            | "Unpack" >> beam.FlatMap(unpack, ImageReference).with_output_types(ImageReference)
        )


_IMAGES, _CONTAINERS = "images", "containers"
_MOST_EXTENSIONS = 20
_PACKED = 1024
"""References in one element until all are listed."""


def _parse(argument: str) -> _Argument:
    address = argument.removeprefix("@")
    is_manifest = address != argument or manifest.is_manifest(address)
    # Absolute here, where the user's current folder is known; the slash says that a pattern means folders.
    slash = "/" if address.endswith("/") and not resolve(address).endswith("/") else ""
    return _Argument(resolve(address) + slash, is_manifest)


def _empty_allowed(allow_empty: bool) -> contextlib.AbstractContextManager[None]:
    """Returns a block that a `NoImagesError` ends quietly, where that is allowed."""
    return contextlib.suppress(NoImagesError) if allow_empty else contextlib.nullcontext()


def _list(options: StorageOptions, allow_empty: bool, argument: _Argument) -> Iterator[Any]:
    """Yields packed references to images, and references to containers with a tag; counts the files left out."""
    with _empty_allowed(allow_empty):
        yield from _list_present(options, argument)


def _list_present(options: StorageOptions, argument: _Argument) -> Iterator[Any]:
    left_out: Counter[str] = Counter()

    def add(extension: str) -> None:
        left_out[extension if extension in left_out or len(left_out) < _MOST_EXTENSIONS else "others"] += 1

    try:
        references = (
            manifest.read_files(argument.address, options)
            if argument.is_manifest
            else globs.match_files(argument.address, options, add)
        )
        while chunk := list(itertools.islice(references, _PACKED)):
            images = [reference for reference in chunk if not is_container(reference)]
            if images:
                yield pack(images)
            if len(images) < len(chunk):
                yield from (beam.pvalue.TaggedOutput(_CONTAINERS, file) for file in chunk if is_container(file))
    finally:  # also where there are no images, which may be the reason
        for extension, number in left_out.items():
            count(f"{LEFT_OUT}.{extension}", number)


def _list_packed(options: StorageOptions, container: ImageReference) -> Iterator[bytes]:
    members = list_container(container, options)
    while chunk := list(itertools.islice(members, _PACKED)):
        yield pack(chunk)
