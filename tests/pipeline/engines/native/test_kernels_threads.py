"""The native engine's threads and memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.pipeline.engines.native.kernel_support import Arena, images, operation, prepare

SIZES = [(5, 7), (9, 4)]


def softmax(native, pool, pixels):
    """A program of two operations on images of one channel count, and its results."""
    arena = Arena()
    channels = pixels[0].shape[-1]
    bottom, top = (arena.blob(channels, SIZES) for _ in range(2))
    steps = [prepare(bottom), operation("Softmax", bottom=bottom, top=top)]
    results = [np.empty_like(image) for image in pixels]
    return native.Program(pool, steps, [operation("Whole", bottom=top)], arena.size), results


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_programs_on_one_pool_take_turns(native, threads):
    pool = native.ThreadPool(threads)
    assert pool.threads == threads
    pixels = [images(np.random.default_rng(i), SIZES, channels) for i, channels in enumerate((3, 20, 40, 7))]
    programs = [softmax(native, pool, batch) for batch in pixels]

    def run_often(index):
        program, results = programs[index]
        for _ in range(30):
            program.run(pixels[index], results)

    with ThreadPoolExecutor(len(programs)) as executor:
        list(executor.map(run_often, range(len(programs))))
    for batch, (_, results) in zip(pixels, programs, strict=True):
        for image, found in zip(batch, results, strict=True):
            powers = np.exp(image.astype(float))
            assert np.allclose(found, powers / powers.sum(axis=-1, keepdims=True), rtol=1e-5)


def test_memory_is_kept_for_the_next_run_until_it_is_freed(native):
    pool = native.ThreadPool(2)
    assert pool.arena_bytes == 0
    pixels = images(np.random.default_rng(0), SIZES, 16)
    program, results = softmax(native, pool, pixels)
    program.run(pixels, results)
    held = pool.arena_bytes
    assert held > 0
    program.run(pixels, results)
    assert pool.arena_bytes == held
    expected = [result.copy() for result in results]
    pool.trim()
    assert pool.arena_bytes == 0
    program.run(pixels, results)
    assert [result.tobytes() for result in results] == [result.tobytes() for result in expected]


def test_an_arena_that_no_machine_has_is_a_memory_error(native, pool):
    import duckdb  # noqa: F401 - its module translates exceptions of those that share its domain

    with pytest.raises(MemoryError):
        native.Program(pool, [], [], 1 << 50).run([], [])


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_numbers_of_threads_that_are_refused(native, threads):
    with pytest.raises(ValueError, match="1 to 1024 threads"):
        native.ThreadPool(threads)
