"""The settings of a scoring job, each declared once: type, default, range, unit, help, and whether it changes the maps.

The flags of `densecast score`, the keys of job files and the defaults in Python are made from these declarations. This
module imports the standard library alone, because `densecast --help` reads it at start-up.
"""
# ruff: noqa: RUF009 - `_setting` returns a dataclass field of its own for each call

from __future__ import annotations

import dataclasses
import functools
import operator
import types
import typing
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

LOCAL = "local"
"""The runner that is part of Beam's Python SDK."""
FLINK = "FlinkRunner"
"""The runner that needs the address of a cluster."""


class Form(StrEnum):
    """How much of a map is kept: the best k classes of every cell, or also all probabilities.

    `LOG_UINT8` keeps one byte a class: the logarithm of the probability, see `pipeline.maps.quantization`.
    """

    TOP_K = "top-k"
    LOG_UINT8 = "log-uint8"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Precision(StrEnum):
    """What a net computes in where that makes a difference to its speed: see `conversion.layers.base.Narrow`."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class EngineName(StrEnum):
    """What runs a model. `AUTO`: densecast's own, `NATIVE`; else the fastest that agrees with the NumPy reference."""

    AUTO = "auto"
    NATIVE = "native"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORFLOW = "tensorflow"


class Rounding(StrEnum):
    """Which bits of a map may differ when an image is scored again, on a machine of the same kind.

    `EXACT`: none, whatever other images are scored, in whatever order, by however many workers. `BOUNDED`: the last
    ones, because images are batched as they come; see `pipeline.table.rounding.TOLERANCE`.
    """

    EXACT = "exact"
    BOUNDED = "bounded"


class Frames(StrEnum):
    """Which frames are scored of a file that has several: pages of a TIFF, frames of a GIF, WebP or APNG."""

    FIRST = "first"
    ALL = "all"


class Windows(StrEnum):
    """Which windows of the size that the net was trained at are cut from an image, as Caffe's classifiers do.

    `CENTER`: the centre of the resized image. `TEN`: its four corners and its centre, then the same mirrored, which is
    `oversample` of pycaffe. `WARP`: the whole image, brought to the size of a window.
    """

    CENTER = "center"
    TEN = "ten"
    WARP = "warp"


class WindowFilter(StrEnum):
    """Whose rule of bilinear resampling brings an image to its size; see `pipeline.images.window_filters`."""

    SKIMAGE = "skimage"
    OPENCV = "opencv"
    PIL = "pil"


class WindowMean(StrEnum):
    """How the mean image is subtracted: see `pipeline.maps.windows`."""

    CROP = "crop"
    RESIZE = "resize"
    CHANNEL = "channel"


class Range(NamedTuple):
    """The values that a number may have; the names are pydantic's.

    Attributes:
        ge: The least value.
        gt: The value must be greater.
        le: The greatest value.
        lt: The value must be less.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def allows(self, value: float) -> bool:
        """Returns whether a value is in the range.

        >>> Range(ge=0, lt=1).allows(0), Range(ge=0, lt=1).allows(1)
        (True, False)
        """
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


class Unit(StrEnum):
    """What a number counts. A share may also be written as a percentage, such as `5%`."""

    PIXELS = "pixels"
    BYTES = "bytes"
    SECONDS = "seconds"
    SHARE = "share"


Share: TypeAlias = Annotated[float, Range(ge=0, le=1), Unit.SHARE]
Pixels: TypeAlias = Annotated[int, Range(ge=1), Unit.PIXELS]
Bytes: TypeAlias = Annotated[int, Range(ge=1), Unit.BYTES]
Seconds: TypeAlias = Annotated[float, Range(gt=0), Unit.SECONDS]
Count: TypeAlias = Annotated[int, Range(ge=1)]


class Help(NamedTuple):
    """What is declared of a setting, except type and default.

    Attributes:
        text: The help of its flag.
        changes_maps: Whether another value may change the rows that a run leaves. A date of a nightly job that is done
            stays done when a setting that does not is changed.
        metavar: What the help writes for the value; empty for the usual.
        short_flag: Its short flag; empty where there is none.
        has_flag: Whether `densecast score` has a flag for it.
        alias: Another name of its flag; empty where there is none.
        common: Whether it is needed often enough for the short help of `densecast score`.
    """

    text: str
    changes_maps: bool
    metavar: str
    short_flag: str
    has_flag: bool
    alias: str
    common: bool


def _setting(
    default: T,
    text: str,
    *,
    changes_maps: bool = True,
    metavar: str = "",
    short_flag: str = "",
    has_flag: bool = True,
    alias: str = "",
    common: bool = False,
) -> T:
    """Declares a field of a group; see `Help`."""
    metadata = {"help": Help(text, changes_maps, metavar, short_flag, has_flag, alias, common)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """What is made of every image."""

    top_k: Count = _setting(5, "Classes kept a cell.", common=True)
    scores: Form = _setting(Form.TOP_K, "How much of a map is kept.", common=True)
    accuracy_bound: Annotated[float, Range(gt=0, lt=1)] | None = _setting(
        None,
        "Instead of --scores: keep the smallest form whose probabilities differ by at most this from the exact ones,"
        " measured on a sample.",
        common=True,
    )
    features: tuple[str, ...] = _setting(
        (),
        "Keep a blob as well: fc7, fc7:float16, or fc7:before for its values before the layers that change it in place"
        " (ReLU).",
        short_flag="-f",
        alias="--blob",
        common=True,
    )
    scales: tuple[float, ...] = _setting(
        (1.0,),
        "One map for each enlargement of an image, as 1,0.7,0.5; none: no map but that of --windows.",
        common=True,
    )
    resize: int | tuple[int, int] | None = _setting(
        None, "First bring the shorter side to N pixels, or the image to HxW.", common=True
    )
    max_side: Pixels | None = _setting(None, "Then shrink images whose longer side is longer.")
    precision: Precision = _setting(
        Precision.FLOAT32, "What the net computes in; measured on the first images against float32.", common=True
    )
    windows: Windows | None = _setting(
        None,
        "Also classify windows of the trained size, as Caffe does: the centre of the resized image, ten crops of it, or"
        " the image warped to the size.",
        common=True,
    )
    window_filter: WindowFilter = _setting(
        WindowFilter.SKIMAGE, "Whose bilinear rule resizes the image for --windows: see the page on windows."
    )
    window_resize: int | tuple[int, int] | None = _setting(
        None,
        "The size from which center and ten are cut: HxW warps, N is the shorter side. Default: the size of the model's"
        " mean image, or 256x256.",
    )
    window_mean: WindowMean | None = _setting(
        None,
        "What --windows subtract: the part of the mean image at the window, the mean image resized to a window, or its"
        " channel mean. Default: channel without a mean image; resize with skimage or warp, as pycaffe; else crop.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """How a run treats what the table already has, and how much may be missing at its end."""

    retry_rejected: bool = _setting(False, "Try rejected images again though they have not changed.", common=True)
    rescore: bool = _setting(False, "Score all images again.", common=True)
    prune: bool = _setting(False, "Mark the table's images that are not among IMAGES as deleted.", common=True)
    max_pruned: Share = _setting(
        0.5, "Fail if --prune would mark a larger share of the table's images.", changes_maps=False
    )
    max_rejected: Share = _setting(
        0.05, "Exit with 3 if a larger share of the images has no map.", changes_maps=False, common=True
    )
    root: str | None = _setting(
        None,
        "Store addresses relative to this folder, so that a collection that is moved is not scored again.",
        metavar="FOLDER",
        common=True,
    )
    allow_empty: bool = _setting(
        False, "Succeed though a folder, a pattern or a manifest has no images.", changes_maps=False
    )
    mix_models: bool = _setting(
        False, "Go on though images that are not listed keep the maps of another model.", changes_maps=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """What is read and decoded at all."""

    # Pillow itself raises above 2 * (2**28 // 3) pixels.
    max_pixels: Pixels = _setting(178_956_970, "Reject larger images, unless they can be read by window.")
    max_image_bytes: Bytes = _setting(1 << 29, "Reject larger files without reading them.")
    tile_pixels: Pixels = _setting(2048 * 2048, "Cut larger images into tiles of at most this many pixels.")
    strict_images: bool = _setting(False, "Reject a JPEG without its end marker even if all of its pixels are there.")
    decode_timeout: Seconds = _setting(120.0, "Reject an image whose decoding takes longer.", changes_maps=False)
    frames: Frames = _setting(
        Frames.FIRST, "all: one map for each page of a TIFF, and for each frame of a GIF, WebP or APNG.", common=True
    )
    max_tiled_pixels: Pixels = _setting(30_000 * 30_000, "Reject larger images even if they can be read by window.")
    load_bytes: Bytes = _setting(
        1 << 29,
        "Read and decode at most this many bytes at a time in a process; an image that takes more is loaded alone.",
        changes_maps=False,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebSettings:
    """How images behind HTTP are fetched, and what fetched lists may name."""

    web_timeout: Seconds = _setting(
        120.0, "Reject an image behind HTTP that takes longer, with all attempts and redirects.", changes_maps=False
    )
    web_connect_timeout: Seconds = _setting(10.0, "How long to wait for a connection.", changes_maps=False)
    web_read_timeout: Seconds = _setting(30.0, "How long to wait for a server's next byte.", changes_maps=False)
    web_attempts: Count = _setting(4, "How often to ask a server that fails.", changes_maps=False)
    web_host_failures: Count = _setting(
        10, "Reject the other images of a host that fails so many times in a row.", changes_maps=False
    )
    web_host_timeout: Seconds = _setting(
        600.0, "Reject the other images of a host once a process has lost so much time on it.", changes_maps=False
    )
    allow_host: tuple[str, ...] = _setting(
        (),
        "A host that redirects, and lists that were fetched, may name although its address is not public.",
        metavar="HOST[:PORT]",
    )
    allow_root: tuple[str, ...] = _setting(
        (), "A folder or scheme:// that lists that were fetched may name, besides their own.", metavar="ROOT"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """Where and how a run computes. None of it is a reason to score an image again."""

    device: str = _setting(
        "auto",
        "auto: GPUs, or the CPU where there are none. gpu: GPUs, or an error.",
        changes_maps=False,
        metavar="auto|cpu|gpu|gpu:N",
        common=True,
    )
    engine: EngineName = _setting(
        EngineName.AUTO,
        "What runs the net. auto: native, densecast's own, where it can; else the fastest that is installed and agrees"
        " with the NumPy reference, measured once for a machine and a model.",
        changes_maps=False,
        common=True,
    )
    rounding: Rounding = _setting(
        Rounding.EXACT,
        "exact: the same bits for the same image by one engine, on machines of one kind. bounded: batches as they come,"
        " so that the last digits may differ.",
        changes_maps=False,
    )
    max_parity_error: Annotated[float, Range(ge=0, le=1)] = _setting(
        0.01, "Refuse a --precision that changes a probability by more.", changes_maps=False
    )
    max_parity_flips: Share = _setting(
        0.01, "Refuse a --precision that changes the best class of a larger share of cells.", changes_maps=False
    )
    xla: bool = _setting(False, "Have XLA compile the net for the sizes of the first images.", changes_maps=False)
    xla_shapes: Count = _setting(8, "How many sizes XLA compiles at most.", changes_maps=False)
    runner: str = _setting(LOCAL, "local, or the name of a Beam runner.", changes_maps=False, common=True)
    flink_master: str | None = _setting(
        None,
        f"The REST address of a Flink cluster; {FLINK} needs it.",
        changes_maps=False,
        metavar="HOST:PORT",
        common=True,
    )
    beam_options: tuple[str, ...] = _setting(
        (), "Flags passed on to Beam as they are.", changes_maps=False, has_flag=False
    )


Group: TypeAlias = RecipeSettings | PolicySettings | LimitSettings | WebSettings | ExecutionSettings

GROUPS: dict[str, type[Group]] = {
    "recipe": RecipeSettings,
    "policy": PolicySettings,
    "limits": LimitSettings,
    "web": WebSettings,
    "execution": ExecutionSettings,
}
"""The groups of settings, by the name of the field of `pipeline.jobs.spec.ScoringJob` that holds them."""

TITLES: dict[str, str] = {
    "recipe": "What is made of every image",
    "policy": "What the table already has, and what may be missing",
    "limits": "What is read and decoded at all",
    "web": "Images behind HTTP",
    "execution": "Where and how a run computes",
}
"""What help writes above the settings of a group."""


class Setting(NamedTuple):
    """One setting of a scoring job.

    Attributes:
        name: Its name in Python. Flags and job files write `-` for `_`.
        group: Its group, a key of `GROUPS`.
        kind: Its type, without None and without range.
        optional: Whether None is a value.
        default: Its default.
        range: The values that a number may have.
        unit: What a number counts; None for a bare number.
        help: What else is declared of it.
    """

    name: str
    group: str
    kind: Any  # a class, or a generic alias such as tuple[str, ...]: Python has no common type of them
    optional: bool
    default: object
    range: Range
    unit: Unit | None
    help: Help


@functools.cache
def declared() -> dict[str, Setting]:
    """Returns all settings, by name, in the order in which help lists them."""
    settings: dict[str, Setting] = {}
    for group, holder in GROUPS.items():
        hints = typing.get_type_hints(holder, include_extras=True)
        settings |= {field.name: _resolve(group, field, hints[field.name]) for field in dataclasses.fields(holder)}
    return settings


def _resolve(group: str, field: dataclasses.Field[Any], hint: Any) -> Setting:
    """Takes a declaration apart: `Annotated[kind, range, unit]`, or that `| None`."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    alternatives = typing.get_args(hint) if is_union else (hint,)
    present = [part for part in alternatives if part is not types.NoneType]
    kind = functools.reduce(operator.or_, present)
    extras: tuple[object, ...] = getattr(kind, "__metadata__", ())
    return Setting(
        field.name,
        group,
        kind=kind.__origin__ if extras else kind,
        optional=len(present) < len(alternatives),
        default=field.default,
        range=next((extra for extra in extras if isinstance(extra, Range)), Range()),
        unit=next((extra for extra in extras if isinstance(extra, Unit)), None),
        help=field.metadata["help"],
    )
