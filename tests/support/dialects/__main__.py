"""Writes tests/golden/dialects anew: `python -m tests.support.dialects [CASE...]`, all cases by default.

Set DENSECAST_MNN_PYTHON to the interpreter of an environment with MNN, to ask it too.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.dialects import elementwise, windows
from tests.support.dialects.case import write_index
from tests.support.dialects.engines import opinions
from tests.support.golden_cases import GOLDEN, GoldenCase

MODULES = (elementwise, windows)  # each has CASES
FOLDER = GOLDEN / "dialects"


def main(wanted: list[str]) -> None:
    index = FOLDER / "index.json"
    entries = {entry["case"]: entry for entry in json.loads(index.read_text())} if index.exists() else {}
    cases = [case for module in MODULES for case in module.CASES if not wanted or case.name in wanted]
    if not wanted:
        entries = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            shutil.rmtree(FOLDER / case.name, ignore_errors=True)
            entry = case.write(FOLDER / case.name)
            golden = GoldenCase(case.name, FOLDER / case.name, frozenset())
            entry["engines"] = opinions(golden, next(iter(entry["inputs"])), Path(scratch))
            entries[case.name] = entry
            sys.stdout.write(f"{case.name}: {entry['engines']}\n")
    write_index(list(entries.values()), index)


if __name__ == "__main__":
    main(sys.argv[1:])
