"""Images in TFRecord files of tf.train.Example."""

import gzip
import struct

import google_crc32c
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import ImageReference, Reader, streams
from tests.support.listing import fates, members


def schema():
    """tf.train.Example, by protobuf itself, from TensorFlow's example.proto and feature.proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="densecast_test_example.proto", package="densecast_test", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto

    def message(parent, name, *fields):
        made = parent.add(name=name)
        for number, (title, kind, label) in enumerate(fields, start=1):
            options = {"type": kind} if isinstance(kind, int) else {"type": field.TYPE_MESSAGE, "type_name": kind}
            made.field.add(name=title, number=number, label=label, **options)
        return made

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    root = ".densecast_test."
    message(file.message_type, "BytesList", ("value", field.TYPE_BYTES, many))
    message(file.message_type, "FloatList", ("value", field.TYPE_FLOAT, many))
    message(file.message_type, "Int64List", ("value", field.TYPE_INT64, many))
    message(
        file.message_type, "Feature",
        *((f"{name}_list", f"{root}{name.capitalize()}List", one) for name in ("bytes", "float", "int64")),
    )  # fmt: skip
    features = message(file.message_type, "Features", ("feature", f"{root}Features.FeatureEntry", many))
    entry = message(
        features.nested_type, "FeatureEntry", ("key", field.TYPE_STRING, one), ("value", f"{root}Feature", one)
    )
    entry.options.map_entry = True
    message(file.message_type, "Example", ("features", f"{root}Features", one))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("densecast_test.Example"))


EXAMPLE = schema()


def example(**features):
    made = EXAMPLE()
    for name, values in features.items():
        feature = made.features.feature[name.replace("__of__", "/")]
        feature.SetInParent()
        for value in values if isinstance(values, list) else [values]:
            kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(value)]
            kind.value.append(value)
    return made.SerializeToString(deterministic=True)


def masked(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(*records):
    frames = []
    for record in records:
        length = struct.pack("<Q", len(record))
        frames.append(length + masked(length) + record + masked(record))
    return b"".join(frames)


def written(folder, data, name="a.tfrecord"):
    (folder / name).write_bytes(data)
    return folder / name


RECORDS = (
    example(image__of__encoded=b"1", image__of__filename=b"one.jpg", image__of__class__of__label=3, x=[1.5, 2.5]),
    example(image__of__encoded=b"22" * 9000, image__of__source_id=-7, zzz=b"z" * 9000),
    example(image__of__encoded=b"", aaa=b"a"),
)
SECOND, THIRD = (len(framed(*RECORDS[:count])) for count in (1, 2))  # where these records begin
GOOD = framed(*RECORDS)
GOOD_FATES = {"0": b"1", "1": b"22" * 9000, "2": b""}
NAMES = ["a.tfrecord", "a.tfrecords", "a.tfrecord-00000-of-00002", "a.tfrecord.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_is_what_is_read(tmp_path, name):
    path = written(tmp_path, gzip.compress(GOOD) if name.endswith("gz") else GOOD, name)
    assert fates(path) == GOOD_FATES
    assert [reference.id for reference in members(path)] == ["one.jpg", "-7", ""]


def test_a_writer_that_compresses_without_saying_so(tmp_path):
    assert fates(written(tmp_path, gzip.compress(GOOD))) == GOOD_FATES


def test_a_length_that_looks_like_gzip(tmp_path):
    length = 0x088B1F
    image = bytes(2 * length - len(example(image=bytes(length))))
    data = framed(example(image=image))
    assert data[:3] == gzip.compress(b"", mtime=0)[:3]
    assert fates(written(tmp_path, data)) == {"0": image}


def test_references_say_where_and_what(tmp_path):
    path = written(tmp_path, GOOD)
    status = path.stat()
    version = f"{status.st_size}-{status.st_mtime_ns}@{SECOND}"
    assert members(path)[1] == ImageReference(f"{path}#1", "-7", 18000, version, str(path), "tfrecord", SECOND, "")


@pytest.mark.parametrize("feature", ["image", "image_raw", "jpg", "image__of__encoded"])
@pytest.mark.parametrize("key", ["id", "__key__", "image__of__filename"])
def test_names_of_features(tmp_path, feature, key):
    path = written(tmp_path, framed(example(**{feature: b"1", key: b"caf\xc3\xa9"})))
    assert fates(path) == {"0": b"1"}
    assert members(path)[0].id == "café"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (example(label=1), "unknown-format"),
        (example(image=[b"1", b"2"]), "unknown-format"),
        (example(image=[7]), "unknown-format"),
        (example(image=[1.5]), "empty"),
        (example(image=[]), "empty"),
        (b"", "unknown-format"),
        (b"\xff" * 40, "corrupt"),
        (b"\x0a\x7f", "corrupt"),
        (b"\x0f", "corrupt"),
        (example(image=b"1", id=b"x" * 5000), "unsafe-name"),
    ],
)
def test_a_record_that_is_no_image_rejects_one(tmp_path, record, reason):
    good = example(image=b"1")
    assert fates(written(tmp_path, framed(good, record, good))) == {"0": b"1", "1": reason, "2": b"1"}


def test_a_wrong_checksum_of_data_rejects_one(tmp_path):
    data = bytearray(GOOD)
    data[GOOD.index(b"22" * 100) + 50] ^= 1
    assert fates(written(tmp_path, bytes(data))) == {**GOOD_FATES, "1": "corrupt"}


def test_a_wrong_checksum_of_a_length_loses_the_rest_and_says_so(tmp_path):
    data = bytearray(GOOD)
    data[SECOND + 8] ^= 1
    path = written(tmp_path, bytes(data))
    assert fates(path) == {"0": b"1", "": "corrupt"}
    assert f"at byte {SECOND:,} fails its checksum" in members(path)[-1].fault


def test_an_honest_length_beyond_the_end(tmp_path):
    length = struct.pack("<Q", 2**63)
    path = written(tmp_path, framed(example(image=b"1")) + length + masked(length) + b"x")
    assert fates(path) == {"0": b"1", "": "truncated"}


def test_too_large_images_are_not_read(tmp_path):
    assert fates(written(tmp_path, GOOD), max_bytes=1000) == {**GOOD_FATES, "1": "too-many-bytes"}


@pytest.mark.parametrize("data", [b"", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_not_passed_over(tmp_path, data):
    assert fates(written(tmp_path, data)) == {"": "empty"}


@given(cut=st.integers(0, len(GOOD) - 1), packed=st.booleans())
def test_a_cut_is_never_silent(tmp_path_factory, cut, packed):
    data = gzip.compress(GOOD) if packed else GOOD
    path = written(tmp_path_factory.mktemp("cut"), data[: cut * len(data) // len(GOOD)])
    found = fates(path)
    assert {name: image for name, image in found.items() if name}.items() <= GOOD_FATES.items()
    # A file that ends where a record does looks whole.
    assert found.get("") in ("truncated", "empty") or (not packed and cut in (SECOND, THIRD))


@given(at=st.integers(0, len(GOOD) - 1), value=st.integers(1, 255))
def test_a_damaged_byte_never_gives_another_image(tmp_path_factory, at, value):
    data = bytearray(GOOD)
    data[at] ^= value
    found = fates(written(tmp_path_factory.mktemp("damaged"), bytes(data)))
    assert all(image == GOOD_FATES[name] for name, image in found.items() if isinstance(image, bytes))
    assert any(isinstance(image, str) for image in found.values())


@given(order=st.permutations(range(3)), packed=st.booleans(), lookback=st.sampled_from([0, 2**20]))
def test_records_are_read_in_any_order(tmp_path_factory, order, packed, lookback):
    path = written(tmp_path_factory.mktemp("order"), gzip.compress(GOOD) if packed else GOOD)
    found = members(path)
    with Reader(10**6) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "LOOKBACK", lookback)
        for index in order:
            assert reader.read(found[index]).data == GOOD_FATES[str(index)]
