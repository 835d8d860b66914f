"""Scores images in two orders and two divisions, and prints the digests of all maps: the bits that a run makes here.

`python -m tests.support.exact_bits MODEL FOLDER [exact|bounded [ENGINE]]`, in a process of its own, whose environment
chooses the kernels.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from conversion import read_metadata
from pipeline.engines import Engine, EngineFactory
from pipeline.maps.recipe import Form, Recipe
from pipeline.scoring.batch_effect import batch_effect
from pipeline.scoring.batching import BatchBudget, BatchEffect
from pipeline.scoring.scorer import Limits, Scorer, Tiles
from pipeline.settings import EngineName, Rounding
from pipeline.sources import ImageReference


def digests(engine: Engine, recipe: Recipe, bundles: Sequence[Sequence[Path]], effect: BatchEffect) -> dict[str, str]:
    """The digest of every image's map; each bundle is scored to its end before the next begins."""
    found: dict[str, str] = {}
    with contextlib.closing(Scorer(engine, recipe, Limits(), "run", effect=effect)) as scorer:
        for bundle in bundles:
            scored = [row for path in bundle for row in scorer.add(ImageReference(str(path)))] + list(scorer.flush())
            for row in scored:
                if isinstance(row, Tiles):
                    raise TypeError("an image was cut into tiles")
                found[row.uri] = str(row.map_digest)
    return found


def main(model: str, folder: str, rounding: str = Rounding.EXACT, name: str = EngineName.TENSORFLOW) -> None:
    """Prints the effect that batches respect, and the images whose bits differ between the orders."""
    recipe = Recipe(read_metadata(model).digest, form=Form.FLOAT32)
    engine = EngineFactory(model, recipe, EngineName(name), "cpu")()
    effect = batch_effect(engine, Rounding(rounding), BatchBudget())
    images = sorted(Path(folder).iterdir())
    together = digests(engine, recipe, [images], effect)
    divided = digests(engine, recipe, [images[::-2], images[-2::-2]], effect)
    differing = sorted(name for name in together if together[name] != divided[name])
    sys.stdout.write(json.dumps({"effect": effect, "images": len(together), "differing": differing}))


if __name__ == "__main__":
    main(*sys.argv[1:])
