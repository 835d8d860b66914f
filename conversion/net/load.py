"""`load_network`: Caffe files -> a network."""

from __future__ import annotations

from collections.abc import Sequence

from conversion.caffe import reading
from conversion.caffe.strip_training import Size
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.build import build
from conversion.net.network import Network
from conversion.net.weights import with_shared_blobs, with_weights

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def load_network(
    prototxt: reading.PathLike,
    weights: reading.PathLike | None = None,
    *,
    crop: Size | None = None,
    stages: Sequence[str] = (),
    level: int | None = None,
    dialect: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """Reads a definition and, if given, its trained weights.

    Args:
        prototxt: The definition in text form (`deploy.prototxt`, or `train_val.prototxt`: see `strip_training.strip`).
        weights: The trained weights, `.caffemodel` or `.caffemodel.h5`, recognised by content. Without them the network
            can be inspected but not evaluated.
        crop: The size of the images: one number for both sides, (height, width) or (channels, height, width). By
            default the definition's own; a definition whose images come from a database has none.
        stages: The stages that `include` and `exclude` rules ask for, besides those that the definition states.
        level: The level that these rules ask for; by default the definition's.
        dialect: The fork of Caffe that the definition was written for, where its names have several senses; see
            `dialects.DIALECTS`.
        limits: Upper limits on what the files contain.

    Raises:
        ReadingError: A file cannot be read or has the wrong format.
        OptionError: There is no such dialect.
        UnsupportedError: Layers or parameters that densecast does not support; the message lists all of them.
        NetworkError: The definition contradicts itself.
        WeightsError: A layer has no weights, or weights of another shape, or weights that are not finite.
        LimitError: A file exceeds a limit.
    """
    definition = reading.read_definition(prototxt, limits=limits)
    definition.state.stage.extend(stages)
    if level is not None:
        definition.state.level = level
    network = build(definition, crop=crop, dialect=dialect, where=str(prototxt), limits=limits)
    if weights is None:
        return network
    data, where = reading.read_bytes(weights, "weights_bytes", limits), str(weights)
    if not data.startswith(_HDF5_MAGIC):
        return with_weights(
            network, reading.stored_weights(data, where=where, limits=limits), where=where, limits=limits
        )
    from conversion.caffe import hdf5

    arrays = with_shared_blobs(network, hdf5.parse(data, where=where, limits=limits))
    return with_weights(network, arrays, where=where, limits=limits)
