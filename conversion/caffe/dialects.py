"""What forks of Caffe say under names of their own, or under Caffe's names in another sense.

A field or type that has one sense wherever it occurs needs no choice: a layer reads it, or `upgrade` turns it into
Caffe's own. Where two forks give one name two senses, and no field of the layer tells them apart, the user chooses a
*dialect*; nothing is guessed. Where one of the forks is Caffe itself, its sense holds without a choice.

To add a name with two senses, add an `Ambiguity` to `AMBIGUITIES`. Each of its readings changes the layer's message so
that it says what is meant, and is not ambiguous any more: a network is built again from its own layers, without the
dialect. A new dialect gets a line in `DIALECTS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from conversion.caffe.caffe_pb2 import LayerParameter, PoolingParameter
from conversion.errors import NetworkError, OptionError, UnsupportedError
from conversion.names import nearest

DIALECTS: Mapping[str, str] = {
    "caffe": "BVLC Caffe 1.0",
    "segnet": "SegNet's fork",
    "pspnet": "PSPNet's fork, and those that have its BN",
    "ssd": "SSD's fork",
    "caffe-windows": "happynear's fork for face recognition: Normalize is of a whole item, and learns nothing",
    "fcn": "the branch of fully convolutional networks (longjon's `future`, 2015): Crop finds its offset itself",
}
"""The dialects by name, with what each is."""


@dataclasses.dataclass(frozen=True)
class Ambiguity:
    """A name with several senses.

    Attributes:
        what: The name, for messages: "a Crop without crop_param".
        found: Whether a layer has it, and no field says which sense is meant.
        readings: For each dialect that has it, what makes the layer's message say what is meant there.
        default: The dialect whose sense holds without a choice, if Caffe itself has the name; otherwise None.
    """

    what: str
    found: Callable[[LayerParameter], bool]
    readings: Mapping[str, Callable[[LayerParameter], None]]
    default: str | None = None


def check_dialect(dialect: str | None) -> None:
    """Raises OptionError if there is no such dialect."""
    if dialect is not None and dialect not in DIALECTS:
        near = nearest(dialect, DIALECTS)
        raise OptionError(
            f"no dialect {dialect!r}",
            why=f"the dialects are {', '.join(DIALECTS)}",
            remedy=f"did you mean {near[0]}?" if near else "",
        )


def read_in_dialect(layer: LayerParameter, dialect: str | None) -> None:
    """Makes a layer say what it means in a dialect; a layer whose names have one sense stays as it is.

    Raises:
        UnsupportedError: A name has several senses, and the dialect (or none) does not say which.
    """
    for ambiguity in AMBIGUITIES:
        if not ambiguity.found(layer):
            continue
        chosen = dialect if dialect in ambiguity.readings else ambiguity.default
        if chosen is None:
            known = ", ".join(f"{name} ({DIALECTS[name]})" for name in ambiguity.readings)
            raise UnsupportedError(
                f"{ambiguity.what} has several senses: give --dialect NAME, or dialect in Python; one of {known}",
                where=f"layer {layer.name!r}",
            )
        ambiguity.readings[chosen](layer)


def has_ceil_mode(layer: LayerParameter) -> bool:
    """Returns whether a layer states `ceil_mode`, which several forks have."""
    return layer.pooling_param.HasField("ceil_mode")


def to_round_mode(layer: LayerParameter, where: str) -> None:
    """Turns `ceil_mode` into Caffe's own `round_mode`, which came later: false is FLOOR.

    Raises:
        NetworkError: The layer states both, and they contradict each other.
    """
    value = layer.pooling_param
    mode = PoolingParameter.CEIL if value.ceil_mode else PoolingParameter.FLOOR
    if value.HasField("round_mode") and value.round_mode != mode:
        raise NetworkError(
            "ceil_mode and round_mode contradict each other",
            where=f"{where}: layer {layer.name!r}" if where else f"layer {layer.name!r}",
        )
    value.ClearField("ceil_mode")
    value.round_mode = mode


def has_pixelshuffler(layer: LayerParameter) -> bool:
    """Returns whether a Reshape states `pixelshuffler`, which Synopsys' fork has."""
    return layer.type == "Reshape" and layer.reshape_param.HasField("pixelshuffler")


def to_pixel_shuffle(layer: LayerParameter, where: str) -> None:
    """Turns a Reshape with `pixelshuffler` into a PixelShuffle; 1, the default, stays a Reshape without it.

    With another value the fork ignores the shape (reshape_layer.cpp).

    Raises:
        NetworkError: The factor is below 1.
    """
    factor = layer.reshape_param.pixelshuffler
    named = f"{where}: layer {layer.name!r}" if where else f"layer {layer.name!r}"
    if factor < 1:
        raise NetworkError(f"pixelshuffler {factor} is below 1", where=named)
    layer.reshape_param.ClearField("pixelshuffler")
    if factor == 1:
        return
    layer.ClearField("reshape_param")
    layer.type = "PixelShuffle"
    layer.pixelshuffle_param.upscale_factor = factor


def crop_where_maps_meet(layer: LayerParameter) -> None:
    """Marks a Crop whose offset is where the maps of its bottoms meet; see `net.meeting`."""
    layer.densecast_param.crop_to_meet = True


def _segnets_bn(layer: LayerParameter) -> None:
    layer.bn_param.bn_mode = layer.bn_param.bn_mode  # the default, stated


def _pspnets_bn(layer: LayerParameter) -> None:
    layer.bn_param.eps = layer.bn_param.eps


def _ssds_normalize(layer: LayerParameter) -> None:
    layer.norm_param.across_spatial = layer.norm_param.across_spatial


def _happynears_normalize(layer: LayerParameter) -> None:
    layer.type = "L2Norm"
    layer.norm_param.across_spatial = True


def _caffes(layer: LayerParameter) -> None:
    """Changes nothing: the layer says what it means in Caffe."""


AMBIGUITIES: tuple[Ambiguity, ...] = (
    Ambiguity(
        what="a Crop without crop_param",
        found=lambda layer: (
            layer.type == "Crop" and not layer.HasField("crop_param") and not layer.HasField("densecast_param")
        ),
        readings={"caffe": _caffes, "fcn": crop_where_maps_meet},
        default="caffe",
    ),
    Ambiguity(
        what="a BN without bn_param",
        found=lambda layer: layer.type == "BN" and not layer.bn_param.ListFields(),
        readings={"segnet": _segnets_bn, "pspnet": _pspnets_bn},
    ),
    Ambiguity(
        what="a Normalize without norm_param",
        found=lambda layer: layer.type == "Normalize" and not layer.norm_param.ListFields(),
        readings={"ssd": _ssds_normalize, "caffe-windows": _happynears_normalize},
    ),
)
