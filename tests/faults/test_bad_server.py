"""A server that fails is asked again; one that keeps failing costs its images, not the run, and not for ever."""

from __future__ import annotations

from pathlib import Path

from tests.faults.collection import Images, Settle, count, rows_of
from tests.faults.server import serving

# Small, so that the test is quick; the code that waits is the same.
_LIMITS = {"web_connect_timeout": 2.0, "web_read_timeout": 1.5, "web_timeout": 8.0, "web_attempts": 3}
_TRAPS = 40
"""Addresses of a server that never answers."""
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


def test_a_server_in_trouble_costs_its_images_at_most(images: Images, tmp_path: Path, settle: Settle):
    files = {"00": (images.folder / "00.png").read_bytes(), "01": (images.folder / "01.jpg").read_bytes()}
    with serving(files) as server:
        addresses = {manner: [server.address(manner, name) for name in files] for manner in ["well", *_MANNERS]}
        manifest = tmp_path / "list.txt"
        manifest.write_text("\n".join(address for some in addresses.values() for address in some))
        output, given = tmp_path / "maps", (f"@{manifest}",)
        images.run(output, images=given, **_LIMITS)
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
        images.run(output, images=given, **_LIMITS)
        undisturbed = images.undisturbed(tmp_path / "undisturbed", images=given, **_LIMITS)
        listed = [address for some in addresses.values() for address in some]
        settle("these servers, mended", "all scored", output, listed, undisturbed)


def test_a_host_that_is_silent_costs_a_few_images(images: Images, tmp_path: Path, settle: Settle):
    """The others are rejected at once, with the host and the option in the detail; the next run asks again."""
    files = {f"{number:02}": (images.folder / "00.png").read_bytes() for number in range(_TRAPS)}
    with serving(files) as trap, serving(files) as good:
        addresses = [trap.address("silent", name) for name in files]
        healthy = [good.address("well", name) for name in files]
        manifest = tmp_path / "list.txt"
        manifest.write_text("\n".join([*addresses, *healthy]))
        output, given = tmp_path / "maps", (f"@{manifest}",)
        limits = {"web_timeout": 1.5, "web_attempts": 1, "web_host_failures": 4}
        images.run(output, images=given, **limits)
        rows = {row["uri"]: row for row in rows_of(output).to_pylist()}
        assert {rows[address]["reason"] for address in addresses} == {"unreadable"}
        given_up = [address for address in addresses if "web-host-failures" in rows[address]["detail"]]
        assert f"127.0.0.1:{trap.server_port} is given up" in rows[given_up[0]]["detail"]
        # Those that are asked for at the same time are too many at most.
        assert len(given_up) >= _TRAPS - 4 - 8
        assert {rows[address]["reason"] for address in healthy} == {None}
        settle("40 addresses of a server that never answers", "rejected: unreadable, most at once", output, addresses)
        trap.healed = True
        images.run(output, images=given)
        settle("that server, mended", "all scored", output, [*addresses, *healthy])
        assert count(output, addresses).maps == _TRAPS
