"""Parts that cannot be read: damage is told from an outage of the store."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.drift.measure import measure_drift
from pipeline.errors import TableError
from pipeline.maintenance.check import check
from pipeline.storage.errors import AccessError, MissingFileError, OutageError, UnavailableError
from pipeline.table.part_reader import reading_part
from tests.support.maintained import publish_rows, scored

OUTAGE = OSError("error sending request for url (http://127.0.0.1:1/maps)")


@pytest.mark.parametrize("damage", [pa.ArrowInvalid("bad page"), OSError("short read"), MissingFileError("is missing")])
@pytest.mark.parametrize("root", ["maps", "s3://bucket/maps"])
def test_damage_is_an_error_of_the_part(root: str, damage: Exception):
    with (
        pytest.raises(TableError, match="the part p cannot be read") as caught,
        reading_part(root, "the part p cannot be read", why="so", remedy="do this"),
    ):
        raise damage
    assert caught.value.__cause__ is damage
    assert (caught.value.where, caught.value.why, caught.value.remedy) == (root, "so", "do this")


@pytest.mark.parametrize("outage", [OUTAGE, UnavailableError("the store does not answer")])
def test_an_outage_says_nothing_of_the_part(outage: Exception):
    with pytest.raises(UnavailableError), reading_part("s3://bucket/maps", "the part p cannot be read"):
        raise outage


DENIED = "<Code>AccessDenied</Code><Message>Access Denied</Message> status code 403"
MOUNT_IS_GONE = OSError(errno.ENOTCONN, "Transport endpoint is not connected")


@pytest.mark.parametrize(
    ("root", "error", "kind"),
    [
        ("s3://bucket/maps", OSError(DENIED), AccessError),
        ("s3://bucket/maps", AccessError("access is denied"), AccessError),
        ("s3://bucket/maps", OUTAGE, OutageError),
        ("maps", PermissionError(errno.EACCES, "Permission denied"), AccessError),
        ("maps", MOUNT_IS_GONE, UnavailableError),
        (
            "maps",
            OSError("Error reading. Detail: [errno 107] Transport endpoint is not connected"),
            UnavailableError,
        ),
        ("maps", OSError(errno.EIO, "Input/output error"), TableError),
        ("maps", OSError("Unexpected end of stream: Page was smaller (1) than expected (7)"), TableError),
    ],
    ids=str,
)
def test_only_damage_is_called_damage_wherever_the_table_is(root: str, error: Exception, kind: type[Exception]):
    with pytest.raises(kind) as caught, reading_part(root, "the part p cannot be read", why="it may be damaged"):
        raise error
    assert type(caught.value) is kind
    assert ("damaged" in str(caught.value)) is (kind is TableError)


def test_drift_and_check_say_that_the_disk_is_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "maps"
    for run in ("r1", "r2"):
        publish_rows(root, [scored(f"{run}.jpg", run)], run)

    def fail(*_: object) -> None:
        raise MOUNT_IS_GONE

    monkeypatch.setattr("pipeline.table.part_reader.arrow_filesystem", fail)
    for command in (measure_drift, check):
        with pytest.raises(UnavailableError, match="not connected") as caught:
            command(str(root))
        assert "mounted" in caught.value.remedy


def test_an_outage_is_not_called_damage_by_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipeline.drift import measure

    def fail(*_: object) -> None:
        raise OUTAGE

    monkeypatch.setattr(measure, "open_part", fail)
    with pytest.raises(UnavailableError):
        list(measure._row_groups("s3://bucket/maps", "part-1.parquet"))
    with pytest.raises(TableError, match=r"part-1.parquet cannot be read"):
        list(measure._row_groups(str(tmp_path), "part-1.parquet"))
