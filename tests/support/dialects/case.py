"""One golden case of a fork's layer: its definition, its inputs, and what a plain NumPy statement computes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from conversion.caffe.reading import parse_definition
from conversion.net.build import build
from conversion.net.network import Network
from conversion.surgery import random_parameters, save

Values = np.ndarray
# (bottoms, learned blobs) of the layer, all float64 -> its tops. It shares no code with conversion.layers.
Truth = Callable[[Sequence[Values], Sequence[Values]], Sequence[Values]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A net of Inputs and one layer, which is the last.

    Attributes:
        name: The folder's name.
        text: The definition, as a fork's user writes it.
        truth: What the layer computes.
        source: The fork and the file that `truth` was read from.
        seed: Of weights and inputs.
        inputs: Values by blob, for cases that need special ones; normal ones by default.
        dialect: As `load_network` takes it.
        parameters: Learned blobs, for layers whose random ones make no sense.
    """

    name: str
    text: str
    truth: Truth
    source: str
    seed: int = 0
    inputs: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    dialect: str | None = None
    parameters: Sequence[Values] | None = None

    def network(self) -> Network:
        bare = build(parse_definition(self.text.encode(), where=self.name), dialect=self.dialect)
        if self.parameters is None:
            return random_parameters(bare, self.seed)
        blobs = tuple(np.asarray(blob, np.float32) for blob in self.parameters)
        return dataclasses.replace(bare, parameters={bare.layers[-1].name: blobs})

    def write(self, folder: Path) -> dict[str, object]:
        """Writes the files of the case, and returns its entry of index.json, without the engines."""
        network = self.network()
        rng = np.random.default_rng(self.seed)
        inputs = {
            blob: np.asarray(self.inputs.get(blob, rng.normal(0, 2, shape)), np.float32)
            for blob, shape in network.inputs.items()
        }
        layer = network.layers[-1]
        blobs = [blob.astype(np.float64) for blob in network.parameters.get(layer.name, ())]
        tops = self.truth([inputs[bottom].astype(np.float64) for bottom in layer.bottoms], blobs)
        outputs = {top: np.asarray(values, np.float32) for top, values in zip(layer.tops, tops, strict=True)}
        folder.mkdir(parents=True)
        save(network, folder / "net.prototxt", folder / "net.caffemodel")
        (folder / "net.prototxt").write_text(self.text)  # the fork's words, not what they were settled as
        if len(inputs) == 1:
            np.save(folder / "input.npy", *inputs.values())
        else:
            np.savez_compressed(folder / "inputs.npz", **{_key(blob): values for blob, values in inputs.items()})
        np.savez_compressed(folder / "outputs.npz", **{_key(blob): values for blob, values in outputs.items()})
        return {
            "case": self.name,
            "inputs": {blob: list(values.shape) for blob, values in inputs.items()},
            "outputs": {blob: list(values.shape) for blob, values in outputs.items()},
            "tags": ["nan"] if any(np.isnan(values).any() for values in outputs.values()) else [],
            "layer_types": [parse_definition(self.text.encode(), where=self.name).layer[-1].type],
            "dialect": self.dialect,
            "source": self.source,
        }


def write_index(entries: Sequence[Mapping[str, object]], path: Path) -> None:
    """Writes index.json with one case a line, so that cases of different authors merge."""
    lines = ",\n".join(json.dumps(entry) for entry in sorted(entries, key=lambda entry: str(entry["case"])))
    path.write_text(f"[\n{lines}\n]\n")


def _key(blob: str) -> str:
    return blob.replace("/", "__SLASH__")
