"""Features, the blobs kept with the maps (`--features fc7`): parsing, and a check that they can be tiled."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from conversion import BEFORE_SUFFIX, ModelMetadata, Network, blob_names, changed_in_place, nearest, prune, spans
from pipeline.errors import SettingError

FeatureType: TypeAlias = np.dtype[np.float32] | np.dtype[np.float16]
_DTYPES: dict[str, FeatureType] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}


class Wanted(NamedTuple):
    """A blob to keep.

    Attributes:
        name: A blob with positions, by the classifier's own name; with `:before`, its value before layers change it in
            place.
        dtype: The type that its values are stored as, float32 or float16.
    """

    name: str
    dtype: FeatureType

    @property
    def blob(self) -> str:
        """The name of the blob."""
        return self.name.removesuffix(BEFORE_SUFFIX)

    @property
    def is_before(self) -> bool:
        """Whether its value is wanted before layers change it in place."""
        return self.name.endswith(BEFORE_SUFFIX)


def parse_features(
    features: Sequence[str], metadata: ModelMetadata, network: Callable[[], Network] | None = None
) -> tuple[Wanted, ...]:
    """Parses the features of a recipe.

    Args:
        features: Each is `name`, or `name:before`, for float32; or one of these and `:float16`.
        metadata: The model's.
        network: Reads the model's network, without weights, for blobs that the model does not offer by itself; None if
            there are no others.

    Raises:
        SettingError: There is no such blob, it is not changed in place, a type is neither float32 nor float16, or a
            name occurs twice.
    """
    wanted: list[Wanted] = []
    blobs = _Blobs(metadata, network)
    for text in features:
        # The name of a Caffe blob may contain a colon.
        name, dtype = text, "float32"
        if not blobs.has(text) and ":" in text:
            name, _, dtype = text.rpartition(":")
        if not blobs.has(name) or dtype == BEFORE_SUFFIX.removeprefix(":"):
            raise blobs.unknown(name, text)
        if dtype not in _DTYPES:
            raise SettingError(f"feature {name!r} cannot be kept as {dtype!r}", remedy="use float32 or float16")
        if name in (other.name for other in wanted):
            raise SettingError(f"feature {name!r} is requested twice")
        wanted.append(Wanted(name, _DTYPES[dtype]))
    return tuple(wanted)


class _Blobs:
    """The blobs of a model by name: those that it offers, and, once others are asked for, those of its network."""

    def __init__(self, metadata: ModelMetadata, network: Callable[[], Network] | None) -> None:
        self._metadata, self._read = metadata, network

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        """The names, with `:before` too, of all blobs with positions of the network; none if it is not known."""
        if self._read is None:
            return frozenset()
        network = self._read()
        names, changed = blob_names(network), changed_in_place(network)
        return frozenset({*names, *(name + BEFORE_SUFFIX for name, blob in names.items() if blob in changed)})

    def has(self, name: str) -> bool:
        return name in self._metadata.features or name in self._names

    def unknown(self, name: str, text: str) -> SettingError:
        """Returns the error for a name that is not a blob."""
        where = f"model {self._metadata.name}"
        before = next((each for each in (text, name) if each.endswith(BEFORE_SUFFIX)), "")
        if before and self.has(before.removesuffix(BEFORE_SUFFIX)):
            blob = before.removesuffix(BEFORE_SUFFIX)
            return SettingError(
                f"feature {blob!r} has one value",
                where=where,
                why="no layer changes the blob in place",
                remedy=f"leave out {BEFORE_SUFFIX}",
            )
        offered = ", ".join(f"{blob} ({channels} channels)" for blob, channels in self._metadata.features.items())
        near = ", ".join(nearest(name, sorted(self._names), 3))
        if near:
            near = f"nearest of the other blobs: {near}"
        remedy = "; ".join(filter(None, (f"it offers {offered}" if offered else "", near)))
        return SettingError(
            f"there is no feature {name!r}",
            where=where,
            remedy=remedy or "convert the model again and name the features to offer",
        )


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
        blob = names.get(feature.blob, feature.blob)
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
