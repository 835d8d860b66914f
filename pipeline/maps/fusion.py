"""Fuses the maps of an image at several scales into one: small scales show large objects, large scales small ones.

Every map is resampled onto the grid of the finest map, bilinearly between the centres of its cells, and the mean of the
probabilities is taken. This is average pooling over scales as in Chen, Yang, Wang, Xu and Yuille, "Attention to Scale"
(2016), section 3, applied to probabilities, which Sermanet et al., "OverFeat" (2014), average over scales as well.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from conversion import AxisGeometry
from pipeline.maps.classification_map import CellScores, ClassificationMap, Floats, MapError, Probabilities, top_k
from pipeline.maps.geometry import Geometry


def fuse(maps: Sequence[ClassificationMap], class_count: int = 0) -> ClassificationMap:
    """Returns the mean of an image's maps at several scales.

    If a map has only its best k classes, the other classes count as 0. The probabilities of the result are then lower
    bounds, and `1 - probabilities.sum(axis=-1)` is the missing probability of a cell.

    Args:
        maps: One map per scale, of one image and one model, in any order.
        class_count: C, the number of classes of the model; it is raised to the number that occurs or has labels.

    Returns:
        A map on the cells of the finest map (the one with the most cells). It has float32 `probabilities` [h, w, C],
        the largest k of the maps, and the probability outside its best k classes as `residual`. It has no features.

    Raises:
        MapError: There is no map, the maps are not of one image and one model, or two have the same scale.
    """
    if not maps:
        raise MapError("there is no map to fuse")
    finest = max(maps, key=lambda map_: (map_.size[0] * map_.size[1], map_.scale))
    for other in maps:
        if (other.uri, other.image_size, other.model_digest) != (finest.uri, finest.image_size, finest.model_digest):
            raise MapError(
                "the maps are not of one image and one model",
                where=finest.uri,
                why=f"one is of {other.uri}, {other.image_size[0]} x {other.image_size[1]} pixels, model"
                f" {other.model_digest[:12]}",
            )
    scales = tuple(sorted(map_.scale for map_ in maps))
    if len(set(scales)) < len(scales):
        raise MapError(f"two maps have the same scale: {', '.join(f'{s:g}' for s in scales)}", where=finest.uri)
    occurring = (int(m.classes.max()) + 1 if m.probabilities is None else m.probabilities.shape[2] for m in maps)
    total = np.zeros((*finest.size, max(len(finest.labels), class_count, *occurring)), np.float32)
    for map_ in maps:
        _add(total, map_, finest)
    total /= len(maps)
    cells = top_k(total, max(map_.classes.shape[2] for map_ in maps))
    return replace(
        finest,
        classes=cells.classes,
        scores=cells.scores,
        residual=cells.residual,
        probabilities=total,
        features={},
        key="",
        fused_from=scales,
    )


def resample(values: Probabilities, cells: Geometry, onto: ClassificationMap) -> Floats:
    """Resamples values bilinearly between the centres of cells; beyond the outer centres the nearest value is used.

    Args:
        values: float [h, w, C], one vector per cell.
        cells: Where those cells lie.
        onto: The map at whose cell centres the values are computed.

    Returns:
        float32 [h', w', C], within the range of `values`.
    """
    down = _weights(values.shape[0], cells.y, onto.size[0], onto.geometry.y)
    across = _weights(values.shape[1], cells.x, onto.size[1], onto.geometry.x)
    return _between(_between(values.astype(np.float32, copy=False), *down, axis=0), *across, axis=1)


def dense(map_: ClassificationMap, class_count: int) -> Probabilities:
    """Returns the probabilities of a map, float [h, w, class_count]; 0 for the classes that the map does not have."""
    if map_.probabilities is None:
        return scattered(CellScores(map_.classes, map_.scores, map_.residual), class_count)
    missing = class_count - map_.probabilities.shape[2]
    return np.pad(map_.probabilities, ((0, 0), (0, 0), (0, missing))) if missing else map_.probabilities


def scattered(cells: CellScores, class_count: int) -> Floats:
    """Returns the best classes as probabilities of all classes, float32 [h, w, class_count]; the others are 0."""
    probabilities = np.zeros((*cells.residual.shape, class_count), np.float32)
    np.put_along_axis(probabilities, cells.classes.astype(np.intp), cells.scores, axis=-1)
    return probabilities


def _add(total: Floats, map_: ClassificationMap, onto: ClassificationMap) -> None:
    values = dense(map_, total.shape[2])
    total += values if map_ is onto else resample(values, map_.geometry, onto)


def _weights(
    count: int, axis: AxisGeometry, wanted: int, onto: AxisGeometry
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Returns, for every wanted cell, the cells before and after it, and its position between them, 0 to 1."""
    centers = float(onto.offset) + float(onto.stride) * np.arange(wanted)
    position = np.clip((centers - float(axis.offset)) / float(axis.stride), 0, count - 1)
    before = np.floor(position).astype(np.intp)
    return before, np.minimum(before + 1, count - 1), (position - before).astype(np.float32)


def _between(values: Floats, before: NDArray[np.intp], after: NDArray[np.intp], share: Floats, *, axis: int) -> Floats:
    near, far = values.take(before, axis=axis), values.take(after, axis=axis)
    far -= near
    far *= share.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    near += far
    return near
