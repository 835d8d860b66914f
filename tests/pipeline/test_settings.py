"""Each setting is declared once: flags, keys of job files and arguments in Python agree with the declarations."""

from __future__ import annotations

import dataclasses
import inspect

import click
import pytest

from pipeline import ScoreImages
from pipeline.cli.commands.table import score
from pipeline.errors import JobError
from pipeline.jobs.spec import JOB_KEYS, ScoringJob, describe_job
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits
from pipeline.settings import GROUPS, Range, Setting, Unit, declared

SETTINGS = list(declared().values())
SUBJECT = {"model": "m", "images": ("i",), "output": "o"}

# Flags and defaults, which stay.
FLAGS: dict[str, object] = {
    "--top-k": 5,
    "--scores": "top-k",
    "--accuracy-bound": None,
    "--features": (),
    "--scales": (1.0,),
    "--resize": None,
    "--max-side": None,
    "--retry-rejected": False,
    "--rescore": False,
    "--prune": False,
    "--max-pruned": 0.5,
    "--max-rejected": 0.05,
    "--root": None,
    "--allow-empty": False,
    "--mix-models": False,
    "--max-pixels": 178_956_970,
    "--max-image-bytes": 536_870_912,
    "--tile-pixels": 4_194_304,
    "--strict-images": False,
    "--decode-timeout": 120.0,
    "--frames": "first",
    "--web-timeout": 120.0,
    "--web-connect-timeout": 10.0,
    "--web-read-timeout": 30.0,
    "--web-attempts": 4,
    "--web-host-failures": 10,
    "--web-host-timeout": 600.0,
    "--allow-host": (),
    "--allow-root": (),
    "--max-tiled-pixels": 900_000_000,
    "--load-bytes": 536_870_912,
    "--device": "auto",
    "--rounding": "exact",
    "--precision": "float32",
    "--windows": None,
    "--window-filter": "skimage",
    "--window-resize": None,
    "--window-mean": None,
    "--engine": "auto",
    "--max-parity-error": 0.01,
    "--max-parity-flips": 0.01,
    "--xla": False,
    "--xla-shapes": 8,
    "--runner": "local",
    "--flink-master": None,
}


def parsed(*arguments: str) -> dict[str, object]:
    """Returns the values that `densecast score` takes from its arguments."""
    return score.make_context("score", ["m", "i", "--output", "o", *arguments]).params


def test_flags_are_those_of_the_declarations():
    options = {option for parameter in score.params if isinstance(parameter, click.Option) for option in parameter.opts}
    assert options == {*FLAGS, "-f", "--blob", "--output", "-o", "--json", "--storage-option"}
    values = parsed()
    assert {flag: values[flag[2:].replace("-", "_")] for flag in FLAGS} == FLAGS


def test_a_command_without_flags_describes_the_default_job():
    values = {name: value for name, value in parsed().items() if name != "as_json"}
    assert describe_job(**values, run_id="r") == describe_job(**SUBJECT, run_id="r")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_job_has_the_declared_default(setting: Setting):
    assert getattr(getattr(describe_job(**SUBJECT), setting.group), setting.name) == setting.default


def test_keys_are_those_of_the_declarations():
    assert {*declared(), *SUBJECT, "run_id"} == JOB_KEYS
    assert [field.name for field in dataclasses.fields(ScoringJob)] == [*SUBJECT, "run_id", *GROUPS, "storage"]


def test_arguments_in_python_have_the_declared_defaults():
    parameters = inspect.signature(ScoreImages).parameters
    shared = parameters.keys() & declared().keys()
    assert shared == {"retry_rejected", "rescore", "prune", "max_pruned", "root", "device", "engine", "rounding"}
    assert all(parameters[name].default == declared()[name].default for name in shared)
    job = describe_job(**SUBJECT)
    assert job.map_recipe() == Recipe()
    assert job.worker_limits() == Limits()


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.range != Range()], ids=lambda setting: setting.name)
def test_a_number_out_of_range_is_refused_by_flag_and_key(setting: Setting):
    low = setting.range.ge if setting.range.gt is None else setting.range.gt
    assert low is not None
    for value in (low - 1, *([low] if setting.range.gt is not None else [])):
        assert not setting.range.allows(value)
        with pytest.raises(JobError, match=setting.name):
            describe_job(**SUBJECT, **{setting.name: value})
        with pytest.raises(click.BadParameter):
            parsed(f"--{setting.name.replace('_', '-')}", str(value))


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.unit is Unit.SHARE], ids=lambda setting: setting.name)
def test_a_share_may_be_a_percentage(setting: Setting):
    job = describe_job(**SUBJECT, **{setting.name: "25%"})
    assert getattr(getattr(job, setting.group), setting.name) == 0.25
    assert parsed(f"--{setting.name.replace('_', '-')}", "25%")[setting.name] == 0.25


def test_a_job_can_be_changed_by_flat_names():
    job = describe_job(**SUBJECT, run_id="r")
    assert describe_job(**job.flat()) == job
    changed = job.replace(top_k=3, output="p")
    assert (changed.recipe.top_k, changed.output, changed.run_id) == (3, "p", "r")
    with pytest.raises(JobError, match="top_k"):
        job.replace(top_k=0)


def test_no_scales_and_blobs_by_their_other_name():
    values = parsed(
        "--scales", "none", "--windows", "ten", "--blob", "fc7", "-f", "fc6:before", "--window-resize", "256"
    )
    assert (values["scales"], values["features"], values["window_resize"]) == ((), ("fc7", "fc6:before"), 256)
    recipe = describe_job(**{name: value for name, value in values.items() if name != "as_json"}).map_recipe()
    assert recipe.row_scales == (0.0,)
