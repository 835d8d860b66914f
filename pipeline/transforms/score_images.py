"""`ScoreImages`: a whole scoring run as a PTransform, for pipelines of your own."""

from __future__ import annotations

import functools
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

import apache_beam as beam

from conversion import ModelMetadata, load_model_network, read_metadata
from pipeline.engines import EngineFactory, OpenEngine
from pipeline.engines.base import BatchShape
from pipeline.errors import JobError
from pipeline.maps.features import check_tileable, parse_features
from pipeline.maps.recipe import Recipe
from pipeline.maps.tiling import cut
from pipeline.maps.windows import check_window
from pipeline.scoring.engine_choice import EngineChoice, choose_engine, engine_named
from pipeline.scoring.scorer import UNALIGNED, Limits
from pipeline.settings import EngineName, ExecutionSettings, PolicySettings, Rounding, declared
from pipeline.sources.reference import ImageReference, resolve
from pipeline.storage.options import StorageOptions
from pipeline.table.image_root import ROOT
from pipeline.table.part_file import FLUSH_BYTES, check_run_id, new_run_id
from pipeline.table.paths import TableRoot, check_root
from pipeline.table.summaries import RunSummary
from pipeline.transforms.accept_references import AcceptReferences, check_input
from pipeline.transforms.plan_run import PlanRun
from pipeline.transforms.publish_fn import PublishFn
from pipeline.transforms.reconcile import Policy
from pipeline.transforms.score_fn import ScoreFn

_LARGE = 1 << 16  # pixels: a side of an image that is certainly cut into tiles


@beam.typehints.with_input_types(ImageReference)
@beam.typehints.with_output_types(RunSummary)
class ScoreImages(beam.PTransform):
    """PCollection[ImageReference] -> PCollection[RunSummary] of one element, the run's.

    The references are joined with what the table already has, and only the difference is scored: a run that was killed
    is resumed, and an unchanged collection costs no more than its listing. References are shuffled, never pixels. After
    the shuffle one fused stage reads, decodes, infers and writes part files; their receipts are committed in one Delta
    transaction. The collection must be bounded. Its windows and triggers are replaced by the global window and the
    default trigger, since a run is one transaction.

    The settings `retry_rejected`, `rescore`, `prune`, `max_pruned`, `root`, `device`, `engine` and `rounding` are
    declared in `pipeline.settings`.

    Args:
        model: A model directory that `conversion.convert` wrote. Workers must reach it under the same name.
        output: The table to write to, a local path or `scheme://`; made if there is none.
        recipe: What is made of every image, by default the top 5 classes at scale 1. The model's digest is filled in.
            The effect of a precision is not measured here; `measure_parity` measures it.
        retry_rejected: Whether rejected images are tried again though they have not changed.
        rescore: Whether all images are scored again.
        prune: Whether images of the table that are not among the references are marked as deleted.
        max_pruned: The share of the table's images, 0 to 1, that `prune` may mark; the run fails if it would mark more.
        root: The folder that the references' addresses are relative to, as given to `ListImages`; None where they are
            absolute. Readers of the table look for the images below it.
        run_id: Names the run; a repeated run id commits nothing new. Made from the time by default.
        limits: What is read and decoded at all, and how.
        flush_bytes: Size in bytes of gathered rows at which a part file is written.
        summary: More to keep with the run, as JSON.
        engine: What runs the net, see `choose_engine`, or a choice that was made already.
        open_engine: Makes the engine on the worker; by default `engine`, on `device`.
        device: `auto` (a GPU where there is one), `cpu`, `gpu` (all GPUs of a process, or an error), `gpu:1`.
        rounding: `exact` (the same bits for the same image on machines of one kind), or `bounded`.
        compiled: Batches (images, rows, columns) that XLA compiles when a model is opened; others run without XLA.
        storage_options: How object stores are opened, for images and table; None: as the environment says.

    Raises:
        ModelError: `model` is not a model directory.
        EngineError: The engine cannot run the model, or none can.
        JobError: An argument is out of range, or `summary` is not JSON.
        TableError: The run id cannot be part of a file name, or the output cannot be a table's folder.
        SourceError: Where it is applied: the elements are not of type ImageReference. On a worker: one is not.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        output: str | os.PathLike[str],
        recipe: Recipe | None = None,
        *,
        retry_rejected: bool = PolicySettings.retry_rejected,
        rescore: bool = PolicySettings.rescore,
        prune: bool = PolicySettings.prune,
        max_pruned: float = PolicySettings.max_pruned,
        root: str | None = PolicySettings.root,
        run_id: str = "",
        limits: Limits | None = None,
        flush_bytes: int = FLUSH_BYTES,
        summary: Mapping[str, object] | None = None,
        open_engine: OpenEngine | None = None,
        device: str = ExecutionSettings.device,
        engine: EngineChoice | EngineName | str = ExecutionSettings.engine,
        rounding: Rounding | str = ExecutionSettings.rounding,
        compiled: Sequence[BatchShape] = (),
        storage_options: StorageOptions | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        # Made absolute here, where the user's current folder is known: workers run in other folders.
        model = resolve(os.fspath(model))
        self._output = TableRoot(resolve(os.fspath(output)), storage_options)
        self._root = resolve(root) if root else ""
        if not declared()["max_pruned"].range.allows(max_pruned):
            raise JobError(f"max_pruned is {max_pruned}", why="it is a share, from 0 to 1")
        self.run_id = run_id or new_run_id()
        check_run_id(self.run_id)
        check_root(self._output)
        if rounding not in list(Rounding):
            raise JobError(f"rounding is {rounding!r}", remedy=f"write {' or '.join(Rounding)}")
        rounding = self._rounding = Rounding(rounding)
        metadata = read_metadata(model)
        recipe = self._recipe = (recipe or Recipe()).for_model(metadata)
        self._loads_tensorflow, chosen = False, {}
        if open_engine is None:
            if not isinstance(engine, EngineChoice):
                wanted = engine_named(engine)
                engine = choose_engine(wanted, model, metadata, recipe, device=device, xla=bool(compiled), here=False)
            open_engine = EngineFactory(model, recipe, engine.engine, device, tuple(compiled))
            self._loads_tensorflow = engine.engine is EngineName.TENSORFLOW
            chosen = {"engine": engine.as_json()}
        limits = limits or Limits()
        # Hosts are given up for this run alone, also where a process runs several.
        self._limits = replace(limits, web=replace(limits.web, run=limits.web.run or secrets.token_hex(8)))
        self._policy = Policy(
            recipe.decodings(),
            recipe.row_scales,
            retry_rejected=retry_rejected,
            rescore=rescore,
            prune=prune,
            rules=recipe.rules,
        )
        self._score = ScoreFn(
            open_engine,
            self._output,
            self.run_id,
            self._recipe,
            limits=self._limits,
            flush_bytes=flush_bytes,
            uncut=_uncut(model, metadata, recipe, self._limits),
            rounding=rounding,
        )
        self._publish = PublishFn(
            self._output,
            self.run_id,
            metadata.model_dump(mode="json", exclude={"files"}),
            summary={
                "recipe": self._recipe.as_json(),
                "rounding": rounding,
                **({ROOT: self._root} if self._root else {}),
                **chosen,
                **_as_json(summary or {}),
            },
            max_pruned=max_pruned,
        )

    def open_ahead(self) -> None:
        """Starts to open the model in this process, for a runner that works here and certainly scores something.

        TensorFlow is not loaded ahead: what the process prints meanwhile would be lost with TensorFlow's own lines.
        """
        if not self._loads_tensorflow:
            self._score.open_ahead()

    def type_check_inputs(self, references: object) -> None:
        """Checks the input as Beam does before `expand`, with errors that say what to do.

        Raises:
            JobError: The input is not a PCollection, or is not bounded.
            SourceError: Its elements have a type that is not ImageReference.
        """
        check_input(references)

    def expand(self, references: beam.PCollection) -> beam.PCollection:
        """Returns the run's summary as a collection of one element."""
        plan = PlanRun(
            self._output,
            self.run_id,
            self._recipe,
            self._policy,
            max_image_bytes=self._limits.max_image_bytes,
            rounding=self._rounding,
            web=self._limits.web,
            root=self._root,
        )
        planned = references | "Accept references" >> AcceptReferences() | "Plan" >> plan
        receipts = (
            planned.work | "Shuffle references" >> beam.Reshuffle() | "Decode, infer, write" >> beam.ParDo(self._score)
        )
        return (
            (planned.reports, receipts)
            | "All reports" >> beam.Flatten()
            | "Gather reports" >> beam.combiners.ToList()
            | "Publish" >> beam.ParDo(self._publish)
        )


def _as_json(summary: Mapping[str, object]) -> dict[str, object]:
    """Returns entries of a summary as they will be read from its file.

    Raises:
        JobError: They cannot be written as JSON; after the commit it would be too late to say so.
    """
    try:
        # Every kind of error of `json`: circular entries are a ValueError, and endless ones a RecursionError.
        entries: dict[str, object] = json.loads(json.dumps(dict(summary), allow_nan=False))
        json.dumps(entries, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise JobError(
            f"summary cannot be written as JSON: {error}",
            why="it is kept with the run in a JSON file",
            remedy="give a mapping of texts, finite numbers, lists and mappings",
        ) from error
    return entries


def _uncut(model: str, metadata: ModelMetadata, recipe: Recipe, limits: Limits) -> str:
    """Returns why images cannot be cut into tiles; empty where they can.

    Raises:
        JobError: The tiles are too small for the model, it has no such feature, or a window has not one cell.
    """
    network = functools.cache(lambda: load_model_network(model))
    wanted = parse_features(recipe.features, metadata, network)
    if recipe.windows is not None:
        check_window(network(), metadata)
    if metadata.alignment is None:
        return UNALIGNED
    cut(_LARGE, _LARGE, metadata.geometry, tile_pixels=limits.tile_pixels, alignment=metadata.alignment)
    try:
        if wanted:
            check_tileable(wanted, network(), metadata.output_blob)
    except JobError as error:
        return error.what
    return ""
