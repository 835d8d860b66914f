"""Says how many golden cases ran: a case that nobody runs would otherwise pass unnoticed."""

from __future__ import annotations

from typing import Any

GOLDEN_CASES = 220


def pytest_terminal_summary(terminalreporter: Any) -> None:
    passed = {
        value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", [])
        if name == "golden case"
    }
    if passed:
        terminalreporter.write_line(f"golden cases: {len(passed)} of {GOLDEN_CASES} passed")
