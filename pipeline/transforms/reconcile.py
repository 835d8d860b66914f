"""What becomes of an image: scored, kept as it is, adopted from a run that died, or marked as deleted. Pure.

The unit is the image, by its address: all its rows (scales, tiles) are of one recipe and of one content, so a change of
either replaces all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pipeline.settings import PolicySettings
from pipeline.sources import ImageReference
from pipeline.table.rewrite import Action, Edit, Slot
from pipeline.table.schema import Status


class Known(NamedTuple):
    """What one part file knows of one image.

    Attributes:
        uri: The image.
        part: The file, relative to the table.
        orphan: Whether the part is of a run that died before it published.
        id: The owner's name of the image, or empty.
        version: The image's version when it was listed, or empty.
        digest: Of the image file, or empty.
        recipe: Digest of the recipe that made the rows.
        statuses: The distinct statuses of the rows.
        reasons: The distinct reasons of those that are rejections.
        rejected: How many these are.
        slots: (scale, tile index, tile count) of each row.
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


class Outcome(StrEnum):
    """What becomes of an image in a run."""

    SCORE = "score"
    PROBE = "probe"  # its content has to be looked at before it is known
    KEEP = "keep"
    UPDATE = "update"
    ADOPT = "adopt"
    DELETE = "delete"
    ABSENT = "absent"  # not listed, and left alone


@dataclass(frozen=True)
class Policy:
    """How a run treats what is there.

    Attributes:
        recipe: Digest of what is wanted now.
        scales: The scales of that recipe.
        retry_rejected: Whether images that were rejected are tried again though they have not changed.
        rescore: Whether all are scored again.
        prune: Whether images that are listed no longer are marked as deleted.
    """

    recipe: str
    scales: tuple[float, ...] = (1.0,)
    retry_rejected: bool = PolicySettings.retry_rejected
    rescore: bool = PolicySettings.rescore
    prune: bool = PolicySettings.prune


@dataclass(frozen=True)
class Decision:
    """What becomes of one image, and what has to be done for it.

    Attributes:
        outcome: What becomes of it. PROBE asks for `settle` once its content is known.
        edits: To be made whatever happens.
        rejected: At how many scales the image has no map and keeps having none.
    """

    outcome: Outcome
    edits: tuple[Edit, ...] = ()
    rejected: int = 0


def decide(
    uri: str, reference: ImageReference | None, current: Sequence[Known], orphans: Sequence[Known], policy: Policy
) -> Decision:
    """Decides on one image.

    Args:
        uri: The image.
        reference: How it is listed; None if it is not.
        current: What the table knows of it.
        orphans: What parts of dead runs know of it; their rows must have been verified.
        policy: How the run treats what is there.
    """
    statuses = {status for known in current for status in known.statuses}
    if reference is None:
        if not policy.prune or statuses <= {Status.DELETED}:
            return Decision(Outcome.ABSENT)
        return Decision(Outcome.DELETE, tuple(Edit(uri, known.part, Action.DELETE) for known in current))
    if policy.rescore:
        return Decision(Outcome.SCORE, drop(uri, current))
    usable = {known.recipe for known in current} == {policy.recipe} and Status.DELETED not in statuses
    usable = usable and not (policy.retry_rejected and Status.REJECTED in statuses)
    digests = {known.digest for known in current}
    unchanged = reference.version and {known.version for known in current} == {reference.version}
    # What could not even be read may be readable now, whatever its listing says.
    if usable and unchanged and len(digests) == 1 and "" not in digests:
        return resolve_unchanged(reference, current)
    if adopted := _adopt(reference, orphans, policy):
        return Decision(Outcome.ADOPT, (*adopted, *drop(uri, current)))
    if usable and len(digests) == 1:
        return Decision(Outcome.PROBE)
    return Decision(Outcome.SCORE, drop(uri, current))


def resolve_unchanged(reference: ImageReference, current: Sequence[Known]) -> Decision:
    """Decides on an image whose content is what it was; its version or id may have changed."""
    rejected = sum(known.rejected for known in current)
    ident = reference.id or max(known.id for known in current)
    if {(known.version, known.id) for known in current} == {(reference.version, ident)}:
        return Decision(Outcome.KEEP, rejected=rejected)
    edits = [Edit(known.uri, known.part, Action.UPDATE, reference.version, ident) for known in current]
    return Decision(Outcome.UPDATE, tuple(edits), rejected)


def drop(uri: str, current: Iterable[Known]) -> tuple[Edit, ...]:
    """The edits that take an image's rows away, because others replace them."""
    return tuple(Edit(uri, known.part, Action.DROP) for known in current)


def _adopt(reference: ImageReference, orphans: Sequence[Known], policy: Policy) -> list[Edit]:
    """The edits that take an image over from dead runs; none if its rows are not all there, or none is a map.

    A mere rejection is cheap to repeat, and may have been the fault of what killed the run.
    """
    attempts: defaultdict[str, list[Known]] = defaultdict(list)
    # Where one attempt rejected what another scored, the map is taken.
    for known in sorted(orphans, key=lambda known: (Status.REJECTED in known.statuses, known.part)):
        if reference.version and (known.version, known.recipe) == (reference.version, policy.recipe):
            attempts[known.digest].append(known)
    for attempt in attempts.values():
        statuses = {status for known in attempt for status in known.statuses}
        if Status.SCORED not in statuses or (policy.retry_rejected and Status.REJECTED in statuses):
            continue
        chosen: dict[Slot, tuple[str, int]] = {}
        for known in attempt:
            for scale, index, count in known.slots:
                chosen.setdefault((scale, index), (known.part, count))
        if _complete(chosen, policy.scales):
            slots: defaultdict[str, list[Slot]] = defaultdict(list)
            for slot, (part, _) in chosen.items():
                slots[part].append(slot)
            return [
                Edit(attempt[0].uri, part, Action.ADOPT, reference.version, reference.id, held)
                for part, held in slots.items()
            ]
    return []


def _complete(chosen: dict[Slot, tuple[str, int]], scales: Sequence[float]) -> bool:
    """Whether the rows are all that an image has: each scale once, or in all its tiles."""
    found: defaultdict[float, set[int]] = defaultdict(set)
    counts: defaultdict[float, set[int]] = defaultdict(set)
    for (scale, index), (_, count) in chosen.items():
        found[scale].add(index)
        counts[scale].add(count)
    return found.keys() == set(scales) and all(
        len(counts[scale]) == 1 and indices == set(range(min(counts[scale]))) for scale, indices in found.items()
    )
