"""The nets that are measured, with seeded weights, in every form that anyone reads; made once a folder."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from conversion import Network, cast, convert, load_network, random_parameters, read_metadata, save
from conversion.export.onnx_net import free_shapes, to_onnx
from conversion.net.reference import evaluate_each
from models import entry
from tests.benchmarks.ruler.serve import Job


class Cell(NamedTuple):
    """One size of one net.

    Attributes:
        net: Its name in the catalog.
        batch: Images a batch.
        side: Height and width of the images in pixels; 0 for the size that the net was trained at.
    """

    net: str
    batch: int
    side: int

    @property
    def pixels(self) -> int:
        """Height and width of the images."""
        return self.side or entry(self.net).crop

    def __str__(self) -> str:
        return f"{entry(self.net).title}, {self.pixels} x {self.pixels}, batch {self.batch}"


SIZES = ((1, 0), (10, 0), (1, 451), (8, 451), (1, 1024), (1, 2048))
"""Images a batch, and the side of `Cell`."""

NETS = ("caffenet", "vgg16", "googlenet", "resnet50", "squeezenet_1_1")
EVERYTHING = tuple(Cell(net, *size) for net, size in itertools.product(NETS, SIZES))
DAILY = tuple(cell for cell in EVERYTHING if cell.net == NETS[0] or (cell.batch, cell.side) == (1, 451))
_LARGEST_REFERENCE = 451  # of a side in pixels: float64 takes as many seconds as there are billions of multiply-adds


@dataclasses.dataclass(frozen=True)
class NetFiles:
    """The files of one net below a folder.

    Attributes:
        name: The net's name in the catalog.
        folder: Where they are.
    """

    name: str
    folder: Path

    @property
    def model(self) -> Path:
        """The model directory."""
        return self.folder / self.name

    def file(self, form: str, suffix: str) -> Path:
        """A file of one form of the net, `classifier` or `dense`."""
        return self.folder / f"{self.name}-{form}{suffix}"

    @functools.cached_property
    def definition(self) -> Network:
        """The classifier without weights."""
        return load_network(entry(self.name).definition)

    def network(self, form: str) -> Network:
        """The net with its weights."""
        classifier = load_network(self.file("classifier", ".prototxt"), self.file("classifier", ".caffemodel"))
        return classifier if form == "classifier" else cast(classifier)

    def make(self) -> None:
        """Makes what is not there. Conversion and verification of a large net take minutes."""
        known = entry(self.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = self.file("classifier", ".caffemodel")
        if not weights.exists():
            _save(random_parameters(self.definition), self.file("classifier", ".prototxt"), weights)
        if not self.model.exists():
            convert(
                known.definition,
                weights,
                self.model,
                mean=known.mean,
                scale=known.scale,
                channel_order=known.channel_order,
            )

    def make_form(self, form: str) -> None:
        """Makes the Caffe and ONNX files of one form unless they are there."""
        onnx_file, weights = self.file(form, ".onnx"), self.file(form, ".caffemodel")
        if onnx_file.exists() and weights.exists():
            return
        network = self.network(form)
        if not weights.exists():
            _save(network, self.file(form, ".prototxt"), weights)
        shapes = dict(free_shapes(network))
        if form == "classifier":
            shapes = {blob: (shape[0], *network.inputs[blob][1:]) for blob, shape in shapes.items()}
        partial = onnx_file.with_suffix(".partial")
        onnx.save(to_onnx(network, outputs=outputs(network), shapes=shapes, finite=True), partial)
        partial.rename(onnx_file)


def job(files: NetFiles, cell: Cell, scratch: Path) -> Job:
    """Makes what one cell needs and returns it.

    Args:
        files: Of the net.
        cell: The size.
        scratch: Receives the images.
    """
    form = "dense" if cell.side else "classifier"
    files.make()
    files.make_form(form)
    classifier = files.definition
    pixels = np.random.default_rng(0).integers(0, 256, (cell.batch, cell.pixels, cell.pixels, 3), dtype=np.uint8)
    blob = read_metadata(files.model).preprocessing.reference(pixels).astype(np.float32)
    np.save(scratch / "pixels.npy", pixels)
    np.save(scratch / "blob.npy", np.ascontiguousarray(blob))
    return Job(
        shape=list(blob.shape),
        pixels=str(scratch / "pixels.npy"),
        blob=str(scratch / "blob.npy"),
        model=str(files.model),
        prototxt=str(files.file(form, ".prototxt")),
        caffemodel=str(files.file(form, ".caffemodel")),
        onnx=str(files.file(form, ".onnx")),
        stem=str(files.file(form, "")),
        outputs=outputs(classifier if form == "classifier" else cast(classifier)),
        feature=outputs(classifier)[1],
    )


def outputs(network: Network) -> list[str]:
    """Returns the names of the blobs of probabilities, and of what the softmax reads."""
    (probabilities,) = network.outputs
    softmax = next(layer for layer in reversed(network.layers) if probabilities in layer.tops)
    return [probabilities, softmax.bottoms[0]]


def operations(files: NetFiles, cell: Cell) -> int:
    """Returns the operations of one batch: a multiply-add is two."""
    network = cast(files.definition)
    ((blob, shape),) = network.inputs.items()
    return 2 * cell.batch * network.multiply_adds({blob: (1, shape[1], cell.pixels, cell.pixels)})


def reference(files: NetFiles, cell: Cell, blob: Path) -> np.ndarray | None:
    """Returns the blob before softmax in float64 [N, C, h, w], by NumPy; None for batches and for large images.

    It is computed once a folder.

    Args:
        files: Of the net.
        cell: The size.
        blob: File of the net's input.
    """
    if cell.batch > 1 or cell.pixels > _LARGEST_REFERENCE:
        return None
    kept = files.file(f"reference-{cell.pixels}", ".npy")
    if not kept.exists():
        network = files.network("dense")
        (data,) = network.inputs
        _, wanted = outputs(network)
        np.save(kept, dict(evaluate_each(network, {data: np.load(blob)}))[wanted])
    return np.load(kept)


def _save(network: Network, definition: Path, weights: Path) -> None:
    """The weights are put in place last, so that files that are there are complete."""
    partial = weights.with_suffix(".partial")
    save(network, definition, partial)
    partial.rename(weights)
