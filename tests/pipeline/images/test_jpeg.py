"""JPEG files without their end, and JPEG files for nets that take grey images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conversion.export.preprocessing import Preprocessing
from pipeline.images import jpeg
from pipeline.images.decode import DecodeLimits, decode, header
from pipeline.images.row_reader import open_rows
from pipeline.rejection import Reason, Rejected

LIMITS, STRICT = DecodeLimits(), DecodeLimits(strict=True)
FIELD = Path(__file__).parent / "field"
H, W = 90, 150
RANDOM = np.random.default_rng(4)
# Smooth, and so saturated that colours are clipped.
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (9, 15, 3), np.uint8)).resize((W, H), Image.Resampling.BICUBIC)


def encoded(image: Image.Image = PICTURE, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


KINDS = {
    "baseline": encoded(),
    "restarts": encoded(restart_marker_blocks=3),
    "progressive": encoded(progressive=True),
    "grey": encoded(PICTURE.convert("L")),
    "grey progressive": encoded(PICTURE.convert("L"), progressive=True),
    "cmyk": encoded(PICTURE.convert("CMYK")),
    "rgb": encoded(keep_rgb=True),
}


def by_rows(data: bytes, limits: DecodeLimits = LIMITS, *, grey: bool = False) -> np.ndarray:
    with open_rows(data, limits, grey=grey) as reader:
        return reader.rows(0, reader.height).copy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_without_its_end_marker_is_decoded(kind: str) -> None:
    data = KINDS[kind]
    assert data.endswith(jpeg.END)
    pixels = decode(data, LIMITS).pixels
    np.testing.assert_array_equal(decode(data[:-2], LIMITS).pixels, pixels)
    np.testing.assert_array_equal(decode(data[:-1], LIMITS).pixels, pixels)
    if kind != "cmyk":  # there Pillow does not ask for the marker
        with pytest.raises(Rejected) as raised:
            decode(data[:-2], STRICT)
        assert raised.value.reason is Reason.TRUNCATED
    if header(data, LIMITS).streams:
        np.testing.assert_array_equal(by_rows(data[:-2]), pixels)
        with pytest.raises(Rejected) as raised:
            by_rows(data[:-2], STRICT)
        assert raised.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_lacks_pixels_is_refused(kind: str) -> None:
    data = KINDS[kind]
    for missing in (8, 30, len(data) // 3):
        with pytest.raises(Rejected) as raised:
            decode(data[:-missing], LIMITS)
        assert raised.value.reason is Reason.TRUNCATED
        if header(data, LIMITS).streams:
            with pytest.raises(Rejected) as raised:
                by_rows(data[:-missing])
            assert raised.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("kind", ["progressive", "grey progressive"])
def test_a_progressive_image_that_lacks_scans_is_refused(kind: str) -> None:
    """libjpeg decodes what there is, without any warning."""
    data = KINDS[kind]
    scans = [position for position in range(len(data)) if data[position : position + 2] == b"\xff\xda"]
    assert len(scans) > 4
    for scan in scans[1:]:
        assert not jpeg.has_all_scans(data[:scan])
        with pytest.raises(Rejected) as raised:
            decode(data[:scan], LIMITS)
        assert raised.value.reason is Reason.TRUNCATED
    assert jpeg.has_all_scans(data)


def test_odd_headers_have_no_scans() -> None:
    whole = KINDS["baseline"]
    assert jpeg.has_all_scans(whole)
    for data in (b"", b"\xff\xd8", whole[:100], whole.replace(b"\xff\xc0", b"\xff\xc9"), b"\xff\xd8" + whole[-300:]):
        assert not jpeg.has_all_scans(data)


def test_the_file_of_a_report_without_its_end() -> None:
    data = (FIELD / "j_noeoi.jpg").read_bytes()
    np.testing.assert_array_equal(decode(data, LIMITS).pixels, decode(data + jpeg.END, STRICT).pixels)
    with pytest.raises(Rejected):
        decode(data, STRICT)


def luma(data: bytes) -> np.ndarray:
    """The Y of a JPEG, by Pillow's conversion-free mode."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("YCbCr", None)
        return np.asarray(image)[..., 0]


@pytest.mark.parametrize("kind", ["baseline", "restarts", "progressive"])
def test_grey_is_the_luma_that_is_stored(kind: str) -> None:
    data = KINDS[kind]
    expected = np.repeat(luma(data)[..., None], 3, axis=2)
    pixels = decode(data, LIMITS, grey=True).pixels
    np.testing.assert_array_equal(pixels, expected)
    colours = decode(data, LIMITS).pixels.astype(int)
    of_colours = (colours @ [4899, 9617, 1868] + 8192) >> 14
    assert np.abs(of_colours - pixels[..., 0]).max() > 3, "this picture shows no difference"
    if header(data, LIMITS, grey=True).streams:
        np.testing.assert_array_equal(by_rows(data, grey=True), expected)
        np.testing.assert_array_equal(by_rows(data[:-2], grey=True), expected)


def test_grey_is_that_of_caffes_reader() -> None:
    """OpenCV's IMREAD_GRAYSCALE: exactly for JPEG, also at a smaller size; within a level where its decoder rounds."""
    cv2 = pytest.importorskip("cv2")

    def theirs(data: bytes, flags: int = cv2.IMREAD_GRAYSCALE) -> np.ndarray:
        read: np.ndarray = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        return read

    for kind in set(KINDS) - {"cmyk"}:
        np.testing.assert_array_equal(decode(KINDS[kind], LIMITS, grey=True).pixels[..., 0], theirs(KINDS[kind]), kind)
    half = decode(KINDS["baseline"], LIMITS, (20, 20), grey=True).pixels[..., 0]
    np.testing.assert_array_equal(half, theirs(KINDS["baseline"], cv2.IMREAD_REDUCED_GRAYSCALE_2))
    for kind, bound in {"BMP": 0, "TIFF": 0, "PPM": 0, "PNG": 1, "WEBP": 1, "CMYK": 1}.items():
        stream = io.BytesIO()
        options = {"lossless": True} if kind == "WEBP" else {}
        PICTURE.save(stream, kind, **options) if kind != "CMYK" else stream.write(KINDS["cmyk"])
        colours = decode(stream.getvalue(), LIMITS, grey=True).pixels
        grey = Preprocessing(channel_order="gray", mean=(0.0,)).reference(colours[np.newaxis])[0, 0]
        assert np.abs(grey - theirs(stream.getvalue())).max() <= bound, kind


def test_grey_for_other_jpegs() -> None:
    """A grey one stays, an RGB one has libjpeg's luma of its colours, and CMYK is decoded to RGB."""
    for kind in ("grey", "cmyk"):
        np.testing.assert_array_equal(decode(KINDS[kind], LIMITS, grey=True).pixels, decode(KINDS[kind], LIMITS).pixels)
    np.testing.assert_array_equal(by_rows(KINDS["grey"], grey=True), decode(KINDS["grey"], LIMITS).pixels)
    colours = decode(KINDS["rgb"], LIMITS).pixels.astype(int)
    of_colours = (colours @ [19595, 38470, 7471] + 32768) >> 16
    np.testing.assert_array_equal(decode(KINDS["rgb"], LIMITS, grey=True).pixels[..., 0], of_colours)
    assert header(KINDS["rgb"], LIMITS).streams
    assert not header(KINDS["rgb"], LIMITS, grey=True).streams


def test_grey_of_a_smaller_size_and_of_a_turned_image() -> None:
    data = encoded(exif=Image.Exif())
    small = decode(data, LIMITS, (20, 20), grey=True).pixels
    assert small.shape == (45, 75, 3)
    assert (small[..., 0] == small[..., 1]).all()
    turned = (FIELD / "e_6.jpg").read_bytes()
    np.testing.assert_array_equal(decode(turned, LIMITS, grey=True).pixels[..., 2], np.rot90(luma(turned), -1))


def test_an_orientation_as_a_signed_number_is_read() -> None:
    signed, unsigned = ((FIELD / name).read_bytes() for name in ("e_6_sshort.jpg", "e_6.jpg"))
    np.testing.assert_array_equal(decode(signed, LIMITS).pixels, decode(unsigned, LIMITS).pixels)
    assert header(signed, LIMITS).orientation == 6
