"""One cell: opens all who take part, lets them run in turns, and asks for what they computed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conversion.export.verification import relative_error
from pipeline.tools.benchmark import PRODUCT_OPERATIONS
from tests.benchmarks.ruler.children import Child, Entrant, LeftOutError, convert
from tests.benchmarks.ruler.figures import Contestant, Outcome, order, seconds_of
from tests.benchmarks.ruler.nets import Cell, NetFiles, job, operations, reference

TURN_S = 0.1  # at least so long runs one in its turn


def measure(cell: Cell, folder: Path, entrants: Sequence[Entrant], rounds: int) -> Outcome:
    """Measures one cell.

    Args:
        cell: Net and size.
        folder: Where the forms of the net are, or are made.
        entrants: Who takes part, if it can.
        rounds: How many are counted; one more comes first.
    """
    files = NetFiles(cell.net, folder)
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as open_children:
        scratch = Path(name)
        asked = job(files, cell, scratch)
        expected = reference(files, cell, Path(asked["blob"]))
        running: dict[str, tuple[Child, Contestant]] = {}
        for entrant in entrants:
            try:
                convert(entrant, asked)
                child = Child(entrant.command, asked)
            except LeftOutError as reason:
                left_out[entrant.label] = str(reason)
                continue
            open_children.callback(child.close)
            opened = child.opened
            running[entrant.label] = child, Contestant(
                entrant.label, entrant.kind, opened["version"], child.ready_s, opened["held_mb"], opened["peak_mb"]
            )
        for round_ in range(rounds + 1):
            for label in order(list(running), round_):
                child, contestant = running[label]
                try:
                    answer = child.ask(run=TURN_S)
                except LeftOutError as reason:
                    left_out[label] = str(reason)
                    del running[label]
                    continue
                contestant.peak_mb = answer["peak_mb"]
                if round_:
                    contestant.turns.append(seconds_of(answer["seconds"]))
        if expected is not None:
            for child, contestant in running.values():
                if contestant.kind != "peak":
                    contestant.difference = _difference(child, scratch / "scores.npy", expected)
        contestants = [contestant for _, contestant in running.values()]
    return Outcome(
        cell=str(cell),
        net=cell.net,
        side=cell.pixels,
        batch=cell.batch,
        gflop=operations(files, cell) / 1e9,
        product_gflop=PRODUCT_OPERATIONS / 1e9,
        contestants=contestants,
        left_out=left_out,
    )


def _difference(child: Child, file: Path, expected: np.ndarray) -> float:
    child.ask(scores=str(file))
    return relative_error(np.load(file).astype(np.float64).reshape(expected.shape), expected)
