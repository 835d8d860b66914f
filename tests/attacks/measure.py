"""Runs every attack in this process and prints what it took: `python -m tests.attacks.measure`.

For each attack a line of JSON: its test, the bytes of its files, how far the process ever grew above what it took
before the first, the seconds it took. An attack that hangs ends the process, with its stack.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.attack import Attack

HANG = 20.0  # seconds: a guard, no measurement


def attacks() -> Iterator[tuple[str, Attack]]:
    """Every attack with the name of its test."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.attacks.{path.stem}")
        yield from ((f"{path.stem}[{attack.name}]", attack) for attack in getattr(module, "ATTACKS", []))


def peak() -> int:
    """The most memory that the process ever held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def size(path: Path) -> int:
    """What the file takes on the disk: a sparse one, or a link to a device, takes nothing."""
    return path.lstat().st_blocks * 512 if path.exists() else 0


def main() -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for index, (name, attack) in enumerate(attacks()):
            place = Path(folder) / str(index)
            place.mkdir()
            written.append((size(attack.write(place)), name, attack, place))
        # The peak never falls: the small ones first, so that each is held against its own size.
        written.sort(key=lambda entry: entry[0])
        before = peak()
        for size_on_disk, name, attack, place in written:
            faulthandler.dump_traceback_later(HANG, exit=True)
            started = time.perf_counter()
            attack.refuse(next(place.iterdir(), place / "hostile"))
            seconds = time.perf_counter() - started
            faulthandler.cancel_dump_traceback_later()
            gc.collect()  # a traceback keeps what it saw
            line = {"attack": name, "size": size_on_disk, "grown": peak() - before, "seconds": round(seconds, 3)}
            print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
