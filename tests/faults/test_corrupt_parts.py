"""What dead runs left may be damaged: it is not adopted, its images are scored again, and vacuum takes it away."""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from conversion.errors import DensecastError
from pipeline.maintenance.vacuum import vacuum
from pipeline.table.rewrite import Action, Edit, rewrite
from pipeline.transforms import inventory
from pipeline.transforms.reconcile import Known
from tests.faults import points
from tests.faults.collection import Night, Settle, maps_left_behind
from tests.faults.disks import raising

_WEEK_S = 8 * 24 * 3600


@pytest.fixture(scope="module")
def dead(first_night: Night, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that ended before its commit has left."""
    output = tmp_path_factory.mktemp("dead") / "maps"
    with pytest.MonkeyPatch.context() as patch:
        points.install("before the commit", raising(errno.EIO), patch.setattr)
        with pytest.raises(DensecastError, match="Input/output error"):
            first_night.run(output)
    return output


def _parts(output: Path) -> list[Path]:
    """The oldest first; the first ones may hold rejections only."""
    return sorted(output.glob("part-*.parquet"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _flip(part: Path, at: int) -> None:
    data = bytearray(part.read_bytes())
    data[at] ^= 4
    part.write_bytes(data)


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit flipped in its pages": lambda part: _flip(part, part.stat().st_size // 4),
    "a bit flipped in its footer": lambda part: _flip(part, part.stat().st_size - 7),
    "truncated": lambda part: part.write_bytes(part.read_bytes()[:-100]),
    "empty": lambda part: part.write_bytes(b""),
    "garbage": lambda part: part.write_bytes(random.Random(0).randbytes(5000)),
    "another Parquet file": lambda part: pa.parquet.write_table(pa.table({"uri": ["a"]}), part),
}


@pytest.mark.parametrize("what", _DAMAGE)
def test_a_damaged_part_of_a_dead_run_is_not_adopted(
    what: str, first_night: Night, dead: Path, tmp_path: Path, settle: Settle
):
    output = tmp_path / "maps"
    shutil.copytree(dead, output)
    parts = _parts(output)
    _DAMAGE[what](parts[-1])
    (output / f".{parts[0].name}.{'0' * 32}.partial").write_bytes(b"PAR1")
    images = first_night.run(output).summary.images
    assert 0 < images["adopt"] < 20
    deleted = vacuum(str(output), clock=lambda: time.time() + _WEEK_S).deleted
    assert len(deleted) == len(parts) + 1
    assert not maps_left_behind(output)
    outcome = f"not used: {images['adopt']} of 20 maps adopted; {len(deleted)} files vacuumed"
    settle(f"a part left behind, {what}", outcome, output, first_night.images.listed(), first_night.after)


def test_no_flipped_bit_of_a_part_changes_what_is_adopted(dead: Path, tmp_path: Path):
    """One bit at a time, all over a file: it is recognised, or it is of no matter."""
    output = tmp_path / "maps"
    shutil.copytree(dead, output)
    part = _parts(output)[-1]
    data, random_ = part.read_bytes(), random.Random(1)
    known = inventory.read_orphan(str(output), part.name)
    rows = _adopted(output, part, known)
    assert rows.num_rows
    refused = 0
    for _ in range(300):
        bit = random_.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        part.write_bytes(damaged)
        found = inventory.read_orphan(str(output), part.name)
        refused += not found
        assert found in ([], known), f"bit {bit}"
        if found:
            assert _adopted(output, part, found).equals(rows), f"bit {bit}"
    assert refused > 150


def _adopted(output: Path, part: Path, known: list[Known]) -> pa.Table:
    edits = [
        Edit(k.uri, k.part, Action.ADOPT, k.version, k.id, [(scale, index) for scale, index, _ in k.slots])
        for k in known
    ]
    receipt = rewrite(str(output), part.name, edits, orphan=True, run_id="adopter", now=datetime.now(UTC))
    assert receipt is not None
    path = output / receipt.path
    rows = pa.parquet.read_table(path, partitioning=None)
    path.unlink()
    return rows
