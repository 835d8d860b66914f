"""The image: hadolint passes it, its versions are the launcher's, and it holds all that it has to."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.transforms.environments import DockerEnvironment

from tests.infra.tools import INFRA, ROOT, docker_arguments, dockerfile, pins, run, tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages by name, each with its instructions from FROM on."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in dockerfile():
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        if found:
            found[list(found)[-1]].append((word, rest))
    return found


def resolved(text: str) -> str:
    """With ARGs in the place of their names."""
    return re.sub(r"\$\{(\w+)\}", lambda match: docker_arguments()[match[1]], text)


# --- the tool that reads it


def test_hadolint_passes_it():
    result = run(tool("hadolint"), INFRA / "docker/Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_would_not_pass_anything(tmp_path: Path):
    broken = tmp_path / "Dockerfile"
    broken.write_text((INFRA / "docker/Dockerfile").read_text().replace("WORKDIR /source", "WORKDIR source"))
    result = run(tool("hadolint"), broken)
    assert result.returncode != 0
    assert "DL3000" in result.stdout


# --- versions


def test_beam_is_the_launcher_s():
    arguments = docker_arguments()
    assert arguments["BEAM"] == pins()["apache-beam"]
    (image,) = (rest for word, rest in dockerfile() if word == "FROM" and rest.endswith(" AS beam"))
    running = re.sub(r"python3\.\d+", f"python{arguments['PYTHON']}", DockerEnvironment.default_docker_image())
    assert resolved(image) == f"{running} AS beam"


def test_python_is_one_that_densecast_supports():
    classifiers = PROJECT["project"]["classifiers"]
    assert f"Programming Language :: Python :: {docker_arguments()['PYTHON']}" in classifiers
    short = docker_arguments()["PYTHON"].replace(".", "")
    (launcher,) = (rest for word, rest in dockerfile() if word == "FROM" and rest.endswith(" AS launcher"))
    assert f"/python{short}-template-launcher-base:" in launcher


def test_flink_is_one_that_beam_supports():
    assert docker_arguments()["FLINK"] in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS


@pytest.mark.parametrize("name", ["gpu", "gcp"])
def test_no_second_opinion_on_a_version(name: str):
    """What both files name they would have to agree on; so each distribution is in one."""
    more = pins(f"infra/docker/constraints-{name}.txt")
    assert not {key: version for key, version in more.items() if pins().get(key, version) != version}
    for key, version in more.items():
        assert re.fullmatch(r"[0-9][0-9A-Za-z.+!_-]*", version), key


def test_there_is_no_other_version_in_it():
    """Every tag is an argument's or a name's, every installation is held to constraints."""
    for word, rest in dockerfile():
        if word == "FROM" and not rest.endswith(" AS launcher"):
            tag = rest.split(" AS ")[0].partition(":")[2]
            assert re.fullmatch(r"(\$\{\w+\}(-slim-bookworm)?)?", tag), rest
        if word == "COPY":
            assert ":" not in rest, "an image that is not a stage"
        if word == "RUN":
            assert "==" not in rest, rest
            for command in re.findall(r"pip install.*?(?=&&|$)", rest):
                assert "--constraint constraints.txt" in command, rest
    wanted = {"densecast": ["constraints-gpu.txt"], "dataflow": ["constraints-gcp.txt"]}
    for stage, files in wanted.items():
        (installation,) = (rest for word, rest in stages()[stage] if word == "RUN")
        assert re.findall(r"--constraint (\S+)", installation) == ["constraints.txt", *files]


# --- what is in it


def test_it_runs_as_an_ordinary_user():
    users = [rest for word, rest in [*stages()["base"], *stages()["densecast"]] if word == "USER"]
    assert users == ["10001:10001"]  # by number, or Kubernetes cannot tell that it is not root
    assert ("ENTRYPOINT", '["/opt/apache/beam/boot"]') in stages()["densecast"]


def test_it_takes_the_extras_that_are_named():
    (installation,) = (rest for word, rest in stages()["densecast"] if word == "RUN")
    assert '"$1[${EXTRAS}]"' in installation
    # An ARG before the first FROM has its default in a stage only where the stage names it too.
    assert stages()["densecast"].index(("ARG", "EXTRAS")) < stages()["densecast"].index(("RUN", installation))


def test_workers_start_where_that_user_may_write():
    """Beam's boot leaves a file in its current folder, or ends; and a virtual environment beside itself, or ends."""
    assert [rest for word, rest in stages()["densecast"] if word == "WORKDIR"][-1] == "/tmp"  # noqa: S108
    (environment,) = (rest for word, rest in stages()["base"] if word == "ENV")
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in environment.split()


def copied() -> set[str]:
    """What the Dockerfile takes from the tree."""
    sources = (rest.split()[:-1] for word, rest in dockerfile() if word == "COPY" and not rest.startswith("--from"))
    return {name for names in sources for name in names}


def test_all_packages_are_in_it_and_all_that_is_copied_is_there():
    tops = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert tops <= copied()
    assert {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= copied()
    for name in copied():
        assert (ROOT / name).exists(), name


def test_the_builder_is_sent_what_is_copied_and_nothing_else():
    lines = (INFRA / "docker/Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {line.removeprefix("!") for line in patterns if line.startswith("!")} == copied()
