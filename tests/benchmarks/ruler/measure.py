"""One cell: opens all who take part, lets them run in turns, and asks for what they computed."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conversion.export.verification import relative_error
from pipeline.tools.benchmark import PRODUCT_OPERATIONS
from tests.benchmarks.ruler.children import Child, Entrant, LeftOutError, convert
from tests.benchmarks.ruler.figures import Contestant, Outcome, order, play_rounds, seconds_of
from tests.benchmarks.ruler.nets import Cell, NetFiles, job, operations, reference
from tests.benchmarks.ruler.serve import Job

TURN_S = 0.1  # at least so long runs one in its turn


def measure(cell: Cell, folder: Path, entrants: Sequence[Entrant], rounds: int, budget_s: float = math.inf) -> Outcome:
    """Measures one cell.

    Args:
        cell: Net and size.
        folder: Where the forms of the net are, or are made.
        entrants: Who takes part, if it can.
        rounds: How many are counted at most.
        budget_s: Seconds for the rounds, see `play_rounds`.
    """
    files = NetFiles(cell.net, folder.absolute())
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        scratch = Path(name)
        asked = job(files, cell, scratch)
        expected = reference(files, cell, Path(asked["blob"]))
        field = _Field(stack)
        for entrant in entrants:
            field.open(entrant, asked)
        if not play_rounds(field.play, rounds, budget_s):
            field.forget_first_round()
        if expected is not None:
            field.compare(scratch / "scores.npy", expected)
    return Outcome(
        cell=str(cell),
        net=cell.net,
        side=cell.pixels,
        batch=cell.batch,
        gflop=operations(files, cell) / 1e9,
        product_gflop=PRODUCT_OPERATIONS / 1e9,
        contestants=field.contestants,
        left_out=field.left_out,
    )


class _Field:
    """Those who take part in a cell.

    Args:
        stack: Ends their processes.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, tuple[Child, Contestant]] = {}
        self.left_out: dict[str, str] = {}

    @property
    def contestants(self) -> list[Contestant]:
        return [contestant for _, contestant in self._running.values()]

    def open(self, entrant: Entrant, asked: Job) -> None:
        """Lets one take part, alone on the machine until it is stopped; or notes why it cannot."""
        try:
            convert(entrant, asked)
            child = Child(entrant.command, asked)
        except LeftOutError as reason:
            self.left_out[entrant.label] = str(reason)
            return
        self._stack.callback(child.close)
        opened = child.opened
        self._running[entrant.label] = (
            child,
            Contestant(
                entrant.label, entrant.kind, opened["version"], child.ready_s, opened["held_mb"], opened["peak_mb"]
            ),
        )

    def play(self, round_: int) -> None:
        """Gives each its turn."""
        for label in order(list(self._running), round_):
            child, contestant = self._running[label]
            try:
                answer = child.ask(run=TURN_S)
            except LeftOutError as reason:
                self.left_out[label] = str(reason)
                del self._running[label]
                continue
            contestant.peak_mb = max(contestant.peak_mb, answer["peak_mb"])
            contestant.turns.append(seconds_of(answer["seconds"]))

    def forget_first_round(self) -> None:
        """Drops the first turn of each."""
        for contestant in self.contestants:
            del contestant.turns[0]

    def compare(self, file: Path, expected: np.ndarray) -> None:
        """Asks each for the blob before softmax, which it writes to a file, and compares it with the reference."""
        for label, (child, contestant) in self._running.items():
            if contestant.kind == "peak":
                continue
            try:
                child.ask(scores=str(file))
            except LeftOutError as reason:
                self.left_out[f"{label}, the blob before softmax,"] = str(reason)
                continue
            found = np.load(file).astype(np.float64)
            contestant.difference = relative_error(found.reshape(expected.shape), expected)
