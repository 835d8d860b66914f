"""The recipe of a run, which says how maps are computed and stored, and the content addresses of maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from conversion import MEAN_FILE, ModelMetadata
from pipeline.errors import SettingError
from pipeline.images.decoding_rules import Decoding, Rules, rules
from pipeline.images.resize import WINDOWS_SCALE, Scaling, Size, WindowResize
from pipeline.settings import Form, Precision, RecipeSettings, WindowFilter, WindowMean, Windows

__all__ = ["Form", "Precision", "Recipe"]

# Incremented if the same settings give different maps than before; every image is then scored again. If only the
# decoding of a file type changes, its version in `pipeline.images.decoding_rules` is raised instead.
_GENERATION = 2
_CLASSIFY_SIZE = (256, 256)
"""The size that pycaffe's classify.py (`--images_dim`) and the scripts of Caffe's ImageNet example resize to."""


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
        features: The blobs kept with the map, each as `name`, `name:before` or one of these and `:float16`.
        rules: The decoding rules of each file type.
        windows: The windows of the trained size that are classified besides; None for none.
        window_filter: What resizes the image for them.
        window_resize: The size from which they are cut: (height, width), or the shorter side. `for_model` fills it in.
        window_mean: How the mean is subtracted from them. `for_model` fills it in.
        mean_digest: SHA-256 of the mean image that is subtracted from them, in hex; `for_model` fills it in.
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
    windows: Windows | None = RecipeSettings.windows
    window_filter: WindowFilter = RecipeSettings.window_filter
    window_resize: int | tuple[int, int] | None = None
    window_mean: WindowMean | None = None
    mean_digest: str = ""

    @property
    def scaling(self) -> Scaling:
        """The sizes that an image is scored at; raises JobError if one is out of range."""
        windows = None
        if self.windows is not None:
            size = _CLASSIFY_SIZE if self.window_resize is None else self.window_resize
            windows = WindowResize(self.window_filter, size)
        return Scaling(self.resize, self.max_side, self.scales, windows)

    @property
    def row_scales(self) -> tuple[float, ...]:
        """The scales of the rows of an image: `scales`, and `WINDOWS_SCALE` for its windows."""
        return (*self.scales, *([WINDOWS_SCALE] if self.windows is not None else []))

    @property
    def digest(self) -> str:
        """SHA-256 in hex of the settings, for all file types."""
        return self.digest_of(Decoding())

    def digest_of(self, decoding: Decoding) -> str:
        """Returns SHA-256 in hex: rows of an image with the same digest were made in the same way.

        It is `digest` if the file type is not known: as in tables from before decoding rules had versions.
        """
        known = () if decoding.format is None else decoding
        return _digest([*self._settings(), *self._window_settings(), sorted(map(float, self.scales)), *known])

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
            scale: One of `row_scales`.
            file_type: The type of the file; None if it could not be read.

        Returns:
            SHA-256 in hex, 64 characters.
        """
        pixels = 1 if file_type is None else self.rules[file_type].pixels
        windows = self._window_settings() if scale == WINDOWS_SCALE else []
        known = [file_type, pixels] if pixels > 1 else []
        return _digest([*self._settings(), *windows, image_digest, float(scale), *known])

    def of_model(self, digest: str, *, grey: bool = False) -> Recipe:
        """Returns the same recipe for a model with this digest.

        Args:
            digest: The digest.
            grey: Whether its net takes grey images, which are decoded to grey.
        """
        return replace(self, model_digest=digest, rules=rules(grey=grey))

    def for_model(self, metadata: ModelMetadata) -> Recipe:
        """Returns the same recipe for a model, with the settings of windows that follow from it.

        Raises:
            SettingError: The windows do not fit the model: they are larger than the image that they are cut from, or
                the mean image that is asked for is missing or has another size.
        """
        recipe = self.of_model(metadata.digest, grey=metadata.takes_grey)
        if self.windows is None:
            return recipe
        window, mean = metadata.minimum_size, metadata.mean_image
        size = self._cut_from(window, mean)
        rule = self._mean_rule(metadata)
        if rule is WindowMean.CROP and size != mean:
            raise SettingError(
                f"the mean image has {_text(mean)} pixels, and the windows are cut from an image of {_text(size)}",
                where=f"model {metadata.name}",
                why="Caffe subtracts the part of the mean image at the window only where both have one size",
                remedy="give --window-resize the size of the mean image, or --window-mean resize or channel",
            )
        digest = (metadata.files or {}).get(MEAN_FILE, "") if rule is not WindowMean.CHANNEL else ""
        return replace(recipe, window_resize=size, window_mean=rule, mean_digest=digest)

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

    def _cut_from(self, window: Size, mean: Size | None) -> int | Size:
        """Returns the size that an image is brought to; raises SettingError if it has no windows of that size."""
        given = self.window_resize
        if self.windows is Windows.WARP:
            if given not in (None, window):
                raise SettingError(
                    f"--windows warp brings an image to {_text(window)} pixels, --window-resize says {_text(given)}",
                    remedy="leave out --window-resize, or use --windows center",
                )
            return window
        size = (mean or _CLASSIFY_SIZE) if given is None else given
        height, width = (size, size) if isinstance(size, int) else size
        if height < window[0] or width < window[1]:
            raise SettingError(
                f"windows of {_text(window)} pixels do not fit in an image of {_text(size)}",
                remedy="give a larger --window-resize",
            )
        return size

    def _mean_rule(self, metadata: ModelMetadata) -> WindowMean:
        """Returns how the mean is subtracted; raises SettingError if the model lacks the mean image for it."""
        wanted = self.window_mean
        if metadata.mean_image is None:
            if wanted is WindowMean.CHANNEL or (wanted is None and not metadata.lost_mean_image):
                return WindowMean.CHANNEL
            raise SettingError(
                "the model has no mean image",
                where=f"model {metadata.name}",
                why="an older version of densecast made it, which kept the channel mean of its mean image only"
                if metadata.lost_mean_image
                else "it was converted without one",
                remedy="convert it again with its mean image, or subtract its channel mean: --window-mean channel",
            )
        if wanted is not None:
            return wanted
        as_pycaffe = self.window_filter is WindowFilter.SKIMAGE or self.windows is Windows.WARP
        return WindowMean.RESIZE if as_pycaffe else WindowMean.CROP

    def _window_settings(self) -> list[object]:
        if self.windows is None:
            return []
        return [
            *(str(self.windows), str(self.window_filter), self.window_resize),
            *(str(self.window_mean), self.mean_digest),
        ]

    def _settings(self) -> list[object]:
        return [
            *(_GENERATION, self.model_digest, str(self.form), self.k, str(self.precision)),
            *(self.resize, self.max_side, sorted(self.features)),
        ]


def _text(size: int | Size | None) -> str:
    return f"shorter side {size}" if isinstance(size, int) else " x ".join(map(str, size or ()))


def _digest(parts: list[object]) -> str:
    # As JSON, because concatenated parts of two different lists could be the same text.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
