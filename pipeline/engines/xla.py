"""Compiles a function with XLA for a fixed set of shapes; all other shapes use TensorFlow's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from conversion import import_tensorflow
from pipeline.engines.base import BatchShape
from pipeline.engines.net_function import Tensor

Program: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""images uint8 [N, H, W, 3] -> tensors by name."""


class CompiledFunction:
    """A function of images that XLA has compiled for some shapes of a batch, once each and before the first call.

    Only the shape decides whether XLA computes a batch: other shapes are never compiled later. So an image's map does
    not depend on earlier images.

    Args:
        function: The function. Its weights should be variables: every program would contain a copy of constants.
        shapes: The shapes to compile for.
    """

    def __init__(self, function: Program, shapes: Iterable[BatchShape]) -> None:
        tf = import_tensorflow()
        self._function = function  # keeps its variables alive, to which programs only have weak references
        self._programs: dict[BatchShape, Program] = {}
        for shape in sorted(set(shapes)):
            spec = tf.TensorSpec([*shape, 3], tf.uint8)
            program = tf.function(function, input_signature=[spec], autograph=False, jit_compile=True)
            self._programs[shape] = concrete = program.get_concrete_function()
            concrete(tf.zeros([*shape, 3], tf.uint8))  # XLA compiles at the first call

    @property
    def shapes(self) -> tuple[BatchShape, ...]:
        """The compiled shapes."""
        return tuple(self._programs)

    def program(self, shape: BatchShape) -> Program | None:
        """Returns the compiled function for a shape; None if it was not compiled."""
        return self._programs.get(shape)
