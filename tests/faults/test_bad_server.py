"""A server that fails is asked again; one that keeps failing costs its images, not the run, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.sources.web import WebLimits
from tests.faults.collection import Images, Settle, count, rows_of
from tests.faults.server import serving

# Small, so that the test is quick; the code that waits is the same.
_LIMITS = WebLimits(connect_s=2.0, read_s=1.5, total_s=8.0, attempts=3, first_wait_s=0.02)
_MANNERS: dict[str, tuple[str, str | None, int]] = {
    "500-once": ("a server that answers 500 once", None, 2),
    "503-once": ("a server that answers 503 once", None, 2),
    "half-once": ("a server that sends half, once", None, 2),
    "silent-once": ("a server that is silent once", None, 2),
    "500": ("a server that answers 500 always", "unreadable", 3),
    "half": ("a server that sends half, always", "truncated", 3),
    "silent": ("a server that stays silent", "unreadable", 3),
    "drip": ("a server that sends a byte at a time", "unreadable", 1),
    "404": ("a server that answers 404", "missing", 1),
}
"""By the first folder of the address: what happens, the reason that the images are to get, and the attempts."""


def test_a_server_in_trouble_costs_its_images_at_most(
    images: Images, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.sources.reader.WebLimits", lambda: _LIMITS)
    files = {"00": (images.folder / "00.png").read_bytes(), "01": (images.folder / "01.jpg").read_bytes()}
    with serving(files) as server:
        addresses = {manner: [server.address(manner, name) for name in files] for manner in ["well", *_MANNERS]}
        manifest = tmp_path / "list.txt"
        manifest.write_text("\n".join(address for some in addresses.values() for address in some))
        output, given = tmp_path / "maps", (f"@{manifest}",)
        images.run(output, images=given)
        reasons = {row["uri"]: row["reason"] for row in rows_of(output).to_pylist()}
        for manner, (fault, reason, attempts) in _MANNERS.items():
            assert {reasons[address] for address in addresses[manner]} == {reason}
            assert server.requests[f"/{manner}/00"] == attempts
            outcome = (
                f"rejected: {reason}, after {attempts} request{'s' if attempts > 1 else ''}"
                if reason
                else "asked again, scored"
            )
            settle(fault, outcome, output, [*addresses["well"], *addresses[manner]])
        assert count(output, addresses["well"]).maps == 2
        server.healed = True
        images.run(output, images=given)
        undisturbed = images.undisturbed(tmp_path / "undisturbed", images=given)
        listed = [address for some in addresses.values() for address in some]
        settle("these servers, mended", "all scored", output, listed, undisturbed)
