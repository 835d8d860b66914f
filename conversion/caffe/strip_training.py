"""Training definitions -> classifiers: the layers of phase TEST, an input instead of data, no losses.

`train_val.prototxt` names the sources of its images and labels and the loss; a deployed net has an input and
probabilities. No source that the file names is ever opened.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from conversion.caffe.caffe_pb2 import (
    TEST,
    LayerParameter,
    NetParameter,
    NetState,
    NetStateRule,
    ResizeParameter,
)
from conversion.errors import NetworkError

Size = int | tuple[int, int] | tuple[int, int, int]  # both sides, (height, width) or (channels, height, width)

# The tops of the first: images, then labels; of the second: any data.
_IMAGES_AND_LABELS = frozenset({"AnnotatedData", "Data", "ImageData", "MemoryData", "WindowData"})
_ANYTHING = frozenset({"HDF5Data", "DummyData"})
_DATA = _IMAGES_AND_LABELS | _ANYTHING
# A blob that reaches none of these layers is not an image.
_LEARNED = frozenset({"Convolution", "Deconvolution", "InnerProduct", "Embed"})

STAGE_NOTE = "left out, since no stage is asked for: "


class Stripped(NamedTuple):
    """The layers of a classifier, and notes for the user on what was changed."""

    layers: list[LayerParameter]
    notes: tuple[str, ...]


def strip(
    layers: Sequence[LayerParameter],
    excluded: Sequence[LayerParameter] = (),
    *,
    crop: Size | None = None,
    where: str = "",
) -> Stripped:
    """Returns the layers of a net without what only training needs.

    Given: the layers of phase TEST, in the current form; and the other layers, since an input may exist in TRAIN only.
    Result: data layers become Input layers of their crop size. Labels, Accuracy, HDF5Output, all losses, and layers
    that only these feed are removed. A SoftmaxWithLoss becomes the Softmax of its scores, unless the net has one; its
    blob is called "prob" if it is the only one, otherwise like the loss. Layers that need no change are the same
    objects.

    Args:
        layers: See above; not changed.
        excluded: See above.
        crop: The size of the images; overrides what data and Input layers state.
        where: The file, for errors.

    Raises:
        NetworkError: The size of the images is not known.
    """
    if crop is not None:
        layers = [_at(layer, crop) if layer.type == "Input" else layer for layer in layers]
    data = _data_layers(layers, excluded)
    if not data and not any(_is_training(layer) for layer in layers):
        return Stripped(list(layers), ())
    labels = _labels([*data, *layers])
    kept, gone = _without_training(layers, labels)
    inputs: list[LayerParameter] = []
    notes: list[str] = []
    for layer in data:
        message, sizes = _to_input(layer, labels, crop, where)
        inputs.append(message)
        notes.append(f"{_text(layer)} becomes an input of {sizes}")
        notes.extend(_transformation(layer))
    blobs = {blob for layer in kept for blob in layer.top}
    heads = sum(layer.type in ("SoftmaxWithLoss", "Softmax") for layer in kept)
    for index, layer in enumerate(kept):
        if layer.type == "SoftmaxWithLoss":
            kept[index] = _to_softmax(layer, only=heads == 1 and "prob" not in blobs)
            notes.append(f"{_text(layer)} becomes the Softmax {kept[index].top[0]!r}")
    if gone:
        notes.append(f"left out, since only training uses them: {_listing(gone)}")
    return Stripped([*inputs, *kept], tuple(notes))


def by_phase(definition: NetParameter) -> tuple[list[LayerParameter], list[LayerParameter]]:
    """Returns the layers of phase TEST, by their include and exclude rules, and the others."""
    stages = frozenset(definition.state.stage)
    result: tuple[list[LayerParameter], list[LayerParameter]] = ([], [])
    for message in definition.layer:
        result[0 if _included(message, definition.state, stages) else 1].append(message)
    return result


def stage_notes(definition: NetParameter, excluded: Iterable[LayerParameter]) -> tuple[str, ...]:
    """Returns a note on the layers that only stages have, for a definition that is read without any.

    A file of DIGITS is a training net and a deployed one in one: without its stage it has neither input nor Softmax.
    """
    staged = [f"{_text(layer)} of stage {', '.join(of)}" for layer in excluded if (of := stages_of(layer))]
    if definition.state.stage or not staged:
        return ()
    return (f"{STAGE_NOTE}{', '.join(staged)} (--stage, or stages in Python)",)


def stages_of(layer: LayerParameter) -> list[str]:
    """Returns the stages that the include rules of a layer ask for."""
    return list(dict.fromkeys(stage for rule in layer.include for stage in rule.stage))


def _included(message: LayerParameter, state: NetState, stages: frozenset[str]) -> bool:
    """Returns whether a layer is in the net in phase TEST, by its include and exclude rules (Net::FilterNet)."""
    if message.include and message.exclude:
        raise NetworkError(
            "both include and exclude rules", where=f"layer {message.name!r}", why="Caffe accepts one kind"
        )
    if message.include:
        return any(_meets(rule, state, stages) for rule in message.include)
    return not any(_meets(rule, state, stages) for rule in message.exclude)


def _meets(rule: NetStateRule, state: NetState, stages: frozenset[str]) -> bool:
    """Returns Net::StateMeetsRule for phase TEST and the definition's own level and stages."""
    return not (
        (rule.HasField("phase") and rule.phase != TEST)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or any(stage not in stages for stage in rule.stage)
        or any(stage in stages for stage in rule.not_stage)
    )


def _is_training(layer: LayerParameter) -> bool:
    return layer.type in _DATA or layer.type in ("Accuracy", "HDF5Output") or layer.type.endswith("Loss")


def _data_layers(layers: Iterable[LayerParameter], excluded: Iterable[LayerParameter]) -> list[LayerParameter]:
    """Returns the data layers of phase TEST, and those of TRAIN that make blobs which TEST reads and does not make."""
    data = [layer for layer in layers if layer.type in _DATA]
    made = {top for layer in layers for top in layer.top}
    read = {bottom for layer in layers for bottom in layer.bottom}
    for layer in excluded:
        if layer.type in _DATA and read.intersection(layer.top) - made:
            data.append(layer)
            made.update(layer.top)
    return data


def _labels(layers: Sequence[LayerParameter]) -> set[str]:
    """Returns the blobs of data layers that are not images: no learned layer reads them, but losses may."""
    reaching: set[str] = set()
    for layer in reversed(layers):
        if not _is_training(layer) and (layer.type in _LEARNED or not reaching.isdisjoint(layer.top)):
            reaching.update(layer.bottom)
    labels: set[str] = set()
    for layer in layers:
        if layer.type in _ANYTHING:
            labels.update(set(layer.top) - reaching)
        elif layer.type in _IMAGES_AND_LABELS:
            labels.update(set(layer.top[1:]) - reaching)
    return labels


def _without_training(
    layers: Sequence[LayerParameter], labels: Iterable[str]
) -> tuple[list[LayerParameter], list[LayerParameter]]:
    """Returns the layers without data, labels, losses and what only these feed; and the removed ones except data."""
    dead = set(labels)
    kept: list[LayerParameter] = []
    gone: list[LayerParameter] = []
    origin = _origins(layers)
    softmaxed = {origin.get(b, b) for layer in layers if layer.type == "Softmax" for b in layer.bottom}
    for layer in layers:
        if layer.type in _DATA:
            continue
        first = layer.bottom[0] if layer.bottom else ""
        only_loss = layer.type == "SoftmaxWithLoss" and origin.get(first, first) not in softmaxed
        if only_loss and first and first not in dead:
            kept.append(layer)
            dead.update(layer.top[:1])  # the loss itself, and what is computed from it
        elif layer.type == "Silence" and not dead.issuperset(layer.bottom):
            silence = _copy(layer)
            silence.bottom[:] = [bottom for bottom in layer.bottom if bottom not in dead]
            kept.append(silence)
        elif _is_training(layer) or not dead.isdisjoint(layer.bottom):
            gone.append(layer)
            dead.update(layer.top)
        else:
            kept.append(layer)
    return kept, gone


def _origins(layers: Sequence[LayerParameter]) -> dict[str, str]:
    """Returns, for each copy that a Split makes, the blob that it copies; saved nets are full of them."""
    origin: dict[str, str] = {}
    for layer in layers:
        if layer.type == "Split":
            origin.update(dict.fromkeys(layer.top, origin.get(layer.bottom[0], layer.bottom[0])))
    return origin


def _to_softmax(loss: LayerParameter, *, only: bool) -> LayerParameter:
    """Returns the Softmax of the first bottom of a SoftmaxWithLoss."""
    layer = _copy(loss)
    top = layer.top[0] if layer.top else layer.name
    if len(layer.top) > 1:
        top = layer.top[1]  # the probabilities, which the loss offers itself
    elif only:
        top = "prob"
    layer.type = "Softmax"
    layer.bottom[:] = layer.bottom[:1]
    layer.top[:] = [top]
    for field in ("loss_param", "loss_weight", "propagate_down"):
        layer.ClearField(field)
    return layer


def _to_input(
    layer: LayerParameter, labels: Container[str], crop: Size | None, where: str
) -> tuple[LayerParameter, str]:
    """Returns an Input layer for the images of a data layer, and their sizes as text."""
    tops = [top for top in layer.top if top not in labels] or list(layer.top[:1])
    message = LayerParameter(name=layer.name, type="Input", top=tops)
    shapes = [_shape(layer, list(layer.top).index(top), crop, where) for top in tops]
    for shape in shapes:
        message.input_param.shape.add(dim=shape)
    return message, ", ".join("x".join(map(str, shape[1:])) for shape in shapes)


def _shape(layer: LayerParameter, index: int, crop: Size | None, where: str) -> list[int]:
    """Returns [1, C, H, W] of a data layer's top: one image, since users choose the batch size."""
    stated = _stated_shape(layer, index)
    if crop is not None:
        given = (crop, crop) if isinstance(crop, int) else crop
        channels = given[0] if len(given) == 3 else _channels(layer)
        return [1, stated[1] if len(given) == 2 and len(stated) == 4 else channels, *given[-2:]]
    height, width = _crop(layer)
    if height and width:
        return [1, stated[1] if len(stated) == 4 else _channels(layer), height, width]
    if not stated:
        raise NetworkError(
            "the data layer does not state the size of its images",
            where=f"{where}: {_text(layer)}" if where else _text(layer),
            why="only the source that it names has their size, and densecast opens no source",
            remedy="give the size that the classifier was trained at, as height and width or channels, height and "
            "width: load_network(..., crop=(3, 227, 227)), densecast convert --crop 227",
        )
    return stated


def _crop(layer: LayerParameter) -> tuple[int, int]:
    """Returns (height, width) of the crop that a data layer takes; SSD's forks have one for each side."""
    value = layer.transform_param
    return value.crop_size or value.crop_h, value.crop_size or value.crop_w


def _at(layer: LayerParameter, crop: Size) -> LayerParameter:
    """Returns an Input layer with another size of its images, the shapes of four dimensions."""
    message = _copy(layer)
    given = (crop, crop) if isinstance(crop, int) else crop
    for shape in message.input_param.shape:
        if len(shape.dim) == 4:
            shape.dim[-len(given) :] = given
    return message


def _stated_shape(layer: LayerParameter, index: int) -> list[int]:
    """Returns the shape that a data layer states for its images before the crop; empty if it states none."""
    if layer.type == "MemoryData":
        memory = layer.memory_data_param
        return [1, memory.channels, memory.height, memory.width]
    if layer.type == "ImageData" and layer.image_data_param.new_height and layer.image_data_param.new_width:
        return [1, _channels(layer), layer.image_data_param.new_height, layer.image_data_param.new_width]
    resize = layer.transform_param.resize_param  # of SSD
    if resize.resize_mode == ResizeParameter.WARP and resize.height and resize.width:
        return [1, _channels(layer), resize.height, resize.width]
    if layer.type == "DummyData":
        dummy = layer.dummy_data_param
        if dummy.shape:
            dims = list(dummy.shape[min(index, len(dummy.shape) - 1)].dim)
            return [1, *dims[1:]]
        if dummy.num:
            sides = (dummy.channels, dummy.height, dummy.width)
            return [1, *(values[min(index, len(values) - 1)] for values in sides if values)]
    return []


def _channels(layer: LayerParameter) -> int:
    """Returns 3, unless the layer says that its images are grey."""
    grey = layer.transform_param.force_gray or (layer.type == "ImageData" and not layer.image_data_param.is_color)
    return 1 if grey else 3


def _transformation(layer: LayerParameter) -> list[str]:
    """Returns notes on what the layer did to its images, which is not part of the net: reported, never applied."""
    value = layer.transform_param
    notes = []
    if value.HasField("mean_file"):
        notes.append(f"{_text(layer)} subtracted the mean in {value.mean_file!r}, which is not read: pass it as mean")
    if value.mean_value:
        means = ",".join(f"{number:g}" for number in value.mean_value[:4])
        notes.append(f"{_text(layer)} subtracted {means}: pass it as mean")
    if value.HasField("scale") and value.scale != 1.0:
        notes.append(f"{_text(layer)} multiplied by {value.scale:g}: pass it as scale")
    if value.caffe_yolo:
        notes.append(f"{_text(layer)} prepared its images as YOLO does (caffe_yolo), which is not part of the net")
    return notes


def _copy(layer: LayerParameter) -> LayerParameter:
    copy = LayerParameter()
    copy.CopyFrom(layer)
    return copy


def _text(layer: LayerParameter) -> str:
    return f"{layer.name!r} ({layer.type})"


def _listing(layers: Sequence[LayerParameter], most: int = 12) -> str:
    more = f" and {len(layers) - most} more" if len(layers) > most else ""
    return ", ".join(map(_text, layers[:most])) + more
