"""The models that densecast knows by name."""

from conversion import nearest
from models import imagenet_nets, other_nets
from models.entry import CatalogEntry
from models.errors import UnknownModelError

# Sources of addresses, digests, licences and accuracies: for Caffe's own nets, readme.md in each model's folder of
# BVLC/caffe, models/; for the others, the publisher's page that a comment names.
_ENTRIES: tuple[CatalogEntry, ...] = (*imagenet_nets.ENTRIES, *other_nets.ENTRIES)


def entries() -> tuple[CatalogEntry, ...]:
    """Returns all models of the catalog, in the order of the list for users."""
    return _ENTRIES


def entry(name: str) -> CatalogEntry:
    """Returns the model of that name.

    >>> entry("caffenet").crop
    227

    Raises:
        UnknownModelError: There is no such model; the message lists the known names and the closest one.
    """
    known = {each.name: each for each in _ENTRIES}
    if name in known:
        return known[name]
    # The low cutoff matches `bvlc_alexnet` and `Caffe-Net`, but no nonsense.
    closest = nearest(name.lower(), known, cutoff=0.5)
    remedy = "name one of them, or pass the paths of your own prototxt and caffemodel"
    raise UnknownModelError(
        f"no model is called {name!r}",
        where="the catalog of models",
        why=f"it has {', '.join(known)}",
        remedy=f"did you mean {closest[0]!r}? Otherwise {remedy}" if closest else remedy,
    )
