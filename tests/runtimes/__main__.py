"""Measures what runtimes make of the ONNX form: `python -m tests.runtimes docs/onnx-runtimes.md [large]`.

It writes `measured.json` beside this file, and the tables into the page, between two marks. With `large` it also
measures the nets of the catalog that take long; without, what was measured of them is kept.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime

from models import entries
from tests.runtimes.cases import SMALL_NETS, catalog_net, golden
from tests.runtimes.compare import PYTHON, RUNTIMES, outcomes
from tests.runtimes.table import BEGIN, END, MEASURED, Measured, read, render

_PACKAGES = {"opencv": "opencv-python-headless", "openvino": "openvino"}


def versions() -> dict[str, str]:
    code = f"import importlib.metadata as m\nfor p in {list(_PACKAGES.values())}: print(m.version(p))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {"onnxruntime": onnxruntime.__version__, **dict(zip(_PACKAGES, found, strict=True))}


def measure(*, large: bool) -> Measured:
    small = [*golden("layers"), *golden("dialects")]
    layers: dict[str, list[str]] = collections.defaultdict(list)
    for case in small:
        if case.outputs:
            layers[case.layers].append(case.name)
    wrong: dict[str, dict[str, str]] = {runtime: {} for runtime in RUNTIMES}
    nets = [case.name for case in golden("nets")] + [entry.name for entry in entries()]
    skipped = {entry.name for entry in entries() if not large and entry.name not in SMALL_NETS}
    if skipped and MEASURED.exists():
        before = read()
        for runtime, found in before["wrong"].items():
            wrong[runtime] |= {key: text for key, text in found.items() if key.split(" (")[0] in skipped}
        skipped -= set(before["nets"])
    groups = [[*small, *golden("nets")]]
    with tempfile.TemporaryDirectory() as folder:
        groups.extend([catalog_net(entry)] for entry in entries() if large or entry.name in SMALL_NETS)
        for group in groups:
            for runtime, found in outcomes(group, Path(folder)).items():
                wrong[runtime] |= found
    return Measured(
        versions=versions(),
        layers=dict(sorted(layers.items())),
        nets=[name for name in nets if name not in skipped],
        wrong={runtime: dict(sorted(found.items())) for runtime, found in wrong.items()},
    )


def main(page: Path, *, large: bool) -> None:
    measured = measure(large=large)
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{render(measured)}{END}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), large="large" in sys.argv)
