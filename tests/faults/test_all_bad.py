"""A collection of which nothing can be used gives a table of reasons, and an exit code that says so."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from pipeline.cli.commands.table import score
from pipeline.exit_codes import ExitCode
from tests.faults.collection import Images, Settle, without_tensorflow
from tests.support.image_files import FILES


def test_a_collection_without_a_good_image(tmp_path: Path, settle: Settle):
    images, output = Images(tmp_path / "collection"), tmp_path / "maps"
    for name, data in FILES.items():
        images.write(f"{name}.jpg", data[: len(data) // 8])
        images.write(f"{name}-empty.png", b"")
    result = images.run(output)
    assert result.failed
    assert result.summary.scored == 0
    with without_tensorflow():
        arguments = [str(images.model), str(images.folder), "--output", str(output), "--top-k", "2"]
        again = CliRunner().invoke(score, arguments)
    assert again.exit_code == ExitCode.REJECTED == 3, again.output
    settle("every image bad", "a reason each; exit code 3", output, images.listed())
