"""Small files that claim much memory: each function writes its files into a folder and returns what to score."""

from __future__ import annotations

import bz2
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

GOOD = 4


def good_images(folder: Path) -> list[Path]:
    """Writes images that must get their maps."""
    paths = []
    for number in range(GOOD):
        pixels = np.random.default_rng(number).integers(0, 256, (160, 170), np.uint8)
        path = folder / f"good-{number}.png"
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


def _png(height: int, width: int, bits: int, colour: int, data: Iterator[bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    packed = b"".join(map(packer.compress, data)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def wide_png(folder: Path) -> list[Path]:
    """180 x 400,000 pixels of one colour, in 75 kB: more than are decoded whole, so they are read by window."""
    path = folder / "wide.png"
    path.write_bytes(_png(180, 400_000, 8, 0, (bytes(400_001) for _ in range(180))))
    return [path]


def parquet_of_one_id(folder: Path) -> list[Path]:
    """9,000 rows that share one id of 4 MB, in about 500 bytes."""
    path = folder / "ids.parquet"
    table = pa.table(
        {
            "image": pa.DictionaryArray.from_arrays(pa.array([0] * 9000, pa.int32()), pa.array([b"x"])).cast(
                pa.binary()
            ),
            "id": pa.DictionaryArray.from_arrays(pa.array([0] * 9000, pa.int32()), pa.array(["a" * 4_000_000])),
        }
    )
    pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False)
    return [path]


def parquet_of_one_row(folder: Path) -> list[Path]:
    """One row of 1 GB, in about 31 kB."""
    path = folder / "row.parquet"
    pq.write_table(
        pa.table({"image": pa.array([bytes(1_000_000_000)], pa.binary())}),
        path,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    return [path]


def zip_of_zeros(folder: Path) -> list[Path]:
    """Four members of 475 MB of zeros each, in 1.9 MB."""
    path = folder / "zeros.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            with archive.open(f"{number}.bmp", "w") as member:
                for _ in range(475):
                    member.write(bytes(10**6))
    return [path]


def tar_of_zeros(folder: Path) -> list[Path]:
    """The same in a compressed tar archive."""
    path = folder / "zeros.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        info = tarfile.TarInfo("0.bmp")
        info.size = 400 * 10**6
        archive.addfile(info, _Zeros(info.size))
    return [path]


class _Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size

    def read(self, size: int | None = -1) -> bytes:
        size = self._left if size is None or size < 0 else min(size, self._left)
        self._left -= size
        return bytes(size)


def tiff_of_one_tile(folder: Path) -> list[Path]:
    """29,696 x 29,696 pixels that all lie in one tile, in about 50 kB."""
    side, tile = 29_696, 512
    packed = zlib.compress(bytes(tile * tile))
    count = (side // tile) ** 2
    start = 8 + len(packed)
    entries = [
        (256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 3, 1, tile), (323, 3, 1, tile), (324, 4, count, start), (325, 4, count, start + 4 * count),
    ]  # fmt: skip
    place = start + 8 * count
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    lists = struct.pack("<I", 8) * count + struct.pack("<I", len(packed)) * count
    path = folder / "one-tile.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", place) + packed + lists + directory)
    return [path]


IMAGES: dict[str, Callable[[Path], list[Path]]] = {
    "wide PNG": wide_png,
    "Parquet of one id": parquet_of_one_id,
    "Parquet of one row": parquet_of_one_row,
    "zip of zeros": zip_of_zeros,
    "tar of zeros": tar_of_zeros,
    "TIFF of one tile": tiff_of_one_tile,
}


def line_manifest(folder: Path) -> Path:
    """A list whose only line has 0.9 GB."""
    path = folder / "list.txt.bz2"
    packer = bz2.BZ2Compressor()
    with path.open("wb") as file:
        for _ in range(900):
            file.write(packer.compress(b"a" * 10**6))
        file.write(packer.flush())
    return path


def json_manifest(folder: Path) -> Path:
    """A JSON file that inflates to 0.9 GB."""
    path = folder / "list.json.bz2"
    packer = bz2.BZ2Compressor()
    with path.open("wb") as file:
        file.write(packer.compress(b"["))
        for _ in range(900):
            file.write(packer.compress(b"{}," * 333_333))
        file.write(packer.flush())
    return path


MANIFESTS: dict[str, Callable[[Path], Path]] = {"one line": line_manifest, "JSON": json_manifest}
