"""Plans a batch: where each blob lies, and in which form each convolution computes each image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from conversion import (
    LUMA,
    LUMA_ONE,
    PlainActivation,
    PlainAffine,
    PlainConcat,
    PlainConvolution,
    PlainDepthwise,
    PlainEltwise,
    PlainLrn,
    PlainNetwork,
    PlainPart,
    PlainPooling,
    Preprocessing,
)
from pipeline.engines.native import program
from pipeline.engines.native.lowering import Step, block_taps, convolution_bias, fused_steps, parents
from pipeline.engines.native.memory import Life, aligned, arrange

Size = tuple[int, int]
Sizes = tuple[Size, ...]
"""(height, width) of each image of a batch."""
_SHAPES = 64
"""Of so many sizes the shapes of all blobs are kept."""


class Chosen(NamedTuple):
    """The form of a convolution: what the extension takes for it.

    Attributes:
        filters: Its filters.
        tile: Its tile; None for the direct form.
    """

    filters: Any
    tile: program.Tile | None


class Forms(Protocol):
    """Knows the form of each convolution."""

    def form(self, step: int, top: Size) -> int:
        """Returns a number for the form of a step for an image with a top of a size: by these alone."""

    def chosen(self, step: int, form: int) -> Chosen:
        """Returns what a form takes; made when it is first asked for."""


class _Emission(NamedTuple):
    """What becomes operations of a batch.

    Attributes:
        make: Makes them.
        reads: The values that they read.
        top: The value that they write.
        in_place: Whether the top may lie where a value lies that nothing reads later.
    """

    make: Callable[[_Batch], Iterator[program.Operation]]
    reads: tuple[int, ...]
    top: int
    in_place: bool = False


class Planner:
    """Plans the batches of a network.

    Args:
        network: The network.
        preprocessing: What its input is made by; None where all images are prepared already.
        results: What a batch results in, by the value: TopK of so many, or whole (0).
        size: Height and width of an image that has a map.

    Attributes:
        steps: The steps of the network.
        preprocessing: See above.
    """

    def __init__(
        self,
        network: PlainNetwork,
        preprocessing: Preprocessing | None,
        results: Sequence[tuple[int, int]],
        size: Size,
    ) -> None:
        self._network, self.preprocessing, self._results = network, preprocessing, results
        kept = {value for value, _ in results}
        self.steps = fused_steps(network, kept)
        self.shapes = functools.lru_cache(_SHAPES)(self._shapes)
        self._block_data: dict[int, int] = {}  # by step, the value of the input in blocks
        self._channels = [shape[0] for shape in self.shapes(size)]
        self._within = parents(self.steps, self._channels, network.data)
        self._emissions = list(self._emit(kept))
        self._lives, self._buffer = self._find_lives(kept)

    def plan(self, sizes: Sizes, forms: Forms) -> program.Plan:
        """Returns the plan of a batch; raises NetworkError if an image has no map."""
        batch = _Batch(self, sizes, forms)
        operations = [operation for emission in self._emissions for operation in emission.make(batch)]
        results: list[program.Result] = [
            program.TopK(batch.blob(value), k) if k else program.Whole(batch.blob(value)) for value, k in self._results
        ]
        return program.Plan(operations, results, batch.arena)

    def root(self, value: int) -> tuple[int, int]:
        """Returns the value that a value lies in, and its first channel there."""
        start = 0
        while value in self._within:
            value, offset = self._within[value]
            start += offset
        return value, start

    def channels(self, value: int) -> int:
        """Returns the channels of a value."""
        return self._channels[value]

    def block_data(self, step: int) -> int:
        """Returns the value of the input in blocks that a step reads."""
        return self._block_data[step]

    def buffers(self, floats: Callable[[int], int]) -> tuple[Mapping[int, int], int]:
        """Returns where each root lies, and the floats that all take.

        Args:
            floats: Returns the floats that a root takes.
        """
        named = sorted(self._lives)
        offsets, whole = arrange([Life(*self._lives[root], floats(root)) for root in named])
        by_name = dict(zip(named, offsets, strict=True))
        return {root: by_name[buffer] for root, buffer in self._buffer.items()}, whole

    def _shapes(self, size: Size) -> list[tuple[int, int, int]]:
        """Returns channels, height and width of each value, and then of the input in the blocks of each such step."""
        shapes = [(shape[1], shape[2], shape[3]) for shape in self._network.shapes(*size)]
        colours = shapes[self._network.data][0]
        for step in self.steps:
            if step.block > 1 and isinstance(step.operation, PlainConvolution):
                rows, columns = block_taps(step.operation.windows.kernel, step.block)
                _, height, width = shapes[step.top]
                shapes.append((colours * step.block**2, height + rows - 1, width + columns - 1))
        return shapes

    def _emit(self, kept: set[int]) -> Iterator[_Emission]:
        data = self._network.data
        blocks = [index for index, step in enumerate(self.steps) if step.block > 1]
        count = len(self._channels) - len(blocks)
        if data in kept or any(data in step.bottoms and step.block == 1 for step in self.steps):
            yield _Emission(lambda batch: iter([batch.prepare(data, 1, (0, 0))]), (), data)
        for index, step in enumerate(self.steps):
            operation = step.operation
            if step.block > 1 and isinstance(operation, PlainConvolution):
                value = self._block_data[index] = count + blocks.index(index)
                pad = (operation.windows.pad[0], operation.windows.pad[1])
                how = functools.partial(_prepared, value=value, block=step.block, pad=pad)
                yield _Emission(how, (), value)
                yield _Emission(functools.partial(_made, index=index), (value,), step.top)
            elif not (isinstance(operation, PlainPart) and operation.corner is None):
                by_value = isinstance(operation, PlainAffine | PlainActivation | PlainEltwise)
                yield _Emission(functools.partial(_made, index=index), step.bottoms, step.top, by_value)

    def _find_lives(self, kept: set[int]) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
        """Returns the first and last emission that need each buffer, and the buffer of each root."""
        lives: dict[int, tuple[int, int]] = {}
        for index, emission in enumerate(self._emissions):
            for value in (*emission.reads, emission.top):
                root, _ = self.root(value)
                lives[root] = (lives.get(root, (index, index))[0], index)
        for value in kept:
            root, _ = self.root(value)
            lives[root] = (lives[root][0], len(self._emissions))
        buffer = {root: root for root in lives}
        for index, emission in enumerate(self._emissions):
            if not emission.in_place or emission.top in self._within or lives[emission.top][0] != index:
                continue
            for bottom in emission.reads:
                if bottom not in self._within and lives[buffer[bottom]][1] == index:
                    owner = buffer[bottom]
                    lives[owner] = (lives[owner][0], lives.pop(emission.top)[1])
                    buffer[emission.top] = owner
                    break
        return lives, buffer


def _prepared(batch: _Batch, *, value: int, block: int, pad: Size) -> Iterator[program.Operation]:
    yield batch.prepare(value, block, pad)


def _made(batch: _Batch, *, index: int) -> Iterator[program.Operation]:
    yield from batch.operations(index)


class _Batch:
    """A batch that is planned.

    Attributes:
        arena: Floats that its blobs take.
    """

    def __init__(self, planner: Planner, sizes: Sizes, forms: Forms) -> None:
        self._planner, self._forms = planner, forms
        self._shapes = [planner.shapes(size) for size in sizes]
        self._blobs: dict[int, program.Blob] = {}
        self._starts, self.arena = planner.buffers(self._floats)

    def blob(self, value: int) -> program.Blob:
        """Returns the place of a value."""
        if value not in self._blobs:
            root, channel = self._planner.root(value)
            offset, offsets = self._starts[root] + channel, []
            for shapes in self._shapes:
                offsets.append(offset)
                offset += aligned(_values(shapes[root]))
            self._blobs[value] = program.Blob(
                self._planner.channels(value),
                self._planner.channels(root),
                tuple(offsets),
                tuple(shapes[value][1] for shapes in self._shapes),
                tuple(shapes[value][2] for shapes in self._shapes),
            )
        return self._blobs[value]

    def prepare(self, value: int, block: int, pad: Size) -> program.Prepare:
        """Returns the operation that makes the input, or the input in blocks."""
        how = self._planner.preprocessing
        if how is None:
            channels = self._planner.channels(value) // block**2
            return program.Prepare(
                self.blob(value), tuple(range(channels)), (0.0,) * channels, 1.0, block=block, pad=pad
            )
        grey = how.channel_order == "gray"
        order = {"bgr": (2, 1, 0), "rgb": (0, 1, 2), "gray": (0,)}[how.channel_order]
        luma = (*LUMA, LUMA_ONE) if grey else None
        return program.Prepare(self.blob(value), order, tuple(how.mean), how.scale, luma, block, pad)

    def operations(self, index: int) -> Iterator[program.Operation]:
        """Yields the operations of a step."""
        step = self._planner.steps[index]
        operation, top = step.operation, self.blob(step.top)
        if isinstance(operation, PlainConvolution):
            yield from self._convolutions(index, step, operation)
            return
        bottoms = tuple(self.blob(value) for value in step.bottoms)
        if isinstance(operation, PlainConcat):
            yield from _copies(bottoms, top)
        elif isinstance(operation, PlainEltwise):
            yield program.Eltwise(bottoms, top, operation.kind, operation.coefficients, step.slope)
        else:
            yield self._of_one(step, bottoms[0], top)

    def _of_one(self, step: Step, bottom: program.Blob, top: program.Blob) -> program.Operation:
        """Returns the operation of a step with one bottom, other than a convolution."""
        operation = step.operation
        match operation:
            case PlainDepthwise():
                return _depthwise(step, operation, bottom, top)
            case PlainPooling():
                return _pool(operation, bottom, top)
            case PlainLrn():
                return _lrn(step, operation, bottom, top)
            case PlainAffine():
                return program.Affine(bottom, top, _floats(operation.scale), _floats(operation.shift), step.slope)
            case PlainActivation():
                return program.Activation(bottom, top, operation.kind, operation.parameters, operation.slopes)
            case PlainPart():
                part = _channels_of(bottom, operation.channel, top.channels)
                return program.Copy(part, top, operation.corner or (0, 0))
            case _:
                return program.Softmax(bottom, top)

    def _convolutions(self, index: int, step: Step, operation: PlainConvolution) -> Iterator[program.Operation]:
        """Yields one operation for each form that an image of the batch takes."""
        windows, top = operation.windows, self.blob(step.top)
        images: dict[int, list[int]] = {}
        for image, size in enumerate(zip(top.heights, top.widths, strict=True)):
            images.setdefault(self._forms.form(index, size), []).append(image)
        bottom = self.blob(self._planner.block_data(index) if step.block > 1 else step.bottoms[0])
        kernel, stride, pad, dilation = (_pair(of) for of in (windows.kernel, windows.stride, windows.pad, windows[4]))
        if step.block > 1:
            kernel, stride, pad = block_taps(kernel, step.block), (1, 1), (0, 0)
        for form, of in sorted(images.items()):
            filters, tile = self._forms.chosen(index, form)
            yield program.Convolution(
                bottom,
                top,
                filters,
                kernel,
                stride,
                pad,
                dilation,
                convolution_bias(step),
                step.slope,
                tuple(of),
                tile,
                len(operation.filters),
            )

    def _floats(self, root: int) -> int:
        return sum(aligned(_values(shapes[root])) for shapes in self._shapes)


def _depthwise(
    step: Step, operation: PlainDepthwise, bottom: program.Blob, top: program.Blob
) -> program.DepthwiseConvolution:
    kernel, stride, pad, _, dilation = (_pair(of) for of in operation.windows)
    scale = None if step.affine is None else step.affine.scale
    weights = np.ascontiguousarray(operation.filters if scale is None else operation.filters * scale, np.float32)
    bias = convolution_bias(step)
    return program.DepthwiseConvolution(bottom, top, weights, kernel, stride, pad, dilation, bias, step.slope)


def _lrn(step: Step, operation: PlainLrn, bottom: program.Blob, top: program.Blob) -> program.Lrn | program.LrnPool:
    how = (operation.size, operation.alpha, operation.beta, operation.k)
    windows = None if step.pooling is None else step.pooling.windows
    if windows is None:
        return program.Lrn(bottom, top, *how)
    return program.LrnPool(bottom, top, *how, *(_pair(of) for of in windows[:3]))


def _copies(bottoms: Sequence[program.Blob], top: program.Blob) -> Iterator[program.Copy]:
    """Yields a copy of each bottom that does not lie in the top already."""
    start = 0
    for bottom in bottoms:
        part = _channels_of(top, start, bottom.channels)
        if bottom != part:
            yield program.Copy(bottom, part)
        start += bottom.channels


def _pool(operation: PlainPooling, bottom: program.Blob, top: program.Blob) -> program.Pool:
    kind = "max" if operation.maximum else "average"
    if operation.windows is None:
        return program.Pool(bottom, top, kind, (0, 0), (1, 1), (0, 0), (0, 0))
    kernel, stride, pad, after, dilation = (_pair(of) for of in operation.windows)
    return program.Pool(bottom, top, kind, kernel, stride, pad, after, dilation, operation.inside)


def _channels_of(blob: program.Blob, start: int, count: int) -> program.Blob:
    """Returns some of the channels of a blob."""
    offsets = tuple(offset + start for offset in blob.offsets)
    return program.Blob(count, blob.stride, offsets, blob.heights, blob.widths)


def _values(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _pair(values: Sequence[int]) -> Size:
    return values[0], values[1]


def _floats(values: program.Doubles | None) -> program.Floats | None:
    return None if values is None else np.ascontiguousarray(values, np.float32)
