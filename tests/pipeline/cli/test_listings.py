"""The listings of tables: nothing is cut, columns are headed, and equal versions are said to be equal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from conversion import load_network
from models import entry
from pipeline.cli.main import main
from pipeline.table.reader import MapTable
from tests.support import maintained
from tests.support.example_maps import make_map
from tests.support.maintained import publish_rows, scored

Capture = pytest.CaptureFixture[str]
RUN = "nightly-2026-11-28-1a2b3c4d-r17"


def printed(capsys: Capture, *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return out


@pytest.mark.parametrize("columns", ["80", "40", "200"])
def test_run_ids_are_whole(columns: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_rows(tmp_path / "maps", [scored("a.jpg", RUN)], RUN)
    monkeypatch.setattr("pipeline.cli.console._WIDE", int(columns))
    shown = printed(capsys, "runs", tmp_path / "maps")
    assert RUN in shown
    assert "listed" in shown


def test_rejected_has_a_header_and_json(tmp_path: Path, capsys: Capture) -> None:
    publish_rows(tmp_path / "maps", [maintained.rejected("a b.jpg")])
    assert printed(capsys, "rejected", tmp_path / "maps") == "image\treason\tdetail\na b.jpg\tcorrupt\tno end\n"
    [image] = json.loads(printed(capsys, "rejected", tmp_path / "maps", "--json"))
    assert image == {"uri": "a b.jpg", "reason": "corrupt", "detail": "no end", "scales": [1.0]}


def test_drift_heads_its_columns_and_says_when_nothing_changed(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "maps"
    publish_rows(root, [scored("a.jpg")], "r1")
    publish_rows(root, [], "r2")
    assert "no change: all 1 maps and 0 rejections" in printed(capsys, "drift", root, "--against", "r1")
    publish_rows(root, [scored("b.jpg", "r3")], "r3")
    shown = printed(capsys, "drift", root, "--against", "r1")
    assert "no change" not in shown
    assert [line.split() for line in shown.splitlines()[2:4]] == [
        ["maps", "maps", "rejected", "rejected", "confidence", "confidence", "median", "median", "largest"],
        ["images", "before", "after", "before", "after", "before", "after", "before", "after", "distance", "change"],
    ]


def test_what_python_shows_of_maps_tables_and_networks_is_short(tmp_path: Path) -> None:
    shown = repr(make_map(np.zeros((200, 300), int), uri="photos/\x1bcat.jpg"))
    assert shown.startswith("<ClassificationMap 'photos/\\x1bcat.jpg': 200 x 300 cells, image ")
    publish_rows(tmp_path / "maps", [scored("a.jpg")])
    tables = repr(MapTable(str(tmp_path / "maps")))
    network = repr(load_network(entry("digits").definition))
    assert re.fullmatch(r"<Network '\w+': \d+ layers, no weights, inputs 'data' \[1, 3, 32, 32\]>", network), network
    assert all(len(text) < 250 for text in (shown, tables, network))
