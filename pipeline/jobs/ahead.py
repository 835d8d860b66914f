"""What a job starts before it is needed, beside the import of Beam, which uses one core for seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from conversion import ModelMetadata, check_files, read_metadata
from pipeline.engines import EngineFactory
from pipeline.engines.ahead import EngineAhead
from pipeline.images.decoder_process import decoders_ahead
from pipeline.jobs.spec import ScoringJob
from pipeline.scoring.engine_choice import EngineChoice, choose_engine
from pipeline.scoring.loader import DECODE
from pipeline.scoring.prefetch import LookAhead
from pipeline.settings import LOCAL, EngineName
from pipeline.sources.reference import resolve
from pipeline.storage.address import is_remote, local_path


def scores_all(job: ScoringJob) -> bool:
    """Returns whether a job surely scores, here: it runs in this process, into a new table in a local folder."""
    elsewhere = any(
        "direct_running_mode" in option or "direct_num_workers" in option for option in job.execution.beam_options
    )
    if job.execution.runner != LOCAL or elsewhere or is_remote(job.output):
        return False
    return not Path(local_path(job.output), "_delta_log").exists()


def starting_decoders(job: ScoringJob) -> contextlib.AbstractContextManager[None]:
    """Starts the processes that decode, where the job surely scores; those that were not used end with the block.

    Raises:
        IsolationError: A process cannot be started.
    """
    return decoders_ahead(LookAhead().threads, DECODE) if scores_all(job) else contextlib.nullcontext()


def decide_engine(job: ScoringJob, metadata: ModelMetadata) -> EngineChoice:
    """Returns the engine of a run, and checks what can be checked of it where the run starts.

    Where this process runs the engine, these are the files of the model, before the trial of an engine loads them, and
    that there is a GPU if one is asked for. Within `starting_engine` it is what the thread has decided.

    Raises:
        ModelError: A file of the model is not the one that the model was made with.
        EngineError: The engine cannot run the job, none can, or there is no GPU.
    """
    if (start := _starts.get(job.run_id)) is not None:
        return start.choice.result()
    return _decide(job, metadata)


@contextlib.contextmanager
def starting_engine(job: ScoringJob) -> Iterator[None]:
    """Decides the engine of a job in a thread and opens the model there, where the job surely scores.

    `decide_engine` and `ScoreFn` then wait for it, or have it. TensorFlow is not loaded ahead: what the process prints
    meanwhile would be lost with TensorFlow's own lines. Neither is a model of which the job leaves settings open. Does
    nothing within another block for the same job.
    """
    if not scores_all(job) or job.policy.allow_empty or job.run_id in _starts:
        yield
        return
    start = _starts[job.run_id] = _Start(job)
    # Not a daemon: a library that is stopped in the middle of loading a model aborts.
    threading.Thread(target=start.run, name="densecast-open-engine").start()
    try:
        yield
    finally:
        del _starts[job.run_id]
        start.drop()


class _Start:
    """The choice of a job's engine, and the engine.

    Attributes:
        choice: The choice, or why there is none.
    """

    def __init__(self, job: ScoringJob) -> None:
        self._job, self._dropped = job, False
        self._engine: EngineAhead | None = None
        self.choice: Future[EngineChoice] = Future()

    def run(self) -> None:
        """Decides, and opens the engine."""
        job = self._job
        try:
            metadata = read_metadata(job.model)
            choice = _decide(job, metadata)
            engine = None
            if choice.engine is not EngineName.TENSORFLOW and not job.leaves_open:
                # As `ScoreImages` makes it.
                recipe = job.map_recipe().for_model(metadata)
                engine = EngineAhead(EngineFactory(resolve(job.model), recipe, choice.engine, job.execution.device))
        except BaseException as error:  # noqa: BLE001 - it is raised where the choice is waited for
            self.choice.set_exception(error)
            return
        self._engine = engine
        self.choice.set_result(choice)
        if engine is not None:
            if self._dropped:  # before there was an engine
                engine.drop()
            engine.open()

    def drop(self) -> None:
        """Forgets an engine that was not taken."""
        self._dropped = True
        if self._engine is not None:
            self._engine.drop()


_starts: dict[str, _Start] = {}


def _decide(job: ScoringJob, metadata: ModelMetadata) -> EngineChoice:
    settings = job.execution
    device = job.launcher_device()
    recipe = job.map_recipe()
    here = settings.runner == LOCAL
    if here:
        check_files(job.model, metadata)
    choice = choose_engine(
        settings.engine, job.model, metadata, recipe, device=settings.device, xla=settings.xla, here=here
    )
    if here:
        EngineFactory(job.model, recipe, choice.engine, device).check()
    return choice
