"""How far two sets of features are apart, blob by blob; images are matched by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.errors import TableError
from pipeline.exports.read_features import FeatureSet

_EXAMPLES = 3


class Match(StrEnum):
    """What images are matched by: their address, the file's name in it, or their owner's name."""

    URI = "uri"
    NAME = "name"
    ID = "id"


class BlobComparison(BaseModel):
    """The difference of one blob over the images that both sets have.

    Attributes:
        blob: Its name.
        images: The images that were compared.
        other_shape: Images whose blob has another number of values, and that were not compared.
        values: The values that were compared.
        largest: The largest absolute difference; None if none was compared, or if a difference is not a number.
        mean: The mean absolute difference.
        relative: `largest` as a share of the largest magnitude in the old set; None if that is 0.
        correlation: Pearson's over all values; None if a set has one value throughout.
        cosine: The least cosine between the two vectors of an image; None if one is 0 for every image.
        worst: The image with the largest difference.
    """

    model_config = ConfigDict(frozen=True)

    blob: str
    images: int
    other_shape: int
    values: int
    largest: float | None
    mean: float | None
    relative: float | None
    correlation: float | None
    cosine: float | None
    worst: str


class Comparison(BaseModel):
    """The difference of two sets of features.

    Attributes:
        old: Where the old set is.
        new: Where the new set is.
        matched: The images that both have.
        only_old: Images of the old set alone.
        only_new: Images of the new set alone.
        only_old_blobs: Blobs of the old set alone.
        only_new_blobs: Blobs of the new set alone.
        blobs: The blobs that both have.
    """

    model_config = ConfigDict(frozen=True)

    old: str
    new: str
    matched: int
    only_old: int
    only_new: int
    only_old_blobs: tuple[str, ...]
    only_new_blobs: tuple[str, ...]
    blobs: tuple[BlobComparison, ...]

    def within(self, tolerance: float) -> bool:
        """Returns whether the new set has the old one's images and blobs, and values differ by at most `tolerance`.

        Args:
            tolerance: A share of the largest magnitude of a blob in the old set.
        """
        if self.only_old or self.only_new or self.only_old_blobs:
            return False
        return all(
            not blob.other_shape
            and blob.largest is not None
            and (blob.relative <= tolerance if blob.relative is not None else blob.largest == 0)
            for blob in self.blobs
        )


def compare_features(old: FeatureSet, new: FeatureSet, match: Match = Match.URI) -> Comparison:
    """Compares two sets of features.

    Args:
        old: The one.
        new: The other.
        match: What images are matched by. Sets without names are matched by their order.

    Raises:
        TableError: Two images of a set have one name, no image or no blob is in both, or one set alone has names.
    """
    pairs, only_old, only_new = _pairs(old, new, match)
    common = [name for name in old.blobs if name in new.blobs]
    if not common:
        raise TableError(
            f"the sets have no blob in common: {', '.join(old.blobs)}, and {', '.join(new.blobs)}",
            where=f"{old.where}, {new.where}",
            remedy="export the same blobs with --blob",
        )
    return Comparison(
        old=old.where,
        new=new.where,
        matched=len(pairs),
        only_old=only_old,
        only_new=only_new,
        only_old_blobs=tuple(name for name in old.blobs if name not in new.blobs),
        only_new_blobs=tuple(name for name in new.blobs if name not in old.blobs),
        blobs=tuple(_compare_blob(name, old, new, pairs) for name in common),
    )


def _pairs(old: FeatureSet, new: FeatureSet, match: Match) -> tuple[list[tuple[int, int]], int, int]:
    """Returns the places of the images that both sets have, and how many only the one or the other has."""
    if bool(old.uris) != bool(new.uris):
        bare, named = (new, old) if old.uris else (old, new)
        raise TableError(
            "the rows have no names",
            where=bare.where,
            why=f"those of {named.where} are matched by name",
            remedy="put the names beside it: a file .json with `uri`, a list of one text a row",
        )
    if not old.uris:
        if old.images != new.images:
            raise TableError(
                f"{old.images} and {new.images} rows without names", where=f"{old.where}, {new.where}", remedy=""
            )
        return [(index, index) for index in range(old.images)], 0, 0
    places = [_places(each, match) for each in (old, new)]
    pairs = [(place, places[1][name]) for name, place in places[0].items() if name in places[1]]
    if not pairs:
        raise TableError(
            f"no image is in both: {next(iter(places[0]))!r}, and {next(iter(places[1]))!r}",
            where=f"{old.where}, {new.where}",
            remedy="match them by the names of the files: --match name; or by your own names: --match id",
        )
    return pairs, len(places[0]) - len(pairs), len(places[1]) - len(pairs)


def _places(features: FeatureSet, match: Match) -> dict[str, int]:
    """Returns the place of each image by its name; raises TableError if a name is empty, or is of several images."""
    names: Sequence[str] = features.ids if match is Match.ID else features.uris
    if match is Match.NAME:
        names = [uri.rsplit("#", 1)[-1].rsplit("/", 1)[-1] for uri in names]
    repeated = [name for name, count in Counter(names).items() if count > 1 or not name]
    if repeated:
        what = "images have no name" if repeated == [""] else f"several images are called {_list(repeated)}"
        raise TableError(what, where=features.where, remedy="match them by another name: --match uri, name or id")
    return {name: place for place, name in enumerate(names)}


def _list(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(map(repr, known[:_EXAMPLES])) + (", ..." if len(known) > _EXAMPLES else "")


class _Sums:
    """Sums over pairs of values, in float64, from which the numbers of `BlobComparison` follow."""

    def __init__(self) -> None:
        self.images = self.other_shape = self.values = 0
        self.largest, self.absolute, self.magnitude = 0.0, 0.0, 0.0
        self.worst = ""
        self._count, self._means, self._moments = 0, np.zeros(2), np.zeros((2, 2))
        self.cosine: float | None = None

    def add(self, one: NDArray[np.float64], other: NDArray[np.float64], name: str) -> None:
        """Adds the values of one image, [n] of each set."""
        with np.errstate(invalid="ignore", over="ignore"):  # infinities; equal ones do not differ
            self._add(one, other, np.where(one == other, 0.0, np.abs(one - other)), name)

    def _add(
        self,
        one: NDArray[np.float64],
        other: NDArray[np.float64],
        difference: NDArray[np.float64],
        name: str,
    ) -> None:
        largest = float(difference.max(initial=0.0))
        self.images += 1
        self.values += one.size
        if not math.isnan(self.largest) and (math.isnan(largest) or largest > self.largest or not self.worst):
            self.largest, self.worst = largest, name
        self.absolute += float(difference.sum())
        self.magnitude = max(self.magnitude, float(np.abs(one).max(initial=0.0)))
        self._merge(one, other)
        lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
        if 0 < lengths < math.inf:
            cosine = float(one @ other) / lengths
            self.cosine = cosine if self.cosine is None else min(cosine, self.cosine)

    def _merge(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        """Updates means and moments (Chan, Golub and LeVeque, 1979); plain sums of squares would lose digits."""
        pair = np.stack([one, other])
        count, means = pair.shape[1], pair.mean(axis=1)
        centered = pair - means[:, None]
        total = self._count + count
        shift = means - self._means
        self._moments += centered @ centered.T + np.outer(shift, shift) * self._count * count / total
        self._means += shift * count / total
        self._count = total

    def correlation(self) -> float | None:
        """Returns Pearson's correlation; None if one of the sets has one value throughout."""
        spread = float(self._moments[0, 0] * self._moments[1, 1])
        return float(self._moments[0, 1] / math.sqrt(spread)) if 0 < spread < math.inf else None


def _compare_blob(name: str, old: FeatureSet, new: FeatureSet, pairs: Sequence[tuple[int, int]]) -> BlobComparison:
    sums = _Sums()
    for mine, other in pairs:
        one, two = (np.asarray(each, np.float64).ravel() for each in (old.blobs[name](mine), new.blobs[name](other)))
        if one.size != two.size:
            sums.other_shape += 1
        elif one.size:
            sums.add(one, two, old.uris[mine] if old.uris else str(mine))
    is_number = sums.images > 0 and math.isfinite(sums.largest)
    return BlobComparison(
        blob=name,
        images=sums.images,
        other_shape=sums.other_shape,
        values=sums.values,
        largest=sums.largest if is_number else None,
        mean=sums.absolute / sums.values if is_number else None,
        relative=sums.largest / sums.magnitude if is_number and sums.magnitude else None,
        correlation=sums.correlation() if is_number else None,
        cosine=sums.cosine if is_number else None,
        worst=sums.worst,
    )
