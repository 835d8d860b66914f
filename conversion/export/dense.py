"""`load_dense`: Caffe files -> the network of a dense model, by the options that shape it: one way for all commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from conversion.caffe.reading import PathLike
from conversion.errors import CastError, ConversionError, WeightsError
from conversion.export.options import DenseOptions
from conversion.export.signatures import Output, choose_output, feature_blobs
from conversion.export.verification import verification_sizes
from conversion.layers.normalization import Softmax
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.geometry import receptive_field
from conversion.net.load import load_network
from conversion.net.network import Network
from conversion.passes.cast import cast
from conversion.passes.cast_names import CAST_SUFFIX
from conversion.passes.dilate import dilate
from conversion.passes.prune import prune
from conversion.passes.rounding import Misfit, find_misfit, floor_poolings

_PLAIN = DenseOptions()


class DenseNetwork(NamedTuple):
    """A fully convolutional network with its map.

    Attributes:
        network: The network; with weights if they were given.
        output: The blob of the map, and why it is that one.
        misfit: An image size that the network does not accept; None if it accepts all from the training size on.
        own_stride: The network at the map's own stride; `network` itself without `output_stride`.
    """

    network: Network
    output: Output
    misfit: Misfit | None
    own_stride: Network

    def require_sizes(self) -> tuple[str, ...]:
        """Returns a note if some images do not fit, for a network that cannot accept more.

        Raises:
            CastError: All would fit if poolings rounded down; or images of the sizes to verify a model on do not fit.
        """
        if self.misfit is None:
            return ()
        sizes = verification_sizes(self.misfit.training_size, receptive_field(self.network, self.output.blob).stride)
        if self.misfit.remedied or find_misfit(self.network, [(height, width) for _, height, width in sizes]):
            raise self.misfit.error()
        return (f"not every image fits: {self.misfit.error().what}",)


def load_dense(
    prototxt: PathLike,
    weights: PathLike | None = None,
    options: DenseOptions = _PLAIN,
    *,
    features: Sequence[str] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> DenseNetwork:
    """Reads a classifier, casts it, and shapes it: chooses the output, prunes, rounds and makes the map finer.

    Args:
        prototxt: The classifier's definition.
        weights: Its trained weights; shapes, costs and geometry need none.
        options: What shapes the network.
        features: Blobs to keep besides what the map needs, by the classifier's own names.
        limits: Upper limits on what the files contain.

    Raises:
        DensecastError: The files cannot be read, or the network has no such form.
    """
    network = _cast(_read(prototxt, weights, options, limits), options.output_blob, features)
    output = choose_output(network, str(prototxt), options.output_blob)
    if options.output_blob is not None:
        network = prune(network, [output.blob, *feature_blobs(network, features).values()])
    if options.pooling_rounding == "floor":
        network = floor_poolings(network)
    misfit = find_misfit(network)
    finer = network if options.output_stride is None else dilate(network, options.output_stride, output.blob)
    return DenseNetwork(finer, output, misfit, network)


def _cast(network: Network, wanted: str | None, features: Sequence[str]) -> Network:
    """Returns the cast network; if a layer has no dense form, that of what the wanted blob and the features need."""
    try:
        return cast(network)
    except CastError as error:
        if wanted is not None:
            names = [name if name in network.shapes else name.removesuffix(CAST_SUFFIX) for name in (wanted, *features)]
            return cast(prune(network, names))
        heads = [top for layer in network.layers if isinstance(layer, Softmax) for top in layer.tops]
        castable = [blob for blob in heads if _casts(prune(network, [blob]))]
        if not castable:
            raise
        ways = [error.remedy] if error.remedy else []
        ways.append(f"leave that layer out by naming the map: --output-blob {castable[-1]}, or output_blob in Python")
        raise CastError(error.what, where=error.where, why=error.why, remedy="; or ".join(ways)) from error


def _casts(network: Network) -> bool:
    try:
        cast(network)
    except CastError:
        return False
    return True


def _read(prototxt: PathLike, weights: PathLike | None, options: DenseOptions, limits: Limits) -> Network:
    """Reads the classifier; raises ConversionError if its weights do not fit the crop that is asked for."""
    crop = options.crop
    try:
        return load_network(
            prototxt,
            weights,
            crop=crop,
            stages=options.stages,
            level=options.level,
            dialect=options.dialect,
            limits=limits,
        )
    except WeightsError as error:
        if crop is None:
            raise
        size = "x".join(map(str, (crop, crop) if isinstance(crop, int) else crop))
        raise ConversionError(
            f"crop {size} does not fit the weights: {error.what}",
            where=error.where,
            remedy="give the size that the classifier was trained at",
        ) from error
