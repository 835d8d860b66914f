"""What a job starts before it is needed."""

import threading
from pathlib import Path
from typing import Any

import pytest

from conversion import read_metadata
from conversion.errors import ModelError
from pipeline.engines import EngineFactory
from pipeline.engines import ahead as engines_ahead
from pipeline.errors import EngineError
from pipeline.images import decoder_process
from pipeline.jobs import ahead
from pipeline.jobs.ahead import decide_engine, scores_all, starting_decoders, starting_engine
from pipeline.jobs.spec import ScoringJob, describe_job
from pipeline.maps.recipe import Recipe
from pipeline.settings import LOCAL, EngineName
from pipeline.sources.reference import resolve


def job(output: object, runner: str = LOCAL, model: object = "model", **settings: Any) -> ScoringJob:
    return describe_job(model=str(model), images=("photos",), output=str(output), runner=runner, **settings)


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


class Opened:
    """An engine, in place of one."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[EngineFactory]:
    """The factories whose engines were opened."""
    factories: list[EngineFactory] = []

    def open_engine(factory: EngineFactory) -> Opened:
        factories.append(factory)
        return Opened()

    monkeypatch.setattr(EngineFactory, "__call__", open_engine)
    return factories


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "densecast-open-engine":
            thread.join()


def test_the_model_is_opened_beside_what_comes_first(
    small_model: Path, tmp_path: Path, opened: list[EngineFactory], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(small_model.parent)
    wanted = job(tmp_path / "new", model=small_model.name, engine="onnxruntime")
    metadata = read_metadata(small_model)
    # What `ScoreImages` makes of the job.
    factory = EngineFactory(resolve(small_model.name), wanted.map_recipe().for_model(metadata), EngineName.ONNXRUNTIME)
    with starting_engine(wanted):
        with starting_engine(wanted):  # the command and `run_job` both ask for it
            assert decide_engine(wanted, metadata).engine is EngineName.ONNXRUNTIME
            engine = engines_ahead.take(factory)
        assert opened == [factory]
        assert engines_ahead.take(factory) is not engine  # it has one owner
        assert opened == [factory, factory]
    assert (ahead._starts, engines_ahead._announced) == ({}, {})


def test_an_engine_that_is_not_taken_is_dropped(small_model: Path, tmp_path: Path, opened: list[EngineFactory]):
    wanted = job(tmp_path / "new", model=small_model, engine="onnxruntime")
    with starting_engine(wanted):
        decide_engine(wanted, read_metadata(small_model))
    wait_for_threads()
    assert engines_ahead._announced == {}
    start = ahead._Start(wanted)
    start.drop()  # before the engine is decided
    opened.clear()
    start.run()
    assert (opened, engines_ahead._announced) == ([], {})


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "tensorflow"},
        {"engine": "onnxruntime", "accuracy_bound": 0.01},
        {"engine": "onnxruntime", "precision": "float16"},
        {"engine": "onnxruntime", "allow_empty": True},
        {"engine": "onnxruntime", "runner": "PrismRunner"},
    ],
)
def test_what_may_be_another_model_or_none_is_not_opened_ahead(
    small_model: Path, tmp_path: Path, opened: list[EngineFactory], settings: dict[str, Any]
):
    wanted = job(tmp_path / "new", model=small_model, **settings)
    with starting_engine(wanted):
        assert decide_engine(wanted, read_metadata(small_model)).engine == settings["engine"]
    wait_for_threads()
    assert opened == []


def test_what_goes_wrong_ahead_is_raised_where_it_is_waited_for(small_model: Path, tmp_path: Path, monkeypatch: Any):
    wanted = job(tmp_path / "new", model=tmp_path / "missing")
    with starting_engine(wanted), pytest.raises(ModelError, match="not a densecast model"):
        decide_engine(wanted, read_metadata(small_model))

    def fail(_: EngineFactory) -> None:
        raise EngineError("no memory")

    monkeypatch.setattr(EngineFactory, "__call__", fail)
    factory = EngineFactory("model", Recipe(), EngineName.ONNXRUNTIME)
    engine = engines_ahead.EngineAhead(factory)
    engine.open()
    with pytest.raises(EngineError, match="no memory"):
        engines_ahead.take(factory)
    engine.drop()
