"""The models densecast knows by name: definition, published weights, input preparation, labels; one block each."""

import difflib
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conversion.errors import ReadingError
from models.errors import UnknownModelError

ChannelOrder = Literal["BGR", "RGB"]

_HERE = Path(__file__).parent
_SYNSET_ID = re.compile(r"^n\d{8} ")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Where the weights of a model are published.

    Attributes:
        url: Address of the caffemodel, http or https.
        sha1: Its SHA-1 as the publisher states it, 40 lower-case hex digits; None where the publisher states none.
        filename: What the file is called, also in the cache directory: unique in the catalog, no directory in it.
        license: What the publisher allows, in the publisher's words.
    """

    url: str
    sha1: str | None
    filename: str
    license: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model densecast knows by name.

    The input of the net is `(pixel - mean) * scale` for pixels of 0..255, its channels in `channel_order`.

    Attributes:
        name: What the user calls it; also the folder of its definition.
        title: Its full name, for people.
        description: What it is and how well it does, in a sentence or two.
        published: Where its weights are.
        mean: Mean of the training images as B, G, R (whatever `channel_order` is), in pixel values of 0..255.
        scale: Factor applied after the mean is subtracted.
        channel_order: Order of the channels the net was trained on.
        crop: Side of the square crop it was trained on, in pixels.
        labels_file: File of its class names in this package.
    """

    name: str
    title: str
    description: str
    published: PublishedWeights
    mean: tuple[float, float, float]
    scale: float
    channel_order: ChannelOrder
    crop: int
    labels_file: str

    @property
    def definition(self) -> Path:
        """Path of the packaged deploy prototxt."""
        return _HERE / self.name / "deploy.prototxt"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the net's outputs; not unique, as two synsets may share their lemmas.

        Raises:
            ReadingError: The packaged file is missing, is not UTF-8, or has no label in it.
        """
        return _read_labels(_HERE / self.labels_file)


# Channel means of Caffe's imagenet_mean.binaryproto, the mean image of the ILSVRC-2012 training set.
_ILSVRC_2012_MEAN = (104.00699, 116.66877, 122.67892)

# Addresses, digests, licences and accuracies: readme.md of each model's folder in BVLC/caffe, models/.
_ENTRIES = (
    CatalogEntry(
        name="caffenet",
        title="BVLC Reference CaffeNet",
        description="AlexNet for one GPU, pooling before normalization. ILSVRC-2012 validation, center crop: "
        "top-1 57.4 %, top-5 80.4 %.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
            sha1="4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
            filename="bvlc_reference_caffenet.caffemodel",
            license="unrestricted",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="BGR",
        crop=227,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="alexnet",
        title="BVLC AlexNet",
        description="AlexNet as in the paper, normalization before pooling, trained without relighting. ILSVRC-2012 "
        "validation, center crop: top-1 57.1 %, top-5 80.2 %.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            sha1="9116a64c0fbe4459d18f4bb6b56d647b63920377",
            filename="bvlc_alexnet.caffemodel",
            license="unrestricted",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="BGR",
        crop=227,
        labels_file="imagenet_labels.txt",
    ),
)


def entries() -> tuple[CatalogEntry, ...]:
    """All models of the catalog, in the order in which they are listed to users."""
    return _ENTRIES


def entry(name: str) -> CatalogEntry:
    """The model of that name.

    >>> entry("caffenet").crop
    227

    Raises:
        UnknownModelError: There is none; the message lists the known names and the closest one.
    """
    known = {each.name: each for each in _ENTRIES}
    if name in known:
        return known[name]
    # The low cutoff lets `bvlc_alexnet` and `Caffe-Net` find their way; nonsense still matches nothing.
    closest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    remedy = "name one of them, or give the paths of your own prototxt and caffemodel"
    raise UnknownModelError(
        f"no model is called {name!r}",
        where="the catalog of models",
        why=f"it has {', '.join(known)}",
        remedy=f"did you mean {closest[0]!r}? Otherwise {remedy}" if closest else remedy,
    )


@functools.cache
def _read_labels(path: Path) -> tuple[str, ...]:
    """Class names of a labels file: `#` lines and blank ones are skipped, a leading synset id is dropped.

    Raises:
        ReadingError: The file is missing, is not UTF-8, or has no label in it.
    """
    remedy = "install densecast again: its files are incomplete"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadingError("the class names cannot be read", where=str(path), why=str(error), remedy=remedy) from error
    lines = (line.strip() for line in text.splitlines())
    labels = tuple(_SYNSET_ID.sub("", line, count=1) for line in lines if line and not line.startswith("#"))
    if not labels:
        raise ReadingError("there is no class name in the file", where=str(path), remedy=remedy)
    return labels
