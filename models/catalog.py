"""The models that densecast knows by name: definition, published weights, input preparation, labels."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from conversion import ChannelOrder, nearest
from conversion.errors import ReadingError
from models.errors import UnknownModelError

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
        labels_file: The file of its class names in this package.
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
    labels_file: str
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
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the net's outputs; not unique, as two synsets may share their lemmas.

        Raises:
            ReadingError: The packaged file is missing, is not UTF-8, or has no labels.
        """
        return _read_labels(_HERE / self.labels_file)


# Channel means of Caffe's imagenet_mean.binaryproto, the mean image of the ILSVRC-2012 training set.
_ILSVRC_2012_MEAN = (104.00699, 116.66877, 122.67892)

# The mean of GoogLeNet and SqueezeNet: the same, rounded (mean_value in their train_val.prototxt).
_ROUNDED_MEAN = (104.0, 117.0, 123.0)
# The mean of the VGG models, from their readmes.
_VGG_MEAN = (103.939, 116.779, 123.68)
# Channel means of ResNet_mean.binaryproto, the mean image of the ResNets.
_RESNET_MEAN = (103.06262, 115.90288, 123.15163)
# The repository of SqueezeNet, at one commit; its readmes state no digest.
_SQUEEZENET = "https://github.com/forresti/SqueezeNet/raw/a47b6f13d30985279789d08053d37013d67d131b"

# Sources of addresses, digests, licences and accuracies: for CaffeNet, AlexNet and GoogLeNet, readme.md in each model's
# folder of BVLC/caffe, models/; for the others, the publisher's page that a comment names.
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
        channel_order="bgr",
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
        channel_order="bgr",
        crop=227,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="googlenet",
        title="BVLC GoogLeNet",
        description="22 layers deep in inception modules, with few parameters. ILSVRC-2012 validation, center crop: "
        "top-1 68.7 %, top-5 88.9 %.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
            sha1="405fc5acd08a3bb12de8ee5e23a96bec22f08204",
            filename="bvlc_googlenet.caffemodel",
            license="unrestricted",
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        labels_file="imagenet_labels.txt",
    ),
    # gist.github.com/ksimonyan/211839e770f7b538e2d8; the licence: www.robots.ox.ac.uk/~vgg/research/very_deep.
    CatalogEntry(
        name="vgg16",
        title="VGG-16",
        description="3x3 convolutions and three matrices, 16 layers in all: slow, popular for its features. "
        "ILSVRC-2012 validation, densely at a smaller side of 384 pixels: top-5 91.9 %.",
        published=PublishedWeights(
            url="http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
            sha1=None,
            filename="VGG_ILSVRC_16_layers.caffemodel",
            license="Creative Commons Attribution License",
        ),
        mean=_VGG_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        labels_file="imagenet_labels.txt",
    ),
    # gist.github.com/ksimonyan/3785162f95cd2d5fee77; the licence as above.
    CatalogEntry(
        name="vgg19",
        title="VGG-19",
        description="VGG-16 with three more convolutions. ILSVRC-2012 validation, densely at a smaller side of 384 "
        "pixels: top-5 92.0 %.",
        published=PublishedWeights(
            url="http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_19_layers.caffemodel",
            sha1=None,
            filename="VGG_ILSVRC_19_layers.caffemodel",
            license="Creative Commons Attribution License",
        ),
        mean=_VGG_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        labels_file="imagenet_labels.txt",
    ),
    # gist.github.com/mavenlin/d802a5849de39225bcc6. Its authors trained it with their own mean image of the same
    # training set, which is not published: Caffe's replaces it.
    CatalogEntry(
        name="nin",
        title="Network in Network",
        description="Convolutions followed by 1x1 convolutions, and the mean of a plane instead of a matrix. "
        "ILSVRC-2012 validation: top-1 59.4 %.",
        published=PublishedWeights(
            url="https://www.dropbox.com/s/cphemjekve3d80n/nin_imagenet.caffemodel?dl=1",
            sha1=None,
            filename="nin_imagenet.caffemodel",
            license="BSD",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        labels_file="imagenet_labels.txt",
    ),
    # The licence: LICENSE in that repository; the accuracy: the paper, arXiv:1602.07360.
    CatalogEntry(
        name="squeezenet_1_0",
        title="SqueezeNet 1.0",
        description="AlexNet's accuracy with a fiftieth of its parameters. ILSVRC-2012 validation: top-1 57.5 %, "
        "top-5 80.3 %.",
        published=PublishedWeights(
            url=f"{_SQUEEZENET}/SqueezeNet_v1.0/squeezenet_v1.0.caffemodel",
            sha1=None,
            filename="squeezenet_v1.0.caffemodel",
            license="BSD",
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="squeezenet_1_1",
        title="SqueezeNet 1.1",
        description="SqueezeNet with a smaller conv1 and earlier pooling: less than half the multiply-adds of 1.0 at "
        "about the same accuracy.",
        published=PublishedWeights(
            url=f"{_SQUEEZENET}/SqueezeNet_v1.1/squeezenet_v1.1.caffemodel",
            sha1=None,
            filename="squeezenet_v1.1.caffemodel",
            license="BSD",
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        labels_file="imagenet_labels.txt",
    ),
    # README.md and LICENSE of github.com/KaimingHe/deep-residual-networks. They link to a folder for browsers, not to
    # the file: `fetch` receives a web page there, and tells where to put a file that was downloaded by hand.
    CatalogEntry(
        name="resnet50",
        title="ResNet-50",
        description="50 layers in blocks that add to their input. ILSVRC-2012 validation, center crop: "
        "top-1 75.3 %, top-5 92.2 %. Its link is reported dead: provide ResNet-50-model.caffemodel yourself.",
        published=PublishedWeights(
            url="https://onedrive.live.com/?authkey=%21AAFW2-FVoxeVRck&id=4006CBB8476FF777%2117887&cid=4006CBB8476FF777",
            sha1=None,
            filename="ResNet-50-model.caffemodel",
            license="MIT",
        ),
        mean=_RESNET_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="digits",
        title="densecast handwritten digits",
        description="A small CaffeNet for handwritten digits and background, windows of 32 pixels every 4 pixels; its "
        "weights are part of the package.",
        published=None,
        mean=(208.0, 224.0, 231.0),
        scale=1 / 64,
        channel_order="bgr",
        crop=32,
        labels_file="digits/labels.txt",
        shipped=ShippedWeights(
            file="digits/digits.caffemodel",
            license="Apache-2.0; trained on the UCI data set Optical Recognition of Handwritten Digits, CC BY 4.0",
        ),
    ),
)


def entries() -> tuple[CatalogEntry, ...]:
    """Returns all models of the catalog, in the order of the list for users."""
    return _ENTRIES


def entry(name: str) -> CatalogEntry:
    """Returns the model of that name.

    >>> entry("caffenet").crop
    227

    Raises:
        UnknownModelError: There is no such model; the message lists the known names and the closest one.
    """
    known = {each.name: each for each in _ENTRIES}
    if name in known:
        return known[name]
    # The low cutoff matches `bvlc_alexnet` and `Caffe-Net`, but no nonsense.
    closest = nearest(name.lower(), known, cutoff=0.5)
    remedy = "name one of them, or pass the paths of your own prototxt and caffemodel"
    raise UnknownModelError(
        f"no model is called {name!r}",
        where="the catalog of models",
        why=f"it has {', '.join(known)}",
        remedy=f"did you mean {closest[0]!r}? Otherwise {remedy}" if closest else remedy,
    )


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
