"""Recognises the nets of the catalog by their definitions."""

from __future__ import annotations

from collections.abc import Sequence

from conversion import DEFAULT_LIMITS, Limits, Network, load_network
from models.catalog import entries
from models.entry import CatalogEntry

_FILLERS = ("weight_filler", "bias_filler")


def recognize(
    prototxt: str,
    *,
    stages: Sequence[str] = (),
    level: int | None = None,
    dialect: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> CatalogEntry | None:
    """Returns the entry of the catalog with the very same layers and input, or None.

    Names of layers and blobs count, because fine-tuned nets rename what they replace. The net's own name, the batch,
    and what only training needs do not. Nothing is guessed: one other parameter is another net.

    Args:
        prototxt: The definition.
        stages: See `load_network`.
        level: See there.
        dialect: See there.
        limits: Upper limits on what the definition contains.

    Raises:
        DensecastError: The definition cannot be read.
    """
    network = load_network(prototxt, stages=stages, level=level, dialect=dialect, limits=limits)
    identity, parameters = _identity(network), network.parameter_count()
    for entry in entries():
        if entry.parameters != parameters:
            continue
        known = load_network(entry.definition)
        if len(known.layers) == len(network.layers) and _identity(known) == identity:
            return entry
    return None


def _identity(network: Network) -> tuple[object, ...]:
    layers = []
    for layer in network.layers:
        message = type(layer.definition)()
        message.CopyFrom(layer.definition)
        for field in ("param", "input_param", "phase", "include", "exclude"):
            message.ClearField(field)
        for _, value in message.ListFields():
            for filler in _FILLERS:
                if hasattr(value, "DESCRIPTOR") and filler in value.DESCRIPTOR.fields_by_name:
                    value.ClearField(filler)
        layers.append(message.SerializeToString(deterministic=True))
    return tuple(layers), tuple(sorted((blob, shape[1:]) for blob, shape in network.inputs.items()))
