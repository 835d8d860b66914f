"""The catalog of nets: definitions, published weights, and the preparation of their input.

`fetch` is in `models.fetch`, not here: it imports HTTP libraries, which a Beam worker that only looks up a model does
not need.
"""

from models.catalog import entries, entry
from models.entry import CatalogEntry, PublishedWeights, ShippedWeights
from models.errors import DigestError, FetchError, UnknownModelError

__all__ = [
    "CatalogEntry",
    "DigestError",
    "FetchError",
    "PublishedWeights",
    "ShippedWeights",
    "UnknownModelError",
    "entries",
    "entry",
]
