"""Each part of the growth figures runs, on few and small images; nothing here asserts a speed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from rich.console import Console

from conversion import cast, dilate, load_network
from models import entry
from pipeline.maps.classification_map import check_cells, check_values
from pipeline.runners.flags import check_flags
from tests.benchmarks import growth
from tests.benchmarks.engines import IDLE
from tests.benchmarks.one_run import Measured
from tests.benchmarks.processes import Usage
from tests.support.fakes import FakeEngine

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def no_processes(monkeypatch):
    """Jobs take 1 s of CPU more each time, and make a map every half second."""
    seconds = iter(range(1, 100))

    def score(model, images, output, *flags):
        count = sum(path.is_file() for path in images.rglob("*"))
        output.mkdir()
        times = [START + timedelta(seconds=number / 2) for number in range(count)]
        pq.write_table(pa.table({"scored_at": times}), output / "part-0.parquet")
        return Usage(START.timestamp(), 1.0, float(next(seconds)), 100.0)

    monkeypatch.setattr(growth, "score", score)


def test_by_count(tmp_path, no_processes):
    first, second = growth.by_count(tmp_path, (2, 4), tmp_path)
    assert (first.name, second.name) == ("2", "4")
    assert first.figures["steady to the first"] == 1
    assert second.figures["images/s"] == 4


def test_short_collections_run_several_times(tmp_path, no_processes, monkeypatch):
    monkeypatch.setattr(growth, "COUNTS", (2, 4))
    first, second = growth.by_count(tmp_path, (2, 4), tmp_path)
    assert (first.figures["runs"], second.figures["runs"]) == (2, 1)
    assert first.figures["CPU ms an image"] == pytest.approx(1.5 / 2 * 1e3)  # jobs of 1 and 2 s


def test_by_area_takes_off_the_start(tmp_path, no_processes, monkeypatch):
    monkeypatch.setattr(growth, "_multiply_adds", lambda model, side: side**3 * 1e6)
    small, large = growth.by_area(tmp_path, (40, 80), tmp_path, least=5_000)
    assert (small.figures["images"], large.figures["images"]) == (4, 1)  # 4 * 40 ** 2 and 80 ** 2 pixels
    assert small.figures["CPU s a megapixel"] == pytest.approx(1 / (3 * 0.0016))  # the second run takes 1 s more
    assert large.figures["CPU s a megapixel"] == pytest.approx(2 / (0.0064 - 0.0016))
    assert large.figures["CPU ms a billion multiply-adds"] == pytest.approx(2000 / (512 - 64))


def test_by_workers(tmp_path, no_processes, monkeypatch):
    monkeypatch.setattr(growth, "mixed_photographs", lambda folder, count: growth.copies(folder, 40, count))
    lines = growth.by_workers(tmp_path, 3, 1, tmp_path)
    assert [line.name for line in lines] == list(growth.WORKERS)
    assert lines[0].figures["steady_per_s"] == 2
    assert [line.figures["steady to 1 process"] for line in lines] == [1, 1, 1]


def test_no_round_of_workers_is_begun_that_would_end_too_late(tmp_path, no_processes, monkeypatch):
    monkeypatch.setattr(growth, "mixed_photographs", lambda folder, count: growth.copies(folder, 40, count))
    scored = []
    score = growth.score
    monkeypatch.setattr(growth, "score", lambda *arguments: (scored.append(arguments), score(*arguments))[1])
    growth.by_workers(tmp_path, 3, 5, tmp_path, budget_s=0)
    assert len(scored) == len(growth.WORKERS)


@pytest.mark.parametrize("flags", growth.WORKERS.values(), ids=growth.WORKERS)
def test_beam_knows_the_flags_of_workers(flags):
    check_flags(FnApiRunner(), flags)


def test_idle_counts_the_difference(tmp_path, monkeypatch):
    def measure(images, output, model, idle):
        count = len(list(images.rglob("*.jpg")))
        return Measured(count, count * 0.01, 1 + count * 0.003, count * 0.002, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, {})

    monkeypatch.setattr(growth, "measure", measure)
    lines = growth.idle(tmp_path, (1, 3))
    assert [line.name for line in lines] == [f"1 to 3 images, {maps}" for maps in growth.IDLE_MAPS.values()]
    assert lines[0].figures == pytest.approx(
        {
            "CPU ms, main": 1,
            "CPU ms, decoders": 2,
            "wall ms": 10,
            "images/s for one GPU": 1000,
            "cores to decode them": 2,
        }
    )


def test_by_stride(tmp_path, monkeypatch):
    network = cast(load_network(entry("caffenet").definition))
    monkeypatch.setattr(growth, "finer", lambda folder, stride: tmp_path / str(stride))
    monkeypatch.setattr(growth, "load_network", lambda file: dilate(network, int(file.parent.name)))
    monkeypatch.setattr(growth, "open_engine", lambda model: FakeEngine())
    first, second = growth.by_stride(tmp_path, (32, 8), size=451)
    assert first.figures["time a multiply-add to the first"] == 1
    assert (first.name, second.name) == ("stride 32", "stride 8")
    assert second.figures["multiply-adds to the first"] > 4


def test_all_parts_are_shown(tmp_path, monkeypatch):
    line = growth.Line("name", {"figure": 1.5})
    for part in ("by_count", "by_area", "by_workers", "idle", "by_stride"):
        monkeypatch.setattr(growth, part, lambda *_, **__: [line])
    console = Console(record=True, quiet=True)
    found = growth.report(tmp_path, console)
    assert len(found) == 5
    assert all(figures == {"name": {"figure": 1.5}} for figures in found.values())


def test_copies_are_names_of_one_file(tmp_path):
    files = sorted(growth.copies(tmp_path, 30, 3).iterdir())
    assert len({file.stat().st_ino for file in files}) == 1
    with Image.open(files[0]) as image:
        assert image.size == (30, 30)


def test_idle_engines_give_the_maps_that_are_named():
    image = np.zeros((1, 451, 451, 3), np.uint8)
    for name, maps in growth.IDLE_MAPS.items():
        [cells] = IDLE[name]().score(image)
        height, width, k = cells.classes.shape
        assert maps == f"maps of {height} x {width} cells, {k} classes"
        check_cells("", cells, IDLE[name].metadata.classes)
        check_values("", cells)
