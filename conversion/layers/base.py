"""The interface of layers: shapes, receptive-field step, NumPy, TensorFlow and ONNX form; and their registry."""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum, auto
from fractions import Fraction
from typing import ClassVar, Self, TypeVar

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.errors import ExtensionError, NetworkError, UnsupportedError
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.own import check_class
from conversion.own_layers import own_layers


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer's step of the receptive-field arithmetic along one spatial axis, in cells of its bottom.

    Output cell i reads the bottom's cells [i * stride - pad, i * stride - pad + window).

    Attributes:
        window: Cells that one output cell reads, at least 1: dilation * (kernel - 1) + 1 for a convolution.
        stride: Bottom cells between neighbouring output cells; a fraction for a Deconvolution.
        pad: Cells of padding before the first real one; a fraction for a Deconvolution.
        pad_after: Cells of padding after the last real one; None where it is `pad`.
    """

    window: Fraction = Fraction(1)
    stride: Fraction = Fraction(1)
    pad: Fraction = Fraction(0)
    pad_after: Fraction | None = None

    def __post_init__(self) -> None:
        if self.pad_after is None:
            object.__setattr__(self, "pad_after", self.pad)  # so that equal steps compare equal

    @property
    def after(self) -> Fraction:
        """Cells of padding after the last real one."""
        return self.pad if self.pad_after is None else self.pad_after


class Narrow(Enum):
    """What a layer does in a network that computes in 16-bit floats, by TensorFlow's lists for mixed precision.

    Attributes:
        DENY: It computes in float32: it needs the range (squares overflow float16) or the digits (softmax, indices).
        INFER: It computes little, in the type of its bottoms; in float32 if these differ.
        ALLOW: Its bottoms and weights are cast to 16 bits: its kernels add up the products in float32.
    """

    DENY = auto()
    INFER = auto()
    ALLOW = auto()


@dataclasses.dataclass(frozen=True, eq=False)
class Layer(ABC):
    """A Caffe layer with its parameters read and checked.

    Subclasses add a field for each parameter, which `parse` reads. Layers are immutable: passes make new layers from
    changed definitions.

    Attributes:
        definition: The message of the layer, without blobs; it is written when the network is saved.
    """

    definition: LayerParameter

    caffe_type: ClassVar[str]
    may_be_in_place: ClassVar[bool] = True
    # For layers of other packages: the fields of LayerParameter that the package adds; the package with its version.
    own_fields: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str] = ""
    # How many bottoms and tops Caffe accepts: (least, most), None for no limit.
    bottom_count: ClassVar[tuple[int, int | None]] = (1, 1)
    top_count: ClassVar[tuple[int, int | None]] = (1, 1)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads the layer's own parameters; raises NetworkError or UnsupportedError on bad ones."""
        return cls(definition)

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:  # noqa: ARG002
        """Returns the layer in Caffe's own terms, for bottoms of the definition's own size; None if it is in them.

        A fork's type or field may depend on the bottom, as TensorFlow's SAME does on its size. It is settled once, so
        that a map of any other size has one geometry.
        """
        return None

    @property
    def name(self) -> str:
        """The layer's name: weights are matched by it."""
        return self.definition.name

    @property
    def bottoms(self) -> tuple[str, ...]:
        """Names of the blobs that it reads."""
        return tuple(self.definition.bottom)

    @property
    def tops(self) -> tuple[str, ...]:
        """Names of the blobs that it writes."""
        return tuple(self.definition.top)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the blobs whose values it reads: all bottoms, but for those of which only the size matters."""
        return self.bottoms

    @property
    def shares_memory(self) -> bool:
        """Whether the tops use the first bottom's memory under other names, as Caffe's Reshape does."""
        return False

    @property
    def narrow(self) -> Narrow:
        """What the layer does in a network of 16-bit floats; by default `Narrow.DENY`."""
        return Narrow.DENY

    def narrows(self, bottoms: Sequence[bool]) -> bool:
        """Returns whether it computes in 16 bits in such a network, where these of its bottoms have them."""
        return self.narrow is Narrow.ALLOW or (self.narrow is Narrow.INFER and all(bottoms))

    @property
    def where(self) -> str:
        """How errors name the layer."""
        return f"layer {self.name!r} ({self.caffe_type})"

    @abstractmethod
    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes of the tops, in Caffe's axis order, for these bottoms; raises NetworkError."""

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """Returns the shapes of the learned blobs, in Caffe's order; none by default."""
        return []

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:  # noqa: ARG002
        """Returns the multiply-adds of one forward pass; 0 for layers whose cost is linear in the blob."""
        return 0

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the number of values that either form holds at once besides bottoms, tops and weights.

        By default one copy of the bottoms or the tops: what a formula needs for an intermediate result. A layer that
        needs more, such as a padded bottom, says so: the limit on memory relies on it, and a test measures `reference`.
        """
        return max(sum(map(math.prod, bottoms)), sum(map(math.prod, tops)))

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns the (vertical, horizontal) receptive-field step, or None if a cell reads the whole bottom."""
        return (Step(), Step())

    @abstractmethod
    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Returns the tops in float64 NumPy, in simple code; the other forms must reproduce them."""

    def prepare(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns the learned blobs (float32) in the layout of the TensorFlow form, in which models keep them.

        The ONNX form takes the same ones, since a model directory holds them once.
        """
        return list(blobs)

    def restore(self, variables: Sequence[Array]) -> list[Array]:
        """Returns the learned blobs in Caffe's order and shapes, of what `prepare` returned.

        A layer whose `prepare` changes the layout states the way back here; one that computes there returns blobs that
        mean the same.
        """
        return list(variables)

    def plausible(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns small random blobs turned into ones that training could give: a variance is positive, for example."""
        return list(blobs)

    @abstractmethod
    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tops as TensorFlow ops.

        Rank-4 tensors are NHWC (TensorFlow's CPU kernels have no other form); other ranks are in Caffe's order.
        `layout.py` converts for layers that need Caffe's order.
        """

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Returns the tops as nodes of an ONNX graph; raises UnsupportedError in a layer that has no such form.

        Tensors of every rank are in Caffe's order. Channels are known; other axes may be known or not (`size_of`), and
        Caffe's rounding must hold at every size. Every runtime must compute the same: what their readings of ONNX
        differ in, such as NaN in a maximum or windows past a padded end, is not used.

        Args:
            graph: The graph that the nodes are added to.
            bottoms: All of one floating-point type.
            variables: The learned blobs as `prepare` returns them, in the type of the bottoms. A constant that is
                computed from them by `transposed`, `reshaped` and `concatenated` costs nothing at run time.
        """
        raise UnsupportedError(
            "the layer has no ONNX form",
            where=self.where,
            why=f"the class {type(self).__name__} has no method `onnx`",
            remedy="export the SavedModel, or ask the package that adds the layer for its ONNX form",
        )

    def invalid(self, what: str, *, why: str = "", remedy: str = "") -> NetworkError:
        """Returns a NetworkError that names this layer."""
        return NetworkError(what, where=self.where, why=why, remedy=remedy)


class ElementwiseLayer(Layer):
    """A layer that maps each value independently: the top has the bottom's shape and may be the bottom (in place)."""

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape."""
        return [bottoms[0]]


LayerClass = TypeVar("LayerClass", bound=type[Layer])
_REGISTRY: dict[str, type[Layer]] = {}


def register(caffe_type: str) -> Callable[[LayerClass], LayerClass]:
    """Registers a layer class under Caffe's type name; a second class for one type is a programming error."""

    def add(cls: LayerClass) -> LayerClass:
        if caffe_type in _REGISTRY:
            raise ValueError(
                f"two classes for Caffe's {caffe_type!r}: {_REGISTRY[caffe_type].__name__}, {cls.__name__}"
            )
        cls.caffe_type = caffe_type
        _REGISTRY[caffe_type] = cls
        return cls

    return add


def registered() -> dict[str, type[Layer]]:
    """Returns the supported layers by Caffe type name, in alphabetical order."""
    return dict(sorted(_REGISTRY.items()))


def layer_class(definition: LayerParameter) -> type[Layer]:
    """Returns the class for a layer's type: one of densecast's own, or else of another package.

    Raises:
        UnsupportedError: There is none; or the layer has a field of a package's own that the class does not know.
        ExtensionError: The entry point of a package is not a layer.
    """
    found = _REGISTRY.get(definition.type) or _of_another_package(definition.type)
    where = f"layer {definition.name!r}"
    if found is None:
        raise UnsupportedError(f"layer type {definition.type!r}", where=where)
    foreign = sorted({own.name for own in definition.own_field} - set(found.own_fields))
    if foreign:
        raise UnsupportedError(f"{', '.join(foreign)} on type {definition.type!r}", where=where)
    return found


def _of_another_package(caffe_type: str) -> type[Layer] | None:
    """Returns the class that a package offers for a type, with the package's name and version; or None."""
    own = own_layers().get(caffe_type)
    taken = sorted(_REGISTRY.keys() & own_layers().keys())
    if taken:
        raise ExtensionError(
            f"the layer type {taken[0]!r} is densecast's own",
            where=own_layers()[taken[0]].where,
            why="a definition would have two meanings",
            remedy="remove the package, or give its layer a type of its own",
        )
    if own is None:
        return None
    found = own.load()
    check_class(found, Layer, own.where)
    if not (isinstance(found, type) and issubclass(found, Layer)):
        return None
    return _named_class(found, own.caffe_type, own.package)


@functools.cache
def _named_class(found: type[Layer], caffe_type: str, package: str) -> type[Layer]:
    """Returns the class under a type: a package may offer one class for several types."""
    return type(
        found.__name__, (found,), {"__module__": found.__module__, "caffe_type": caffe_type, "package": package}
    )


def canonical_axis(layer: Layer, axis: int, rank: int, field: str = "axis") -> int:
    """Returns Caffe's axis index, which may count from the end, as 0 <= axis < rank; raises NetworkError outside it."""
    if not -rank <= axis < rank:
        raise layer.invalid(f"{field} {axis} is outside a blob of {rank} axes")
    return axis % rank
