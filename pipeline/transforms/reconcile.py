"""Decides what happens to an image: scored, kept, adopted from a dead run, or marked as deleted. Pure.

The unit is the image, by its address. All rows of an image (scales, tiles) have one recipe and one content, so a change
of either replaces all of them. A recipe includes the decoding rules of the image's file type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from pipeline.images.decoding_rules import Currency, Decoding, Rules, currency, rules
from pipeline.settings import PolicySettings
from pipeline.sources import ImageReference
from pipeline.table.rewrite import Action, Edit, Slot
from pipeline.table.schema import Status


class Known(NamedTuple):
    """The rows of one image in one part file, summarised.

    Attributes:
        uri: The image.
        part: The part, relative to the table.
        orphan: Whether the part belongs to a run that died before it published.
        id: The owner's name of the image, or empty.
        version: The image's version when it was listed, or empty.
        digest: SHA-256 of the image file, in hex, or empty.
        recipe: Digest of the recipe that made the rows, with the decoding rules.
        statuses: The distinct statuses of the rows.
        reasons: The distinct reasons of the rejections.
        rejected: The number of rejections.
        slots: (scale, tile index, tile count) of each row.
        label: The label that its list gave it, or empty.
    """

    uri: str
    part: str
    orphan: bool
    id: str
    version: str
    digest: str
    recipe: str
    statuses: Sequence[str]
    reasons: Sequence[str]
    rejected: int
    slots: Sequence[tuple[float, int, int]]
    label: str = ""


class Outcome(StrEnum):
    """What happens to an image in a run."""

    SCORE = "score"
    PROBE = "probe"  # its content has to be read before this is decided
    KEEP = "keep"
    UPDATE = "update"
    ADOPT = "adopt"
    DELETE = "delete"
    ABSENT = "absent"  # not listed, and not changed


@dataclass(frozen=True)
class Policy:
    """How a run treats the images that the table knows.

    Attributes:
        decodings: How an image was decoded, by the digests that rows of the run's recipe can have.
        scales: The scales of that recipe.
        retry_rejected: Whether rejected images are tried again if they have not changed.
        rescore: Whether all images are scored again.
        prune: Whether images that are no longer listed are marked as deleted.
        rules: The decoding rules of today, by file type.
    """

    decodings: Mapping[str, Decoding]
    scales: tuple[float, ...] = (1.0,)
    retry_rejected: bool = PolicySettings.retry_rejected
    rescore: bool = PolicySettings.rescore
    prune: bool = PolicySettings.prune
    rules: Mapping[str, Rules] = field(default_factory=rules)

    def currency(self, current: Iterable[Known], file_type: str | None = None) -> Currency:
        """Returns whether the rows of one image are what this run would make of the same content.

        Args:
            current: The rows, a record for each part.
            file_type: The type of the file, if its content was read.
        """
        records = list(current)
        made_by = {known.recipe for known in records}
        decoding = self.decodings.get(made_by.pop()) if len(made_by) == 1 else None
        if decoding is None:
            return Currency.OUTDATED
        if not any(known.digest for known in records):  # the file could not be read, so nothing was decoded
            return Currency.CURRENT
        if decoding.format is None and file_type is not None:
            decoding = decoding._replace(format=file_type)
        rejected = any(Status.REJECTED in known.statuses for known in records)
        return currency(decoding, records[0].uri, self.rules, rejected=rejected)


@dataclass(frozen=True)
class Decision:
    """What happens to one image, and the edits that this takes.

    Attributes:
        outcome: What happens to it. After PROBE, `resolve_unchanged` decides on an image whose content is the same.
        edits: The edits of its rows.
        rejected: The number of scales at which the image was rejected and stays rejected.
    """

    outcome: Outcome
    edits: tuple[Edit, ...] = ()
    rejected: int = 0


def decide(
    uri: str,
    reference: ImageReference | None,
    policy: Policy,
    *,
    current: Sequence[Known] = (),
    orphans: Sequence[Known] = (),
) -> Decision:
    """Returns the decision on one image.

    Args:
        uri: The image.
        reference: How it is listed; None if it is not.
        policy: How the run treats images that the table knows.
        current: The image's rows in the table, a record for each part.
        orphans: Its rows in parts of dead runs, verified.
    """
    statuses = {status for known in current for status in known.statuses}
    if reference is None:
        if not policy.prune or statuses <= {Status.DELETED}:
            return Decision(Outcome.ABSENT)
        return Decision(Outcome.DELETE, tuple(Edit(uri, known.part, Action.DELETE) for known in current))
    if policy.rescore or not (current or orphans):
        return Decision(Outcome.SCORE, drop(uri, current))
    made = policy.currency(current)
    usable = made is not Currency.OUTDATED and Status.DELETED not in statuses
    usable = usable and not (policy.retry_rejected and Status.REJECTED in statuses)
    # Another program may have deleted some of the image's rows.
    usable = usable and _is_complete({(s, i): (k.part, n) for k in current for s, i, n in k.slots}, policy.scales)
    digests = {known.digest for known in current}
    unchanged = reference.version and {known.version for known in current} == {reference.version}
    # An image that could not be read has no digest. It may be readable now, even if its listing is the same.
    if usable and made is Currency.CURRENT and unchanged and len(digests) == 1 and "" not in digests:
        return resolve_unchanged(reference, current)
    if adopted := _adopt(reference, orphans, policy):
        return Decision(Outcome.ADOPT, (*adopted, *drop(uri, current)))
    if usable and len(digests) == 1:
        return Decision(Outcome.PROBE)
    return Decision(Outcome.SCORE, drop(uri, current))


def resolve_unchanged(reference: ImageReference, current: Sequence[Known], recipe: str = "") -> Decision:
    """Returns the decision on an image with unchanged content.

    Args:
        reference: How the image is listed; its version, id or label may have changed.
        current: The image's rows in the table.
        recipe: The digest that its rows get, now that the type of the file is known; empty where it stays.
    """
    rejected = sum(known.rejected for known in current)
    after = (
        reference.version,
        reference.id or max(known.id for known in current),
        reference.label or max(known.label for known in current),
        recipe or current[0].recipe,
    )
    if {(known.version, known.id, known.label, known.recipe) for known in current} == {after}:
        return Decision(Outcome.KEEP, rejected=rejected)
    version, ident, label, recipe = after
    edits = [
        Edit(known.uri, known.part, Action.UPDATE, version, ident, recipe=recipe, label=label) for known in current
    ]
    return Decision(Outcome.UPDATE, tuple(edits), rejected)


def drop(uri: str, current: Iterable[Known]) -> tuple[Edit, ...]:
    """Returns the edits that remove the rows of an image, because others replace them."""
    return tuple(Edit(uri, known.part, Action.DROP) for known in current)


def _adopt(reference: ImageReference, orphans: Sequence[Known], policy: Policy) -> list[Edit]:
    """Returns the edits that adopt an image from dead runs; none if a row is missing, or if no row is a map.

    A rejection alone is cheap to repeat, and what killed the run may have caused it.
    """
    attempts: defaultdict[tuple[str, str], list[Known]] = defaultdict(list)
    # If one attempt rejected what another scored, the map is adopted.
    for known in sorted(orphans, key=lambda known: (Status.REJECTED in known.statuses, known.part)):
        is_current = policy.currency([known]) is Currency.CURRENT
        if reference.version and known.version == reference.version and is_current:
            attempts[known.digest, known.recipe].append(known)
    for attempt in attempts.values():
        statuses = {status for known in attempt for status in known.statuses}
        if Status.SCORED not in statuses or (policy.retry_rejected and Status.REJECTED in statuses):
            continue
        chosen: dict[Slot, tuple[str, int]] = {}
        for known in attempt:
            for scale, index, count in known.slots:
                chosen.setdefault((scale, index), (known.part, count))
        if _is_complete(chosen, policy.scales):
            slots: defaultdict[str, list[Slot]] = defaultdict(list)
            for slot, (part, _) in chosen.items():
                slots[part].append(slot)
            return [
                Edit(attempt[0].uri, part, Action.ADOPT, reference.version, reference.id, adopted, reference.label)
                for part, adopted in slots.items()
            ]
    return []


def _is_complete(chosen: dict[Slot, tuple[str, int]], scales: Sequence[float]) -> bool:
    """Returns whether the rows are a whole image: at each scale one row, or all tiles."""
    tiles: defaultdict[float, set[int]] = defaultdict(set)
    counts: defaultdict[float, set[int]] = defaultdict(set)
    for (scale, index), (_, count) in chosen.items():
        tiles[scale].add(index)
        counts[scale].add(count)
    return tiles.keys() == set(scales) and all(
        len(counts[scale]) == 1 and indices == set(range(min(counts[scale]))) for scale, indices in tiles.items()
    )
