"""A decoder that hangs, crashes, exits or eats all memory costs one image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.collection import Images, Settle, rows_of

_DEATHS = {
    "02.jpg": ("HANG", "a decoder that hangs", "decoder-hung"),
    "05.jpg": ("CRASH", "a decoder that crashes", "decoder-died"),
    "09.png": ("EXIT", "a decoder that ends its process", "decoder-died"),
    "14.jpg": ("EAT", "a decoder that wants 32 TB", "out-of-memory"),
}
"""By the image that it befalls: the word in the file, what happens, and the reason that it is to get."""


def test_a_decoder_that_fails_takes_no_other_image_along(
    images: Images, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output, listed = tmp_path / "maps", images.listed()
    for name, (word, *_) in _DEATHS.items():
        with (images.folder / name).open("ab") as file:
            file.write(word.encode())
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.setattr("pipeline.scoring.loader.DECODE", "hostile_decoder:decode_scaled")
        images.run(output, decode_timeout=5.0)
    reasons = {Path(row["uri"]).name: row["reason"] for row in rows_of(output).to_pylist()}
    assert sum(reason is None for reason in reasons.values()) == 16, "all others are scored"
    others = listed - {str(images.folder / name) for name in _DEATHS}
    for name, (_, fault, reason) in _DEATHS.items():
        assert reasons[name] == reason
        settle(fault, f"rejected: {reason}", output, others | {str(images.folder / name)})
    images.run(output, retry_rejected=True)
    undisturbed = images.undisturbed(tmp_path / "undisturbed")
    settle("these decoders, mended", "all scored", output, listed, undisturbed)
