"""Remembers what was measured on this machine, by processor, cores and the settings that choose an engine's kernels."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import platformdirs

from pipeline.engines.threads import usable_cores

# Variables by which the libraries of engines, their products of matrices, their threads (OpenMP of GNU and Intel, TBB),
# their allocators and CUDA choose kernels, numbers of threads and places in memory.
_CHOOSES_KERNELS = re.compile(
    r"(TF|XLA|ORT|OPENVINO|OV|ONEDNN|DNNL|MKL|OPENBLAS|OMP|GOMP|KMP|TBB|MALLOC|CUDA|NVIDIA)_|(LD_PRELOAD|GLIBC_TUNABLES)$"
)
# Of these, the ones that change what is printed or reported. The command line and imports of engines set some of them.
_SAYS_MORE = re.compile(r"TF_CPP_|ORT_DISABLE_TELEMETRY$|(ONEDNN|DNNL|MKL)_VERBOSE$")
# Of x86 the name and the instructions, of Arm the numbers that stand for them.
_FACTS = re.compile(r"^(model name|flags|Features|CPU \w+)\s*:\s*(.*)$", re.MULTILINE)


def processor_name() -> str:
    """Returns processor and usable cores for people: `AMD EPYC 7763 64-Core Processor, 2 cores`."""
    names = [value for name, value in _processor_facts() if name == "model name"]
    return f"{', '.join(names) or platform.processor() or platform.machine()}, {usable_cores()} cores"


def machine_facts() -> list[str]:
    """Returns what may change the last bits of a result: processor and its instructions, cores, variables, versions."""
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if _chooses_kernels(name))
    processor = [platform.machine(), processor_name(), *(f"{name}: {value}" for name, value in _processor_facts())]
    return [*processor, *variables, version("densecast"), version("numpy")]


def _chooses_kernels(variable: str) -> bool:
    return _CHOOSES_KERNELS.match(variable) is not None and _SAYS_MORE.match(variable) is None


@functools.cache
def _processor_facts() -> list[tuple[str, str]]:
    """Returns the facts of all cores, each once; none where the system does not list them."""
    try:
        return sorted(set(_FACTS.findall(Path("/proc/cpuinfo").read_text(errors="replace"))))
    except OSError:
        return []


def recall(key: Sequence[str]) -> str | None:
    """Returns what `remember` kept under a key on a machine like this; None if there is nothing that can be read."""
    try:
        return _file(key).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def remember(key: Sequence[str], result: str) -> None:
    """Keeps a result in this user's cache directory; without one that can be written, each process measures again."""
    file = _file(key)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(result)
        partial.replace(file)


def _file(key: Sequence[str]) -> Path:
    digest = hashlib.sha256(json.dumps([*key, *machine_facts()]).encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("densecast"), "measured", digest)
