"""A process that publishes to a table, again and again: python -m tests.cluster.appender TABLE NAME COMMITS."""

from __future__ import annotations

import sys

from tests.support.stored_rows import publish_rows, scored


def main(table: str, name: str, commits: int) -> None:
    for number in range(commits):
        run = f"{name}-{number}"
        made = publish_rows(table, scored(f"{run}.jpg", run), run_id=run)
        print(run, made.version, flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
