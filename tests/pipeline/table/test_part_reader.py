"""Parts that cannot be read: damage is told from an outage of the store."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import TableError
from pipeline.storage.errors import MissingFileError, UnavailableError
from pipeline.table.part_reader import reading_part

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


def test_an_outage_is_not_called_damage_by_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipeline.drift import measure

    def fail(*_: object) -> None:
        raise OUTAGE

    monkeypatch.setattr(measure, "open_part", fail)
    with pytest.raises(UnavailableError):
        list(measure._row_groups("s3://bucket/maps", "part-1.parquet"))
    with pytest.raises(TableError, match=r"part-1.parquet cannot be read"):
        list(measure._row_groups(str(tmp_path), "part-1.parquet"))
