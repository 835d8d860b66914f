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
    """2,000 x 400,000 pixels of one colour, in less than a megabyte."""
    path = folder / "wide.png"
    path.write_bytes(_png(2000, 400_000, 8, 0, (bytes(400_001) for _ in range(2000))))
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


def large_png(folder: Path) -> list[Path]:
    """Six interlaced pictures of 178 million pixels, which have to be decoded whole."""
    paths = []
    for number in range(6):
        path = folder / f"large-{number}.webp"
        if not number:
            Image.new("RGB", (13_377, 13_377), (number, 0, 0)).save(path, lossless=True, quality=0, method=0)
        else:
            path.write_bytes(paths[0].read_bytes() + bytes(2 * number))
        paths.append(path)
    return paths


IMAGES: dict[str, Callable[[Path], list[Path]]] = {
    "wide PNG": wide_png,
    "Parquet of one id": parquet_of_one_id,
    "Parquet of one row": parquet_of_one_row,
    "zip of zeros": zip_of_zeros,
    "tar of zeros": tar_of_zeros,
    "large WebP": large_png,
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
