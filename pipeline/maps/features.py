"""Features, the blobs kept with the maps (`--features fc7`): parsing, and a check that they can be tiled."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from conversion import ModelMetadata, Network, blob_names, prune, spans
from pipeline.errors import SettingError

FeatureType: TypeAlias = np.dtype[np.float32] | np.dtype[np.float16]
_DTYPES: dict[str, FeatureType] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}


class Wanted(NamedTuple):
    """A blob to keep.

    Attributes:
        name: One of the features that the model offers.
        dtype: The type that its values are stored as, float32 or float16.
    """

    name: str
    dtype: FeatureType


def parse_features(features: Sequence[str], metadata: ModelMetadata) -> tuple[Wanted, ...]:
    """Parses the features of a recipe.

    Args:
        features: Each is `name`, for float32, or `name:float16`.
        metadata: The model's.

    Raises:
        SettingError: The model does not offer such a blob, a type is neither float32 nor float16, or a name occurs
            twice.
    """
    wanted: list[Wanted] = []
    for text in features:
        # The name of a Caffe blob may contain a colon.
        name, dtype = text, "float32"
        if text not in metadata.features and ":" in text:
            name, _, dtype = text.rpartition(":")
        if name not in metadata.features:
            offered = ", ".join(f"{blob} ({channels} channels)" for blob, channels in metadata.features.items())
            raise SettingError(
                f"there is no feature {name!r}",
                where=f"model {metadata.name}",
                remedy=f"it offers {offered}" if offered else "convert the model again and name the features to offer",
            )
        if dtype not in _DTYPES:
            raise SettingError(f"feature {name!r} cannot be kept as {dtype!r}", remedy="use float32 or float16")
        if name in (other.name for other in wanted):
            raise SettingError(f"feature {name!r} is requested twice")
        wanted.append(Wanted(name, _DTYPES[dtype]))
    return tuple(wanted)


def check_tileable(features: Sequence[Wanted], network: Network, output: str) -> None:
    """Checks that features can be put together from tiles, which requires the cells of the map.

    A blob has the cells of the map if the map is computed from it, and if both have the same stride and size.

    Args:
        features: The blobs.
        network: The fully convolutional network (`network.prototxt` of the model); weights are not needed.
        output: The blob of the map, `ModelMetadata.output_blob`.

    Raises:
        SettingError: The cells of a feature are not those of the map.
    """
    used = prune(network, [output])
    known, names = spans(used), blob_names(network)
    for feature in features:
        blob = names.get(feature.name, feature.name)
        pair, wanted = known.get(blob), known[output]
        if pair is None or wanted is None or used.shapes[blob][2:] != used.shapes[output][2:]:
            same = False
        else:
            same = all(span.stride == axis.stride for span, axis in zip(pair, wanted, strict=True))
        if not same:
            raise SettingError(
                f"feature {feature.name!r} cannot be kept of images that are cut into tiles",
                where=f"network {network.name!r}",
                why="its cells are not those of the map, by which tiles are put together",
                remedy="keep a blob after the last pooling, or increase the size from which images are cut",
            )
