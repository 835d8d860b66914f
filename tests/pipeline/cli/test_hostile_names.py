"""Names come from archives and other people's folders: they must not control the terminal of who lists them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from pipeline.cli.commands.maintenance import check, vacuum
from pipeline.cli.commands.table import rejected
from tests.support import maintained
from tests.support.maintained import files, publish_rows, replace, scored, with_column

NAME = "a\x1b]0;owned\x07\x1b[2J\tb\r\nc\u202egpj.exe\u2028"
SHOWN = r"a\x1b]0;owned\x07\x1b[2J\tb\r\nc\u202egpj.exe\u2028"


def test_a_rejection_is_one_line_of_three_fields(tmp_path: Path) -> None:
    publish_rows(tmp_path / "maps", [maintained.rejected(NAME), maintained.rejected("b.jpg")])
    result = CliRunner().invoke(rejected, [str(tmp_path / "maps")])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "image\treason\tdetail",
        f"{SHOWN}\tcorrupt\tno end",
        "b.jpg\tcorrupt\tno end",
    ]


def test_a_check_shows_no_control_characters(tmp_path: Path) -> None:
    root = tmp_path / "maps"
    publish_rows(root, [scored(NAME)])
    [part] = files(root)
    replace(root, part, with_column(pq.read_table(part), "map_digest", 0, "0" * 64))
    (root / NAME).write_bytes(b"")
    for command, arguments in ((check, [str(root)]), (vacuum, [str(root), "--dry-run"])):
        output = CliRunner().invoke(command, arguments).output
        assert not set("\x1b\x07\r\u202e\u2028") & set(output)
        assert "x1b" in output
