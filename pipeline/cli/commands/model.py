"""Commands about networks and models: convert, inspect, verify, bench, cast, upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.commands.dense_options import dense_options, print_cost, take_dense_options
from pipeline.cli.commands.options import (
    choose_written_forms,
    limit_options,
    need_tensorflow,
    print_report,
    refuse_existing,
    take_limits,
)
from pipeline.cli.console import printing_does_not_count, say, say_json, show
from pipeline.cli.param_types import IMAGE_SIZE, WHOLE_NUMBERS
from pipeline.cli.setting_options import setting_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conversion import DenseOptions, Limits


@click.command()
@click.argument("prototxt", type=click.Path())
@click.argument("weights", type=click.Path())
@click.option("--output", "-o", required=True, type=click.Path(), help="The model directory to make.")
@click.option(
    "--mean", help="B,G,R values, one value, or a mean image (.npy, .binaryproto). Default: a known net's own, or 0."
)
@click.option("--scale", type=float, help="Multiplied after the mean is subtracted. Default: a known net's own, or 1.")
@click.option(
    "--channel-order",
    type=click.Choice(["bgr", "rgb", "gray"]),
    help="The order that the network expects. Default: bgr, or gray for one channel.",
)
@click.option("--labels", type=click.Path(), help="Class names, one a line (Caffe's synset_words.txt works).")
@click.option(
    "--features", help="Blobs that can be kept beside a map, with commas. Default: what InnerProducts read and write."
)
@dense_options
@click.option("--name", default="", help="The model's name. Default: the definition's.")
@click.option(
    *("--format", "form"),
    type=click.Choice(["savedmodel", "onnx", "both"]),
    help="What the model holds, over one copy of the weights. Default: both, or what the installed packages can write.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of densecast.json.")
@limit_options
def convert(prototxt: str, weights: str, output: str, *, as_json: bool, **options: Any) -> None:
    """Turn a Caffe classifier into a dense model, verified layer by layer.

    \b
    densecast convert deploy.prototxt caffenet.caffemodel --output caffenet \\
        --mean 104.00699,116.66877,122.67892 --labels synset_words.txt
    densecast convert deploy.prototxt caffenet.caffemodel --output fine --output-stride 8
    densecast convert deploy.prototxt caffenet.caffemodel --output caffenet-onnx --format onnx
    """
    from conversion import check_conversion, read_labels
    from conversion import convert as convert_model
    from pipeline.tools.inspect_network import inspect, render

    limits = take_limits(options)
    labels, features = options.pop("labels"), options.pop("features")
    shape = take_dense_options(options)
    forms = choose_written_forms(options["form"])
    check_conversion(prototxt, weights, output, overwrite=options["overwrite"], limits=limits)
    mean, scale = _preprocessing(prototxt, shape, limits, mean=options.pop("mean"), scale=options.pop("scale"))
    if shape.output_stride:
        print_cost(prototxt, shape, limits)
    if "savedmodel" in forms:
        need_tensorflow()
    printing_does_not_count()
    metadata = convert_model(
        prototxt,
        weights,
        output,
        mean=mean,
        scale=scale,
        labels=read_labels(labels, limits=limits) if labels else (),
        features=[f.strip() for f in features.split(",")] if features else None,
        limits=limits,
        **shape.model_dump(),
        **options,
    )
    if as_json:
        say_json(metadata.model_dump(mode="json"), indent=2)
    else:
        show(render(inspect(output)))


@click.command()
@click.argument("network", metavar="MODEL|PROTOTXT|NAME")
@click.option("--input-size", type=IMAGE_SIZE, help="HEIGHTxWIDTH of the image. Default: the training size.")
@dense_options
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
def inspect(network: str, input_size: tuple[int, int] | None, as_json: bool, **options: Any) -> None:
    """Show the layers, shapes, parameters, multiply-adds and geometry of a network.

    The options that shape a network are for definitions; a model keeps those that it was converted with.

    \b
    densecast inspect caffenet --input-size 451x451
    densecast inspect deploy.prototxt
    densecast inspect vgg16 --input-size 512x768
    densecast inspect all_in_one.prototxt --stage deploy --output-stride 8
    """
    from pipeline.tools.inspect_network import inspect as inspect_network
    from pipeline.tools.inspect_network import render

    report = inspect_network(network, input_size, take_dense_options(options))
    print_report(report, render, as_json=as_json)


@click.command()
@click.argument("model", type=click.Path())
@click.option(
    *("--sizes",),
    type=WHOLE_NUMBERS,
    default="",
    help="Sides of square images in pixels, with commas. Default: for maps of 1x1 and 8x8 cells, and a larger one.",
)
@click.option("--batches", type=WHOLE_NUMBERS, default="1,8", show_default=True, help="Images a batch, with commas.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Timed runs; the median counts."
)
@setting_option("device")
@setting_option("engine")
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
def bench(
    model: str, *, sizes: list[int], batches: list[int], repeats: int, device: str, engine: str, as_json: bool
) -> None:
    """Measure images a second, and the share of this machine's matrix-multiply peak.

    \b
    densecast bench caffenet
    densecast bench caffenet --sizes 227,451 --batches 1,4
    """
    from pipeline.tools.benchmark import bench as bench_model
    from pipeline.tools.benchmark import render

    report = bench_model(model, sizes, batches, repeats=repeats, device=device, engine=engine)
    print_report(report, render, as_json=as_json)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--crops", is_flag=True, help="Compare the map with the classifier on each window by itself.")
@click.option("--definition", type=click.Path(), help="The Caffe definition to compare with; needs --weights.")
@click.option("--weights", type=click.Path(), help="The trained weights of the definition.")
@dense_options
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
def verify(
    model: str,
    *,
    images: tuple[str, ...],
    crops: bool,
    definition: str | None,
    weights: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare a model with its Caffe files, or its maps with the classifier on each window.

    Caffe files are compared layer by layer, with the options that the model was converted with; each that you give
    replaces the recorded one. IMAGES are for --crops; without them, the command makes seeded ones.

    \b
    densecast verify caffenet --definition deploy.prototxt --weights caffenet.caffemodel
    densecast verify caffenet --crops photos/cat.jpg
    """
    from conversion import read_metadata
    from pipeline.tools.verify import render, verify_model

    if not crops and not definition:
        raise click.UsageError("give --crops, or --definition and --weights")
    if bool(definition) != bool(weights):
        raise click.UsageError("--definition and --weights belong together")
    if definition and "savedmodel" in read_metadata(model).forms:
        need_tensorflow()
    shape = take_dense_options(options)
    if shape.given() and not definition:
        raise click.UsageError(f"{', '.join(shape.given())}: such options are for --definition")
    caffe = (definition, weights) if definition and weights else None
    report = verify_model(model, crops=crops, images=images, caffe=caffe, options=shape)
    print_report(report, render, as_json=as_json)


@click.command()
@click.argument("prototxt", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option("--output-prototxt", required=True, type=click.Path(), help="The definition to write.")
@click.option("--output-weights", type=click.Path(), help="The weights to write; needs WEIGHTS.")
@dense_options
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def cast(
    prototxt: str,
    weights: str | None,
    *,
    output_prototxt: str,
    output_weights: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write the fully convolutional network as Caffe files that Caffe loads.

    All outputs are kept unless --output-blob names one. Caffe has no dilated poolings: where --output-stride needs
    them, nothing is written.

    \b
    densecast cast deploy.prototxt net.caffemodel \\
        --output-prototxt dense.prototxt --output-weights dense.caffemodel
    densecast cast deploy.prototxt --output-prototxt fine.prototxt --output-stride 16
    """
    from conversion import load_dense, save

    if bool(weights) != bool(output_weights):
        raise click.UsageError("WEIGHTS and --output-weights belong together")
    outputs = [path for path in (output_prototxt, output_weights) if path]
    refuse_existing(outputs, [path for path in (prototxt, weights) if path], overwrite=overwrite)
    dense = load_dense(prototxt, weights, take_dense_options(options))
    network, output, misfit = dense.network, dense.output, dense.misfit
    printing_does_not_count()
    save(network, output_prototxt, output_weights)
    say(f"wrote {', '.join(outputs)}", err=True)
    notes = [*network.notes, f"the map is blob {output.blob!r}: {output.reason}"]
    if misfit:
        notes.append(f"not every image fits: {misfit.error()}")
    for note in notes:
        say(f"note: {note}", err=True)


@click.command()
@click.argument("file", type=click.Path())
@click.option("--output", "-o", required=True, type=click.Path(), help="The file to write, in the same format.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def upgrade(file: str, output: str, overwrite: bool) -> None:
    """Write an old definition or old weights in Caffe's current format.

    \b
    densecast upgrade old.prototxt --output new.prototxt
    densecast upgrade old.caffemodel --output new.caffemodel
    """
    from conversion import upgrade_file

    refuse_existing([output], [file], overwrite=overwrite)
    printing_does_not_count()
    upgrade_file(file, output)
    say(f"wrote {output}", err=True)


def _mean(text: str | None) -> list[float] | Path | None:
    """Returns --mean as `convert` takes it: numbers, or a path."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return Path(text)


def _preprocessing(
    prototxt: str, shape: DenseOptions, limits: Limits, *, mean: str | None, scale: float | None
) -> tuple[Sequence[float] | Path | None, float]:
    """Returns mean and scale as given, or those of the catalog for one of its nets; says what was not given."""
    from models.recognize import recognize

    if mean is not None and scale is not None:
        return _mean(mean), scale
    known = recognize(prototxt, stages=shape.stages, level=shape.level, dialect=shape.dialect, limits=limits)
    chosen: Sequence[float] | Path | None = _mean(mean)
    if known is None:
        if mean is None:
            say(
                "WARNING: no --mean was given, and the definition is not one of `densecast models list`: nothing is "
                "subtracted from the pixels. If the net was trained with a mean, its maps are wrong. Give --mean; "
                "--mean 0 says that there is none.",
                err=True,
            )
        return chosen, 1.0 if scale is None else scale
    taken = []
    if mean is None:
        chosen = known.mean
        taken.append(f"--mean {','.join(map(str, known.mean))}")
    if scale is None:
        scale = known.scale
        taken.append(f"--scale {scale:g}")
    say(f"the definition is that of {known.title}: it gets {' and '.join(taken)}", err=True)
    return chosen, scale
