"""Inspects and converts the definitions of tests/field with seeded weights: `python -m tests.field [NAME...]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from conversion import DenseOptions, convert, load_dense, receptive_field, save
from conversion.errors import DensecastError
from tests.support.field_definitions import DEFINITIONS, has_dense_form, is_classifier, options_of, refusal, seeded


def main(names: list[str]) -> int:
    """Prints a line for each definition; returns 1 if any fails."""
    failed = 0
    for path in DEFINITIONS:
        if names and path.stem not in names:
            continue
        start = time.monotonic()
        try:
            result = converted(path)
        except DensecastError as error:
            result, failed = f"FAILED: {error}", failed + 1
        sys.stdout.write(f"{path.stem:28} {result} ({time.monotonic() - start:.0f} s)\n")
        sys.stdout.flush()
    sys.stdout.write(f"{failed} failed\n")
    return int(failed > 0)


def converted(path: Path) -> str:
    """Inspects and converts one definition; returns the map's geometry and the worst difference."""
    options = options_of(path)
    if not has_dense_form(path):
        network = seeded(path)
        return f"{len(network.layers)} layers, no dense form: {refusal(path) or 'not refused'}"
    dense = load_dense(path, options=DenseOptions(**options))
    geometry = receptive_field(dense.network, dense.output.blob)
    pairs = (geometry.stride, geometry.nominal_window)
    stride, window = (" x ".join(f"{float(side):g}" for side in pair) for pair in pairs)
    text = f"{len(dense.network.layers)} layers, stride {stride}, window {window}"
    if not is_classifier(path):
        return f"{text}, no classifier"
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "seeded.caffemodel"
        save(seeded(path), Path(folder) / "net.prototxt", weights)
        metadata = convert(path, weights, Path(folder) / "model", mean=[0.0], random_weights=True, **options)
    worst = metadata.verification.worst if metadata.verification else float("nan")
    return f"{text}, worst {worst:.1e}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
