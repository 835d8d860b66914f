"""`densecast inspect`: layers, shapes, parameters, multiply-adds and geometry of a network."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table

from conversion import (
    DEFAULT_LIMITS,
    DensecastError,
    DenseOptions,
    GeometryMetadata,
    Limits,
    ModelMetadata,
    Network,
    Number,
    Output,
    choose_output,
    load_dense,
    load_model_network,
    read_metadata,
    receptive_field,
    unplain_layer,
)
from conversion.errors import ConversionError
from models import entries


class LayerReport(BaseModel):
    """One layer; shapes are in Caffe's axis order."""

    name: str
    type: str
    output: list[list[int]]
    parameters: int
    multiply_adds: int


class NetworkReport(BaseModel):
    """A network at one input size.

    Attributes:
        name: The network's name.
        input_size: [height, width] in pixels.
        map_size: [height, width] in cells.
        classes: Channels of the output.
        output_blob: The blob of the map, by its name after the cast.
        output_reason: Why it is this blob.
        refusal: Why the network cannot be converted to a model with this map; None if it can be.
        not_native: The layer for which densecast's own engine does not run it, and why; None if it does.
        geometry: Which pixels a cell stands for.
        overhang: Pixels by which the last cell's window reaches past the image, [vertical, horizontal].
        layers: The layers, in order.
        parameters: How many learned values there are.
        multiply_adds: The cost of one image of that size.
        model: The metadata of a converted model; None for a definition.
    """

    name: str
    input_size: list[int]
    map_size: list[int]
    classes: int
    output_blob: str
    output_reason: str
    refusal: str | None = None
    not_native: str | None = None
    geometry: GeometryMetadata
    overhang: list[float]
    layers: list[LayerReport]
    parameters: int
    multiply_adds: int
    model: ModelMetadata | None = None


def inspect(
    path: str,
    size: tuple[int, int] | None = None,
    options: DenseOptions | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> NetworkReport:
    """Returns the report on a model directory, or on a definition after the cast.

    Args:
        path: A model directory, a prototxt, or the name of a model of the catalog.
        size: (height, width) of the image in pixels; the training size by default.
        options: What shapes the network of a definition; a model has its own.
        limits: What a definition may ask for.

    Raises:
        ConversionError: Options are given for a model, or the network does not have one image as its only input.
        DensecastError: The file cannot be read or cast, or the network does not take that size.
    """
    options = options or DenseOptions()
    if Path(path).is_dir():
        model = read_metadata(path)
        if options.given():
            raise ConversionError(
                f"{', '.join(options.given())} for a model",
                where=path,
                why="a model keeps the shape that it was converted with",
                remedy="inspect the definition with these options, or convert it again",
            )
        network = load_model_network(path)
        output = choose_output(network, path, model.options.output_blob if model.options else model.output_blob)
        return _report(network, size, output, model=model)
    known = {entry.name: entry.definition for entry in entries()}
    definition = known[path] if path in known and not Path(path).exists() else path
    dense = load_dense(definition, options=options, limits=limits)
    report = _report(dense.network, size, dense.output)
    try:
        dense.output.require()
        dense.require_sizes()
    except DensecastError as error:
        report.refusal = str(error)
    return report


def _report(
    network: Network,
    size: tuple[int, int] | None,
    output: Output,
    *,
    model: ModelMetadata | None = None,
) -> NetworkReport:
    """Returns the report on a fully convolutional network."""
    if len(network.inputs) != 1 or any(len(shape) != 4 for shape in network.inputs.values()):
        raise ConversionError(
            f"the inputs are {network.inputs}", where=network.name, why="a map needs one image, N, C, H, W"
        )
    ((blob, shape),) = network.inputs.items()
    height, width = size or (shape[2], shape[3])
    steps, shapes = network.trace({blob: (1, shape[1], height, width)})
    # A dilated network does not have the training window in its layers: the model's metadata keeps it.
    geometry = model.geometry if model else receptive_field(network, output.blob)
    cells = shapes[output.blob]
    layers = [
        LayerReport(
            name=layer.name,
            type=layer.caffe_type,
            output=[list(top) for top in tops],
            parameters=sum(math.prod(s) for s in layer.blob_shapes(bottoms)),
            multiply_adds=layer.multiply_adds(bottoms, tops),
        )
        for layer, (bottoms, tops) in zip(network.layers, steps, strict=True)
    ]
    return NetworkReport(
        name=network.name,
        input_size=[height, width],
        map_size=list(cells[2:]),
        classes=cells[1],
        output_blob=output.blob,
        output_reason=output.reason,
        not_native=unplain_layer(network, output.blob) or None,
        geometry=geometry,
        overhang=[
            float(geometry.y.overhang(height, cells[2])),
            float(geometry.x.overhang(width, cells[3])),
        ],
        layers=layers,
        parameters=sum(layer.parameters for layer in layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        model=model,
    )


def render(report: NetworkReport) -> RenderableType:
    """Returns the report for a terminal."""
    layers = Table(title=f"{report.name}, fully convolutional, {_size(report.input_size)} pixels")
    for column in ("layer", "type", "output"):
        layers.add_column(column)
    for column in ("parameters", "multiply-adds"):
        layers.add_column(column, justify="right")
    for layer in report.layers:
        layers.add_row(
            layer.name,
            layer.type,
            ", ".join("x".join(map(str, shape)) for shape in layer.output),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
        )
    layers.add_section()
    layers.add_row("total", "", "", f"{report.parameters:,}", f"{report.multiply_adds:,}")
    return Group(layers, _facts(report))


def _facts(report: NetworkReport) -> Table:
    y, x = report.geometry.y, report.geometry.x
    facts = Table.grid(padding=(0, 2))
    rows: list[tuple[str, str]] = [
        ("map", f"{_size(report.map_size)} cells of {report.classes} classes"),
        ("map of", f"blob {report.output_blob}: {report.output_reason}"),
        ("stride", f"{_pair(y.stride, x.stride)} pixels between cells"),
        ("cell 0", f"centred on pixel {_pair(y.offset, x.offset)}"),
        ("nominal window", f"{_pair(y.window, x.window)} pixels: the crop that a cell stands for"),
        ("receptive field", f"{_pair(y.receptive_field, x.receptive_field)} pixels: all that a cell can see"),
        ("overhang", f"{_pair(*report.overhang)} pixels of the last window lie past the image"),
    ]
    if report.not_native:
        rows.append(("not native", f"{report.not_native}; another engine runs the net"))
    if report.refusal:
        rows.append(("no model", report.refusal))
    if report.model:
        rows += _model_facts(report.model)
    for name, value in rows:
        facts.add_row(name, value)
    return facts


def _model_facts(model: ModelMetadata) -> list[tuple[str, str]]:
    preprocessing = model.preprocessing
    rows = [
        ("made with", str(model.options or "no record of options")),
        (
            "input",
            f"uint8 RGB; inside: {preprocessing.channel_order}, minus {preprocessing.mean}, x {preprocessing.scale}",
        ),
        ("features", ", ".join(f"{name} ({channels})" for name, channels in model.features.items())),
        ("labels", f"{model.labels[0]} ... {model.labels[-1]}" if model.labels else "none given"),
        ("digest", model.digest),
    ]
    if model.mean_image is not None:
        rows.insert(
            2, ("mean image", f"{_size(list(model.mean_image))}, kept for windows; the input has its channel mean")
        )
    elif model.lost_mean_image:
        rows.insert(2, ("mean image", "not kept: windows need a new conversion, or its channel mean"))
    if model.random_weights:
        rows.insert(0, ("weights", "random: the classes mean nothing"))
    for form, v in model.verifications.items():
        text = f"{form}: {v.blobs} blobs at {len(v.sizes)} sizes, worst {v.worst:.1e} of absmax ({v.worst_blob})"
        rows.append(("verified", text))
    return rows + [("note", note) for note in model.notes]


def _size(pair: list[int]) -> str:
    return "x".join(map(str, pair))


def _pair(y: Number, x: Number) -> str:
    return f"{float(y):g}" if y == x else f"{float(y):g} x {float(x):g}"
