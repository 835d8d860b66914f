"""What an engine calls: a model's maps and features as one TensorFlow function, in float32 or in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion import (
    CAST_SUFFIX,
    NETWORK_FILE,
    ModelMetadata,
    Narrow,
    apply_network,
    import_tensorflow,
    load_network,
    load_savedmodel,
)
from pipeline.maps.features import Wanted
from pipeline.maps.recipe import Precision

FEATURE = "feature/"
"""Before the name of a feature among a function's outputs."""


class NetFunction:
    """A model's function of images (and k): its best classes or all probabilities, and features.

    Args:
        model: The model directory.
        metadata: What it says.
        features: What is given beside the map. The net is run once for all of them.
        best: Whether the best k classes are found in it, instead of giving all probabilities.
        precision: What the net computes in where it can; inputs, softmax and all outputs are float32.

    Raises:
        ModelError: The directory is no model.
    """

    def __init__(
        self,
        model: str | Path,
        metadata: ModelMetadata,
        features: Sequence[Wanted],
        *,
        best: bool,
        precision: Precision,
    ) -> None:
        loaded = load_savedmodel(model)
        self._kept: Any = loaded  # functions hold variables weakly
        if precision is not Precision.FLOAT32:
            blobs, self._kept = _narrowed(model, metadata, loaded, precision)
            self.concrete = _traced(blobs, metadata.output_blob, features, best=best)
        elif features:
            self.concrete = _traced(_channels_last(loaded.blobs), metadata.output_blob, features, best=best)
        else:
            self.concrete = loaded.signatures["top_k" if best else "serving_default"]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs, in the order in which a frozen function gives them."""
        return sorted(self.concrete.structured_outputs)

    def frozen(self) -> Any:
        """The function with its variables turned into constants; it needs nothing else to live.

        oneDNN lays weights out in its own way: once for a constant, at every call for a variable. Measured on CaffeNet,
        3 images of 227 pixels: 38 ms against 120.
        """
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        return convert_variables_to_constants_v2(self.concrete)


_Blobs = Callable[[Any], Mapping[str, Any]]
"""uint8 RGB [N, H, W, 3] -> every blob by name, those of four axes [N, h, w, C]."""


def _traced(blobs: _Blobs, output: str, features: Sequence[Wanted], *, best: bool) -> Any:
    """A function of images (and k) to the map and the features.

    Two signatures would run the net twice, for TensorFlow finds less than half of what they have in common. One
    function of the model gives all blobs; what is not asked for is left out when it is frozen or compiled.
    """
    tf = import_tensorflow()

    def outputs(images: Any, k: Any = None) -> dict[str, Any]:
        found = blobs(images)

        def values(name: str) -> Any:
            return tf.cast(found[name if name in found else name + CAST_SUFFIX], tf.float32)

        kept = {FEATURE + wanted.name: values(wanted.name) for wanted in features}
        if not best:
            return {"probabilities": values(output), **kept}
        scores, classes = tf.math.top_k(values(output), k)
        return {"classes": classes, "scores": scores, **kept}

    inputs = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]
    if best:
        inputs.append(tf.TensorSpec([], tf.int32, name="k"))
    return tf.function(outputs, input_signature=inputs, autograph=False).get_concrete_function()


def _channels_last(blobs: Callable[[Any], Mapping[str, Any]]) -> _Blobs:
    """What the model's own `blobs` gives in Caffe's order."""
    tf = import_tensorflow()

    def turned(images: Any) -> dict[str, Any]:
        return {
            name: tf.transpose(value, [0, 2, 3, 1]) if value.shape.rank == 4 else value
            for name, value in blobs(images).items()
        }

    return turned


def _narrowed(
    model: str | Path, metadata: ModelMetadata, loaded: Any, precision: Precision
) -> tuple[_Blobs, dict[str, list[Any]]]:
    """The net wired anew from its definition, in 16 bits where `Layer.narrow` lets it; and its weights.

    TensorFlow's own pass over the graph (`auto_mixed_precision`) was tried: it is switched for a whole process, while
    the gate needs both precisions in one; does nothing, and says nothing, where it sees no GPU; and knows float16 on
    GPUs and bfloat16 on CPUs alone. Here the layers say what is covered, the same on every device.
    """
    tf = import_tensorflow()
    network = load_network(Path(model) / NETWORK_FILE)
    (data,) = network.inputs
    kind = tf.as_dtype(str(precision))
    weights = {}
    for layer in network.layers:
        own = kind if layer.narrow is Narrow.ALLOW else tf.float32
        weights[layer.name] = [tf.Variable(tf.cast(value, own)) for value in loaded.network.weights.get(layer.name, ())]

    def blobs(images: Any) -> Mapping[str, Any]:
        return apply_network(network, weights, {data: metadata.preprocessing.tensorflow(tf, images)}, kind)

    return blobs, weights
