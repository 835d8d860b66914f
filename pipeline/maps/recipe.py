"""What a run makes of every image, and the content addresses that follow from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.images.resize import Scaling
from pipeline.settings import Form, Precision, RecipeSettings

__all__ = ["Form", "Precision", "Recipe"]

# Bumped when the same settings begin to give other maps: every image is then scored anew.
_GENERATION = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run makes of every image: with the image's digest, everything that its maps depend on.

    Attributes:
        model_digest: Digest of the model (weights, definition, preprocessing); empty until it is known.
        form: How much of a map is kept.
        k: How many classes a cell keeps, at most.
        precision: What the net computes in. The device, and whether XLA compiles the net, are not here: they too change
            last digits, but not what is computed, and another machine is no reason to score everything again.
        scales: By what an image is enlarged before it is scored, positive; one map each.
        resize: Before that, an image's shorter side becomes so many pixels, or its (height, width) these; None: as is.
        max_side: And no side is longer than so many pixels; None: no limit.
        features: The blobs that are kept beside the map, as `name` or `name:float16`.
    """

    model_digest: str = ""
    form: Form = RecipeSettings.scores
    k: int = RecipeSettings.top_k
    precision: Precision = RecipeSettings.precision
    scales: tuple[float, ...] = RecipeSettings.scales
    resize: int | tuple[int, int] | None = None
    max_side: int | None = None
    features: tuple[str, ...] = ()

    @property
    def scaling(self) -> Scaling:
        """The sizes that an image is scored at; raises JobError if one is out of range."""
        return Scaling(self.resize, self.max_side, self.scales)

    @property
    def digest(self) -> str:
        """SHA-256 in hex: two recipes with one digest make the same rows of an image."""
        return _digest([*self._settings(), sorted(map(float, self.scales))])

    def key(self, image_digest: str, scale: float) -> str:
        """The content address of a map: equal keys mean equal maps, so what a table has need not be computed again.

        Args:
            image_digest: SHA-256 of the image file, in hex.
            scale: One of `scales`.

        Returns:
            SHA-256 in hex, 64 characters.
        """
        return _digest([*self._settings(), image_digest, float(scale)])

    def of_model(self, digest: str) -> Recipe:
        """The same for a model."""
        return replace(self, model_digest=digest)

    def as_json(self) -> dict[str, Any]:
        """The settings and their digest, for a run's summary."""
        return {**asdict(self), "digest": self.digest}

    def _settings(self) -> list[object]:
        return [
            *(_GENERATION, self.model_digest, str(self.form), self.k, str(self.precision)),
            *(self.resize, self.max_side, sorted(self.features)),
        ]


def _digest(parts: list[object]) -> str:
    # JSON, because a mere concatenation would let two different lists spell the same text.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
