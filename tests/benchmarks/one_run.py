"""One run in a process of its own, measured: `python -m tests.benchmarks.one_run '{...}'` prints JSON.

So that one run's memory and start do not count for another.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.quiet_beam import import_lean_beam
from tests.benchmarks.processes import children_of, held

_REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes:
        images: Images listed.
        wall_s: From the making of the pipeline to its end; the start of Python, imports and the choice of the engine
            not counted.
        cpu_s: User and system time of that, this process and its children.
        cpu_children_s: The children's share.
        process_cpu_s: All CPU time of the process from its start, imports counted.
        peak_mb: The most memory that this process held.
        peak_children_mb: The most that its children held, the sum of each one's most.
        end_mb: What this process holds at the end.
        files_mb: The part of that which is mapped files, such as libraries.
        start_mb: What it held before the run.
        summary: `RunSummary` as a dictionary.
    """

    images: int
    wall_s: float
    cpu_s: float
    cpu_children_s: float
    process_cpu_s: float
    peak_mb: float
    peak_children_mb: float
    end_mb: float
    files_mb: float
    start_mb: float
    summary: dict[str, Any]


def measure(images: Path | str, output: Path | str, model: Path | str, **settings: Any) -> Measured:
    """Scores a collection in a process of its own.

    Args:
        images: A folder or pattern.
        output: The table.
        model: A model directory; that of an idle engine is run by it.
        settings: `idle`: the name of an engine of `IDLE`; of `Limits`: `tile_pixels`, `pixel_budget`, `threads`,
            `max_pending`, `max_bytes`.
    """
    request = {"images": str(images), "output": str(output), "model": str(model), **settings}
    command = [sys.executable, "-m", "tests.benchmarks.one_run", json.dumps(request)]
    done = subprocess.run(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


class Watched:
    """The memory of this process's children, looked at now and then."""

    def __init__(self) -> None:
        self._peaks: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        return sum(self._peaks.values())

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            for child in children_of():
                self._peaks[child] = max(self._peaks.get(child, 0.0), held(child).get("VmHWM", 0.0))


def cpu_seconds() -> tuple[float, float]:
    """User and system seconds: of this process, of its children that have ended."""
    own, ended = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, ended.ru_utime + ended.ru_stime


def run(request: dict[str, Any]) -> Measured:
    """Scores a collection in this process."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline.runners.registry import open_runner
    from pipeline.scoring.batching import BatchBudget
    from pipeline.scoring.prefetch import LookAhead
    from pipeline.scoring.scorer import Limits
    from pipeline.settings import LOCAL
    from pipeline.table.summaries import read_summary
    from pipeline.transforms.list_images import ListImages
    from pipeline.transforms.score_images import ScoreImages
    from tests.benchmarks.engines import IDLE

    def of(kind: Any) -> Any:
        names = {field.name for field in dataclasses.fields(kind)} & request.keys()
        return kind(**{name: request[name] for name in names})

    limits = dataclasses.replace(of(Limits), budget=of(BatchBudget), look_ahead=of(LookAhead))
    # Before it is watched: the trial of an engine, once a machine, has a process of its own that does not decode.
    score = ScoreImages(
        request["model"],
        request["output"],
        limits=limits,
        rescore=request.get("rescore", False),
        open_engine=IDLE[request["idle"]] if request.get("idle") else None,
    )
    start_mb = held()["VmRSS"]
    before, started = cpu_seconds(), time.perf_counter()
    with Watched() as children:
        pipeline = beam.Pipeline(runner=open_runner(LOCAL), options=PipelineOptions([]))
        _ = pipeline | ListImages([request["images"]]) | score
        pipeline.run().wait_until_finish()
        wall = time.perf_counter() - started
    after = cpu_seconds()
    summary = read_summary(request["output"], score.run_id)
    end = held()
    own, others = (late - early for early, late in zip(before, after, strict=True))
    return Measured(
        images=summary.images.get("listed", 0),
        wall_s=wall,
        cpu_s=own + others,
        cpu_children_s=others,
        process_cpu_s=sum(after),
        peak_mb=end["VmHWM"],
        peak_children_mb=children.megabytes,
        end_mb=end["VmRSS"],
        files_mb=end["RssFile"],
        start_mb=start_mb,
        summary=summary._asdict(),
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import_lean_beam()  # as the command does
    print(json.dumps(dataclasses.asdict(run(json.loads(sys.argv[1])))))  # noqa: T201
