"""Rejections are stored, sent between processes and read by people."""

import pickle
import re

import pytest

from pipeline.rejection import MAX_DETAIL, Reason, Rejected


def test_reasons_are_kebab_case_and_stored_under_their_value():
    for reason in Reason:
        assert reason.value == reason.name.lower().replace("_", "-")
        assert str(reason) == reason.value


def test_every_reason_is_documented():
    for reason in Reason:
        assert re.search(rf"^ +{reason.name}: ", Reason.__doc__ or "", re.MULTILINE), reason  # 3.13 indents less


def test_survives_pickling():
    copy = pickle.loads(pickle.dumps(Rejected(Reason.TRUNCATED, "3 of 9 rows")))  # noqa: S301
    assert (type(copy), copy.reason, copy.detail) == (Rejected, Reason.TRUNCATED, "3 of 9 rows")
    assert str(copy) == "truncated: 3 of 9 rows"


@pytest.mark.parametrize("detail", ["", "a: b", "3 of 9 rows"])
def test_what_was_written_is_parsed(detail):
    for reason in Reason:
        assert Rejected.parse(str(Rejected(reason, detail))).args == (reason, detail)
    with pytest.raises(ValueError, match="no-reason"):
        Rejected.parse("no-reason: at all")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r\nc\td", "a b c d"),
        ("\x1b[31mred\x00", "[31mred"),
        ("line\u2028paragraph\u2029end\x85", "line paragraph end"),
        ("\u202egpj.exe", "gpj.exe"),
        ("caf\u00e9 \udce9.jpg", "caf\u00e9 .jpg"),
        ("", ""),
    ],
)
def test_detail_is_one_harmless_line(text, line):
    detail = Rejected(Reason.CORRUPT, text).detail
    assert detail == line
    detail.encode()


@pytest.mark.parametrize("length", [MAX_DETAIL, MAX_DETAIL + 1, 10**7])
def test_detail_is_cut(length):
    detail = Rejected(Reason.CORRUPT, "x" * length).detail
    assert len(detail) == MAX_DETAIL
    assert detail.endswith("x" if length == MAX_DETAIL else "…")


def test_a_long_detail_of_blanks_is_not_passed_off_as_whole():
    assert Rejected(Reason.CORRUPT, "a" + " " * 10**4 + "b").detail == "a…"
