"""`densecast score` against what a user would write instead: a plain loop, Ray Data, Beam's RunInference.

Whole processes, in turns, on the same JPEG files of mixed size and the same net: CaffeNet with seeded weights. The
peers run the graph that `densecast export` writes, by ONNX Runtime on two threads. Every pipeline keeps the best five
classes of each cell, and when it had each map. From that follow the time to the first map and the steady state, which
is the rate after the first fifth of the maps. A peer whose maps are others than densecast's gets no figure.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from conversion import export_onnx
from tests.benchmarks.caffenet import caffenet
from tests.benchmarks.files import mixed_photographs
from tests.benchmarks.processes import Usage, run_watched

IMAGES, IMAGES_ALL = 300, 500
ROUNDS = 3
BUDGET_S = 250.0
"""No further round is begun that would end later than this after the first began."""
STARTING = 0.2
"""The share of the maps that do not count for the steady state."""
LEAST_SAME = 0.999
"""A peer's maps are those of densecast if at least this share of the cells has the same best class."""
OURS = "densecast score"

_REPOSITORY = Path(__file__).parents[2]
RAY_PYTHON = _REPOSITORY / ".venv-pipelines/bin/python"


class Map(NamedTuple):
    """The map of an image.

    Attributes:
        time: When there was a map, in seconds since 1970.
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k].
    """

    time: float
    classes: np.ndarray
    scores: np.ndarray


class Pipeline(NamedTuple):
    """A pipeline that is measured.

    Attributes:
        name: What it is.
        command: Returns the command that scores into a new folder.
        read: Returns the maps in that folder, by the name of the file without its ending.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    read: Callable[[Path], dict[str, Map]]


class Speed(NamedTuple):
    """What one run of a pipeline took.

    Attributes:
        images_per_s: With the start of the process and its end.
        steady_per_s: After the first fifth of the maps.
        first_map_s: From the start of the process to the first map.
        cpu_s: User and system time of all processes.
        peak_mb: The most memory that all processes held at a time, in megabytes.
    """

    images_per_s: float
    steady_per_s: float
    first_map_s: float
    cpu_s: float
    peak_mb: float


class Agreement(NamedTuple):
    """How the maps of a peer differ from those of densecast.

    Attributes:
        images: Images that both have maps of, of the same size.
        missing: Images of which either has none, or one of another size.
        cells: Cells of the images.
        same_best: The share of cells with the same best class, 0 to 1.
        largest: The largest difference of the best probability.
    """

    images: int
    missing: int
    cells: int
    same_best: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether the maps are those of densecast."""
        return self.cells > 0 and not self.missing and self.same_best >= LEAST_SAME


def measure(
    pipelines: Sequence[Pipeline], folder: Path, rounds: int, budget_s: float
) -> tuple[dict[str, list[Speed]], dict[str, Agreement]]:
    """Runs pipelines in turns, the first of which is densecast.

    Args:
        pipelines: The pipelines.
        folder: Where their results go; each is deleted when it was read.
        rounds: How often each is run at most; at least once.
        budget_s: No round is begun that would probably end after so many seconds.

    Returns:
        What each run took, and how the maps of the first round differ from densecast's, by name.
    """
    speeds: dict[str, list[Speed]] = {pipeline.name: [] for pipeline in pipelines}
    agreements: dict[str, Agreement] = {}
    started = time.perf_counter()
    for round_ in range(rounds):
        gone = time.perf_counter() - started
        if round_ and gone * (round_ + 1) / round_ > budget_s:
            break
        ours: dict[str, Map] = {}
        for pipeline in pipelines:
            output = folder / "output"
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
            usage = run_watched(pipeline.command(output), _REPOSITORY, _environment(), folder / "log.txt")
            maps = pipeline.read(output)
            ours = ours or maps
            if not round_:
                agreements[pipeline.name] = agreement(ours, maps)
            speeds[pipeline.name].append(speed(usage, [found.time for found in maps.values()]))
    shutil.rmtree(folder / "output", ignore_errors=True)
    return speeds, agreements


def speed(usage: Usage, times: Sequence[float]) -> Speed:
    """Returns what a run took whose maps were there at these times, in seconds since 1970."""
    return Speed(
        images_per_s=len(times) / usage.wall_s,
        steady_per_s=steady_rate(times),
        first_map_s=min(times, default=float("nan")) - usage.started,
        cpu_s=usage.cpu_s,
        peak_mb=usage.peak_mb,
    )


def steady_rate(times: Sequence[float], starting: float = STARTING) -> float:
    """Returns how many results came a second after the first share of them; NaN for fewer than two times.

    >>> steady_rate([0.0, 8.0, 10.0, 12.0, 14.0])
    0.5
    """
    ordered = sorted(times)
    first = int(len(ordered) * starting)
    seconds = ordered[-1] - ordered[first] if len(ordered) > 1 else 0.0
    return (len(ordered) - 1 - first) / seconds if seconds > 0 else float("nan")


def agreement(ours: Mapping[str, Map], theirs: Mapping[str, Map]) -> Agreement:
    """Compares the maps of two pipelines."""
    both = [
        (ours[name], theirs[name])
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name].classes.shape[:2] == theirs[name].classes.shape[:2]
    ]
    missing = len(ours.keys() | theirs.keys()) - len(both)
    cells = sum(our.classes[..., 0].size for our, _ in both)
    same = sum(int((our.classes[..., 0] == their.classes[..., 0]).sum()) for our, their in both)
    largest = max((float(np.abs(our.scores[..., 0] - their.scores[..., 0]).max()) for our, their in both), default=0.0)
    return Agreement(len(both), missing, cells, same / cells if cells else 0.0, largest)


def read_table(output: Path) -> dict[str, Map]:
    """Returns the maps of a densecast table."""
    maps = {}
    columns = ["uri", "status", "map_height", "map_width", "classes", "scores", "scored_at"]
    for part in output.glob("part-*.parquet"):
        for row in pq.read_table(part, columns=columns).to_pylist():
            if row["status"] == "scored":
                shape = row["map_height"], row["map_width"], -1
                classes, scores = np.array(row["classes"], np.int32), np.array(row["scores"], np.float32)
                stamp = row["scored_at"].timestamp()
                maps[Path(row["uri"]).stem] = Map(stamp, classes.reshape(shape), scores.reshape(shape))
    return maps


def read_files(output: Path) -> dict[str, Map]:
    """Returns the maps that a peer wrote."""
    maps = {}
    for file in output.glob("*.npz"):
        with np.load(file) as stored:
            maps[file.stem] = Map(float(stored["time"]), stored["classes"], stored["scores"])
    return maps


def map_times(output: Path) -> list[float]:
    """Returns when each row of a densecast table was made, in seconds since 1970."""
    parts = (pq.read_table(part, columns=["scored_at"])["scored_at"] for part in output.glob("part-*.parquet"))
    return [stamp.timestamp() for part in parts for stamp in part.to_pylist() if stamp is not None]


def densecast(model: Path, images: Path, *flags: str) -> Pipeline:
    """The pipeline that is compared, with flags for Beam."""
    beam = ("--", *flags) if flags else ()
    command = [sys.executable, "-m", "pipeline.cli", "score", str(model), str(images)]
    return Pipeline(OURS, lambda output: [*command, "--output", str(output), *beam], read_table)


def score(model: Path, images: Path, output: Path, *flags: str) -> Usage:
    """Runs `densecast score` in a process of its own, with flags for Beam; returns what it took."""
    log = output.with_name(output.name + ".log")
    return run_watched(densecast(model, images, *flags).command(output), _REPOSITORY, _environment(), log)


def peers(graph: Path, images: Path, ray: Path = RAY_PYTHON) -> list[Pipeline]:
    """The peers that are installed.

    Args:
        graph: An ONNX graph, with its weights.
        images: The folder of JPEG files.
        ray: The Python of the environment that has Ray.
    """
    found = [("plain loop", sys.executable, "loop"), ("Beam RunInference", sys.executable, "beam_inference")]
    if ray.exists():
        found.append(("Ray Data", str(ray), "ray_data"))
    return [
        Pipeline(name, functools.partial(_peer, python, module, graph, images), read_files)
        for name, python, module in found
    ]


def _peer(python: str, module: str, graph: Path, images: Path, output: Path) -> list[str]:
    return [python, "-m", f"tests.benchmarks.peers.{module}", str(graph), str(images), str(output)]


def dense_graph(folder: Path, model: Path) -> Path:
    """The ONNX file of a model for the peers, with the probabilities as its only output; made once a folder."""
    import onnx

    file = folder / f"{model.name}.onnx"
    if not file.exists():
        partial = file.with_suffix(".partial")
        export_onnx(model, partial, overwrite=True)
        graph = onnx.load(partial)
        del graph.graph.output[1:]
        onnx.save(graph, partial)
        partial.rename(file)
    return file


def report(folder: Path, console: Console, *, everything: bool = False) -> dict[str, object]:
    """Measures, prints a table, and returns the figures for JSON."""
    model = caffenet(folder)
    count = IMAGES_ALL if everything else IMAGES
    images = mixed_photographs(folder, count)
    pipelines = [densecast(model, images), *peers(dense_graph(folder, model), images)]
    if not RAY_PYTHON.exists():
        console.print("Ray is not installed: not compared (tests/benchmarks/install-pipelines installs it)")
    budget_s = float("inf") if everything else BUDGET_S
    speeds, agreements = measure(pipelines, folder / "pipelines", ROUNDS, budget_s)
    summary = summarize(speeds, agreements)
    console.print(as_table(summary, agreements, f"{count} JPEG files of 300 to 640 pixels, CaffeNet"))
    return {"images": count, "rounds": len(speeds[OURS]), "pipelines": summary, "agreement": _plain(agreements)}


def summarize(
    speeds: Mapping[str, Sequence[Speed]], agreements: Mapping[str, Agreement]
) -> dict[str, dict[str, float]]:
    """Returns the medians of each pipeline by name, and the ratio of ours to it; none for wrong maps.

    `ratio` is ours to theirs in images a second, the median of the rounds' ratios; `steady_ratio` in steady state.
    """
    summary = {}
    for name, runs in speeds.items():
        if not agreements[name].holds:
            continue
        pairs = list(zip(speeds[OURS], runs, strict=True))
        summary[name] = {
            **{field: statistics.median(getattr(run, field) for run in runs) for field in Speed._fields},
            "ratio": statistics.median(our.images_per_s / run.images_per_s for our, run in pairs),
            "steady_ratio": statistics.median(our.steady_per_s / run.steady_per_s for our, run in pairs),
        }
    return summary


def as_table(summary: Mapping[str, Mapping[str, float]], agreements: Mapping[str, Agreement], title: str) -> Table:
    table = Table(title=title)
    heads = ("images/s", "steady", "first map, s", "CPU, s", "peak, MB", "ours / it", "steady", "same best class")
    for head in ("", *heads):
        table.add_column(head, justify="right" if head else "left")
    for name, found in agreements.items():
        same = f"{found.same_best:.4%} of {found.cells:,} cells, {found.images} images; off by {found.largest:.1g}"
        if name not in summary:
            table.add_row(name, *[""] * 7, f"WRONG MAPS: {same}; {found.missing} images without")
            continue
        row = summary[name]
        table.add_row(
            name,
            f"{row['images_per_s']:.2f}",
            f"{row['steady_per_s']:.2f}",
            f"{row['first_map_s']:.1f}",
            f"{row['cpu_s']:.0f}",
            f"{row['peak_mb']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['steady_ratio']:.2f}",
            "" if name == OURS else same,
        )
    return table


def _plain(agreements: Mapping[str, Agreement]) -> dict[str, dict[str, float]]:
    return {name: found._asdict() for name, found in agreements.items()}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "ignore"}
