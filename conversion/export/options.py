"""The options that shape a dense network, as every command takes them and as a model records them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class DenseOptions(BaseModel):
    """What the network of a model depends on besides its Caffe files.

    Attributes:
        crop: The size that the classifier was trained at: one number for both sides, (height, width) or (channels,
            height, width); by default the definition's own.
        stages: The stages that `include` and `exclude` rules ask for, besides those that the definition states.
        level: The level that these rules ask for; by default the definition's.
        output_blob: The blob of the map, by the classifier's own name; layers that only other outputs need are left
            out. See `signatures.choose_output` for the default.
        output_stride: Pixels between cells, a divisor of the map's own stride; see `dilate`. A smaller stride costs
            more multiply-adds.
        pooling_rounding: "floor" for poolings that round down where layers beside them do; see
            `rounding.floor_poolings`. By default poolings round as the definition says.
        dialect: The fork of Caffe that the definition was written for, where its names have several senses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int | tuple[int, int] | tuple[int, int, int] | None = None
    stages: tuple[str, ...] = ()
    level: int | None = None
    output_blob: str | None = None
    output_stride: int | None = None
    pooling_rounding: Literal["floor"] | None = None
    dialect: str | None = None

    def given(self) -> dict[str, object]:
        """Returns the options that differ from their defaults, by name."""
        return self.model_dump(exclude_defaults=True)

    def replaced_by(self, other: DenseOptions) -> DenseOptions:
        """Returns these options with those in place that the other gives."""
        return self.model_copy(update=other.given())

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.given().items()) or "no options"
