"""The commands of `densecast models`: list, fetch, random, seal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.commands.options import choose_written_forms, need_tensorflow
from pipeline.cli.console import console, printing_does_not_count, say, show

if TYPE_CHECKING:
    from models import CatalogEntry


@click.group()
def models() -> None:
    """List, fetch and make the models that densecast knows.

    \b
    densecast models list
    densecast models fetch caffenet --output caffenet
    """


@models.command("list")
def models_list() -> None:
    """List the models: input, classes, size in millions of parameters, licence, and where weights are published.

    \b
    densecast models list
    densecast models list | grep SqueezeNet
    """
    from rich.table import Table

    from models import entries

    table = Table()
    for column in ("model", "title", "input", "classes", "size", "licence", "weights"):
        table.add_column(column, overflow="fold")
    for entry in entries():
        where = entry.published.url if entry.published else "shipped with densecast"
        size = f"{entry.parameters / 1e6:.1f} M"
        table.add_row(entry.name, entry.title, entry.input, str(entry.classes), size, entry.license, where)
    show(table)


@models.command("fetch")
@click.argument("name")
@click.option("--directory", type=click.Path(), help="The folder for the weights. Default: densecast's cache.")
@click.option("--output", "-o", type=click.Path(), help="Also convert the model, into this model directory.")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists.")
@click.option("--allow-http", is_flag=True, help="Take weights without a published digest over plain HTTP.")
def models_fetch(name: str, directory: str | None, output: str | None, *, overwrite: bool, allow_http: bool) -> None:
    """Download a model's published weights; an interrupted download continues where it stopped.

    \b
    densecast models fetch caffenet --output caffenet
    densecast models fetch vgg16 --directory weights
    """
    from rich.progress import Progress

    from models import entry
    from models.fetch import cautions, fetch

    chosen = entry(name)
    if output:
        _check_output(output, overwrite=overwrite)
    printing_does_not_count()
    for caution in cautions(chosen, directory):
        say(f"note: {caution}", err=True)
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"fetching {name}", total=None)
        path = fetch(
            chosen,
            Path(directory) if directory else None,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            allow_http=allow_http,
        )
    say(str(path))
    if output:
        _convert_entry(chosen, path, output, overwrite=overwrite)
        say(output)


@models.command("random")
@click.argument("name")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random weights.")
@click.option("--output", "-o", required=True, type=click.Path(), help="The model directory to make.")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists.")
def models_random(name: str, *, seed: int, output: str, overwrite: bool) -> None:
    """Make a model with seeded random weights: it has full size and full speed, and its classes mean nothing.

    \b
    densecast models random caffenet --output caffenet-random && densecast bench caffenet-random
    densecast models random googlenet --output googlenet-random --seed 7
    """
    from conversion import load_network, random_parameters, save, temporary_folder
    from models import entry

    chosen = entry(name)
    _check_output(output, overwrite=overwrite)
    printing_does_not_count()
    with temporary_folder() as folder:
        weights = folder / f"{name}.caffemodel"
        save(random_parameters(load_network(chosen.definition), seed), folder / "net.prototxt", weights)
        _convert_entry(chosen, weights, output, overwrite=overwrite, random_weights=True)
    say(output)


@models.command("seal")
@click.argument("model", type=click.Path())
def models_seal(model: str) -> None:
    """Record the SHA-256 of a model's files, for a model of a version that did not; or compare them.

    From then on a file that was changed or replaced is found before the model is loaded.

    \b
    densecast models seal caffenet
    densecast models seal models/old-googlenet
    """
    from conversion import read_metadata, seal

    metadata = read_metadata(model)
    known = metadata.files is not None
    if "savedmodel" in metadata.forms:
        need_tensorflow()
    files = seal(model).files or {}
    say(f"{len(files)} files {'are as they were recorded' if known else 'recorded'}: {', '.join(files)}", err=True)


def _check_output(output: str, *, overwrite: bool) -> None:
    from conversion import check_target

    choose_written_forms()
    check_target(Path(output), overwrite=overwrite)


def _convert_entry(
    entry: CatalogEntry, weights: Path, output: str, *, overwrite: bool, random_weights: bool = False
) -> None:
    from conversion import choose_forms
    from conversion import convert as convert_model

    if "savedmodel" in choose_forms():
        need_tensorflow()
    convert_model(
        entry.definition,
        weights,
        output,
        mean=entry.mean,
        scale=entry.scale,
        channel_order=entry.channel_order,
        labels=entry.labels,
        name=entry.name,
        overwrite=overwrite,
        random_weights=random_weights,
    )
