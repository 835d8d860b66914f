"""The names after the cast, and the classifier's own names of its blobs."""

from __future__ import annotations

from conversion.net.network import Network

CAST_SUFFIX = "-conv"  # as in Caffe's own notebook on net surgery


def blob_names(network: Network) -> dict[str, str]:
    """Returns the blobs with positions by name, and those that the cast renamed also by the classifier's own name."""
    maps = [blob for blob, shape in network.shapes.items() if len(shape) == 4]
    own = {
        blob.removesuffix(CAST_SUFFIX): blob for blob in maps if blob.removesuffix(CAST_SUFFIX) not in network.shapes
    }
    return {**own, **{blob: blob for blob in maps}}
