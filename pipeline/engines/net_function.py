"""The TensorFlow function that an engine calls: a model's maps and features, in float32 or in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from conversion import (
    BEFORE_SUFFIX,
    ModelMetadata,
    Narrow,
    apply_network,
    import_tensorflow,
    load_model_network,
    load_savedmodel,
    name_after_cast,
)
from pipeline.engines.cell_scores import FEATURE
from pipeline.maps.features import Wanted
from pipeline.maps.recipe import Precision

Tensor: TypeAlias = Any
"""A tf.Tensor. TensorFlow has no types: its functions and models are `Any` as well."""


class NetFunction:
    """A model's function of images (and k) that returns the best classes or all probabilities, and features.

    Its input `images` is uint8 RGB [N, H, W, 3]; if it is `prepared`, float32 [N, H, W, C].

    Args:
        model: The model directory.
        metadata: The model's `densecast.json`.
        features: The blobs to return with the map. The network is run once for all of them.
        best: Whether the function returns the best k classes instead of all probabilities.
        precision: The type that the network computes in where it can. Inputs, softmax and all outputs are float32.
        prepared: Whether the function takes what the network's input blob holds, instead of images.

    Raises:
        ModelError: The directory is not a model.
    """

    def __init__(
        self,
        model: str | Path,
        metadata: ModelMetadata,
        features: Sequence[Wanted],
        *,
        best: bool,
        precision: Precision,
        prepared: bool = False,
    ) -> None:
        loaded = load_savedmodel(model)
        self._variables: object = loaded  # functions only have weak references to their variables
        if precision is not Precision.FLOAT32 or prepared or any(wanted.is_before for wanted in features):
            of_data, self._variables = _rebuilt(model, loaded, precision)
            blobs = of_data if prepared else _preprocessed(metadata, of_data)
            spec = _prepared_spec(metadata) if prepared else _images_spec()
            self.concrete = _traced(blobs, metadata.output_blob, features, best=best, spec=spec)
        elif features:
            blobs = _channels_last(loaded.blobs)
            self.concrete = _traced(blobs, metadata.output_blob, features, best=best, spec=_images_spec())
        else:
            self.concrete = loaded.signatures["top_k" if best else "serving_default"]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs, in the order in which a frozen function returns them."""
        return sorted(self.concrete.structured_outputs)

    def frozen(self, *, largest: int | None = None) -> Callable[..., list[Tensor]]:
        """Returns the function with its variables turned into constants; it does not need this object any more.

        oneDNN converts weights to its own layout: once for a constant, but at every call for a variable. Measured on
        CaffeNet with 3 images of 227 pixels: 38 ms instead of 120. But TensorFlow copies constants many times while it
        makes and optimizes a graph, so that CaffeNet's three large weights, 234 of 244 MB, take most of the time and
        the memory that the opening of the model takes.

        Args:
            largest: Variables of more bytes stay variables; None turns all into constants. The last bits of a map
                depend on it.
        """
        from tensorflow.python.framework import convert_to_constants as convert

        kept = [] if largest is None else [v for v in self.concrete.variables if _bytes_of(v) > largest]
        if not kept:
            frozen: Callable[..., list[Tensor]] = convert.convert_variables_to_constants_v2(self.concrete)
            return frozen
        captures = [(outer, inner.op.name) for outer, inner in self.concrete.graph.captures]
        handles = {name: variable.handle for variable in kept for outer, name in captures if outer is variable.handle}
        # TensorFlow's public function takes no names of variables that stay.
        data = convert._FunctionConverterDataInEager(
            func=self.concrete,
            lower_control_flow=True,
            aggressive_inlining=False,
            variable_names_denylist=set(handles),
        )
        partly = convert._construct_concrete_function(self.concrete, *convert._replace_variables_by_constants(data))

        def call(**inputs: Tensor) -> list[Tensor]:
            result: list[Tensor] = partly(**inputs, **handles)
            return result

        call.variables = kept  # type: ignore[attr-defined]  # functions only have weak references to their variables
        return call


def _bytes_of(variable: Tensor) -> int:
    size: int = variable.shape.num_elements() * variable.dtype.size
    return size


_Blobs = Callable[[Tensor], Mapping[str, Tensor]]
"""uint8 RGB [N, H, W, 3] or float32 [N, H, W, C] -> every blob by name, those of four axes [N, h, w, C]."""


def _images_spec() -> Any:
    tf = import_tensorflow()
    return tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")


def _prepared_spec(metadata: ModelMetadata) -> Any:
    tf = import_tensorflow()
    return tf.TensorSpec([None, None, None, len(metadata.preprocessing.mean)], tf.float32, name="images")


def _traced(blobs: _Blobs, output: str, features: Sequence[Wanted], *, best: bool, spec: Any) -> Any:
    """Returns a function of its input (and k) that computes the map and the features.

    Two signatures would run the network twice, because TensorFlow merges less than half of their common operations. The
    model's function computes all blobs; those that are not returned are removed when it is frozen or compiled.
    """
    tf = import_tensorflow()

    def outputs(images: Tensor, k: Tensor = None) -> dict[str, Tensor]:
        computed = blobs(images)

        def values(name: str, suffix: str = "") -> Tensor:
            blob = name_after_cast(name, computed)
            return tf.cast(computed[blob + suffix], tf.float32)

        kept = {
            FEATURE + wanted.name: values(wanted.blob, BEFORE_SUFFIX if wanted.is_before else "") for wanted in features
        }
        if not best:
            return {"probabilities": values(output), **kept}
        scores, classes = tf.math.top_k(values(output), k)
        return {"classes": classes, "scores": scores, **kept}

    inputs = [spec]
    if best:
        inputs.append(tf.TensorSpec([], tf.int32, name="k"))
    return tf.function(outputs, input_signature=inputs, autograph=False).get_concrete_function()


def _channels_last(blobs: _Blobs) -> _Blobs:
    """Returns a function that returns the model's blobs, which have Caffe's order of axes, with channels last."""
    tf = import_tensorflow()

    def transposed(images: Tensor) -> dict[str, Tensor]:
        return {
            name: tf.transpose(value, [0, 2, 3, 1]) if value.shape.rank == 4 else value
            for name, value in blobs(images).items()
        }

    return transposed


def _preprocessed(metadata: ModelMetadata, of_data: _Blobs) -> _Blobs:
    """Returns the blobs as a function of images, with the model's preprocessing."""
    tf = import_tensorflow()
    return lambda images: of_data(metadata.preprocessing.tensorflow(tf, images))


def _rebuilt(model: str | Path, loaded: Any, precision: Precision) -> tuple[_Blobs, dict[str, list[Tensor]]]:
    """Returns the network built from its definition, as a function of its input blob, and its weights.

    It is in 16 bits where `Layer.narrow` allows it and `precision` asks for it. A blob that layers change in place has
    its first value under its name and `BEFORE_SUFFIX`.

    TensorFlow's own graph pass (`auto_mixed_precision`) does not suffice. It is switched on for a whole process, but
    `measure_parity` needs both precisions in one. It silently does nothing if there is no GPU. It supports float16 only
    on GPUs and bfloat16 only on CPUs. Here the layers say what is computed in 16 bits, equally on every device.
    """
    tf = import_tensorflow()
    network = load_model_network(model)
    (blob,) = network.inputs
    kind = None if precision is Precision.FLOAT32 else tf.as_dtype(str(precision))
    weights = {}
    for layer in network.layers:
        dtype = kind if kind is not None and layer.narrow is Narrow.ALLOW else tf.float32
        weights[layer.name] = [
            value if value.dtype == dtype else tf.Variable(tf.cast(value, dtype))
            for value in loaded.network.weights.get(layer.name, ())
        ]

    def blobs(data: Tensor) -> Mapping[str, Tensor]:
        first: dict[str, Tensor] = {}
        last = apply_network(network, weights, {blob: data}, kind, first=first)
        return {**last, **{name + BEFORE_SUFFIX: value for name, value in first.items()}}

    return blobs, weights
