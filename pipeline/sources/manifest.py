"""Manifests: lists of images in a file, as text, CSV, TSV, JSON or JSON lines."""

import bz2
import contextlib
import gzip
import io
import posixpath
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import IO, NamedTuple, cast

from pipeline.errors import NoImagesError, SourceError
from pipeline.rejection import Rejected
from pipeline.sources.file_types import container_kind, has_image_extension, is_web, path_of
from pipeline.sources.listing import Listing, expand, is_container
from pipeline.sources.manifest_json import json_line_rows, json_rows
from pipeline.sources.manifest_rows import Row, csv_rows, split_label, text_rows
from pipeline.sources.permissions import Allowed, is_local_name, root_of
from pipeline.sources.reference import ImageReference, resolve
from pipeline.sources.streams import most_inflated
from pipeline.sources.web_address import public
from pipeline.storage.address import is_remote
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions

EXTENSIONS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
"""The extensions of manifests; `.gz` or `.bz2` may follow."""

_PACKED: dict[str, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
}


def is_manifest(address: str) -> bool:
    """Returns whether a file is a manifest, by its name.

    >>> is_manifest("s3://b/list.CSV"), is_manifest("list.txt.gz"), is_manifest("https://host/cat?from=list.csv")
    (True, True, False)
    """
    return _unpacked(path_of(address)).endswith(EXTENSIONS)


def read_manifest(
    address: str, options: StorageOptions | None = None, allowed: Allowed | None = None
) -> Generator[ImageReference, None, None]:
    """Yields the images of a manifest lazily and in its order. An image that is listed twice occurs twice.

    A manifest is UTF-8 text, with or without a byte order mark, with any of the usual line ends. `.gz` and `.bz2` files
    are decompressed. The extension before that tells the format; without one of `EXTENSIONS` it is plain text.

    - Text: one address per line. Empty lines and lines that begin with `#` are left out. A line may end in a label, as
      in Caffe's lists: `cats/1.jpg 281`. The number is a label if what stands before it has the extension of an image
      or a container or is an address on the web, unless the whole line is a file; or if what stands before it is a
      file and the whole line is not.
    - CSV, TSV: a header, then one image per row. The address is in the first of the columns
      `manifest_rows.ADDRESS_COLUMNS` that exists. The optional columns are `id`, the user's own name of the image, and
      `label`. Other columns are ignored. The header of a `.csv` file shows whether commas, semicolons or tabs separate
      the fields.
    - JSON lines: one object per line, with the same names. An id is a text or a whole number.
    - JSON: an array of such objects or of addresses; or an object with such an array in `images`, as in COCO's files.

    Relative addresses are relative to the manifest's folder. A container (see `pipeline.sources.file_types`)
    stands for its images and cannot have an `id` or a `label`. Local files are looked up for their size and version;
    one that does not exist is listed all the same, and the reader rejects it. Remote files are not looked up.

    A list that is itself remote may name only what `allowed` says, see `pipeline.sources.permissions`. A line that
    names something else is an image with a fault.

    Raises:
        SourceError: The manifest cannot be read or is empty, a row is malformed or has no address, or a container has
            an id or a label. The error names the file and the line.
    """
    with contextlib.closing(read_files(address, options, allowed)) as references:
        yield from expand(references, Listing(options))


def read_files(
    address: str, options: StorageOptions | None = None, allowed: Allowed | None = None
) -> Generator[ImageReference, None, None]:
    """Yields the files of a manifest, like `read_manifest`, but does not open containers: they count as files."""
    has_images = False
    location = resolve(address)
    folder = _Folder(posixpath.dirname(location), root_of(location), allowed or Allowed())
    is_text, address = _is_text(address), public(address)
    with _open(location, address, options) as file:
        for row in _rows(address, file):
            try:
                reference = _reference(row, folder, is_text=is_text)
            except SourceError as error:
                raise SourceError(error.what, where=row.where, remedy=error.remedy) from error
            if (reference.id or reference.label) and is_container(reference):
                name, value = ("id", reference.id) if reference.id else ("label", reference.label)
                raise SourceError(
                    f"{reference.uri} has the {name} {value!r}",
                    where=row.where,
                    why=f"{'an id' if reference.id else 'a label'} is of one image, but a container has many images",
                    remedy=f"leave the {name} empty",
                )
            has_images = True
            yield reference
    if not has_images:
        raise NoImagesError("the manifest lists no images", where=address)


class _Folder(NamedTuple):
    """What the addresses of a manifest are relative to, and what they may name.

    Attributes:
        path: The folder of the manifest.
        root: The root of a fetched manifest; empty for a local one.
        allowed: What a fetched one may name besides.
    """

    path: str
    root: str
    allowed: Allowed

    def reference(self, text: str, ident: str = "", label: str = "") -> ImageReference:
        """Returns the image at the address in a row; with a fault where the manifest may not name it."""
        if self.root and is_local_name(text):
            try:
                return ImageReference(self.allowed.local_path(text, self.root), ident, label=label)
            except Rejected as rejected:
                return ImageReference(text, ident, label=label, listed_by=self.root).rejected(rejected)
        reference = ImageReference(resolve(text, self.path), ident, label=label, listed_by=self.root)
        try:
            if self.root:
                self.allowed.check(reference.uri, self.root)
        except Rejected as rejected:
            return reference.rejected(rejected)
        return reference


def _reference(row: Row, folder: _Folder, *, is_text: bool) -> ImageReference:
    """Returns the image of a row, looked up if it is local."""
    whole = folder.reference(row.uri, _storable("id", row.id), _storable("label", row.label))
    labelled = split_label(row.uri) if is_text else None
    if labelled is None:
        return _looked_up(whole)
    path, label = labelled
    found = _looked_up(whole)
    if found.size_bytes >= 0:  # a file whose own name ends so
        return found
    image = _looked_up(folder.reference(path, label=label))
    is_image = has_image_extension(path) or is_web(path) or container_kind(path) is not None
    return image if is_image or image.size_bytes >= 0 else found


def _storable(column: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"the {column} {text!r} is not valid text: {error.reason}"
        raise SourceError(what, remedy="write it as UTF-8") from error
    return text


def _looked_up(reference: ImageReference) -> ImageReference:
    if is_remote(reference.uri) or reference.fault:
        return reference
    try:
        facts = open_store(reference.uri).facts(reference.uri)
    except StorageError:  # the reader meets the error again, and rejects the image
        return reference
    return reference._replace(size_bytes=facts.size_bytes, version=facts.version) if facts else reference


def check(address: str, options: StorageOptions | None = None) -> None:
    """Checks a manifest by reading its first image.

    Raises:
        SourceError: The manifest cannot be read, its header names no known column, or its first row has no address.
    """
    with contextlib.closing(read_files(address, options)) as references:
        next(references)


@contextlib.contextmanager
def _open(location: str, address: str, options: StorageOptions | None) -> Iterator[io.TextIOWrapper]:
    """Opens the manifest at `location`, which messages call `address`."""
    try:
        # TextIOWrapper does not accept the streams that Beam decompresses (2.77: they have no `writable`).
        unpack = next((_PACKED[end] for end in _PACKED if address.lower().endswith(end)), None)
        with (
            open_store(location, options).open_stream(location) as raw,
            cast("IO[bytes]", _Bounded(raw, unpack)) if unpack else contextlib.nullcontext(raw) as plain,
            # newline="": the csv module splits lines itself, because quoted fields may contain line ends.
            io.TextIOWrapper(plain, "utf-8-sig", newline="") as file,
        ):
            yield file
    except UnicodeDecodeError as error:
        raise SourceError(
            f"the manifest is not UTF-8: {error.reason}", where=address, remedy="save it as UTF-8"
        ) from error
    except MissingFileError as error:
        raise SourceError(
            "there is no such manifest", where=address, remedy="check the address for a typing error"
        ) from error
    except StorageError as error:
        raise SourceError(
            f"the manifest {error.what}", where=error.where or address, why=error.why, remedy=error.remedy
        ) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SourceError(
            f"the manifest cannot be read: {error}",
            where=address,
            remedy="check that the file is complete and that you may read it",
        ) from error


class _Bounded(io.BufferedIOBase):
    """The content of a compressed manifest, which may inflate only so far."""

    def __init__(self, raw: IO[bytes], unpack: Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File]) -> None:
        super().__init__()
        self._raw, self._plain = raw, unpack(raw)
        self._size = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def read1(self, size: int | None = -1, /) -> bytes:
        """Returns up to `size` bytes.

        Raises:
            ValueError: The file inflates to far more bytes than a list of addresses.
        """
        data = self._plain.read1(-1 if size is None else size)
        self._size += len(data)
        if self._size > (most := most_inflated(self._raw.tell())):
            raise ValueError(f"it inflates to more than {most:,} bytes, far more than a list of addresses does")
        return data

    read = read1

    def close(self) -> None:
        """Closes the decompressor; the file belongs to the caller."""
        self._plain.close()
        super().close()


def _unpacked(address: str) -> str:
    name = address.lower()
    for end in _PACKED:
        name = name.removesuffix(end)
    return name


def _is_text(address: str) -> bool:
    return not _unpacked(address).endswith(tuple(set(EXTENSIONS) - {".txt"}))


def _rows(address: str, file: io.TextIOWrapper) -> Iterator[Row]:
    name = _unpacked(address)
    if name.endswith((".jsonl", ".ndjson")):
        return json_line_rows(address, file)
    if name.endswith(".json"):
        return json_rows(address, file)
    if name.endswith((".csv", ".tsv")):
        return csv_rows(address, file, "\t" if name.endswith(".tsv") else "")
    return text_rows(address, file)
