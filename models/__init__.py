"""What nets there are: definitions, where their weights are published, and how their input is prepared.

Fetching is not re-exported, `from models.fetch import fetch` gets it: it brings HTTP libraries, for which a Beam worker
that only looks a model up has no use.
"""

from models.catalog import CatalogEntry, PublishedWeights, ShippedWeights, entries, entry
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
