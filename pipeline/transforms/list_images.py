"""`ListImages`: a PCollection of references to the images that a user names."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline.beam_counters import count
from pipeline.counters import LEFT_OUT, OUTSIDE_ROOT
from pipeline.errors import SourceError
from pipeline.settings import Frames, LimitSettings
from pipeline.sources import globs, manifest
from pipeline.sources.listing import Listing, has_members, list_members
from pipeline.sources.permissions import Allowed
from pipeline.sources.reference import ImageReference, resolve
from pipeline.sources.spelling import is_location
from pipeline.storage.options import StorageOptions
from pipeline.storage.options import storage_options as parse_storage_options
from pipeline.transforms.shuffle import pack, spread, unpack


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
        frames: Which frames of a file that has several are listed: `first` or `all`. The first frame has the address of
            the file, the others that with `#` and their number from 1.
        root: The folder that addresses are relative to, local or `scheme://`; None for absolute ones. A file that
            is not below it keeps its absolute address. `ScoreImages` takes the same.
        storage_options: How object stores are opened, as `{"aws_region": "eu-west-1"}`; by default as the environment
            says.
        allowed: What lists in object stores may name besides their own root and public addresses.
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
        frames: Frames = LimitSettings.frames,
        root: str | None = None,
        storage_options: StorageOptions | Mapping[str, str] | None = None,
        allowed: Allowed | None = None,
        allow_empty: bool = False,
    ) -> None:
        super().__init__()
        options = parse_storage_options(storage_options)
        self._how = Listing(
            options, Frames(frames), resolve(root) if root else "", allowed or Allowed(), allow_empty=allow_empty
        )
        if isinstance(arguments, str) or not arguments:
            raise SourceError(
                f"the images are {arguments!r}", why="a list is needed", remedy="name at least one file, folder or list"
            )
        self._arguments = [_parse(argument) for argument in arguments]
        if check:
            for address, is_manifest in self._arguments:
                with self._how.tolerance():
                    if is_manifest:
                        manifest.check(address, options)
                    else:
                        globs.check(address)

    def expand(self, pipeline: Any) -> Any:
        """Implements the transform; see the class."""
        if isinstance(pipeline, beam.PCollection):
            raise SourceError(
                "ListImages is applied to a PCollection",
                why="it lists what its arguments name, and starts a pipeline",
                remedy="write pipeline | ListImages([...]); beam.Map(ImageReference) makes references of addresses",
            )
        listed = functools.partial(_list, self._how)
        arguments = spread(pipeline | "Arguments" >> beam.Create(self._arguments, reshuffle=False), "Spread arguments")
        files = arguments | "List files" >> beam.FlatMap(listed).with_outputs(_CONTAINERS, main=_IMAGES)
        containers = spread(files[_CONTAINERS], "Spread containers")
        members = containers | "List containers" >> beam.FlatMap(functools.partial(_list_packed, self._how.options))
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


def _list(how: Listing, argument: _Argument) -> Iterator[Any]:
    """Yields packed references to images, and with a tag references to what has members; counts the files left out."""
    left_out: Counter[str] = Counter()

    def add(kind: str) -> None:
        known = kind in left_out or not kind.startswith(".") or len(left_out) < _MOST_EXTENSIONS
        left_out[kind if known else "others"] += 1

    try:
        with how.tolerance():
            references = (
                manifest.read_files(argument.address, how.options, how.allowed)
                if argument.is_manifest
                else globs.match_files(argument.address, how.options, add)
            )
            yield from _packed(how, references)
    finally:  # also where there are no images, which may be the reason
        for kind, number in left_out.items():
            count(f"{LEFT_OUT}.{kind}", number)


def _packed(how: Listing, references: Iterator[ImageReference]) -> Iterator[Any]:
    named = (reference.named(how.root) for reference in references)
    outside = 0
    while chunk := list(itertools.islice(named, _PACKED)):
        outside += sum(is_location(reference.uri) for reference in chunk) if how.root else 0
        images = [reference for reference in chunk if not has_members(reference, how.frames)]
        if images:
            yield pack(images)
        if len(images) < len(chunk):
            yield from (beam.pvalue.TaggedOutput(_CONTAINERS, file) for file in chunk if has_members(file, how.frames))
    if outside:
        count(OUTSIDE_ROOT, outside)


def _list_packed(options: StorageOptions | None, container: ImageReference) -> Iterator[bytes]:
    members = list_members(container, options)
    while chunk := list(itertools.islice(members, _PACKED)):
        yield pack(chunk)
