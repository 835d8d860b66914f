"""What the catalog says of a model: definition, published weights, input preparation, labels."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from conversion import ChannelOrder
from conversion.errors import ReadingError

_HERE = Path(__file__).parent
_SYNSET_ID = re.compile(r"^n\d{8} ")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Where the weights of a model are published.

    Attributes:
        url: Address of the caffemodel, http or https.
        sha1: Its SHA-1 as the publisher states it, 40 lower-case hex digits; None where the publisher states none.
        filename: The name of the file, also in the cache directory; unique in the catalog, without a directory.
        license: The licence, in the publisher's words.
    """

    url: str
    sha1: str | None
    filename: str
    license: str


@dataclass(frozen=True, slots=True)
class ShippedWeights:
    """Weights that are part of this package.

    Attributes:
        file: The caffemodel, in this package.
        license: The licence, and the licence of the training data.
    """

    file: str
    license: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that densecast knows by name.

    The input of the net is `(pixel - mean) * scale` for pixels of 0..255, its channels in `channel_order`.

    Attributes:
        name: The name for users; also the folder of its definition.
        title: Its full name.
        description: Its architecture and accuracy, in one or two sentences.
        published: Where its weights are published; None if they are part of this package.
        mean: Mean of the training images as B, G, R (whatever `channel_order` is), in pixel values of 0..255.
        scale: Factor applied after the mean is subtracted.
        channel_order: Order of the channels the net was trained on.
        crop: Side of the square crop it was trained on, in pixels.
        classes: The number of its classes.
        parameters: The number of values in its weights, those of BatchNorm's statistics included.
        labels_file: The file of its class names in this package; None if it has none.
        labels_url: Where its class names are published, if they are not in this package.
        shipped: The weights that are part of this package; None if they are published elsewhere.
    """

    name: str
    title: str
    description: str
    published: PublishedWeights | None
    mean: tuple[float, float, float]
    scale: float
    channel_order: ChannelOrder
    crop: int
    classes: int
    parameters: int
    labels_file: str | None = None
    labels_url: str | None = None
    shipped: ShippedWeights | None = None

    @property
    def definition(self) -> Path:
        """Path of the packaged deploy prototxt."""
        return _HERE / self.name / "deploy.prototxt"

    @property
    def shipped_weights(self) -> Path | None:
        """Path of the packaged caffemodel; None if the weights are published elsewhere. `models.fetch` finds both."""
        return None if self.shipped is None else _HERE / self.shipped.file

    @property
    def license(self) -> str:
        """The licence of the weights, in the publisher's words; empty if it is unknown."""
        weights = self.shipped or self.published
        return weights.license if weights else ""

    @property
    def input(self) -> str:
        """The input for people: `227x227 bgr`."""
        return f"{self.crop}x{self.crop} {self.channel_order}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the net's outputs; not unique, as two synsets may share their lemmas.

        They are empty if this package has none: see `labels_url`.

        Raises:
            ReadingError: The packaged file is missing, is not UTF-8, or has no labels.
        """
        return () if self.labels_file is None else _read_labels(_HERE / self.labels_file)


@functools.cache
def _read_labels(path: Path) -> tuple[str, ...]:
    """Returns the class names of a labels file, without `#` lines, blank lines and leading synset ids.

    Raises:
        ReadingError: The file is missing, is not UTF-8, or has no labels.
    """
    remedy = "install densecast again: its files are incomplete"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadingError("the class names cannot be read", where=str(path), why=str(error), remedy=remedy) from error
    lines = (line.strip() for line in text.splitlines())
    labels = tuple(_SYNSET_ID.sub("", line, count=1) for line in lines if line and not line.startswith("#"))
    if not labels:
        raise ReadingError("the file has no class names", where=str(path), remedy=remedy)
    return labels
