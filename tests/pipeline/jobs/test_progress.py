"""Progress: the figures are those counted, on a terminal and elsewhere."""

from __future__ import annotations

import io
import threading

from pipeline.beam_counters import count
from pipeline.counters import KEPT, LISTED, REJECTED, SCORED, Counters
from pipeline.jobs.progress import Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_gives_rate_time_left_and_rejections():
    clock = Clock()
    watch = Watch("scoring", io.StringIO(), clock=clock)
    assert watch.line() == "scoring: 0 of 0 images, 0 rejected, 0.0/s"
    count(LISTED, 200)
    count(SCORED, 45)
    count(REJECTED, 5)
    clock.now += 10
    assert watch.line() == "scoring: 50 of 200 images, 5 rejected, 5.0/s, 30s left"


def test_a_watch_counts_from_its_own_beginning():
    count(SCORED, 7)
    watch = Watch("scoring", io.StringIO())
    assert watch.counts() == {LISTED: 0, SCORED: 0, REJECTED: 0, KEPT: 0}


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    written = threading.Event()

    class Notice(io.StringIO):
        def write(self, text: str) -> int:
            written.set()
            return stream.write(text)

    with Watch("scoring", Notice(), interval_s=0.01):
        assert written.wait(30)
    assert stream.getvalue().startswith("scoring: ")
    assert "\x1b" not in stream.getvalue()


def test_a_bar_on_a_terminal_ends_with_the_last_count():
    terminal = Terminal()
    with Watch("scoring", terminal):
        count(LISTED, 3)
        count(SCORED, 3)
    assert "3/3" in terminal.getvalue()


def test_tally_loses_nothing_between_threads():
    tally = Counters()
    threads = [threading.Thread(target=lambda: [tally.add("x", 1) for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.snapshot() == {"x": 4000}
