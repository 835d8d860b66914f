"""Runs one target under Atheris: `python -m tests.fuzz definition -max_total_time=600`; libFuzzer's options follow."""

from __future__ import annotations

import importlib
import sys

import atheris

with atheris.instrument_imports(include=["conversion", "google.protobuf.text_format", "models", "pipeline.sources"]):
    from tests.fuzz import harness, seeds

    target = sys.argv[1]
    module = importlib.import_module(f"tests.fuzz.{target}")

# Not instrumented: what Atheris counts there would only cost time.
corpus = seeds.write(target)
defaults = {"-timeout": "20", "-rss_limit_mb": "2048", "-max_len": "20000", "-print_final_stats": "1"}
given = {argument.partition("=")[0] for argument in sys.argv[2:]}
options = [f"{name}={value}" for name, value in defaults.items() if name not in given]
findings = harness.WORK / f"{target}.findings"
findings.mkdir(parents=True, exist_ok=True)
options += [f"-artifact_prefix={findings}/", f"-dict={seeds.dictionary()}"]
atheris.Setup([sys.argv[0], *options, *sys.argv[2:], str(corpus)], harness.guarded(target, module.one_input))
atheris.Fuzz()
