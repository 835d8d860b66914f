from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli.commands import maintenance
from pipeline.errors import TableError
from pipeline.maintenance import compact as compaction
from pipeline.maintenance.check import check
from pipeline.maintenance.check_parts import Logged
from pipeline.maintenance.compact import Group, compact, plan
from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStore
from pipeline.table import part_file
from pipeline.table.commit import ConflictError
from pipeline.table.log import active_parts
from pipeline.table.part_reader import Part
from pipeline.table.reader import MapTable
from pipeline.table.rows import MapRow, rows_to_arrow
from pipeline.units import parse_size
from tests.support.maintained import files, mixed_rows, publish_rows, rows_of, scored, write


def nightly(root: Path, runs: int = 6) -> None:
    """A table of several runs, each with a part of its own whose addresses interleave with the others'."""
    for run in range(runs):
        rows: list[MapRow] = [scored(f"{i:02}-{run}.jpg", f"r{run}") for i in range(5)]
        publish_rows(root, rows, f"r{run}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "maps é x"
    nightly(root)
    publish_rows(root, mixed_rows("r9"), "r9")
    return root


def logged(sizes: list[int]) -> list[Logged]:
    return [Logged(f"p{i:03}", size, 1, {"uri": f"{i:03}"}, {}, {}) for i, size in enumerate(sizes)]


def test_the_rows_are_the_same_and_the_files_are_few(root: Path) -> None:
    before = rows_of(root)
    done = compact(str(root))
    assert (done.files_before, done.files_after, done.passes, done.rows) == (7, 1, 1, 38)
    assert rows_of(root) == before
    assert check(str(root)).findings == ()
    with pq.ParquetFile(files(root)[0]) as file:
        uris: list[Any] = file.read(columns=["uri"]).column(0).to_pylist()
    assert uris == sorted(uris)
    assert done.version == DeltaTable(str(root)).version()
    assert len(MapTable(str(root))) == len(before) - 1 - 2, (
        "of the rows one is rejected, and three are tiles of one map"
    )


def test_a_second_compaction_has_nothing_to_do(root: Path) -> None:
    version = compact(str(root)).version
    kept = files(root)
    done = compact(str(root))
    assert (done.passes, done.version, done.rows) == (0, version, 0)
    assert files(root) == kept


@pytest.mark.parametrize("target", [1, 20_000, 45_000, 10**9])
def test_any_target_size_keeps_the_rows_and_comes_to_rest(root: Path, target: int) -> None:
    before = rows_of(root)
    compact(str(root), target)
    assert rows_of(root) == before
    assert compact(str(root), target).passes == 0
    small = [path for path in files(root) if path.stat().st_size < target / 2]
    assert len(small) <= 1
    assert check(str(root)).clean


def test_compacted_parts_have_small_sorted_row_groups(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (part_file, compaction):
        monkeypatch.setattr(module, "ROW_GROUP_BYTES", 4000)
    monkeypatch.setattr(compaction, "_CHUNK_BYTES", 1000)
    before = rows_of(root)
    compact(str(root))
    assert rows_of(root) == before
    with pq.ParquetFile(files(root)[0]) as file:
        groups: list[Any] = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        assert len(groups) > 3
        column = file.schema_arrow.get_field_index("uri")
        ranges = [(g.column(column).statistics.min, g.column(column).statistics.max) for g in groups]
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(ranges))
        assert not groups[0].column(file.schema_arrow.get_field_index("tile_y")).is_stats_set


@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_gathered_in_any_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whether the files are sorted or not, however many row groups they have."""
    folder = tmp_path_factory.mktemp("gather")
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    everything = list(range(sum(lengths)))
    order = np.array(data.draw(st.permutations(everything)), np.int64)
    rows = [scored(f"{i:03}.jpg") for i in everything]
    opened = []
    for index, length in enumerate(lengths):
        start = sum(lengths[:index])
        pq.write_table(rows_to_arrow(rows[start:][:length]), folder / f"{index}.parquet", row_group_size=2)
        opened.append(Part(pq.ParquetFile(folder / f"{index}.parquet")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "_CHUNK_BYTES", data.draw(st.sampled_from([1, 3000, 10**9])))
        found = [uri for table in compaction._gather(opened, order) for uri in table.column("uri").to_pylist()]
    for file in opened:
        file.close()
    assert found == [f"{i:03}.jpg" for i in order]


@given(sizes=st.lists(st.integers(1, 300), max_size=40), target=st.integers(1, 500))
def test_a_plan_merges_neighbours_of_the_right_size(sizes: list[int], target: int) -> None:
    found = logged(sizes)
    groups = plan(found, target)
    merged = [part for group in groups for part in group.parts]
    assert merged == sorted(set(merged)), "each once, neighbours together"
    by_path = {file.path: file.size_bytes for file in found}
    for group in groups:
        assert len(group.parts) > 1
        assert group.size_bytes == sum(by_path[part] for part in group.parts)
        assert group.size_bytes - by_path[group.parts[-1]] < target
        assert all(by_path[part] < target / 2 for part in group.parts)
    left = [size for path, size in by_path.items() if path not in merged and size < target / 2]
    assert len(left) <= 1, "one may have no partner"


def test_a_group_has_so_many_files_at_most() -> None:
    groups = plan(logged([1] * 150), 10**9)
    assert [len(group.parts) for group in groups] == [64, 64, 22]
    assert plan(logged([5]), 100) == []
    assert plan(logged([60, 60]), 100) == []
    assert plan(logged([40, 40]), 100) == [Group(("p000", "p001"), 80)]


def during_commit(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """Lets something happen once between the writing of the merged part and its commit."""
    merge = compaction._merge

    def first(*args: Any) -> Any:
        receipt = merge(*args)
        monkeypatch.setattr(compaction, "_merge", merge)
        action()
        return receipt

    monkeypatch.setattr(compaction, "_merge", first)


def test_a_run_that_publishes_meanwhile_is_no_conflict(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(rows_of(root))
    during_commit(monkeypatch, lambda: publish_rows(root, [scored("new.jpg", "r10")], "r10"))
    assert compact(str(root)).files_after == 1, "the second pass takes the new part as well"
    assert len(rows_of(root)) == before + 1
    assert check(str(root)).clean


def test_a_run_that_replaces_a_part_meanwhile_wins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """deltalake by itself would commit both, and rows would be there twice."""
    target = next(path for path in files(root) if "part-r9-" in path.name)
    again = [*mixed_rows("r10")]
    during_commit(monkeypatch, lambda: publish_rows(root, again, "r10", removed=[target.name]))
    with pytest.raises(ConflictError, match="run again"):
        compact(str(root))
    assert check(str(root)).findings == ()
    assert not list(root.glob("part-compaction-*")), "what was merged in vain is deleted"
    assert compact(str(root)).files_after == 1
    assert check(str(root)).findings == ()


def test_two_compactions_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(root)
    during_commit(monkeypatch, lambda: compact(str(root)))
    with pytest.raises(ConflictError):
        compact(str(root))
    assert rows_of(root) == before
    assert check(str(root)).findings == ()


def test_a_commit_that_keeps_failing_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_ATTEMPTS", 2)
    before, version = rows_of(root), DeltaTable(str(root)).version()
    real, runs = active_parts, iter(range(100, 200))

    def interfering(table: DeltaTable) -> set[str]:
        found = real(table)
        run = f"r{next(runs)}"
        publish_rows(root, [], run)
        return found

    monkeypatch.setattr(compaction, "active_parts", interfering)
    with pytest.raises(TableError, match="tried 2 times"):
        compact(str(root))
    assert DeltaTable(str(root)).version() == version + 2
    assert rows_of(root) == before
    assert not list(root.glob("part-compaction-*"))


def test_a_damaged_part_stops_it_and_nothing_changes(root: Path) -> None:
    part = files(root)[0]
    with pq.ParquetFile(part) as file:
        column = file.metadata.row_group(0).column(file.schema_arrow.get_field_index("uri"))
    data = bytearray(part.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    part.write_bytes(data)
    version = DeltaTable(str(root)).version()
    with pytest.raises(TableError, match="cannot be merged"):
        compact(str(root))
    assert DeltaTable(str(root)).version() == version
    assert not list(root.glob("part-compaction-*"))


def test_a_merged_part_that_differs_is_not_published(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(root)
    gather = compaction._gather
    monkeypatch.setattr(compaction, "_gather", lambda *args: (table.slice(1) for table in gather(*args)))
    with pytest.raises(TableError, match="other rows"):
        compact(str(root))
    assert rows_of(root) == before
    assert not list(root.glob("part-compaction-*"))


def test_foreign_columns_are_not_lost(root: Path) -> None:
    part = files(root)[0]
    table = pq.read_table(part)
    pq.write_table(table.append_column("mine", table.column("uri")), part)
    compact(str(root))
    [merged] = files(root)
    kept = pq.read_table(merged, columns=["uri", "mine"])
    marked = set(table.column("uri").to_pylist())
    assert [(row["uri"], row["mine"]) for row in kept.to_pylist()] == [
        (uri, uri if uri in marked else None) for uri in kept.column("uri").to_pylist()
    ]


def test_foreign_columns_of_two_types_are_refused(root: Path) -> None:
    first, second = files(root)[:2]
    for part, column in ((first, "uri"), (second, "scale")):
        table = pq.read_table(part)
        pq.write_table(table.append_column("mine", table.column(column)), part)
    with pytest.raises(TableError, match=r"a column with different types.*mine"):
        compact(str(root))


def test_killed_before_the_commit_it_leaves_the_table_and_files_for_vacuum(root: Path) -> None:
    before = rows_of(root)
    code = (
        "import os, sys; from pipeline.maintenance import compact\n"
        "compact._commit = lambda *_: os._exit(9)\n"
        "compact.compact(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], timeout=120, capture_output=True)
    assert done.returncode == 9, done.stderr
    assert len(list(root.glob("part-compaction-*"))) == 1
    assert rows_of(root) == before
    report = check(str(root))
    assert report.clean
    assert any("never published" in note for note in report.notes)
    assert compact(str(root)).files_after == 1
    assert rows_of(root) == before


def test_a_full_disk_is_not_called_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(root)

    def fail(_: LocalStore, path: str, data: bytes) -> None:
        raise StorageError("cannot be written: No space left on device", where=path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write_atomically", fail)
        with pytest.raises(StorageError, match="No space left"):
            compact(str(root))
    assert rows_of(root) == before


def test_killed_after_the_commit_the_table_is_compacted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(root)

    def fail(self: LocalStore, path: str, data: bytes) -> None:
        if "compactions" in path:
            raise StorageError("disk full", where=path)
        real(self, path, data)

    real = LocalStore.write_atomically
    monkeypatch.setattr(LocalStore, "write_atomically", fail)
    with pytest.raises(StorageError):
        compact(str(root))
    monkeypatch.undo()
    assert rows_of(root) == before
    assert len(files(root)) == 1
    assert check(str(root)).clean


def test_orphans_are_not_merged(root: Path) -> None:
    write(root, [scored("x.jpg", "dead")], "dead")
    before = rows_of(root)
    compact(str(root))
    assert rows_of(root) == before
    assert len(list(root.glob("part-dead-*"))) == 1


def test_the_command(root: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(maintenance.compact, [str(root), "--target-size", "1GB"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("7 files (")
    assert " became 1 (" in result.output
    result = runner.invoke(maintenance.compact, [str(root)])
    assert result.output.startswith("nothing to do: 1 files")
    result = runner.invoke(maintenance.compact, [str(root), "--json"])
    assert json.loads(result.output)["passes"] == 0
    for bad in ("0", "12X", "-1"):
        assert runner.invoke(maintenance.compact, [str(root), f"--target-size={bad}"]).exit_code == 2
    with pytest.raises(TableError, match="no table"):
        compact(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("text", "size"), [("128MB", 128 * 10**6), ("1G", 10**9), ("500k", 500_000), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
