"""The recipe of the table's page decodes every form without densecast, bit by bit as densecast does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable

from pipeline import MapTable
from pipeline.maps.quantization import RELATIVE_ERROR
from pipeline.maps.recipe import Form
from tests.docs.markdown import ROOT, blocks
from tests.support.maintained import publish_rows, scored

PAGE = ROOT / "docs" / "table-format.md"


def block_with(text: str) -> str:
    [found] = [block.text for block in blocks(PAGE) if block.language == "python" and text in block.text]
    return found


@pytest.fixture(scope="module")
def decode() -> Callable[[dict[str, Any]], np.ndarray]:
    namespace: dict[str, Any] = {"np": np}
    exec(block_with("def decode(row)").replace("probabilities = decode(row)", ""), namespace)  # noqa: S102 - our own page
    function: Callable[[dict[str, Any]], np.ndarray] = namespace["decode"]
    return function


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("decoding") / "maps"
    publish_rows(root, [scored(f"{form}.jpg", form=form, size=5, version=7) for form in Form if form != Form.TOP_K])
    publish_rows(root, [scored("top.jpg", "r2", size=5)], "r2")
    return root


@pytest.mark.parametrize("by", ["pyarrow", "polars"])
def test_every_form_is_decoded(root: Path, decode: Callable[[dict[str, Any]], np.ndarray], by: str) -> None:
    rows = DeltaTable(root).to_pyarrow_table().to_pylist() if by == "pyarrow" else pl.read_delta(str(root)).to_dicts()
    assert len(rows) == 4
    for row in rows:
        cells = MapTable(str(root)).read(row["uri"])
        decoded = decode(row)
        assert decoded.dtype == np.float32
        if row["form"] == Form.TOP_K:
            np.testing.assert_array_equal(np.take_along_axis(decoded, cells.classes.astype(int), -1), cells.scores)
            assert np.count_nonzero(decoded) == cells.scores.size
        else:
            assert cells.probabilities is not None
            np.testing.assert_array_equal(decoded, cells.probabilities.astype(np.float32))


def test_the_query_decodes_codes(root: Path) -> None:
    rows = DeltaTable(root).to_pyarrow_table()
    namespace: dict[str, Any] = {"rows": rows, "duckdb": duckdb}
    exec(block_with("duckdb.sql"), namespace)  # noqa: S102 - our own page
    decoded = np.array([value for _, _, value in sorted(namespace["cells"], key=lambda cell: cell[1])]).reshape(5, 5)
    [row] = [row for row in rows.to_pylist() if row["form"] == "log-uint8"]
    codes = np.frombuffer(row["probabilities"], np.uint8).reshape(5, 5, 4)[..., 3]
    np.testing.assert_allclose(decoded, np.where(codes == 0, 0, 2.0 ** ((codes - 255.0) * 20 / 254)), rtol=1e-12)
    cells = MapTable(str(root)).read("log-uint8.jpg")
    is_outside = ~(cells.classes == 3).any(-1)
    np.testing.assert_allclose(
        np.minimum(decoded, cells.scores[..., -1])[is_outside],
        cells.probabilities[..., 3][is_outside],  # type: ignore[index]
        rtol=RELATIVE_ERROR,
    )
