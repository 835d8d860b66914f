"""Chooses the engine of a run, once, where the run starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conversion import ModelMetadata, read_metadata
from pipeline.engines import Engine, EngineFactory
from pipeline.engines.candidates import Wish, is_installed, prefers_gpu, refusals, versions
from pipeline.engines.devices import CPU
from pipeline.errors import EngineError, SettingError
from pipeline.maps.recipe import Precision, Recipe
from pipeline.scoring.engine_trials import trials_of
from pipeline.settings import EngineName, ExecutionSettings

AGREEMENT = 1e-4
"""The most that an engine's probabilities may differ from the NumPy reference: the tolerance of a conversion."""
_AGREEMENT_16 = 2e-2  # in 16 bits: that of an export; what it does to the maps is measured by `measure_parity`
_CLEARLY = 1.1


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a run.

    Attributes:
        engine: The engine.
        reason: Why it is this one, for people.
    """

    engine: EngineName
    reason: str

    def as_json(self) -> dict[str, object]:
        """Returns what the run's summary keeps."""
        return {"name": self.engine, "reason": self.reason, "versions": versions(self.engine)}


def engine_named(name: str) -> EngineName:
    """Returns the engine of that name; raises SettingError if there is none."""
    if name not in list(EngineName):
        raise SettingError(f"{name!r} is not an engine", remedy=f"write {', '.join(EngineName)}")
    return EngineName(name)


def choose_engine(
    wanted: EngineName,
    model: str,
    metadata: ModelMetadata,
    recipe: Recipe,
    *,
    device: str,
    xla: bool = False,
    here: bool = True,
) -> EngineChoice:
    """Returns the engine that a run uses.

    `AUTO` takes the engine that would use a GPU of this machine. Without one it takes densecast's own where it can run
    the job. Else it tries every engine but TensorFlow on an image, in a process of its own, and takes the fastest that
    agrees with the NumPy reference. The result is kept for the next run on this machine with this model. TensorFlow is
    not tried, since its start takes longer than its speed could win back: `AUTO` takes it where no other engine can do
    what the recipe asks for.

    Args:
        wanted: The engine, or `AUTO`.
        model: The model directory.
        metadata: Its `densecast.json`.
        recipe: How maps are computed.
        device: `auto`, `cpu`, `gpu` or `gpu:1`.
        xla: Whether XLA compiles the net.
        here: Whether this machine certainly runs the engine. What is installed on the workers of a cluster, and whether
            they have GPUs, is not known here: an engine that is named is taken if it can run the model, and `AUTO`
            takes one of those that are installed here, if there are any.

    Raises:
        EngineError: The engine cannot do it, or none can: it is not installed, the model has no form for it, it does
            not have the precision or the device.
    """
    wish = Wish(model, metadata, recipe.precision, device, xla)
    against = refusals(wish, here=here)
    if wanted is not EngineName.AUTO:
        why, remedy = against[wanted]
        if why:
            raise EngineError(f"--engine {wanted} cannot run this job", where=model, why=why, remedy=remedy)
        return EngineChoice(wanted, "asked for by its name")
    able = [name for name, (why, _) in against.items() if not why]
    if not able:
        raise EngineError(
            "no engine can run this job",
            where=model,
            why="; ".join(f"{name}: {why}" for name, (why, _) in against.items()),
            remedy=next(remedy for _, remedy in against.values()),
        )
    installed = [name for name in able if is_installed(name)]
    if not installed:
        # Workers have what their extra installs; few have been built with densecast's own kernels.
        first = min(able, key=lambda name: name is EngineName.NATIVE)
        return EngineChoice(first, "the first that can run the model; none of them is installed where the run starts")
    able = installed
    others = "; ".join(f"{name}: {why}" for name, (why, _) in against.items() if why)
    for name in able:
        if prefers_gpu(name, device):
            return EngineChoice(name, "it uses the GPU of this machine")
    if EngineName.NATIVE in able:
        return EngineChoice(EngineName.NATIVE, "densecast's own: fast on CPUs, and the same bits on all of them")
    tried = [name for name in able if name is not EngineName.TENSORFLOW]
    if not tried:
        return EngineChoice(able[0], f"no other engine can run this job ({others})" if others else "")
    if len(tried) == 1 and metadata.onnx_verification is not None:
        choice = EngineChoice(tried[0], "the only engine besides TensorFlow that can run this job")
    else:
        choice = _fastest(tried, wish, or_else=EngineName.TENSORFLOW if EngineName.TENSORFLOW in able else None)
    return EngineChoice(choice.engine, f"{choice.reason}; not native: {against[EngineName.NATIVE][0]}")


def _fastest(tried: Sequence[EngineName], wish: Wish, *, or_else: EngineName | None) -> EngineChoice:
    """Returns the fastest engine that agrees with the reference; `or_else` if there is none.

    Raises:
        EngineError: None agrees, and there is no other.
    """
    trials = trials_of(tried, wish)
    bound = AGREEMENT if wish.precision is Precision.FLOAT32 else _AGREEMENT_16
    agreeing = {name: trial for name, trial in trials.items() if trial.error <= bound}
    found = ", ".join(f"{name} {t.milliseconds:.0f} ms, off by {t.error:.1e}" for name, t in trials.items())
    if not agreeing:
        if or_else is not None:
            return EngineChoice(or_else, f"no other engine agrees with the NumPy reference ({found})")
        raise EngineError(
            f"no engine agrees with the NumPy reference to {bound:.0e}",
            where=wish.model,
            why=found or "none could be tried",
            remedy="name one with --engine if that suffices",
        )
    least = min(trial.milliseconds for trial in agreeing.values())
    # The timing is noisy: the first in our order gives way to an engine that is clearly faster.
    best = next(name for name, trial in agreeing.items() if trial.milliseconds <= _CLEARLY * least)
    return EngineChoice(best, f"the fastest of those that agree with the NumPy reference ({found})")


def open_model(
    model: str | Path, recipe: Recipe | None = None, *, engine: str = ExecutionSettings.engine, device: str = CPU
) -> Engine:
    """Opens a model in this process, for commands that score no collection.

    Args:
        model: The model directory.
        recipe: How maps are computed; by default the top 5 classes.
        engine: The engine; see `choose_engine`.
        device: `auto`, `cpu`, `gpu` or `gpu:1`.

    Raises:
        SettingError: There is no such engine or device.
        EngineError: See `choose_engine`.
    """
    metadata = read_metadata(model)
    recipe = (recipe or Recipe()).for_model(metadata)
    choice = choose_engine(engine_named(engine), str(model), metadata, recipe, device=device)
    return EngineFactory(str(model), recipe, choice.engine, device)()
