"""Every target runs over its seeds and over what was found once; Atheris is not needed for it."""

from __future__ import annotations

import importlib

import pytest

from conversion.errors import DensecastError
from tests.fuzz import harness, seeds


@pytest.mark.parametrize("target", harness.TARGETS)
def test_over_its_corpus(target: str):
    one_input = importlib.import_module(f"tests.fuzz.{target}").one_input
    accepted = 0
    for seed in (*seeds.seeds(target), *(path.read_bytes() for path in harness.kept(target))):
        try:
            one_input(seed)
        except DensecastError:
            continue
        accepted += 1
    assert accepted >= 4, "seeds that are all refused lead nowhere"


@pytest.mark.parametrize("target", harness.TARGETS)
def test_over_damaged_seeds(target: str):
    """Cut and flipped at a few places: what a fuzzer does first."""
    one_input = importlib.import_module(f"tests.fuzz.{target}").one_input
    for index, seed in enumerate(seeds.seeds(target)):
        if index % 8 or not seed:
            continue
        for place in range(0, len(seed), len(seed) // 5 + 1):
            for damaged in (seed[:place], seed[:place] + bytes((seed[place] ^ 0x81,)) + seed[place + 1 :]):
                try:
                    one_input(damaged)
                except DensecastError:
                    continue


def test_a_finding_is_kept_and_the_run_goes_on(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(harness, "WORK", tmp_path)

    def one_input(data: bytes) -> None:
        if data == b"bad":
            raise ValueError("found")
        raise DensecastError("refused")

    run = harness.guarded("blob", one_input)
    for data in (b"good", b"bad", b"bad"):
        run(data)
    assert sorted(path.suffix for path in (tmp_path / "blob.findings").iterdir()) == ["", ".txt"]
    assert capsys.readouterr().err.count("FINDING blob") == 1
    assert [path.read_bytes() for path in (tmp_path / "blob.findings").iterdir() if not path.suffix] == [b"bad"]


def test_dictionary_names_the_fields(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seeds, "WORK", tmp_path)
    words = seeds.dictionary().read_text().splitlines()
    assert '"kernel_size"' in words
    assert '"Convolution"' in words
    assert len(words) == len(set(words))
