"""Turns, medians, ratios: what does not depend on anything that runs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

Kind = Literal["ours", "peer", "peak"]
T = TypeVar("T")
SLOW_ROUND_S = 5.0
LEAST_ROUNDS = 2


@dataclasses.dataclass
class Contestant:
    """One that took part in a cell.

    Attributes:
        label: Its name, unique.
        kind: Ours, a peer, or the matrix product that gives the peak.
        version: Name and version.
        ready_s: From the start of its process to the end of the first run.
        held_mb: Memory after the first run.
        peak_mb: The most memory that its process had.
        turns: Seconds of a run, for each round.
        difference: Of the blob before softmax from the reference, by its largest magnitude; None if not computed.
    """

    label: str
    kind: Kind
    version: str
    ready_s: float
    held_mb: float
    peak_mb: float
    turns: list[float] = dataclasses.field(default_factory=list)
    difference: float | None = None

    @property
    def milliseconds(self) -> float:
        """The median of the turns."""
        return statistics.median(self.turns) * 1e3


@dataclasses.dataclass
class Outcome:
    """What was measured of one cell.

    Attributes:
        cell: Net, size and batch, for people.
        net: The net's name in the catalog.
        side: Height and width in pixels.
        batch: Images a batch.
        gflop: 1e9 operations a batch; a multiply-add is two operations.
        product_gflop: 1e9 operations of the matrix product.
        contestants: Those that ran.
        left_out: Why others did not, by label.
    """

    cell: str
    net: str
    side: int
    batch: int
    gflop: float
    product_gflop: float
    contestants: list[Contestant]
    left_out: dict[str, str]

    @property
    def engines(self) -> list[Contestant]:
        """Ours and the peers that ran."""
        return [each for each in self.contestants if each.kind != "peak"]

    @property
    def fastest(self) -> Contestant | None:
        """The peer whose median is the least; None without peers."""
        peers = [each for each in self.contestants if each.kind == "peer"]
        return min(peers, key=lambda peer: peer.milliseconds, default=None)

    @property
    def peak(self) -> float | None:
        """1e9 operations a second that the matrix product reached in its best turn; None if it did not run."""
        products = (each for each in self.contestants if each.kind == "peak")
        return next((self.product_gflop / min(each.turns) for each in products), None)

    def ratio(self, contestant: Contestant) -> float | None:
        """Returns the median over the rounds of its time by that of the fastest peer; None without peers."""
        if self.fastest is None:
            return None
        return statistics.median(own / best for own, best in zip(contestant.turns, self.fastest.turns, strict=True))

    def gflops(self, contestant: Contestant) -> float:
        """Returns 1e9 operations a second."""
        return self.gflop / contestant.milliseconds * 1e3


def order(names: Sequence[T], round_: int) -> list[T]:
    """Returns who comes when in a round: in every second round another begins, and the next goes backwards.

    So over twice as many rounds as there are names, each begins twice, and comes as often after as before another.

    >>> [order("abc", round_) for round_ in range(3)]
    [['a', 'b', 'c'], ['c', 'b', 'a'], ['b', 'c', 'a']]
    """
    first = round_ // 2 % max(1, len(names))
    turned = [*names[first:], *names[:first]]
    return turned[::-1] if round_ % 2 else turned


def play_rounds(
    play: Callable[[int], object], rounds: int, budget_s: float, clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Plays rounds, and returns whether the first counts.

    It counts where it takes longer than `SLOW_ROUND_S`: then it makes no difference that threads wake up in it, and
    each has run once when it was opened.

    Args:
        play: Plays the round of a number, from 0.
        rounds: How many are counted at most.
        budget_s: After `LEAST_ROUNDS` that count, no round begins that would probably end later than so many seconds
            after the first began.
        clock: Returns seconds.
    """
    started = clock()
    play(0)
    slow = clock() - started > SLOW_ROUND_S
    first = 0 if slow else 1
    for number in range(1, rounds + first):
        gone = clock() - started
        if number - first >= LEAST_ROUNDS and gone * (number + 1) / number > budget_s:
            break
        play(number)
    return slow


def seconds_of(runs: Sequence[float]) -> float:
    """Returns the seconds of a turn's runs: their median, the first not counted unless it is the only one.

    In the first run threads wake up, and weights are read that others have pushed out of the processor's caches.
    """
    return statistics.median(runs[1:] or runs)
