"""A plain loop: two threads decode, one session scores, each map is saved as it comes."""

from __future__ import annotations

import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.peers.dense import INPUT, OUTPUT, decode, open_session, save

AHEAD = 16


def main(graph: str, images: str, output: str) -> None:
    paths = sorted(map(str, Path(images).rglob("*.jpg")))
    session = open_session(graph)
    with ThreadPoolExecutor(2) as threads:
        waiting = deque((path, threads.submit(decode, path)) for path in paths[:AHEAD])
        for number in range(len(paths)):
            path, pixels = waiting.popleft()
            if number + AHEAD < len(paths):
                waiting.append((paths[number + AHEAD], threads.submit(decode, paths[number + AHEAD])))
            [probabilities] = session.run([OUTPUT], {INPUT: pixels.result()[None]})
            save(output, path, probabilities[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
