"""Blobs kept beside the maps, `--features fc7`: which there are, and which have the cells of the map."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from conversion import ModelMetadata, Network, blob_names, prune, spans
from pipeline.errors import JobError

_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}


class Wanted(NamedTuple):
    """A blob that is to be kept.

    Attributes:
        name: As the model offers it.
        dtype: What its values are kept as, float32 or float16.
    """

    name: str
    dtype: np.dtype[Any]


def parse_features(features: Sequence[str], metadata: ModelMetadata) -> tuple[Wanted, ...]:
    """What a recipe's features ask for.

    Args:
        features: Each `name`, for float32, or `name:float16`.
        metadata: The model's.

    Raises:
        JobError: The model does not offer such a blob, a type is neither float32 nor float16, or a name comes twice.
    """
    wanted: list[Wanted] = []
    for text in features:
        # A blob of Caffe's may have a colon in its own name.
        name, dtype = text, "float32"
        if text not in metadata.features and ":" in text:
            name, _, dtype = text.rpartition(":")
        if name not in metadata.features:
            offered = ", ".join(f"{blob} ({channels} channels)" for blob, channels in metadata.features.items())
            raise JobError(
                f"there is no feature {name!r}",
                where=f"model {metadata.name}",
                remedy=f"it offers {offered}" if offered else "convert the model again and name the features to offer",
            )
        if dtype not in _DTYPES:
            raise JobError(f"feature {name!r} cannot be kept as {dtype!r}", remedy="use float32 or float16")
        if name in (other.name for other in wanted):
            raise JobError(f"feature {name!r} is asked for twice")
        wanted.append(Wanted(name, _DTYPES[dtype]))
    return tuple(wanted)


def check_tileable(features: Sequence[Wanted], network: Network, output: str) -> None:
    """Check that features can be put together from tiles: that their cells are those of the map.

    They are if the map is computed from the blob, both have one stride, and both have one cell more for each stride.

    Args:
        features: The blobs.
        network: The fully convolutional network (`network.prototxt` of the model); weights are not needed.
        output: The blob of the map, `ModelMetadata.output_blob`.

    Raises:
        JobError: A feature has other cells than the map.
    """
    used = prune(network, [output])
    known, names = spans(used), blob_names(network)
    for feature in features:
        blob = names.get(feature.name, feature.name)
        pair, wanted = known.get(blob), known[output]
        if pair is None or wanted is None or used.shapes[blob][2:] != used.shapes[output][2:]:
            same = False
        else:
            same = all(found.stride == axis.stride for found, axis in zip(pair, wanted, strict=True))
        if not same:
            raise JobError(
                f"feature {feature.name!r} cannot be kept of images that are cut into tiles",
                where=f"network {network.name!r}",
                why="its cells are not those of the map, by which tiles are put together",
                remedy="keep a blob behind the last pooling, or raise the pixels from which images are cut",
            )
