"""The examples of the page about Python run in a Jupyter kernel, where Beam behaves in other ways."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.conftest import Workplace
from tests.docs.markdown import ROOT, blocks


def pipeline_of(page: str) -> str:
    (found,) = [block.text for block in blocks(ROOT / page) if "ScoreImages(" in block.text and "with " in block.text]
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of Jupyter's own clients
def test_the_pipeline_of_the_page_runs_in_a_kernel(workplace: Workplace, monkeypatch: pytest.MonkeyPatch):
    workplace.reset()
    monkeypatch.setenv("IPYTHONDIR", str(workplace.folder / "ipython"))
    code = pipeline_of("docs/python.md")
    reading = (
        "from pipeline import MapTable\n"
        "table = MapTable('beam-maps')\n"
        "assert len(table) > 0\n"
        "table.to_arrow(['uri', 'status']).to_pandas()"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (code, reading)])
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(workplace.folder)}})
    client.execute()  # raises what a cell raises
    assert any("text/html" in output.get("data", {}) for output in book.cells[1].outputs)
