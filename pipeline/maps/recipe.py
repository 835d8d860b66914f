"""The recipe of a run, which says how maps are computed and stored, and the content addresses of maps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from pipeline.images.resize import Scaling
from pipeline.settings import Form, Precision, RecipeSettings

__all__ = ["Form", "Precision", "Recipe"]

# Incremented if the same settings give different maps than before; every image is then scored again.
_GENERATION = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a run computes and stores maps: together with an image's digest, everything that its maps depend on.

    Attributes:
        model_digest: Digest of the model (weights, definition, preprocessing); empty until it is known.
        form: What is stored of a map.
        k: The most classes that a cell keeps.
        precision: The type that the network computes in. The recipe does not contain the device or whether XLA compiles
            the network: they also change the last digits, but moving to another machine should not score all images
            again.
        scales: Factors by which an image is enlarged before it is scored, positive; one map per factor.
        resize: See `pipeline.images.resize.Scaling`.
        max_side: See `pipeline.images.resize.Scaling`.
        features: The blobs kept with the map, each as `name` or `name:float16`.
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
        """SHA-256 in hex: recipes with the same digest make the same rows of an image."""
        return _digest([*self._settings(), sorted(map(float, self.scales))])

    def key(self, image_digest: str, scale: float) -> str:
        """Returns the content address of a map: maps with one key are equal, so a stored map is not computed again.

        Args:
            image_digest: SHA-256 of the image file, in hex.
            scale: One of `scales`.

        Returns:
            SHA-256 in hex, 64 characters.
        """
        return _digest([*self._settings(), image_digest, float(scale)])

    def of_model(self, digest: str) -> Recipe:
        """Returns the same recipe for a model with this digest."""
        return replace(self, model_digest=digest)

    def as_json(self) -> dict[str, object]:
        """Returns the settings and their digest, for a run's summary."""
        return {**asdict(self), "digest": self.digest}

    def _settings(self) -> list[object]:
        return [
            *(_GENERATION, self.model_digest, str(self.form), self.k, str(self.precision)),
            *(self.resize, self.max_side, sorted(self.features)),
        ]


def _digest(parts: list[object]) -> str:
    # As JSON, because concatenated parts of two different lists could be the same text.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
