"""What a job starts before it is needed."""

from pathlib import Path

import pytest

from pipeline.images import decoder_process
from pipeline.jobs.ahead import scores_all, starting_decoders
from pipeline.jobs.spec import ScoringJob, describe_job
from pipeline.settings import LOCAL


def job(output: object, runner: str = LOCAL) -> ScoringJob:
    return describe_job(model="model", images=("photos",), output=str(output), runner=runner)


def test_only_a_run_here_into_a_new_local_table_surely_scores(tmp_path: Path):
    (tmp_path / "old" / "_delta_log").mkdir(parents=True)
    assert scores_all(job(tmp_path / "new"))
    assert scores_all(job(tmp_path))
    assert not scores_all(job(tmp_path / "old"))
    assert not scores_all(job(tmp_path / "new", "PrismRunner"))
    assert not scores_all(job("memory://table"))


@pytest.mark.parametrize("log", [True, False])
def test_processes_that_decode_are_started_where_the_job_surely_scores(tmp_path: Path, log: bool):
    if log:
        (tmp_path / "_delta_log").mkdir()
    with starting_decoders(job(tmp_path)):
        assert bool(decoder_process._spares) is not log
    assert not decoder_process._spares
