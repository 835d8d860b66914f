"""What a job starts before it is needed, beside the import of Beam, which uses one core for seconds."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipeline.images.decoder_process import decoders_ahead
from pipeline.jobs.spec import ScoringJob
from pipeline.scoring.loader import DECODE
from pipeline.scoring.prefetch import LookAhead
from pipeline.settings import LOCAL
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
