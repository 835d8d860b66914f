"""Trains the digits model; writes its weights and the held-out digits: `python -m tests.models.train_digits`.

Training runs through our own TensorFlow form of the network and finds its hard examples through our own cast. Beside
TensorFlow it needs scikit-learn, for the data.

A window of 32x32 pixels is an example of a digit if its middle is within `NEAR` pixels of the digit's, down and across;
of the background if it is `APART` or more, straight, from the middle of every digit. What lies between is an example of
neither. So a window half way between two digits is background, and so is one that shows parts of digits.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import tensorflow as tf
from numpy.typing import NDArray

import models.digits
from conversion import Network, Preprocessing, ReceptiveField, cast, load_network, receptive_field, save, to_tensorflow
from conversion.arrays import Array
from conversion.layers.activation import Dropout
from conversion.layers.base import Layer
from conversion.layers.convolution import Convolution
from conversion.net.network import run
from conversion.surgery import random_parameters
from models.catalog import entry
from models.digits.evaluate import BACKGROUND, Scorer, measure, pages_of
from models.digits.pages import WINDOW, Labels, Page, Pixels, compose_page

HELD_OUT_PER_CLASS = 40

NEAR = 3
APART = 9.0
# A window whose class has less than this probability is hard; a page gives at most so many of them.
SURE = 0.8
HARD_PER_PAGE = 60

# Each round composes new pages, takes windows of them and the hard ones of the model so far, and learns from both.
# Their digits are bent more than those that the model is measured on, since few people wrote them.
ROUNDS = 12
PAGES = 160
VARIATION = 2.5
BATCH = 128
# Stochastic gradient descent as in Caffe's own solver, the rate falling to 0 along half a cosine.
RATE = 0.02
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4

_MODEL = Path(models.digits.__file__).parent
_NEITHER = -1
_MIDDLE = (WINDOW - 1) / 2


@dataclasses.dataclass(frozen=True, slots=True)
class Windows:
    """Examples: RGB, uint8 [n, 32, 32, 3], and their classes [n]."""

    pixels: Pixels
    labels: Labels


def quick_scorer(network: Network) -> Scorer:
    """Scores with a dense network in memory, such as `cast(load_network(...))`, without making a SavedModel."""
    module, output = to_tensorflow(network), network.outputs[-1]
    (data,) = network.inputs
    model = entry("digits")
    preprocessing = Preprocessing(mean=model.mean, scale=model.scale)

    def score(pixels: Pixels) -> NDArray[np.floating]:
        blobs = module({data: preprocessing.reference(pixels[None]).astype(np.float32)})
        probabilities: NDArray[np.floating] = np.asarray(blobs[output])[0]
        return probabilities.transpose(1, 2, 0)

    return score


def load_digits() -> tuple[Pixels, Labels]:
    """All of scikit-learn's digits: images uint8 [1797, 8, 8] with values 0 to 16, and their labels [1797]."""
    data = sklearn.datasets.load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.int64)


def split(labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The indices of the digits for training and of those held out: the last 40 of each class."""
    held = np.sort(np.concatenate([np.flatnonzero(labels == c)[-HELD_OUT_PER_CLASS:] for c in range(10)]))
    return np.setdiff1d(np.arange(len(labels)), held), held


def classes_of(page: Page, y: NDArray[np.float64], x: NDArray[np.float64]) -> Labels:
    """The class of windows with these middles, by the rule above; -1 for examples of neither."""
    down = np.abs(y[:, None] - np.array([digit.y for digit in page.digits]))
    across = np.abs(x[:, None] - np.array([digit.x for digit in page.digits]))
    nearest = np.hypot(down, across).argmin(axis=1)
    each = np.arange(len(y))
    labels = np.array([digit.label for digit in page.digits])[nearest]
    near = np.maximum(down, across)[each, nearest] <= NEAR
    apart = np.hypot(down, across)[each, nearest] >= APART
    return np.where(near, labels, np.where(apart, BACKGROUND, _NEITHER))


def sample(rng: np.random.Generator, page: Page) -> Windows:
    """Windows of a page: for each digit three of it, two beside it, one between it and a neighbour, two anywhere."""
    size = np.array(page.pixels.shape[:2])
    digits = np.array([(digit.y, digit.x) for digit in page.digits])
    middles: list[NDArray[np.float64]] = []
    for digit in digits:
        angles, reach = rng.uniform(0, 2 * math.pi, 2), rng.uniform(APART, 22, 2)
        apart = np.hypot(*(digits - digit).T)
        neighbours = digits[(apart > 0) & (apart < 48)]
        middles += [
            digit + rng.uniform(-NEAR, NEAR, (3, 2)),
            digit + np.stack([reach * np.sin(angles), reach * np.cos(angles)], axis=1),
            (digit + rng.permutation(neighbours)[:1]) / 2 + rng.uniform(-3, 3, 2),
            rng.uniform((0, 0), size, (2, 2)),
        ]
    corners = np.rint(np.concatenate(middles) - _MIDDLE).astype(int)
    return _cut(page, np.clip(corners, 0, size - WINDOW))


def hard(page: Page, probabilities: Array, geometry: ReceptiveField) -> Windows:
    """The windows of a page's map whose class is least probable."""
    # The last cells may reach past the page, where Caffe rounds up.
    axes = ((geometry.y, page.pixels.shape[0]), (geometry.x, page.pixels.shape[1]))
    inside = [axis.interior(side, n) for (axis, side), n in zip(axes, probabilities.shape[:2], strict=True)]
    cells = np.stack(np.meshgrid(*inside, indexing="ij"), axis=-1).reshape(-1, 2)
    corners = cells * int(geometry.y.stride)
    classes = classes_of(page, *(corners + _MIDDLE).T)
    right = np.where(classes == _NEITHER, 1.0, probabilities[cells[:, 0], cells[:, 1], classes])
    worst = np.argsort(right)[:HARD_PER_PAGE]
    return _cut(page, corners[worst[right[worst] < SURE]])


def _cut(page: Page, corners: NDArray[np.integer]) -> Windows:
    """The windows with these corners that are examples of something."""
    classes = classes_of(page, *(corners + _MIDDLE).T)
    corners, classes = corners[classes != _NEITHER], classes[classes != _NEITHER]
    pixels = [page.pixels[y : y + WINDOW, x : x + WINDOW] for y, x in corners]
    return Windows(np.stack(pixels) if pixels else np.zeros((0, WINDOW, WINDOW, 3), np.uint8), classes)


def _together(windows: Iterable[Windows]) -> Windows:
    several = list(windows)
    return Windows(np.concatenate([w.pixels for w in several]), np.concatenate([w.labels for w in several]))


def train(images: Pixels, labels: Labels, seed: int, rounds: int, report: Callable[[str], object]) -> Network:
    """Trains the network from random weights on pages of these digits."""
    tf.random.set_seed(seed)
    rng = np.random.default_rng(seed)
    network = random_parameters(load_network(entry("digits").definition), seed)
    module = to_tensorflow(network)
    geometry = receptive_field(cast(network))
    learn = _learner(network, module)
    for number in range(rounds):
        pages = [compose_page(rng, images, labels, variation=VARIATION) for _ in range(PAGES)]
        parts = [sample(rng, page) for page in pages]
        if number:
            score = quick_scorer(cast(trained(network, module)))
            parts += [hard(page, score(page.pixels), geometry) for page in pages]
        examples = _together(parts)
        order = rng.permutation(len(examples.labels))
        order = order[: len(order) // BATCH * BATCH]
        losses = []
        for step, chosen in enumerate(order.reshape(-1, BATCH)):
            progress = (number + step * BATCH / len(order)) / rounds
            rate = RATE * (0.5 + 0.5 * math.cos(math.pi * progress)) * min(1.0, 50 * progress)
            losses.append(learn(examples.pixels[chosen], examples.labels[chosen], tf.constant(rate, tf.float32)))
        digits = sum(len(part.labels) for part in parts[PAGES:])
        report(f"round {number + 1}: {len(order)} windows, {digits} of them hard, loss {np.mean(losses):.4f}")
    return trained(network, module)


def _learner(network: Network, module: Any) -> Callable[..., Any]:
    """A step of learning: (windows, classes, rate) -> loss."""
    model = entry("digits")
    logits = network.layers[-1].bottoms[0]
    velocities = [tf.Variable(tf.zeros_like(variable)) for variable in module.variables]

    def forward(layer: Layer, bottoms: Sequence[Any]) -> Sequence[Any]:
        # The network is in phase TEST, where Dropout is the identity.
        if isinstance(layer, Dropout):
            return [tf.nn.dropout(bottoms[0], layer.definition.dropout_param.dropout_ratio)]
        return layer.tensorflow(bottoms, module.weights[layer.name])

    def learn(pixels: Any, classes: Any, rate: Any) -> Any:
        prepared = (tf.cast(pixels, tf.float32)[..., ::-1] - tf.constant(model.mean, tf.float32)) * model.scale
        with tf.GradientTape() as tape:
            found = run(network.layers, lambda _: [prepared], forward, lambda value, _: value)[logits]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, found))
        gradients = tape.gradient(loss, module.variables)
        for variable, velocity, gradient in zip(module.variables, velocities, gradients, strict=True):
            decay = WEIGHT_DECAY if variable.shape.rank > 1 else 0.0
            velocity.assign(MOMENTUM * velocity + rate * (gradient + decay * variable))
            variable.assign_sub(velocity)
        return loss

    compiled: Callable[..., Any] = tf.function(learn, autograph=False)
    return compiled


def trained(network: Network, module: Any) -> Network:
    """The network with the weights that its TensorFlow form has now, in Caffe's layout."""
    parameters = dict(network.parameters)
    for layer in network.layers:
        if layer.name not in parameters:
            continue
        *matrices, bias = (variable.numpy() for variable in module.weights[layer.name])
        if isinstance(layer, Convolution):
            # One [kh, kw, C_in / group, C_out / group] for each group -> (C_out, C_in / group, kh, kw).
            weights = np.concatenate([kernel.transpose(3, 2, 0, 1) for kernel in matrices])
        else:
            weights = matrices[0].T
        parameters[layer.name] = (np.ascontiguousarray(weights), bias)
    return dataclasses.replace(network, parameters=parameters)


def main(arguments: list[str] | None = None) -> None:
    """Trains, measures on pages of held-out digits, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, default=_MODEL, help="folder for digits.caffemodel and held_out.npz")
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def report(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:5.0f} s  {line}\n")
        sys.stdout.flush()

    images, labels = load_digits()
    learned, held = split(labels)
    network = train(images[learned], labels[learned], options.seed, options.rounds, report)
    dense = cast(network)
    score, geometry = quick_scorer(dense), receptive_field(dense)
    for name, part in (("training", learned), ("held-out", held)):
        report(f"{name} {measure(score, geometry, pages_of(images[part], labels[part], 2000, seed=1))}")
    with tempfile.TemporaryDirectory() as directory:
        # The definition that ships is the one with comments.
        save(network, Path(directory) / "deploy.prototxt", options.output / "digits.caffemodel")
    np.savez_compressed(options.output / "held_out.npz", images=images[held], labels=labels[held].astype(np.uint8))


if __name__ == "__main__":
    main()
