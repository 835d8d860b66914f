"""What grows with what: time with the number of images and with their area, speed with workers, cost with finer maps.

Each part compares figures of one run. Whole processes are `densecast score`; their rates are in steady state, see
`tests.benchmarks.pipelines`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from conversion import NETWORK_FILE, convert, load_network
from models import entry
from pipeline.tools.demo import convert_digits
from tests.benchmarks.caffenet import caffenet
from tests.benchmarks.engine import in_turns
from tests.benchmarks.engines import idle_model, open_engine
from tests.benchmarks.files import mixed_photographs, photographs, thumbnails
from tests.benchmarks.one_run import measure
from tests.benchmarks.pipelines import Speed, map_times, score, speed
from tests.benchmarks.ruler.nets import NetFiles
from tests.benchmarks.tiles import picture

COUNTS, MOST = (1_000, 10_000), 50_000
COUNT_ROUNDS = 3
SIDES = (451, 1_000, 2_000, 4_000, 10_000)
LEAST_PIXELS = 2 * 10**7
"""So many pixels are scored of each size, in several files if need be: the start of a process counts little then."""
WORKER_IMAGES, WORKER_ROUNDS = 100, 3
WORKER_BUDGET_S = 240.0
"""No further round is begun that would end later than this after the first began."""
WORKERS: dict[str, tuple[str, ...]] = {
    "1 process": (),
    "1 process, 2 threads": ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
    "2 processes": ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
}
"""Flags of Beam's local runner."""
IDLE_COUNTS = (1_000, 5_000)
IDLE_MAPS = {"caffenet": "maps of 8 x 8 cells, 5 classes", "idle": "maps of 55 x 55 cells, 2 classes"}
"""The engines that do nothing, and what they give for an image of 451 x 451 pixels."""
STRIDES = (32, 16, 8)
STRIDE_SIZE = 451


class Line(NamedTuple):
    """One line of a part.

    Attributes:
        name: What was measured.
        figures: Its figures, by name.
    """

    name: str
    figures: dict[str, float]


def report(folder: Path, console: Console, *, everything: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """Measures, prints a table for each part, and returns the figures for JSON."""
    parts = {
        "images a second by number of images, digits model, files of 32 x 32": partial(
            by_count, folder, (*COUNTS, MOST) if everything else COUNTS
        ),
        "CPU time by image area, CaffeNet": partial(by_area, folder, SIDES),
        "workers of the local runner, CaffeNet, JPEG files of 300 to 640 pixels": partial(
            by_workers, folder, WORKER_IMAGES, WORKER_ROUNDS, budget_s=float("inf") if everything else WORKER_BUDGET_S
        ),
        "the pipeline with an engine that does nothing, JPEG files of 451 x 451": partial(idle, folder, IDLE_COUNTS),
        f"finer maps, CaffeNet, one image of {STRIDE_SIZE} x {STRIDE_SIZE}": partial(by_stride, folder, STRIDES),
    }
    found = {}
    for title, part in parts.items():
        lines = part()
        console.print(_table(title, lines))
        found[title] = {line.name: line.figures for line in lines}
    return found


def by_count(folder: Path, counts: Sequence[int], model: Path | None = None) -> list[Line]:
    """Returns the rates of collections of several sizes, with the digits model or another.

    They are medians of several runs where these are short: a thousand images take three seconds in steady state.
    """
    if model is None:
        model = folder / "digits"
        if not model.exists():
            convert_digits(model)
    lines: list[Line] = []
    for count in counts:
        runs = max(1, min(COUNT_ROUNDS, COUNTS[-1] // count))
        speeds = [_scored(folder, model, thumbnails(folder, count)) for _ in range(runs)]
        found = _medians(speeds, ("images_per_s", "steady_per_s", "cpu_s"))
        steady = found["steady_per_s"]
        figures = {"images/s": found["images_per_s"], "steady": steady, "CPU ms an image": found["cpu_s"] / count * 1e3}
        first = lines[0].figures["steady"] if lines else steady
        lines.append(Line(f"{count:,}", {**figures, "steady to the first": steady / first, "runs": runs}))
    return lines


def by_area(folder: Path, sides: Sequence[int], model: Path | None = None, least: int = LEAST_PIXELS) -> list[Line]:
    """Returns CPU seconds by the side of square images, with CaffeNet or another model.

    What the process costs with one small image is taken off. A large image has more cells a pixel than a small one, so
    the time is given by multiply-adds as well.

    Args:
        folder: Where files and models are made.
        sides: Sides in pixels.
        model: The model.
        least: The least number of pixels that are scored of each size.
    """
    model = model or caffenet(folder)
    base = _scored(folder, model, copies(folder, sides[0], 1))
    lines: list[Line] = []
    for side in sides:
        count = max(2, -(-least // side**2)) if side == sides[0] else max(1, -(-least // side**2))
        found = _scored(folder, model, copies(folder, side, count))
        megapixels = (count * side**2 - sides[0] ** 2) / 1e6
        billions = (count * _multiply_adds(model, side) - _multiply_adds(model, sides[0])) / 1e9
        more_s = found.cpu_s - base.cpu_s
        cost = more_s / billions * 1e3
        first = lines[0].figures["CPU ms a billion multiply-adds"] if lines else cost
        figures = {
            "images": count,
            "CPU s a megapixel": more_s / megapixels,
            "CPU ms a billion multiply-adds": cost,
            "to the first": cost / first,
            "peak MB": found.peak_mb,
        }
        lines.append(Line(f"{side**2 / 1e6:.1f} megapixels", figures))
    return lines


def by_workers(
    folder: Path, images: int, rounds: int, model: Path | None = None, *, budget_s: float = WORKER_BUDGET_S
) -> list[Line]:
    """Returns the rates of one process, of one with two threads, and of two processes: medians of rounds in turns.

    Args:
        folder: Where files and models are made.
        images: How many are scored each time.
        rounds: How often each is run at most; at least once.
        model: The model; CaffeNet by default.
        budget_s: No round is begun that would probably end after so many seconds.
    """
    model, files = model or caffenet(folder), mixed_photographs(folder, images)
    runs: dict[str, list[Speed]] = {name: [] for name in WORKERS}
    started = time.perf_counter()
    for round_ in range(rounds):
        gone = time.perf_counter() - started
        if round_ and gone * (round_ + 1) / round_ > budget_s:
            break
        for name, flags in WORKERS.items():
            runs[name].append(_scored(folder, model, files, *flags))
    return [
        Line(
            name,
            {
                **_medians(found, ("images_per_s", "steady_per_s", "cpu_s", "peak_mb")),
                "steady to 1 process": statistics.median(
                    run.steady_per_s / one.steady_per_s for run, one in zip(found, runs["1 process"], strict=True)
                ),
            },
        )
        for name, found in runs.items()
    ]


def idle(folder: Path, counts: tuple[int, int]) -> list[Line]:
    """Returns what the pipeline takes for one image more, from the difference of two collections.

    The images a second are what the main process could pass on if it had a core of its own, however fast the engine is;
    the decoders need the cores that are given.
    """
    return [_idle(folder, counts, name, maps) for name, maps in IDLE_MAPS.items()]


def _idle(folder: Path, counts: tuple[int, int], name: str, maps: str) -> Line:
    model = idle_model(folder / f"idle-{name}", name)
    few, many = (
        measure(photographs(folder, count), _fresh(folder / "idle-output"), model, idle=name) for count in counts
    )
    more = many.images - few.images
    main = ((many.cpu_s - many.cpu_children_s) - (few.cpu_s - few.cpu_children_s)) / more
    decoders = (many.cpu_children_s - few.cpu_children_s) / more
    figures = {
        "CPU ms, main": main * 1e3,
        "CPU ms, decoders": decoders * 1e3,
        "wall ms": (many.wall_s - few.wall_s) / more * 1e3,
        "images/s for one GPU": 1 / main,
        "cores to decode them": decoders / main,
    }
    return Line(f"{few.images:,} to {many.images:,} images, {maps}", figures)


def by_stride(folder: Path, strides: Sequence[int], size: int = STRIDE_SIZE) -> list[Line]:
    """Returns times by stride of the cells, and what they are for each multiply-add, the first stride's being 1."""
    models = [finer(folder, stride) for stride in strides]
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    times = in_turns(*[partial(open_engine(model).score, image) for model in models])
    operations = [_multiply_adds(model, size) for model in models]
    return [
        Line(
            f"stride {stride}",
            {
                "ms": ms,
                "time to the first": ms / times[0],
                "multiply-adds to the first": count / operations[0],
                "time a multiply-add to the first": ms / times[0] / (count / operations[0]),
            },
        )
        for stride, ms, count in zip(strides, times, operations, strict=True)
    ]


def finer(folder: Path, stride: int) -> Path:
    """CaffeNet with cells at this stride, made below `folder` unless it is there."""
    caffenet(folder)
    known, model = entry("caffenet"), folder / f"caffenet-stride-{stride}"
    if not model.exists():
        weights = NetFiles("caffenet", folder).file("classifier", ".caffemodel")
        convert(known.definition, weights, model, mean=known.mean, output_stride=stride)
    return model


def copies(folder: Path, side: int, count: int) -> Path:
    """A folder with `count` names of one JPEG file of side x side pixels."""
    done = folder / f"squares-{side}-{count}"
    if not done.exists():
        original = picture(folder / f"square-{side}", side, "jpg", width=side) / "image.jpg"
        partly = done.with_name(done.name + ".partial")
        shutil.rmtree(partly, ignore_errors=True)
        partly.mkdir()
        for number in range(count):
            os.link(original, partly / f"{number:04d}.jpg")
        partly.rename(done)
    return done


def _multiply_adds(model: Path, size: int) -> int:
    network = load_network(model / NETWORK_FILE)
    ((blob, (_, channels, *_)),) = network.inputs.items()
    return network.multiply_adds({blob: (1, channels, size, size)})


def _scored(folder: Path, model: Path, images: Path, *flags: str) -> Speed:
    output = _fresh(folder / "growth-output")
    usage = score(model, images, output, *flags)
    found = speed(usage, map_times(output))
    shutil.rmtree(output)
    return found


def _fresh(output: Path) -> Path:
    shutil.rmtree(output, ignore_errors=True)
    return output


def _medians(runs: Sequence[Speed], fields: Sequence[str]) -> dict[str, float]:
    return {field: statistics.median(getattr(run, field) for run in runs) for field in fields}


def _table(title: str, lines: Sequence[Line]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for head in lines[0].figures:
        table.add_column(head, justify="right")
    for line in lines:
        table.add_row(line.name, *[f"{value:,.4g}" for value in _values(line.figures)])
    return table


def _values(figures: Mapping[str, float]) -> list[float]:
    return list(figures.values())
