"""A flag that Beam would ignore is refused by name: in other words, no flag is lost."""

from __future__ import annotations

import re

import pytest

from pipeline.errors import JobError
from pipeline.runners.flags import check_flags
from pipeline.runners.registry import open_runner


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--direct_num_worker=2"], "no flag '--direct_num_worker'.*did you mean --direct_num_workers"),
        (["--direct-num-workers=2"], "did you mean --direct_num_workers"),
        (["--direct_num_worker", "2"], "did you mean --direct_num_workers"),
        (["--colour=red"], "no flag '--colour' for FnApiRunner"),
        (["-x"], "no flag '-x' for FnApiRunner"),
        (["--help"], "no flag '--help'"),
        (["stray"], "'stray' is not a flag"),
        (["--streaming", "true"], "'true' is not a flag"),
        (["\x1b[2J"], r"'\\x1b\[2J' is not a flag"),
        (["--"], "'--' cannot|no flag '--'|'--' is not"),
        (["--runner=FlinkRunner"], "--runner cannot be one of Beam's flags.*--runner=NAME"),
        (["--runner", "FlinkRunner"], "--runner cannot be one of Beam's flags"),
        (["--flink_master=elsewhere"], "--flink_master cannot be one of Beam's flags.*--flink-master"),
        (["--direct_running_mode=multi_process"], "direct_running_mode: invalid choice"),
        (["--direct_num_workers=two"], "direct_num_workers: invalid int value"),
        (["--direct_num_workers"], "direct_num_workers: expected"),
    ],
)
def test_what_beam_would_ignore_is_refused(flags: list[str], said: str):
    with pytest.raises(JobError, match=f"(?s){said}"):
        check_flags(open_runner("local"), flags)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--direct_running_mode=multi_processing", "--direct_num_workers", "2"],
        ["--job_name=a", "--streaming", "--experiments=a", "--experiments=b"],
        ["--environment_type=EXTERNAL", "--environment_config=localhost:50000", "--prism_location=/x y"],
        ["--project=a", "--temp_location=gs://a/b", "--flink_version=1.20", "--parallelism=3"],
    ],
)
def test_what_beam_knows_passes(flags: list[str]):
    check_flags(open_runner("local"), flags)


def test_a_flag_that_the_job_server_lists_passes():
    runner = open_runner("PortableRunner")
    check_flags(runner, ["--sparkMaster=local"], ["--sparkMaster"])
    with pytest.raises(JobError, match="did you mean --sparkMaster"):
        check_flags(runner, ["--sparkMasters=local"], ["--sparkMaster"])


def test_flags_of_a_job_server_that_is_not_started_yet_pass_unless_they_look_misspelt():
    runner = open_runner("FlinkRunner")
    check_flags(runner, ["--object_reuse=true", "--checkpointing_interval=1000"])
    with pytest.raises(JobError, match=re.escape("did you mean --flink_version?")):
        check_flags(runner, ["--flink_versions=1.20"])
