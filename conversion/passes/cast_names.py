"""The names after the cast, and the classifier's own names of its blobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from conversion.net.network import Network

CAST_SUFFIX = "-conv"  # as in Caffe's own notebook on net surgery


BEFORE_SUFFIX = ":before"  # names a blob's first value, before layers that change it in place, such as ReLU


def name_after_cast(blob: str, known: Container[str]) -> str:
    """Returns the name of a blob in the cast network, whose names are `known`; it may be given the classifier's."""
    return blob if blob in known else blob + CAST_SUFFIX


def changed_in_place(network: Network) -> frozenset[str]:
    """Returns the blobs that a later layer changes in place, so that they have a first value and another last one."""
    writers = Counter(top for layer in network.layers for top in layer.tops)
    return frozenset(blob for blob, count in writers.items() if count > 1)


def blob_names(network: Network) -> dict[str, str]:
    """Returns the blobs with positions by name, and those that the cast renamed also by the classifier's own name."""
    maps = [blob for blob, shape in network.shapes.items() if len(shape) == 4]
    own = {
        blob.removesuffix(CAST_SUFFIX): blob for blob in maps if blob.removesuffix(CAST_SUFFIX) not in network.shapes
    }
    return {**own, **{blob: blob for blob in maps}}
