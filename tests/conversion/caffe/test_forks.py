"""What forks of Caffe added: names settled as Caffe's own, names with two senses, and what only training reads."""

from __future__ import annotations

import re

import numpy as np
import pytest

from conversion import evaluate, load_network
from conversion.caffe.caffe_pb2 import PoolingParameter
from conversion.caffe.dialects import AMBIGUITIES, DIALECTS
from conversion.caffe.reading import parse_definition
from conversion.errors import NetworkError, OptionError, UnsupportedError
from conversion.net.build import build
from conversion.net.network import Network, to_definition
from tests.support.definitions import convolution, data, layer, pooling
from tests.support.field import caffe_files

IMAGE = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 16, 16))}


def built(text: str, **options) -> Network:
    return build(parse_definition(text.encode(), where="net"), **options)


# --- settled as Caffe's own


def test_same_padding_is_stated_as_of_the_definitions_own_size():
    """Worked by hand: 10 rows of stride 2 need 1 cell, after the last; 11 columns need 2, one at each end."""
    text = data(1, 4, 10, 11) + convolution("c", "data", "num_output: 2 kernel_size: 3 stride: 2 pad_type: 1")
    subject = built(text)
    value = subject.layers[1].definition.convolution_param
    assert (value.pad_t, value.pad_b, value.pad_l, value.pad_r) == (0, 1, 1, 1)
    assert not value.HasField("pad_type")
    assert subject.shapes["c"] == (1, 2, 5, 6)
    assert subject.notes == (
        "pad_type 1 of c: padded as at the definition's own size on every image, so that cells stay in step",
    )
    assert to_definition(build(to_definition(subject))) == to_definition(subject)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(9, 3, 2), (8, 1, 2), (7, 2, 3), (6, 2, 3), (5, 5, 1)])
def test_same_padding_of_poolings_gives_one_window_a_stride(size: int, kernel: int, stride: int):
    window = f"kernel_size: {kernel} stride: {stride} pad_type: 1"
    assert built(data(1, 1, size, size) + pooling("p", "data", window)).shapes["p"][2:] == (-(-size // stride),) * 2


@pytest.mark.parametrize(
    ("window", "what"),
    [
        ("pad: 1 pad_l: 1", "pad_l, pad_r, pad_t, pad_b and pad are given"),
        ("pad_h: 1 pad_w: 1 pad_type: 1", "pad_type: 1 and pad_h, pad_w are given"),
        ("pad_type: 1 pad_b: 2", "pad_b and pad_type are given"),
        ("pad_type: 2", "pad_type 2"),
    ],
)
@pytest.mark.parametrize("kind", ["Convolution", "Pooling"])
def test_paddings_that_contradict_each_other_are_refused(kind: str, window: str, what: str):
    if kind == "Pooling":
        text = pooling("p", "data", f"kernel_size: 3 {window}")
    else:
        text = convolution("p", "data", f"num_output: 1 kernel_size: 3 {window}")
    with pytest.raises(NetworkError, match=what):
        built(data(1, 1, 8, 8) + text)


def test_four_pads_of_0_are_as_if_they_were_not_given():
    stated = "pad_l: 0 pad_r: 0 pad_t: 0 pad_b: 0 pad: 1 pad_type: 0"
    text = data(1, 1, 8, 8) + convolution("c", "data", f"num_output: 1 kernel_size: 3 {stated}")
    assert built(text).shapes["c"] == (1, 1, 8, 8)


def test_pads_of_poolings_are_smaller_than_the_kernel_at_each_end():
    with pytest.raises(NetworkError, match=re.escape("pad (3, 0) is not smaller than the kernel (3, 3)")):
        built(data(1, 1, 8, 8) + pooling("p", "data", "kernel_size: 3 pad_b: 3"))


def test_four_pads_exist_for_two_axes():
    text = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 } } }'
    with pytest.raises(NetworkError, match="for 1 spatial axes"):
        built(text + convolution("c", "data", "num_output: 1 kernel_size: 3 pad_l: 1"))


def test_a_mean_of_the_cells_inside_has_two_names():
    """PoolingParameter of synopsys-caffe: AVE_TF is the older one."""
    older, newer = (
        to_definition(built(data(1, 1, 5, 5) + pooling("p", "data", f"kernel_size: 3 pad: 1 pool: {name}")))
        for name in ("AVE_TF", "AVE_EXC_PAD")
    )
    assert older == newer
    assert older.layer[1].pooling_param.pool == PoolingParameter.AVE_EXC_PAD


@pytest.mark.parametrize("name", ["a11_dw_convdw", "a11_dw_depthwise"])
def test_depthwise_types_are_convolutions_with_a_group_for_each_channel(name: str):
    same = evaluate(load_network(*caffe_files("a11_dw_conv")), IMAGE)["prob"]
    subject = load_network(*caffe_files(name))
    assert (evaluate(subject, IMAGE)["prob"] == same).all()
    assert to_definition(subject).layer == to_definition(load_network(*caffe_files("a11_dw_conv"))).layer


def test_depthwise_layers_know_their_channels():
    text = data(1, 6, 8, 8) + layer("ConvolutionDepthwise", "c", "data", convolution_param="kernel_size: 3 group: 2")
    text += layer("DeconvolutionDepthwise", "d", "c", convolution_param="num_output: 12 kernel_size: 2 stride: 2")
    first, second = (one.definition.convolution_param for one in built(text).layers[1:])
    assert (first.num_output, first.group, second.num_output, second.group) == (6, 6, 12, 6)
    other = layer("DeconvolutionDepthwise", "d", "data", convolution_param="num_output: 12 group: 2 kernel_size: 2")
    with pytest.raises(NetworkError, match="group 2 on 6 channels") as caught:
        built(data(1, 6, 8, 8) + other)
    assert "'Deconvolution'" in caught.value.remedy


# --- names with two senses


def upsampled(crop: str) -> str:
    """A map at half the size, upsampled by 2 with a window that reaches out by 1, then cropped to the image."""
    return (
        data(1, 1, 8, 8)
        + pooling("p", "data", "kernel_size: 2 stride: 2")
        + layer("Deconvolution", "up", "p", convolution_param="num_output: 1 kernel_size: 4 stride: 2")
        + f'layer {{ name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "crop" {crop} }}'
    )


@pytest.mark.parametrize(("dialect", "offset"), [(None, []), ("caffe", []), ("fcn", [1])])
def test_a_crop_without_offset_is_read_in_the_dialect(dialect: str | None, offset: list[int]):
    subject = built(upsampled(""), dialect=dialect)
    assert list(subject.layers[-1].definition.crop_param.offset) == offset
    again = build(to_definition(subject))
    assert to_definition(again) == to_definition(subject)


def test_a_stated_offset_has_one_sense():
    subject = built(upsampled("crop_param { offset: 2 }"), dialect="fcn")
    assert list(subject.layers[-1].definition.crop_param.offset) == [2]


def test_there_is_no_such_dialect():
    with pytest.raises(OptionError, match="no dialect 'fnc'") as caught:
        built(upsampled(""), dialect="fnc")
    assert caught.value.remedy == "did you mean fcn?"


def test_every_sense_is_one_of_a_known_dialect():
    for ambiguity in AMBIGUITIES:
        assert set(ambiguity.readings) <= set(DIALECTS)
        assert ambiguity.default is None or ambiguity.default in ambiguity.readings


def v1(kind: str, name: str, bottoms: str, parameters: str = "") -> str:
    blobs = " ".join(f'bottom: "{blob}"' for blob in bottoms.split())
    return f'layers {{ type: {kind} name: "{name}" {blobs} top: "{name}" {parameters} }}\n'


def fcn(skips: bool) -> str:
    """The published nets of 2015 with fewer channels: VGG-16 with a pad of 100, upsampled and cropped."""
    text, last = 'input: "data" input_dim: 1 input_dim: 1 input_dim: 200 input_dim: 200\n', "data"
    one = "convolution_param {{ num_output: 1 kernel_size: {} }}"
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, count + 1):
            pad = 100 if last == "data" else 1
            name = f"conv{block}_{index}"
            text += v1("CONVOLUTION", name, last, f"convolution_param {{ num_output: 1 kernel_size: 3 pad: {pad} }}")
            last = name
        text += v1("POOLING", f"pool{block}", last, "pooling_param { kernel_size: 2 stride: 2 }")
        last = f"pool{block}"
    text += v1("CONVOLUTION", "fc6", last, one.format(7)) + v1("CONVOLUTION", "score32", "fc6", one.format(1))
    up = "convolution_param {{ num_output: 1 kernel_size: {} stride: {} }}"
    if not skips:
        return text + v1("DECONVOLUTION", "big", "score32", up.format(64, 32)) + v1("CROP", "score", "big data")
    for coarse, pool, fine in (("score32", "pool4", "score16"), ("score16", "pool3", "score8")):
        text += v1("DECONVOLUTION", f"{coarse}-up", coarse, up.format(4, 2))
        text += v1("CONVOLUTION", f"{pool}-score", pool, one.format(1))
        text += v1("CROP", f"{pool}-crop", f"{pool}-score {coarse}-up")
        text += v1("ELTWISE", fine, f"{coarse}-up {pool}-crop")
    return text + v1("DECONVOLUTION", "big", "score8", up.format(16, 8)) + v1("CROP", "score", "big data")


@pytest.mark.parametrize(("skips", "offsets"), [(False, [19]), (True, [5, 9, 31])])
def test_v1_crops_meet_where_the_published_nets_state_it(skips: bool, offsets: list[int]):
    """The offsets are those that the authors later wrote into their definitions (fcn.berkeleyvision.org)."""
    subject = built(fcn(skips))
    crops = [one.definition.crop_param for one in subject.layers if one.caffe_type == "Crop"]
    assert [list(crop.offset) for crop in crops] == [[offset] for offset in offsets]
    assert subject.shapes["score"] == (1, 1, 200, 200)


@pytest.mark.parametrize(
    ("up", "why"),
    [
        ("kernel_size: 4 stride: 4", "a cell every 1/2 and every 1"),
        ("kernel_size: 2 stride: 2 pad: 1", "at cell -1"),
        ("kernel_size: 3 stride: 2", "at cell 1/2"),
    ],
)
def test_crops_that_do_not_meet_are_refused(up: str, why: str):
    text = upsampled("").replace("kernel_size: 4 stride: 2", up)
    with pytest.raises(NetworkError, match="none makes its bottoms meet") as caught:
        built(text, dialect="fcn")
    assert why in caught.value.why


def test_crops_of_apart_inputs_are_refused():
    other = data(1, 1, 4, 4).replace('"data"', '"other"')
    crop = 'layer { name: "crop" type: "Crop" bottom: "data" bottom: "other" top: "crop" }'
    with pytest.raises(NetworkError) as caught:
        built(data(1, 1, 8, 8) + other + crop, dialect="fcn")
    assert caught.value.why == "its bottoms have no blob in common"


# --- what only training reads

SSD_DATA = """layer { name: "data" type: "AnnotatedData" top: "data" top: "label"
    transform_param { mirror: true mean_value: 104 %s
        distort_param { brightness_prob: 0.5 brightness_delta: 32 random_order_prob: 0 exposure_lower: 0.5 }
        expand_param { prob: 0.5 max_expand_ratio: 4 } noise_param { prob: 0.1 saltpepper_param { value: 1 } }
        emit_constraint { emit_type: CENTER } scale_factors: 0.5 }
    data_param { source: "lmdb" batch_size: 8 side: 13 random: true }
    annotated_data_param { batch_sampler { max_sample: 1 sampler { min_scale: 0.3 }
        sample_constraint { min_jaccard_overlap: 0.1 } } label_map_file: "map" anno_type: BBOX } }
"""


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ("resize_param { prob: 1 resize_mode: WARP height: 30 width: 40 interp_mode: AREA }", (1, 3, 30, 40)),
        ("crop_h: 30 crop_w: 40 resize_param { height: 50 width: 50 }", (1, 3, 30, 40)),
        ("crop_size: 24 caffe_yolo: true", (1, 3, 24, 24)),
    ],
)
def test_data_layers_of_forks_become_inputs(sizes: str, shape: tuple[int, ...]):
    text = SSD_DATA % sizes + convolution("c", "data", "num_output: 2 kernel_size: 3")
    text += (
        'layer { name: "l" type: "YoloV2Loss" bottom: "c" bottom: "label" top: "l" yolo_v2_loss_param { side: 13 } }'
    )
    subject = built(text)
    assert subject.inputs == {"data": shape}
    assert [one.name for one in subject.layers] == ["data", "c"]
    assert any("subtracted 104" in note for note in subject.notes)
    assert ("caffe_yolo" in sizes) == any("as YOLO does" in note for note in subject.notes)


def test_a_data_layer_that_fits_images_into_a_square_states_no_size():
    text = SSD_DATA % "resize_param { resize_mode: FIT_SMALL_SIZE height: 30 width: 40 }"
    with pytest.raises(NetworkError, match="does not state the size"):
        built(text + convolution("c", "data", "num_output: 2 kernel_size: 3"))


def test_selu_dropout_passes_its_bottom_on():
    text = data(1, 2, 4, 4) + layer("SeLUDropout", "d", "data", selu_dropout_param="dropout_ratio: 0.05 alpha: -1.7")
    subject = built(text)
    assert (subject.layers[1].caffe_type, subject.layers[1].name) == ("Dropout", "d")


@pytest.mark.parametrize(
    "text",
    [
        layer("Pooling", "p", "data", pooling_param="kernel_size: 2", densecast_param="crop_to_meet: true"),
        layer("ReLU", "r", "data", densecast_param="pooling_dilation: 2"),
    ],
)
def test_densecasts_own_fields_stay_with_their_types(text: str):
    with pytest.raises(UnsupportedError, match="densecast_param on type"):
        built(data(1, 1, 4, 4) + text)
