"""Two tables are equal exactly if they hold the same rows: every planted difference is found, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TableError
from pipeline.maps.recipe import Form, Recipe
from pipeline.table import diff
from pipeline.table.diff import VARYING, Slot, TableDiff, compare, summary
from pipeline.table.rows import rows_to_arrow
from pipeline.table.schema import IDENTITY, SCHEMA
from tests.support.maintained import mixed_rows
from tests.support.stored_rows import MODEL, rejected, scored

FEATURE = {"name": "fc", "height": 3, "width": 3, "channels": 2, "dtype": "float32", "values": bytes(72)}
ROWS = [
    *mixed_rows(),
    scored("f.jpg", recipe=Recipe(MODEL, Form.LOG_UINT8)),
    dataclasses.replace(scored("g.jpg"), features=[FEATURE]),
]
TABLE = rows_to_arrow(ROWS)
COLUMNS = [name for name in SCHEMA.names if name not in (*VARYING, *IDENTITY)]
SLOTS = [Slot(row.uri, row.scale, row.tile_index) for row in ROWS]

places = st.integers(0, len(ROWS) - 1)


def compared(left: Any, right: Any) -> TableDiff:
    return compare(pads.dataset(left), pads.dataset(right))


def with_value(table: Any, name: str, index: int, value: Any) -> Any:
    """A table with another value in one place."""
    at = table.schema.get_field_index(name)
    values = table.column(name).to_pylist()
    values[index] = value
    field = table.schema.field(name)
    return table.set_column(at, field, pa.array(values, field.type))


def other(value: Any, kind: Any, draw: Any) -> Any:
    """A value that differs from another by as little as its type allows."""
    if pa.types.is_string(kind):
        return draw(st.text().filter(lambda text: text != value))
    if pa.types.is_binary(kind):
        if not value:
            return b"\0"
        place = draw(st.integers(0, len(value) - 1))
        return value[:place] + bytes([value[place] ^ (1 << draw(st.integers(0, 7)))]) + value[place + 1 :]
    if value is None and (pa.types.is_list(kind) or pa.types.is_struct(kind)):
        return [] if pa.types.is_list(kind) else {field.name: 0.0 for field in kind}
    if pa.types.is_integer(kind):
        return (value or 0) + 1
    if pa.types.is_float64(kind):
        return math.nextafter(value or 0.0, math.inf)
    if pa.types.is_float32(kind):
        return float(np.nextafter(np.float32(value or 0), np.float32(2)))
    if pa.types.is_struct(kind):
        field = draw(st.sampled_from(list(kind)))
        return {**value, field.name: other(value[field.name], field.type, draw)}
    assert pa.types.is_list(kind), kind
    if not value or draw(st.booleans()):
        return value[:-1] if value else [None]
    place = draw(st.integers(0, len(value) - 1))
    return [*value[:place], other(value[place], kind.value_type, draw), *value[place + 1 :]]


@given(st.permutations(range(len(ROWS))), st.integers(1, 4), st.data())
def test_order_files_run_and_time_make_no_difference(order: list[int], rows: int, data: st.DataObject):
    right = TABLE.take(order)
    for name, value in (("run_id", "another"), ("scored_at", datetime(2027, 1, 1, tzinfo=UTC))):
        right = with_value(right, name, data.draw(places), value)
    right = pa.Table.from_batches(right.to_batches(max_chunksize=rows))
    found = compared(TABLE, right)
    assert found.equal
    assert found.columns == ()
    assert (found.left.rows, found.right.rows) == (len(ROWS), len(ROWS))


@given(st.data(), places, st.sampled_from(COLUMNS))
def test_a_value_that_differs_is_found_in_every_column(data: st.DataObject, at: int, name: str):
    value = TABLE.column(name)[at].as_py()
    found = compared(TABLE, with_value(TABLE, name, at, other(value, SCHEMA.field(name).type, data.draw)))
    assert not found.equal
    assert (found.differing, found.looked_into) == (1, 1)
    [column] = found.columns
    assert (column.column, column.rows, column.first) == (name, 1, SLOTS[at])


@given(st.data(), places, st.sampled_from(IDENTITY))
def test_a_row_under_another_name_is_missing_on_one_side_and_too_many_on_the_other(
    data: st.DataObject, at: int, name: str
):
    value = 7 if name == "tile_index" else other(TABLE.column(name)[at].as_py(), SCHEMA.field(name).type, data.draw)
    found = compared(TABLE, with_value(TABLE, name, at, value))
    assert not found.equal
    assert found.right.missing_examples == (SLOTS[at],)
    assert (found.left.missing, found.right.missing, found.differing) == (1, 1, 0)


@given(st.sets(places), st.lists(places), st.sets(places))
def test_all_that_is_planted_is_counted(lost: set[int], doubled: list[int], changed: set[int]):
    """Rows are lost on the left, doubled on the right and of another class on the right, in any combination."""
    left = TABLE.take(pa.array([at for at in range(len(ROWS)) if at not in lost], pa.int64()))
    right = TABLE
    for at in changed:
        right = with_value(right, "class_count", at, 99)
    right = pa.concat_tables([right, right.take(pa.array(doubled, pa.int64()))])
    for found, a, b in ((compared(left, right), "left", "right"), (compared(right, left), "right", "left")):
        one, two = getattr(found, a), getattr(found, b)
        assert (one.rows, one.missing, one.repeated) == (len(ROWS) - len(lost), len(lost), 0)
        assert (two.rows, two.missing, two.repeated) == (len(ROWS) + len(doubled), 0, len(doubled))
        assert found.differing == len(changed - lost - set(doubled))
        assert found.equal == (not lost and not doubled and not changed)
        told = "\n".join(summary(found, "there", "here"))
        assert ("are missing" in told) == bool(lost)
        assert ("too many" in told) == bool(doubled)
        assert ("rows differ" in told) == bool(found.differing)


def test_swapped_tiles_are_found():
    """Each map is there, each sum is right, and two tiles lie in each other's place."""
    tiles = [at for at, slot in enumerate(SLOTS) if slot.uri == "c.tif"]
    numbers = TABLE.column("tile_index").to_pylist()
    numbers[tiles[0]], numbers[tiles[1]] = numbers[tiles[1]], numbers[tiles[0]]
    at = SCHEMA.get_field_index("tile_index")
    swapped = TABLE.set_column(at, SCHEMA.field(at), pa.array(numbers, pa.int32()))
    found = compared(TABLE, swapped)
    assert found.differing == 2
    assert {"scores", "map_digest", "tile_x"} <= {column.column for column in found.columns}


@given(st.floats(-1, 1, width=32), places.filter(lambda at: ROWS[at].scores is not None))
def test_the_largest_difference_is_that_of_the_scores(delta: float, at: int):
    scores = TABLE.column("scores")[at].as_py()
    moved = float(np.float32(scores[1] + delta))
    found = compared(TABLE, with_value(TABLE, "scores", at, [scores[0], moved, *scores[2:]]))
    if moved == scores[1]:
        assert found.equal
    else:
        assert found.columns[0].largest == abs(moved - scores[1])


@pytest.mark.parametrize(("form", "dtype"), [(Form.FLOAT16, np.float16), (Form.LOG_UINT8, np.uint8)])
def test_probabilities_are_compared_as_they_are_read(form: Form, dtype: Any):
    at = next(n for n, row in enumerate(ROWS) if row.form == form)
    stored = TABLE.column("probabilities")[at].as_py()
    mirrored = np.frombuffer(stored, dtype)[::-1].tobytes()
    found = compared(TABLE, with_value(TABLE, "probabilities", at, mirrored))
    assert found.columns[0].column == "probabilities"
    assert found.columns[0].largest is not None
    assert 0 < found.columns[0].largest <= 1
    found = compared(TABLE, with_value(TABLE, "probabilities", at, stored[:-1]))
    assert found.columns[0].largest is None, "maps of two sizes are not a number apart"


def test_features_are_compared_as_they_are_read():
    at = len(ROWS) - 1
    [feature] = TABLE.column("features")[at].as_py()
    values = np.frombuffer(feature["values"], np.float32).copy()
    values[3] += 2
    found = compared(TABLE, with_value(TABLE, "features", at, [{**feature, "values": values.tobytes()}]))
    assert [(column.column, column.largest) for column in found.columns] == [("features", 2.0)]


def test_not_a_number_equals_itself_and_zero_is_not_minus_zero():
    nan = with_value(TABLE, "scores", 0, [math.nan] * 18)
    assert compared(nan, nan).equal
    zero, minus = (with_value(TABLE, "scores", 0, [sign] * 18) for sign in (0.0, -0.0))
    assert compared(zero, zero).equal
    assert [column.largest for column in compared(zero, minus).columns] == [0.0]


def test_columns_that_one_side_lacks_or_has_as_another_type_are_told():
    found = compared(TABLE, TABLE.drop_columns(["detail"]))
    assert (found.left.columns, found.right.columns, found.equal) == (("detail",), (), False)
    wide = TABLE.set_column(
        SCHEMA.get_field_index("image_height"), "image_height", TABLE.column("image_height").cast(pa.int64())
    )
    found = compared(TABLE, wide)
    assert (found.left.columns, found.right.columns, found.equal) == (("image_height",), ("image_height",), False)
    assert "other columns: image_height" in "\n".join(summary(found, "there", "here"))


def test_a_table_without_the_columns_that_rows_are_found_by_is_an_error():
    with pytest.raises(TableError, match="no scale"):
        compared(TABLE, TABLE.drop_columns(["scale"]))


def test_of_very_many_differences_a_few_are_looked_into(monkeypatch: pytest.MonkeyPatch):
    """The count is of all; the columns are those of the rows that were read again, a few at a time."""
    monkeypatch.setattr(diff, "LOOKED_INTO", 3)
    monkeypatch.setattr(diff, "_CHUNK", 2)
    right = TABLE
    for at in range(len(ROWS)):
        right = with_value(right, "model_digest", at, "cd" * 32)
    found = compared(TABLE, right)
    assert (found.differing, found.looked_into) == (len(ROWS), 3)
    [column] = found.columns
    assert (column.rows, column.first) == (3, min(SLOTS))
    assert "of which 3 were compared" in "\n".join(summary(found, "there", "here"))


def test_a_difference_is_told_with_both_values():
    [row] = [at for at, slot in enumerate(SLOTS) if slot.uri == "e.jpg"]
    right = with_value(TABLE, "detail", row, "another end")
    told = "\n".join(summary(compared(TABLE, right), "there", "here"))
    assert "e.jpg (scale 1, tile 0): no end there, another end here" in told


# --- within a tolerance


WHOLE = dataclasses.replace(
    scored("h.jpg", recipe=Recipe(MODEL, Form.FLOAT32)),
    features=[{**FEATURE, "values": np.linspace(-40, 20, 18, dtype=np.float32).tobytes()}],
)
FLOATS = rows_to_arrow([*ROWS, WHOLE])
AT = len(ROWS)


def moved(name: str, by: float) -> Any:
    """The table with one number of a map moved, and the map's digest changed with it."""
    value = FLOATS.column(name)[AT].as_py()
    if name in ("probabilities", "features"):
        stored = value if name == "probabilities" else value[0]["values"]
        numbers = np.frombuffer(stored, "<f4").copy()
        numbers[3] += np.float32(by)
        value = numbers.tobytes() if name == "probabilities" else [{**value[0], "values": numbers.tobytes()}]
    else:
        value[3] = float(np.float32(value[3] + by))
    return with_value(with_value(FLOATS, name, AT, value), "map_digest", AT, "ef" * 32)


def near(right: Any, tolerance: float = 1e-6) -> TableDiff:
    return compare(pads.dataset(FLOATS), pads.dataset(right), tolerance=tolerance)


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("scores", 5e-7, 5e-6),
        ("residual", 5e-7, 5e-6),
        ("probabilities", 5e-7, 5e-6),
        ("features", 3e-5, 3e-4),  # of 40 at most
    ],
)
def test_floats_of_an_engine_are_equal_within_the_tolerance(name: str, within: float, beyond: float):
    found = near(moved(name, within))
    assert found.equal
    assert (found.differing, found.columns, found.rounded) == (0, (), 1)
    assert found.largest_rounding == pytest.approx(within, rel=0.2)
    told = "\n".join(summary(found, "there", "here"))
    assert "1 rows differ in the last digits only, by up to " in told
    assert not near(moved(name, within), tolerance=0.0).equal, "by default nothing is allowed"
    found = near(moved(name, beyond))
    assert (found.equal, found.differing, found.rounded) == (False, 1, 0)
    assert {column.column for column in found.columns} == {"map_digest", name}


def test_not_a_number_is_near_itself_alone():
    values = FLOATS.column("scores")[AT].as_py()
    left = with_value(FLOATS, "scores", AT, [math.nan, *values[1:]])
    right = with_value(left, "scores", AT, [math.nan, values[1] + 5e-7, *values[2:]])
    assert compare(pads.dataset(left), pads.dataset(right), tolerance=1e-6).rounded == 1
    assert not near(right).equal


@given(st.data(), places, st.sampled_from([name for name in COLUMNS if name not in {*diff.ENGINE_FLOATS, "classes"}]))
def test_whatever_an_engine_does_not_compute_is_exact(data: st.DataObject, at: int, name: str):
    """Digests, geometry and all else, also in a table whose scores differ within the tolerance."""
    value = FLOATS.column(name)[at].as_py()
    right = with_value(moved("scores", 5e-7), name, at, other(value, SCHEMA.field(name).type, data.draw))
    found = near(right)
    assert (found.equal, found.differing, found.rounded) == (False, 1, 1)
    assert [column.column for column in found.columns] == [name]


def with_cell(classes: list[int], scores: list[float]) -> Any:
    """The table with other classes and scores in the first cell of its map."""
    table = FLOATS
    cell: dict[str, list[Any]] = {"classes": classes, "scores": [float(np.float32(score)) for score in scores]}
    for name, values in cell.items():
        stored: list[Any] = table.column(name)[AT].as_py()
        table = with_value(table, name, AT, values + stored[len(values) :])
    return table


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (((7, 8), (0.4, 0.3)), ((7, 8), (0.4, 0.3)), True),
        (((7, 8), (0.3000001, 0.3)), ((8, 7), (0.3000001, 0.3)), True),  # change places
        (((7, 8), (0.4, 0.3)), ((8, 7), (0.4, 0.3)), False),
        (((7, 8), (0.4, 0.3)), ((7, 5), (0.4, 0.3000001)), True),  # the last one kept is another
        (((7, 8), (0.4, 0.3)), ((5, 8), (0.4, 0.3)), False),
    ],
)
def test_classes_are_equal_unless_their_scores_are_within_the_tolerance(left: Any, right: Any, equal: bool):
    tables = [pads.dataset(with_cell(list(classes), list(scores))) for classes, scores in (left, right)]
    assert compare(tables[0], tables[1], tolerance=1e-6).equal is equal


def test_a_digest_alone_is_no_rounding():
    found = near(with_value(FLOATS, "map_digest", AT, "ef" * 32))
    assert [column.column for column in found.columns] == ["map_digest"]
    found = near(with_value(moved("scores", 5e-7), "map_digest", AT, None))
    assert [column.column for column in found.columns] == ["map_digest"]


def test_a_row_that_differs_anyhow_is_not_said_to_be_rounded():
    found = near(with_value(moved("scores", 5e-7), "class_count", AT, 99))
    assert (found.differing, found.rounded) == (1, 0)
    assert [column.column for column in found.columns] == ["class_count"]


def test_tables_without_rows_are_equal():
    empty = TABLE.slice(0, 0)
    assert compared(empty, empty).equal
    assert compared(empty, rows_to_arrow([rejected("a.jpg")])).left.missing == 1
