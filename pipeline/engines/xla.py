"""XLA for the shapes that were announced; TensorFlow's own kernels for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from conversion import import_tensorflow

BatchShape = tuple[int, int, int]
"""Images, rows and columns of a batch."""


class CompiledFunction:
    """A function of images that XLA has compiled for some shapes of a batch, each once, before it is called.

    A shape alone decides who computes it: one that was not announced is never compiled later, however often it comes,
    so that an image's map does not depend on what came before it.

    Args:
        function: images uint8 [N, H, W, 3] -> tensors. Its weights should be variables: of constants every
            program would hold a copy.
        shapes: What is compiled.
    """

    def __init__(self, function: Callable[[Any], Any], shapes: Iterable[BatchShape]) -> None:
        tf = import_tensorflow()
        self._function = function  # what it refers to lives as long as this: programs hold variables weakly
        self._programs: dict[BatchShape, Any] = {}
        for shape in sorted(set(shapes)):
            spec = tf.TensorSpec([*shape, 3], tf.uint8)
            program = tf.function(function, input_signature=[spec], autograph=False, jit_compile=True)
            self._programs[shape] = concrete = program.get_concrete_function()
            concrete(tf.zeros([*shape, 3], tf.uint8))  # XLA compiles at the first call

    @property
    def shapes(self) -> tuple[BatchShape, ...]:
        """What is compiled."""
        return tuple(self._programs)

    def program(self, shape: BatchShape) -> Any:
        """The compiled function of a shape; None where it was not announced."""
        return self._programs.get(shape)
