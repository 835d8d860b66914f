"""The nights that are disturbed, and the table of what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import pytest

from pipeline.maintenance.check import check
from tests.faults.collection import Images, Night, Settle, count, rows_of, same
from tests.faults.disks import CAN_MOUNT

collect_ignore = [] if CAN_MOUNT else ["test_real_disk.py"]

ROW = "fault"
"""The property of a test that holds a row of the table, after the test's place."""


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A collection that no table knows."""
    root = tmp_path_factory.mktemp("first")
    images = Images(root).fill()
    images.run(root / "undisturbed")
    return Night(images, None, rows_of(root / "undisturbed"), {})


@pytest.fixture(scope="session")
def second_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A collection that has changed since its table was made."""
    root = tmp_path_factory.mktemp("second")
    images = Images(root).fill()
    images.run(root / "before", run_id="first")
    images.change()
    shutil.copytree(root / "before", root / "undisturbed")
    options = {"prune": True}
    images.run(root / "undisturbed", **options)
    return Night(images, root / "before", rows_of(root / "undisturbed"), options)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """A collection of the test's own, to be changed."""
    return Images(tmp_path / "collection").fill()


@pytest.fixture
def settle(request: pytest.FixtureRequest) -> Settle:
    """Writes the row of a fault, and checks the invariant: nothing lost, nothing twice, nothing damaged."""

    def settle(fault: str, outcome: str, output: Path, listed: Collection[str], undisturbed: object = None) -> None:
        found = count(output, listed)
        # Which of all tests this is: workers end them in any order.
        place = request.session.items.index(request.node)
        request.node.user_properties.append((ROW, [place, fault, outcome, *found]))
        assert (found.lost, found.duplicated) == (0, 0)
        assert found.maps + found.rejections == found.images
        report = check(str(output))
        assert report.clean, report.findings
        if undisturbed is not None:
            assert same(rows_of(output), undisturbed), "the table differs from an undisturbed run's"

    return settle
