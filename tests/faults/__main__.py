"""Injects every fault and prints what came of it: `python -m tests.faults`; options of pytest follow."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from tests.faults.conftest import ROW
from tests.faults.disks import CAN_MOUNT

_COLUMNS = ("images", "maps", "rejections", "lost", "duplicated")
_FILES = (
    "kill",
    "repeated_bundles",
    "disk",
    "real_disk",
    "changing_files",
    "bad_server",
    "hostile_decoder",
    "engine",
    "all_bad",
    "two_runs",
    "compaction",
    "reader",
    "corrupt_parts",
    "clock",
    "other_programs",
    "restore",
    "killed_launcher",
)
"""In the order in which their rows are printed."""
_WIDTH = 1000
"""More than the table needs, on whatever terminal: no row is broken."""


class Rows:
    """Gathers the rows that the tests wrote, and those of tests that could not."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int, str, int], list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found: list[Any] = [value for name, value in report.user_properties if name == ROW]
        name = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
        file = _FILES.index(name) if name in _FILES else len(_FILES)
        if report.when == "call":
            for index, (place, fault, outcome, *counts) in enumerate(found):
                failed = report.failed and index == len(found) - 1
                row = [fault, "FAILED" if failed else outcome, *map(str, counts)]
                self.rows[file, place, report.nodeid, index] = row
        if report.failed and not found:
            row = [report.nodeid.rpartition("::")[2], "FAILED", *"?" * len(_COLUMNS)]
            self.rows[file, sys.maxsize, report.nodeid, 0] = row

    def render(self) -> Table:
        table = Table("fault", "outcome", box=box.MARKDOWN)
        for name in _COLUMNS:
            table.add_column(name, justify="right")
        for _, row in sorted(self.rows.items()):
            table.add_row(*row)
        return table

    def text(self) -> str:
        """Returns the table as Markdown, a line for each row."""
        console = Console(width=_WIDTH, highlight=False)
        with console.capture() as printed:
            console.print(self.render())
        return "\n".join(line.rstrip() for line in printed.get().strip().splitlines())

    def total(self, name: str) -> str:
        """The sum of a column; a question mark where a test could not count."""
        values = [row[2 + _COLUMNS.index(name)] for row in self.rows.values()]
        return "?" if "?" in values else str(sum(map(int, values)))


def main(arguments: list[str]) -> int:
    rows, started = Rows(), time.monotonic()
    # Two processes: each test waits for children and disks as much as it computes.
    given = ["-q", "-n", "2", "--no-header", "--tb=short", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    status = pytest.main([*given, *arguments], plugins=[rows])
    console = Console(width=_WIDTH, highlight=False)
    console.print(rows.text(), soft_wrap=True, markup=False)
    if not CAN_MOUNT:
        console.print("this user may not mount file systems: no disk was really full, nor really read-only")
    lost, duplicated = rows.total("lost"), rows.total("duplicated")
    seconds = time.monotonic() - started
    console.print(f"{len(rows.rows)} faults, {lost} images lost, {duplicated} rows duplicated; {seconds:.0f} s")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
