"""The flex template: Dataflow's own messages take what we wrote, and its runner makes a job of it, with no cloud."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.portability.api import beam_runner_api_pb2

from pipeline.jobs.spec import describe_job
from tests.infra.tools import INFRA, ROOT, dockerfile, run, tools_python
from tests.support.fakes import write_model

FOLDER = INFRA / "dataflow"
IMAGE = "europe-west4-docker.pkg.dev/project/images/densecast:0.1.0"
GPU = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
LAUNCH = (
    *("run", "--dry-run", "--project=project", "--region=europe-west4", f"--image={IMAGE}", "--job-name=night"),
    *("--template=gs://bucket/densecast.json", "--temp=gs://bucket/temp"),
)


def launch(*arguments: str) -> tuple[int, str]:
    result = run(tools_python(), FOLDER / "launch.py", *arguments)
    return result.returncode, result.stdout


# --- what is sent to Dataflow: `launch` makes Dataflow's messages of it, which refuse what they do not know


def test_specification_is_one_of_dataflow_s():
    code, output = launch("spec", "--image", IMAGE)
    assert code == 0, output
    spec = json.loads(output)
    assert (spec["image"], spec["sdkInfo"]["language"]) == (IMAGE, "PYTHON")
    written = json.loads((FOLDER / "metadata.json").read_text())
    assert [p["name"] for p in spec["metadata"]["parameters"]] == [p["name"] for p in written["parameters"]]


def test_metadata_would_not_pass_with_anything(tmp_path: Path):
    for name in ("launch.py", "metadata.json"):
        text = (FOLDER / name).read_text().replace('"helpText"', '"help"')
        (tmp_path / name).write_text(text)
    result = run(tools_python(), tmp_path / "launch.py", "spec", "--image", IMAGE)
    assert result.returncode != 0
    assert '"help"' in result.stdout


def test_request_holds_what_was_asked_for():
    code, output = launch(
        *LAUNCH, f"--accelerator={GPU}", "images=gs://bucket/photos/ @gs://b/l.csv", "output=gs://b/maps"
    )
    assert code == 0, output
    request = json.loads(output)
    assert (request["projectId"], request["location"]) == ("project", "europe-west4")
    parameter = request["launchParameter"]
    assert parameter["containerSpecGcsPath"] == "gs://bucket/densecast.json"
    assert parameter["parameters"] == {
        "images": "gs://bucket/photos/ @gs://b/l.csv",
        "output": "gs://b/maps",
        "dataflow_accelerator": GPU,
    }
    environment = parameter["environment"]
    assert environment["sdkContainerImage"] == IMAGE
    assert environment["additionalExperiments"] == ["no_use_multiple_sdk_containers"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("images=a",), "output=... is missing"),
        (("images=a", "output=maps"), "does not match"),
        (("images=a", "output=gs://b/maps", "image=b"), "unknown parameter image"),
        (("--accelerator=t4", "images=a", "output=gs://b/maps"), "dataflow_accelerator='t4' does not match"),
    ],
)
def test_parameters_are_checked_before_anything_is_sent(arguments: tuple[str, ...], said: str):
    code, output = launch(*LAUNCH, *arguments)
    assert code == 2
    assert said in output


def test_program_takes_the_parameters_that_the_template_offers():
    text = (FOLDER / "main.py").read_text()
    offered = [p["name"] for p in json.loads((FOLDER / "metadata.json").read_text())["parameters"]]
    assert sorted(re.findall(r'add_argument\(\s*"--(\w+)"', text)) == sorted(offered)


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        ((), "auto"),
        ((f"--dataflow_accelerator={GPU}",), "gpu"),
        ((f"--dataflow_accelerator={GPU}", "--device=auto"), "auto"),
        (("--device=cpu",), "cpu"),
    ],
)
def test_workers_with_an_accelerator_use_it_or_fail(arguments: tuple[str, ...], device: str):
    parse = runpy.run_path(str(FOLDER / "main.py"))["parse"]
    job, _ = parse(["--images=gs://bucket/a/", "--output=gs://bucket/maps", *arguments])
    assert job.execution.device == device


def test_image_has_the_program_where_the_launcher_looks():
    found = dockerfile()
    assert ("COPY", "infra/dataflow/main.py /template/main.py") in found
    assert ("ENV", "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py") in found
    default = re.search(r'^MODEL = "(.*)"', (FOLDER / "main.py").read_text(), re.MULTILINE)
    assert default is not None
    assert ("COPY", f"--from=model / {default[1]}/") in found


# --- the job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], beam_runner_api_pb2.Pipeline]:
    """What Dataflow's runner makes of the program: the job, and the pipeline that it names."""
    folder = tmp_path_factory.mktemp("dataflow")
    write_model(folder / "model")
    result = run(
        tools_python(),
        FOLDER / "dry_run.py",
        folder,
        *("--images=gs://bucket/photos/ @gs://bucket/more.csv", "--output=gs://bucket/maps"),
        *(f"--model={folder / 'model'}", "--top_k=3", f"--dataflow_accelerator={GPU}", "--run_id=night-1"),
        *("--runner=DataflowRunner", "--project=project", "--region=europe-west4", "--no_auth", "--job_name=night"),
        *("--temp_location=gs://bucket/temp", "--staging_location=gs://bucket/staging"),
        "--template_location=gs://bucket/job.json",
        *(f"--sdk_container_image={IMAGE}", "--experiments=no_use_multiple_sdk_containers"),
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout
    (staged,) = folder.rglob("pipeline.pb")
    pipeline = beam_runner_api_pb2.Pipeline.FromString(staged.read_bytes())
    return json.loads((folder / "bucket/job.json").read_text()), pipeline


def test_workers_run_in_the_image_with_the_gpu(job: Any):
    described, pipeline = job
    environment = described["environment"]
    assert f"worker_accelerator={GPU}" in environment["serviceOptions"]
    assert {e["containerImage"] for pool in environment["workerPools"] for e in pool["sdkHarnessContainerImages"]} == {
        IMAGE
    }
    images = {
        beam_runner_api_pb2.DockerPayload.FromString(e.payload).container_image
        for e in pipeline.components.environments.values()
    }
    assert images == {IMAGE}
    # One Python process a worker: the model is loaded once, and has the GPU to itself.
    assert "no_use_multiple_sdk_containers" in environment["experiments"]


def test_it_is_a_batch_job(job: Any):
    assert job[0]["type"] == "JOB_TYPE_BATCH"


def test_graph_shuffles_scores_and_publishes(job: Any):
    # The transforms are a map, in no order.
    names = {t.unique_name for t in job[1].components.transforms.values() if t.spec.urn == "beam:transform:pardo:v1"}
    for stage in ("Decode, infer, write", "Publish"):
        assert any(name.startswith(f"Score images/{stage}") for name in names)
    shuffles = [t.unique_name for t in job[1].components.transforms.values() if "Shuffle references" in t.unique_name]
    assert shuffles


def test_parameters_become_the_job():
    parse = runpy.run_path(str(FOLDER / "main.py"))["parse"]
    flags = ["--images=a '@my list.csv'", "--output=gs://b/maps", "--features=fc6 fc7:float16", "--scores=float16"]
    job, options = parse([*flags, "--project=p", f"--dataflow_accelerator={GPU}", "--dataflow_service_options=x"])
    assert job.images == ("a", "@my list.csv")
    assert (job.recipe.features, job.recipe.scores) == (("fc6", "fc7:float16"), "float16")
    assert job.model == "/opt/densecast/model"
    google = options.view_as(GoogleCloudOptions)
    assert google.project == "p"
    assert google.dataflow_service_options == ["x", f"worker_accelerator={GPU}"]


def test_defaults_are_the_command_s():
    parse = runpy.run_path(str(FOLDER / "main.py"))["parse"]
    job, options = parse(["--images=a", "--output=gs://b/maps"])
    assert job == describe_job(model="/opt/densecast/model", images=("a",), output="gs://b/maps", run_id=job.run_id)
    assert options.view_as(GoogleCloudOptions).dataflow_service_options is None
