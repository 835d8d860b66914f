"""The plan of a batch: places in memory, forms of convolutions, and what is not copied."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion import load_network, prune
from conversion.export.plain_network import to_plain
from pipeline.engines.native import filters, forms, program
from pipeline.engines.native.engine import NativeEngine
from pipeline.engines.native.filters import FilterStore
from pipeline.engines.native.lowering import fused_steps
from pipeline.engines.native.memory import ALIGNMENT, Life, arrange
from pipeline.engines.native.planning import Planner
from tests.support import numpy_native

LIVES = st.lists(
    st.builds(
        lambda first, length, lines: Life(first, first + length, lines * ALIGNMENT),
        st.integers(0, 30),
        st.integers(0, 8),
        st.integers(1, 40),
    ),
    max_size=30,
)


@given(LIVES)
def test_what_is_needed_at_one_time_lies_apart(lives: list[Life]):
    offsets, whole = arrange(lives)
    for a, (one, start) in enumerate(zip(lives, offsets, strict=True)):
        assert start % ALIGNMENT == 0
        assert start + one.size <= whole
        for other, begin in list(zip(lives, offsets, strict=True))[:a]:
            apart = one.last < other.first or other.last < one.first
            assert apart or start + one.size <= begin or begin + other.size <= start
    assert whole <= sum(life.size for life in lives)


def planned(text: str, folder: Path, blobs: tuple[str, ...] = ("top",), size: tuple[int, int] = (12, 9)) -> Any:
    """The planner of a net, and its plan of two images."""
    (folder / "net.prototxt").write_text(text)
    network = prune(load_network(folder / "net.prototxt"), blobs)
    weights: dict[str, list[np.ndarray]] = {}
    trace, _ = network.trace(network.inputs)
    for layer, (bottoms, _) in zip(network.layers, trace, strict=True):
        arrays = [np.ones(shape, np.float32) for shape in layer.blob_shapes(bottoms)]
        weights[layer.name] = layer.prepare(arrays)
    plain = to_plain(network, weights)
    planner = Planner(plain, None, [(plain.last[blob], 0) for blob in blobs], size)
    store = FilterStore(numpy_native, numpy_native.ThreadPool(1), planner.steps)
    return planner, planner.plan((size, (size[0] + 3, size[1])), store)


INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 9 } } }\n'


def layer(kind: str, bottoms: str, top: str, more: str = "") -> str:
    names = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{kind} {top}" type: "{kind}" {names} top: "{top}" {more} }}\n'


def conv(bottom: str, top: str, count: int, more: str = "kernel_size: 1") -> str:
    return layer("Convolution", bottom, top, f"convolution_param {{ num_output: {count} {more} }}")


def test_joined_blobs_are_written_where_they_belong(tmp_path: Path):
    net = INPUT + conv("data", "a", 5) + conv("data", "b", 7) + layer("Concat", "a b", "ab") + conv("ab", "c", 2)
    _, plan = planned(net + layer("Concat", "ab c", "top"), tmp_path)
    assert not [o for o in plan.operations if isinstance(o, program.Copy)]
    *_, a, b, c = plan.operations
    assert (a.top.stride, b.top.stride, c.top.stride, c.bottom.stride) == (14, 14, 14, 14)
    starts = [o.top.offsets[0] for o in (a, b, c)]
    assert starts == [starts[0], starts[0] + 5, starts[0] + 12]
    assert plan.results[0].bottom.channels == 14


def test_a_blob_of_two_joined_blobs_is_copied_into_one(tmp_path: Path):
    net = INPUT + conv("data", "a", 5) + conv("a", "b", 7) + layer("Concat", "a b", "ab") + layer("Concat", "b a", "ba")
    _, plan = planned(net + layer("Concat", "ab ba data", "top"), tmp_path)
    copies = [o for o in plan.operations if isinstance(o, program.Copy)]
    assert sorted(o.top.channels for o in copies) == [3, 5, 7]


def test_parts_are_views(tmp_path: Path):
    net = INPUT + conv("data", "a", 6)
    net += 'layer { name: "cut" type: "Slice" bottom: "a" top: "b" top: "c" slice_param { slice_point: 2 } }\n'
    _, plan = planned(net + conv("c", "top", 3), tmp_path)
    a, top = plan.operations[-2:]
    assert top.bottom.channels == 4
    assert top.bottom.offsets == tuple(offset + 2 for offset in a.top.offsets)


def test_what_follows_a_convolution_is_part_of_it(tmp_path: Path):
    net = INPUT + conv("data", "a", 6) + layer("BatchNorm", "a", "a") + layer("ReLU", "a", "a")
    net += layer("Scale", "a", "b") + layer("ReLU", "b", "b") + conv("b", "top", 3)
    planner, plan = planned(net, tmp_path)
    assert [type(o).__name__ for o in plan.operations] == ["Prepare", "Convolution", "Affine", "Convolution"]
    assert [step.slope for step in planner.steps] == [0.0, 0.0, None]
    _, first, scale, _ = plan.operations
    assert scale.top.offsets == scale.bottom.offsets, "in place"
    assert first.bias is not None


def test_a_blob_that_is_wanted_before_a_layer_changes_it_is_kept(tmp_path: Path):
    net = INPUT + conv("data", "a", 6) + layer("ReLU", "a", "a") + conv("a", "top", 3)
    (tmp_path / "net.prototxt").write_text(net)
    network = load_network(tmp_path / "net.prototxt")
    weights = {name: [np.ones((1, 1, 3, 6), np.float32), np.ones(6, np.float32)] for name in ("Convolution a",)}
    weights["Convolution top"] = [np.ones((1, 1, 6, 3), np.float32), np.ones(3, np.float32)]
    plain = to_plain(network, weights)
    assert plain.first["a"] != plain.last["a"]
    assert len(fused_steps(plain, {plain.last["top"]})) == 2
    assert len(fused_steps(plain, {plain.last["top"], plain.first["a"]})) == 3


def test_a_stride_over_pixels_becomes_blocks(tmp_path: Path):
    net = INPUT + conv("data", "top", 6, "kernel_size: 5 stride: 2 pad: 1")
    _, plan = planned(net, tmp_path)
    prepare, convolution = plan.operations
    assert (prepare.block, prepare.pad, prepare.top.channels) == (2, (1, 1), 12)
    assert (convolution.kernel, convolution.stride, convolution.pad) == ((3, 3), (1, 1), (0, 0))
    assert prepare.top.heights == tuple(height + 2 for height in convolution.top.heights)


def test_blobs_share_memory(tmp_path: Path):
    net = INPUT + conv("data", "b0", 8)
    for index in range(8):
        net += conv(f"b{index}", f"b{index + 1}", 8)
    _, plan = planned(net + conv("b8", "top", 8), tmp_path)
    image = 12 * 9 + 15 * 9
    assert plan.arena <= 3 * (8 * image + 2 * ALIGNMENT)


SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(SHAPES, st.sampled_from([1, 2, 3, 4, 5, 6, 7]), st.integers(1, 512), st.integers(1, 512))
def test_a_form_follows_from_the_layer_and_the_size_alone(size: tuple[int, int], taps: int, inside: int, outside: int):
    geometry = forms.Geometry((taps, taps), True, inside, outside, 1)
    able = forms.possible(geometry)
    best = forms.best(geometry, size, able)
    assert best in able
    assert forms.cost(geometry, size, best) <= forms.cost(geometry, size, forms.DIRECT)
    for form in able[1:]:
        tile, (vertical, _) = forms.tile(geometry.kernel, form)
        assert tile.vertical.outputs.shape == (form, form + taps - 1)
        assert vertical.filters.shape == (form + taps - 1, taps)


@pytest.mark.parametrize("geometry", [forms.Geometry((3, 3), False, 8, 8, 1), forms.Geometry((1, 1), True, 8, 8, 1)])
def test_strides_and_single_cells_are_direct(geometry: forms.Geometry):
    assert forms.possible(geometry) == (forms.DIRECT,)


def test_a_form_that_is_off_is_not_used(by_name: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Its digits are compared when the engine is opened: a smaller tile is used, or none."""
    tried: list[float] = []
    monkeypatch.setattr(filters, "_error", lambda *_: tried.append(1.0) or 1.0)
    monkeypatch.setattr(forms, "cost", lambda geometry, top, form: -form)
    engine = NativeEngine(by_name["caffenet_small"], extension=numpy_native)
    image = np.random.default_rng(0).integers(0, 256, (1, 227, 227, 3), dtype=np.uint8)
    operations: list[Any] = []
    program_class = types.SimpleNamespace(**vars(numpy_native))
    program_class.Program = lambda pool, made, results, arena: (
        operations.extend(made) or numpy_native.Program(pool, made, results, arena)
    )
    engine._extension = program_class
    engine.score(image)
    count = len(tried)
    assert count
    engine.score(image[:, :, :, ::-1][:, :, ::-1])
    assert len(tried) == count, "forms are fixed from the beginning"
    assert {o.tile for o in operations if isinstance(o, program.Convolution)} == {None}
