"""Fields of Caffe's forks that say what a field of Caffe's own says: they become that one."""

from __future__ import annotations

from conversion.caffe.caffe_pb2 import LayerParameter, PoolingParameter
from conversion.errors import NetworkError


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
