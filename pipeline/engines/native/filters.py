"""The filters of a network's convolutions, in the forms that its images need and that keep their digits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from conversion import PlainConvolution, release_pages
from pipeline.engines.native import forms
from pipeline.engines.native.lowering import Step, block_taps, convolution_filters
from pipeline.engines.native.memory import aligned
from pipeline.engines.native.planning import Chosen
from pipeline.engines.native.program import Blob, Convolution, Prepare, Tile, Whole

TOLERANCE = 2e-5
"""The most that a tile may be off, as a share of the largest magnitude of its top."""
_CHECKED = 16  # outputs of each end of a group that are compared
_log = logging.getLogger(__name__)


class Extension(Protocol):
    """What is used of `densecast_native`."""

    Filters: Any
    Program: Any
    ThreadPool: Any
    __version__: str


class FilterStore:
    """Knows the form of each convolution, and makes its filters when an image first needs them.

    Which forms keep the tolerance is found when the store is made: so they are fixed, whatever images come first.

    Args:
        extension: `densecast_native`.
        pool: Its threads.
        steps: The steps of a network.
    """

    def __init__(self, extension: Extension, pool: Any, steps: Sequence[Step]) -> None:
        self._extension, self._pool, self._steps = extension, pool, steps
        self._geometries = {index: geometry_of(step) for index, step in enumerate(steps) if is_convolution(step)}
        self._able = {index: self._keeping_digits(index, geometry) for index, geometry in self._geometries.items()}
        self._chosen: dict[tuple[int, int], Chosen] = {}
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """The bytes of all filters that are made."""
        return sum(int(chosen.filters.nbytes) for chosen in self._chosen.values())

    def form(self, step: int, top: tuple[int, int]) -> int:
        """See `planning.Forms`."""
        return forms.best(self._geometries[step], top, self._able[step])

    def chosen(self, step: int, form: int) -> Chosen:
        """See `planning.Forms`."""
        with self._lock:
            if (step, form) not in self._chosen:
                filters = convolution_filters(self._steps[step])
                self._chosen[step, form] = self._made(filters, self._geometries[step], form)
                # The file's pages, which were read just now, would count as this process's memory.
                release_pages(_stored(self._steps[step]))
            return self._chosen[step, form]

    def prepare(self) -> None:
        """Makes the filters of the convolutions that have one form at any size."""
        for index, able in self._able.items():
            if tuple(able) == (forms.DIRECT,):
                self.chosen(index, forms.DIRECT)

    def _made(self, filters: NDArray[np.float32], geometry: forms.Geometry, form: int) -> Chosen:
        if form == forms.DIRECT:
            return Chosen(self._extension.Filters(self._pool, filters, None, None), None)
        tile, matrices = forms.tile(geometry.kernel, form)
        vertical, horizontal = (np.ascontiguousarray(of.filters) for of in matrices)
        return Chosen(self._extension.Filters(self._pool, filters, vertical, horizontal), tile)

    def _keeping_digits(self, index: int, geometry: forms.Geometry) -> Sequence[int]:
        """Returns the forms of a convolution that keep the tolerance, by some of its outputs; the direct one first."""
        direct, *tiles = forms.possible(geometry)
        if not tiles:
            return (direct,)
        filters = _some_outputs(convolution_filters(self._steps[index]))
        release_pages(_stored(self._steps[index]))
        some = geometry._replace(outside=filters.shape[-1])
        kept = [form for form in tiles if self._keeps_digits(self._steps[index].layer, filters, some, form)]
        return forms.candidates(geometry, (direct, *kept))

    def _keeps_digits(self, layer: str, filters: NDArray[np.float32], geometry: forms.Geometry, form: int) -> bool:
        """Returns whether a form keeps the tolerance, on a tile of seeded values that are not below 0."""
        packed, tile = self._made(filters, geometry, form)
        if tile is None:
            return True
        shape = (len(tile.vertical.inputs), len(tile.horizontal.inputs), geometry.inside * geometry.groups)
        given = np.maximum(np.random.default_rng(0).normal(size=shape), 0).astype(np.float32)
        error = _error(given, filters, self._run(given, geometry, packed, tile))
        if error > TOLERANCE:
            _log.info("layer %s: tiles of %d are off by %.1e: not used", layer, form, error)
        return error <= TOLERANCE

    def _run(
        self, given: NDArray[np.float32], geometry: forms.Geometry, filters: object, tile: Tile
    ) -> NDArray[np.float32]:
        """Returns the outputs of one tile."""
        height, width, channels = given.shape
        bottom = Blob(channels, channels, (0,), (height,), (width,))
        out = geometry.outside * geometry.groups
        sides = len(tile.vertical.outputs), len(tile.horizontal.outputs)
        start = aligned(given.size)
        top = Blob(out, out, (start,), (sides[0],), (sides[1],))
        operations = [
            Prepare(bottom, tuple(range(channels)), (0.0,) * channels, 1.0),
            Convolution(
                bottom, top, filters, geometry.kernel, (1, 1), (0, 0), (1, 1), None, None, (0,), tile, geometry.groups
            ),
        ]
        result = np.empty((*sides, out), np.float32)
        arena = start + aligned(result.size)
        self._extension.Program(self._pool, operations, [Whole(top)], arena).run([given], [result])
        return result


def _some_outputs(filters: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the first and the last filters of each group, [groups, kh, kw, inside, up to 2 * `_CHECKED`]."""
    if filters.shape[-1] <= 2 * _CHECKED:
        return filters
    return np.concatenate([filters[..., :_CHECKED], filters[..., -_CHECKED:]], -1)


def _stored(step: Step) -> Sequence[NDArray[Any]]:
    """Returns the filters of a convolution as the model directory has them."""
    return step.operation.filters if isinstance(step.operation, PlainConvolution) else ()


def is_convolution(step: Step) -> bool:
    """Returns whether a step has a form to choose."""
    return isinstance(step.operation, PlainConvolution)


def geometry_of(step: Step) -> forms.Geometry:
    """Returns what the forms of a convolution depend on."""
    operation = step.operation
    if not isinstance(operation, PlainConvolution):
        raise TypeError(f"{step.layer} is not a convolution")
    kernel, stride, _, _, dilation = operation.windows
    groups = len(operation.filters)
    inside, outside = operation.filters[0].shape[2:]
    if step.block > 1:
        return forms.Geometry(block_taps(kernel, step.block), True, step.block**2 * inside, outside, groups)
    plain = tuple(stride) == tuple(dilation) == (1, 1)
    return forms.Geometry((kernel[0], kernel[1]), plain, inside, outside, groups)


def _error(given: NDArray[np.float32], filters: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Returns the largest difference of outputs from float64, as a share of the largest of them."""
    groups, rows, columns, inside, _ = filters.shape
    height, width = found.shape[:2]
    parts = given.reshape(*given.shape[:2], groups, inside).astype(np.float64)
    expected = sum(
        np.einsum("hwgi,gio->hwgo", parts[y : y + height, x : x + width], filters[:, y, x].astype(np.float64))
        for y in range(rows)
        for x in range(columns)
    )
    largest = float(np.abs(expected).max())
    worst = float(np.abs(found.reshape(np.shape(expected)) - expected).max())
    return worst / largest if largest else worst
