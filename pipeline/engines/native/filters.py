"""The filters of a network's convolutions, in the forms that its images need; each form is checked when it is made."""

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
from pipeline.engines.native.planning import Chosen
from pipeline.engines.native.program import Blob, Convolution, Prepare, Tile, Whole

TOLERANCE = 2e-5
"""The most that a tile may be off, as a share of the largest magnitude of its top."""
_CHECKED = 32  # outputs that are compared, spread over all
_log = logging.getLogger(__name__)


class Extension(Protocol):
    """What is used of `densecast_native`."""

    Filters: Any
    Program: Any
    ThreadPool: Any
    __version__: str


class FilterStore:
    """Knows the form of each convolution, and makes its filters when an image first needs them.

    Args:
        extension: `densecast_native`.
        pool: Its threads.
        steps: The steps of a network.
    """

    def __init__(self, extension: Extension, pool: Any, steps: Sequence[Step]) -> None:
        self._extension, self._pool, self._steps = extension, pool, steps
        self._geometries = {index: geometry_of(step) for index, step in enumerate(steps) if is_convolution(step)}
        self._possible = {index: list(forms.possible(of)) for index, of in self._geometries.items()}
        self._chosen: dict[tuple[int, int], Chosen] = {}
        self._checked: set[tuple[int, int]] = set()
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """The bytes of all filters that are made."""
        return sum(int(chosen.filters.nbytes) for chosen in self._chosen.values())

    def form(self, step: int, top: tuple[int, int]) -> int:
        """See `planning.Forms`. A form whose check fails is left out, for all sizes from then on."""
        with self._lock:
            while True:
                able = forms.candidates(self._geometries[step], self._possible[step])
                form = forms.best(self._geometries[step], top, able)
                if form == forms.DIRECT or (step, form) in self._checked or self._passes(step, form):
                    return form
                self._possible[step].remove(form)

    def chosen(self, step: int, form: int) -> Chosen:
        """See `planning.Forms`."""
        with self._lock:
            if (step, form) not in self._chosen:
                self._chosen[step, form] = self._made(step, form)
                # The file's pages, which were read just now, would count as this process's memory.
                release_pages(_stored(self._steps[step]))
            return self._chosen[step, form]

    def prepare(self) -> None:
        """Makes the filters of the convolutions that have one form at any size."""
        for index, possible in self._possible.items():
            if possible == [forms.DIRECT]:
                self.chosen(index, forms.DIRECT)

    def _made(self, index: int, form: int) -> Chosen:
        filters = convolution_filters(self._steps[index])
        if form == forms.DIRECT:
            return Chosen(self._extension.Filters(self._pool, filters, None, None), None)
        tile, matrices = forms.tile(self._geometries[index].kernel, form)
        vertical, horizontal = (np.ascontiguousarray(of.filters) for of in matrices)
        return Chosen(self._extension.Filters(self._pool, filters, vertical, horizontal), tile)

    def _passes(self, index: int, form: int) -> bool:
        """Returns whether a form keeps the tolerance, on seeded values of one tile that are not below 0."""
        step, geometry = self._steps[index], self._geometries[index]
        filters, tile = self.chosen(index, form)
        if tile is None:
            return True
        rows, columns = (len(of.inputs) for of in tile)
        channels = geometry.inside * geometry.groups
        values = np.random.default_rng(0).normal(size=(rows, columns, channels)).astype(np.float32)
        given = np.maximum(values, 0)
        found = self._run(given, geometry, filters, tile)
        error = _error(given, convolution_filters(step), found)
        release_pages(_stored(self._steps[index]))
        if error <= TOLERANCE:
            self._checked.add((index, form))
            return True
        _log.info("layer %s: tiles of %d are off by %.1e: not used", step.layer, form, error)
        del self._chosen[index, form]
        return False

    def _run(
        self, given: NDArray[np.float32], geometry: forms.Geometry, filters: object, tile: Tile
    ) -> NDArray[np.float32]:
        """Returns the outputs of one tile."""
        height, width, channels = given.shape
        bottom = Blob(channels, channels, (0,), (height,), (width,))
        out = geometry.outside * geometry.groups
        sides = len(tile.vertical.outputs), len(tile.horizontal.outputs)
        start = -(-given.size // 16) * 16
        top = Blob(out, out, (start,), (sides[0],), (sides[1],))
        operations = [
            Prepare(bottom, tuple(range(channels)), (0.0,) * channels, 1.0),
            Convolution(
                bottom, top, filters, geometry.kernel, (1, 1), (0, 0), (1, 1), None, None, (0,), tile, geometry.groups
            ),
        ]
        arena = start + -(-sides[0] * sides[1] * out // 16) * 16
        result = np.empty((*sides, out), np.float32)
        self._extension.Program(self._pool, operations, [Whole(top)], arena).run([given], [result])
        return result


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
    """Returns the largest difference of some outputs from float64, as a share of the largest of them."""
    groups, rows, columns, inside, outside = filters.shape
    group = np.linspace(0, groups - 1, min(groups, 4)).astype(int)
    channels = np.linspace(0, outside - 1, min(outside, _CHECKED)).astype(int)
    height, width = found.shape[:2]
    worst = largest = 0.0
    for g in group:
        part = given[..., g * inside : (g + 1) * inside].astype(np.float64)
        of = filters[g][..., channels].astype(np.float64)
        expected = sum(
            np.tensordot(part[y : y + height, x : x + width], of[y, x], 1) for y in range(rows) for x in range(columns)
        )
        of_group = found[..., g * outside : (g + 1) * outside][..., channels]
        worst = max(worst, float(np.abs(of_group - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return worst / largest if largest else worst
