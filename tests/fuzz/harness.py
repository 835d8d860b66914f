"""What the targets share: the limits they run under, the oracle, and running one under Atheris.

Only a `DensecastError` may leave a reader, whatever it reads. A target run under Atheris goes on after a finding: the
input is kept in `build/fuzz/TARGET.findings/`, one file for each place in the code: it must be empty after a run.
libFuzzer's own guards end a run: `-timeout` for a hang, `-rss_limit_mb` for memory.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from conversion.errors import DensecastError
from conversion.limits import Limits

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"  # not in git
KEPT = Path(__file__).parent / "corpus"  # inputs that were findings once
TARGETS = ("definition", "weights", "blob", "upgrade", "npy", "answer")

# Small enough for thousands of executions a second, large enough for every seed.
LIMITS = Limits(
    definition_bytes=1 << 16,
    weights_bytes=1 << 20,
    mean_bytes=1 << 20,
    entries=5_000,
    layers=200,
    nesting=16,
    memory=256 << 20,
)

Target = Callable[[bytes], None]


def kept(target: str) -> Iterator[Path]:
    """Inputs in git for a target: those that were findings once."""
    folder = KEPT / target
    yield from sorted(path for path in folder.glob("*") if path.is_file())


def launch(target: str) -> None:
    """Runs `python -m tests.fuzz TARGET ...` in place of this process: code is instrumented as it is imported."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz", target, *sys.argv[1:]])  # noqa: S606


def guarded(target: str, one_input: Target) -> Target:
    """The target as Atheris runs it: findings are kept and counted, not raised."""
    findings = WORK / f"{target}.findings"
    findings.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()

    def run(data: bytes) -> None:
        try:
            one_input(data)
        except DensecastError:
            return
        except Exception as error:  # noqa: BLE001
            frames = traceback.extract_tb(error.__traceback__)
            place = "|".join(f"{Path(f.filename).name}:{f.name}:{f.lineno}" for f in frames[-3:]) + type(error).__name__
            if place not in seen:
                seen.add(place)
                path = findings / hashlib.sha256(place.encode()).hexdigest()[:12]
                path.write_bytes(data)
                path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))
                sys.stderr.write(f"FINDING {target} {path.name} {type(error).__name__} at {place}\n")

    return run
