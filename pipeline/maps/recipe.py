"""The recipe of a run, which says how maps are computed and stored, and the content addresses of maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pipeline.images.decoding_rules import Decoding, Rules, rules
from pipeline.images.resize import Scaling
from pipeline.settings import Form, Precision, RecipeSettings

__all__ = ["Form", "Precision", "Recipe"]

# Incremented if the same settings give different maps than before; every image is then scored again. If only the
# decoding of a file type changes, its version in `pipeline.images.decoding_rules` is raised instead.
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
        rules: The decoding rules of each file type.
    """

    model_digest: str = ""
    form: Form = RecipeSettings.scores
    k: int = RecipeSettings.top_k
    precision: Precision = RecipeSettings.precision
    scales: tuple[float, ...] = RecipeSettings.scales
    resize: int | tuple[int, int] | None = None
    max_side: int | None = None
    features: tuple[str, ...] = ()
    rules: Mapping[str, Rules] = field(default_factory=rules, compare=False)

    @property
    def scaling(self) -> Scaling:
        """The sizes that an image is scored at; raises JobError if one is out of range."""
        return Scaling(self.resize, self.max_side, self.scales)

    @property
    def digest(self) -> str:
        """SHA-256 in hex of the settings, for all file types."""
        return self.digest_of(Decoding())

    def digest_of(self, decoding: Decoding) -> str:
        """Returns SHA-256 in hex: rows of an image with the same digest were made in the same way.

        It is `digest` if the file type is not known: as in tables from before decoding rules had versions.
        """
        known = () if decoding.format is None else decoding
        return _digest([*self._settings(), sorted(map(float, self.scales)), *known])

    def decoding(self, file_type: str | None) -> Decoding:
        """Returns how a file of a type is decoded today; None stands for a file that could not be read."""
        return Decoding() if file_type is None else Decoding(file_type, self.rules[file_type].version)

    def decodings(self) -> dict[str, Decoding]:
        """Returns how an image was decoded, for each digest that a row made with these settings can have."""
        known = [Decoding(name, version) for name, of in self.rules.items() for version in range(1, of.version + 1)]
        return {self.digest_of(decoding): decoding for decoding in (Decoding(), *known)}

    def key(self, image_digest: str, scale: float, file_type: str | None = None) -> str:
        """Returns the content address of a map: maps with one key are equal.

        Args:
            image_digest: SHA-256 of the image file, in hex.
            scale: One of `scales`.
            file_type: The type of the file; None if it could not be read.

        Returns:
            SHA-256 in hex, 64 characters.
        """
        pixels = 1 if file_type is None else self.rules[file_type].pixels
        return _digest([*self._settings(), image_digest, float(scale), *([file_type, pixels] if pixels > 1 else [])])

    def of_model(self, digest: str, *, grey: bool = False) -> Recipe:
        """Returns the same recipe for a model with this digest.

        Args:
            digest: The digest.
            grey: Whether its net takes grey images, which are decoded to grey.
        """
        return replace(self, model_digest=digest, rules=rules(grey=grey))

    def as_json(self) -> dict[str, object]:
        """Returns the settings, their digest and the versions of the decoding rules, for a run's summary."""
        decoding = {name: of.version for name, of in self.rules.items() if name}
        settings = {name: value for name, value in asdict(self).items() if name != "rules"}
        return {**settings, "digest": self.digest, "decoding": decoding}

    @classmethod
    def from_json(cls, settings: object, model: Mapping[str, Any]) -> Recipe | None:
        """Returns the recipe that `as_json` has written, with the decoding rules of today.

        Args:
            settings: What `as_json` returned, of this version or an older one.
            model: The metadata of the model as JSON.

        Returns:
            The recipe; None if it is not one, or if its digest is not what these settings give today.
        """
        if not isinstance(settings, dict):
            return None
        names = {item.name for item in fields(cls)} - {"rules"}
        try:
            recipe = cls(**{name: value for name, value in settings.items() if name in names})
            grey = model.get("preprocessing", {}).get("channel_order") == "gray"
            recipe = recipe.of_model(recipe.model_digest, grey=grey)
            return recipe if recipe.digest == settings.get("digest") else None
        except (TypeError, ValueError, AttributeError):
            return None

    def _settings(self) -> list[object]:
        return [
            *(_GENERATION, self.model_digest, str(self.form), self.k, str(self.precision)),
            *(self.resize, self.max_side, sorted(self.features)),
        ]


def _digest(parts: list[object]) -> str:
    # As JSON, because concatenated parts of two different lists could be the same text.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
