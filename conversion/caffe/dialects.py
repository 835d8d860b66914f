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
