"""The floors of conversion: caffe < layers < net < passes < surgery < export."""

from __future__ import annotations

from pathlib import Path

import conversion
from tests.support.floors import check

FLOORS = {
    "conversion": 9,  # the names that other packages import
    "conversion.export": 8,
    "conversion.surgery": 7,
    "conversion.passes": 6,
    "conversion.net": 5,
    "conversion.layers": 4,
    "conversion.caffe": 3,
    "conversion.grey": 2,
    "conversion.limits": 2,
    "conversion.names": 2,
    "conversion.arrays": 1,
    "conversion.errors": 1,
    "conversion.files": 1,
    "conversion.hashing": 1,
    "conversion.own_layers": 2,
    "conversion.http": 1,
}


def test_no_import_points_up():
    report = check(Path(conversion.__file__).parent, FLOORS)
    assert report.problems() == []
    assert (report.packages, report.modules > 50, report.imports > 250) == (6, True, True)
