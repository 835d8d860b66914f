"""The manifests: each is read by its schema, and all agree with each other, the image and the job."""

from __future__ import annotations

import copy
import ipaddress
import json
import shutil
import signal
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions

from pipeline.exit_codes import ExitCode
from pipeline.jobs.toml_file import load_jobfile
from pipeline.sources.permissions import is_public
from tests.infra.tools import INFRA, docker_arguments, dockerfile, run, tool

FOLDER = INFRA / "kubernetes"
OPERATOR = "flink-kubernetes-operator-api-1.10.0.jar"
CRD = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"
# The oldest and newest Kubernetes that the schemas are tried with.
VERSIONS = ("1.29", "1.37")


def documents() -> list[dict[str, Any]]:
    """All manifests, as they are in the folder."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [document for name in names for document in yaml.safe_load_all((FOLDER / name).read_text())]


def one(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = (d for d in documents() if d["kind"] == kind and (not name or d["metadata"]["name"] == name))
    return found


def pod(document: dict[str, Any]) -> dict[str, Any]:
    """A pod's specification, that of Flink's task managers as the operator merges it: containers by their place."""
    if document["kind"] == "CronJob":
        return document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    merged = copy.deepcopy(document["spec"]["podTemplate"]["spec"])
    special = document["spec"]["taskManager"]["podTemplate"]["spec"]
    pairs = zip(special["containers"], [*merged["containers"], *({} for _ in special["containers"])], strict=False)
    return {**merged, **special, "containers": [{**general, **mine} for mine, general in pairs]}


# --- read by what will read them


def rendered() -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send; kubectl has kustomize in it."""
    kubectl = shutil.which("kubectl")
    result = run(*([kubectl, "kustomize"] if kubectl else [tool("kustomize"), "build"]), FOLDER)
    assert result.returncode == 0, result.stdout
    return list(yaml.safe_load_all(result.stdout))


def check(documents: list[dict[str, Any]], tmp_path: Path, version: str) -> tuple[int, str]:
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    result = run(tool("kubernetes-validate"), "--strict", "--quiet", "-k", version, file)
    return result.returncode, result.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_schemas_accept_them(tmp_path: Path, version: str):
    core = [d for d in rendered() if d["kind"] != "FlinkDeployment"]
    assert len(core) == len(documents())  # the job's ConfigMap is generated, FlinkDeployment is left out
    assert check(core, tmp_path, version) == (0, "")


def test_kubernetes_schemas_would_not_accept_anything(tmp_path: Path):
    broken = one("CronJob")
    broken["spec"]["concurrencyPolice"] = broken["spec"].pop("concurrencyPolicy")
    code, output = check([broken], tmp_path, VERSIONS[-1])
    assert code != 0
    assert "concurrencyPolice" in output


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema as JSON Schema that, like the API server when it is asked to, refuses fields it does not know."""
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    if "properties" in schema:
        found["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = strict(found[key])
    return found


@pytest.fixture(scope="module")
def flink_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FlinkDeployment of the CRD that the operator's release ships."""
    with zipfile.ZipFile(tool(OPERATOR)) as jar:
        crd = yaml.load(jar.read(CRD), Loader=yaml.CSafeLoader)
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1beta1" and v["served"])
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    file = tmp_path_factory.mktemp("crd") / "FlinkDeployment.json"
    file.write_text(json.dumps(schema))
    return file


def check_flink(document: dict[str, Any], schema: Path, tmp_path: Path) -> tuple[int, str]:
    file = tmp_path / "flink.json"
    file.write_text(json.dumps(document))
    result = run(tool("check-jsonschema"), "--schemafile", schema, file)
    return result.returncode, result.stdout


def test_flink_operator_s_schema_accepts_the_cluster(tmp_path: Path, flink_schema: Path):
    code, output = check_flink(one("FlinkDeployment"), flink_schema, tmp_path)
    assert code == 0, output


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("flinkVersion",), "v9_9", "v9_9"),
        (("mod",), "native", "mod"),
        (("flinkConfiguration", "taskmanager.numberOfTaskSlots"), 1, "not of type 'string'"),
        (("taskManager", "podTemplate", "spec", "sidecars"), [], "sidecars"),
    ],
)
def test_flink_operator_s_schema_would_not_accept_anything(
    tmp_path: Path, flink_schema: Path, path: tuple[str, ...], value: object, said: str
):
    broken = one("FlinkDeployment")
    at = broken["spec"]
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    code, output = check_flink(broken, flink_schema, tmp_path)
    assert code != 0
    assert said in output


def test_pods_get_the_images_and_the_job_that_were_set():
    """kustomize knows no FlinkDeployment: that its sidecar's image is set all the same is worth a test."""
    found = rendered()
    cluster, night = (next(d for d in found if d["kind"] == kind) for kind in ("FlinkDeployment", "CronJob"))
    assert pod(cluster)["containers"][1]["image"] == "densecast:0.1.0-gpu"
    assert pod(night)["containers"][0]["image"] == "densecast:0.1.0-cpu"
    (config,) = (d for d in found if d["kind"] == "ConfigMap")
    assert config["data"] == {"job.toml": (FOLDER / "job.toml").read_text()}
    volumes = {volume["name"]: volume for volume in pod(night)["volumes"]}
    assert volumes["job"]["configMap"]["name"] == config["metadata"]["name"] != "densecast-job"


# --- the night


def test_a_night_runs_alone_and_ends():
    spec = one("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 0 < spec["startingDeadlineSeconds"] < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600
    assert spec["jobTemplate"]["spec"]["backoffLimit"] > 0


def action(code: int) -> str:
    """What Kubernetes does after a pod's exit code: the first rule that matches decides, and otherwise it counts."""
    for rule in one("CronJob")["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]:
        condition = rule.get("onExitCodes")
        if condition is not None:
            assert condition["operator"] == "In"
            assert condition["containerName"] == pod(one("CronJob"))["containers"][0]["name"]
            if code in condition["values"]:
                return str(rule["action"])
    return "Count"


KILLED = 128 + signal.SIGKILL


def test_what_a_second_try_cannot_mend_is_not_tried_again():
    assert pod(one("CronJob"))["restartPolicy"] == "Never"  # or Kubernetes refuses the policy
    final = {ExitCode.USAGE, ExitCode.REJECTED, ExitCode.DAMAGED, ExitCode.DRIFTED}
    assert {code for code in ExitCode if action(code) == "FailJob"} == final
    assert {action(code) for code in (ExitCode.FAILED, ExitCode.INTERRUPTED, KILLED)} == {"Count"}


def test_the_lease_of_a_pod_that_died_does_not_cost_the_night():
    """Each of the three alone is enough: the wait in the command, the pauses, and 5 that does not count."""
    spec, nightly = one("CronJob")["spec"]["jobTemplate"]["spec"], load_jobfile(FOLDER / "job.toml").nightly
    lapses_after_s = nightly.lease_minutes * 60
    assert 2 * lapses_after_s < nightly.lease_wait_minutes * 60 < spec["activeDeadlineSeconds"]
    pauses_s = [min(10 * 2**number, 360) for number in range(spec["backoffLimit"])]  # Kubernetes' own
    assert sum(pauses_s) > 2 * lapses_after_s
    assert action(ExitCode.BUSY) == "Ignore"


def test_the_date_of_a_night_is_that_of_the_schedule():
    """The container's clock would take another one where `timeZone` is changed."""
    (container,) = pod(one("CronJob"))["containers"]
    assert {"name": "TZ", "value": one("CronJob")["spec"]["timeZone"]} in container["env"]


def test_the_command_finds_its_job():
    (container,) = pod(one("CronJob"))["containers"]
    assert container["command"] == ["densecast", "nightly", "/etc/densecast/job.toml"]
    assert {"name": "job", "mountPath": "/etc/densecast", "readOnly": True} in container["volumeMounts"]


# --- the job and the cluster


@pytest.fixture
def job() -> Any:
    return load_jobfile(FOLDER / "job.toml").job(date(2026, 11, 23))


def test_the_job_is_for_this_cluster(job: Any):
    cluster, options = one("FlinkDeployment"), PipelineOptions(list(job.execution.beam_options))
    flink = options.view_as(FlinkRunnerOptions)
    assert job.execution.runner == "FlinkRunner"
    # The operator's name for a cluster's REST service.
    assert job.execution.flink_master == f"{cluster['metadata']['name']}-rest:8081"
    assert flink.flink_submit_uber_jar
    slots = int(cluster["spec"]["flinkConfiguration"]["slotmanager.number-of-slots.max"])
    assert [f"--parallelism={slots}"] == [o for o in job.execution.beam_options if o.startswith("--parallelism")]


def test_the_jar_is_in_the_image(job: Any):
    jar = PipelineOptions(list(job.execution.beam_options)).view_as(FlinkRunnerOptions).flink_job_server_jar
    (copied,) = (rest.split() for word, rest in dockerfile() if word == "COPY" and rest.startswith("--from=flink "))
    assert jar.rpartition("/")[0] == copied[-1]


def test_flink_asks_the_sidecar_for_workers(job: Any):
    portable = PipelineOptions(list(job.execution.beam_options)).view_as(PortableOptions)
    assert portable.environment_type == "EXTERNAL"
    main, workers = pod(one("FlinkDeployment"))["containers"]
    assert main["name"] == "flink-main-container"  # what the operator calls Flink's own
    assert portable.environment_config == f"localhost:{workers['ports'][0]['containerPort']}" == "localhost:50000"
    assert workers["args"] == ["--worker_pool"]
    assert "command" not in workers  # the image's entrypoint is Beam's boot
    assert workers["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert job.execution.device == "gpu"
    assert {"name": "TF_FORCE_GPU_ALLOW_GROWTH", "value": "true"} in workers["env"]
    assert one("FlinkDeployment")["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"


def test_all_pods_see_the_same_data(job: Any):
    for document in (one("FlinkDeployment"), one("CronJob")):
        volumes = {volume["name"]: volume for volume in pod(document)["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == one("PersistentVolumeClaim")["metadata"]["name"]
        assert {"name": "data", "mountPath": "/data"} in pod(document)["containers"][-1]["volumeMounts"]
    assert one("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert all(path.startswith("/data/") for path in (job.model, job.output, *job.images))


def test_one_flink_everywhere():
    spec, version = one("FlinkDeployment")["spec"], docker_arguments()["FLINK"]
    assert spec["flinkVersion"] == f"v{version.replace('.', '_')}"
    assert spec["image"].startswith(f"flink:{version}.")


# --- security


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for document in (one("FlinkDeployment"), one("CronJob")):
        for container in pod(document)["containers"]:
            yield pod(document), container


def test_pods_keep_to_the_namespace_s_restricted_standard():
    assert one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    found = list(containers())
    assert len(found) == 3
    for whole, container in found:
        assert whole["securityContext"]["runAsNonRoot"] is True
        assert whole["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        mine = container["securityContext"]
        assert mine["allowPrivilegeEscalation"] is False
        assert mine["capabilities"] == {"drop": ["ALL"]}
        for volume in whole["volumes"]:
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim"}


def test_our_containers_cannot_write_to_their_image():
    ours = [(whole, mine) for whole, mine in containers() if mine["name"] != "flink-main-container"]
    assert len(ours) == 2
    for whole, container in ours:
        assert {**whole["securityContext"], **container["securityContext"]}["runAsUser"] == 10001
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"name": "scratch", "mountPath": "/tmp"} in container["volumeMounts"]  # noqa: S108
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_only_the_launcher_flink_and_the_operator_reach_flink():
    """Flink gives its pods the label `app`, the cluster's name."""
    policy, name = one("NetworkPolicy", "densecast-flink")["spec"], one("FlinkDeployment")["metadata"]["name"]
    assert policy["podSelector"] == {"matchLabels": {"app": name}}
    launcher = one("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    own, others = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": {"app": name}}}]}
    assert {"podSelector": {"matchLabels": launcher}} in others["from"]
    assert [port["port"] for port in others["ports"]] == [8081]


def test_no_pod_reaches_an_address_that_densecast_calls_not_public():
    """Of each block one address; metadata services, the API server and nodes are among them."""
    policy = one("NetworkPolicy", "densecast-egress")["spec"]
    # Flink labels its pods with their component. The job manager asks the API server for pods, and reads no images.
    assert policy["podSelector"] == {
        "matchExpressions": [{"key": "component", "operator": "NotIn", "values": ["jobmanager"]}]
    }
    assert policy["policyTypes"] == ["Egress"]
    peers, names, web = policy["egress"]
    assert peers == {"to": [{"podSelector": {}}]}
    assert {port["port"] for port in names["ports"]} == {53}
    assert {port["port"] for port in web["ports"]} == {80, 443}
    blocks = [ipaddress.ip_network(peer["ipBlock"]["cidr"]) for peer in web["to"]]
    closed = [ipaddress.ip_network(text) for peer in web["to"] for text in peer["ipBlock"]["except"]]

    def is_open(address: str) -> bool:
        ip = ipaddress.ip_address(address)
        return any(ip in block for block in blocks) and not any(ip in block for block in closed)

    samples = [str(block[5]) for block in closed if block.num_addresses > 5 and block.version == 4]
    metadata = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fe80::1", "::1", "ff02::1"]
    for address in (*samples, *metadata, "2002:a9fe:a9fe::1", "2001::1", "64:ff9b::a9fe:a9fe"):
        assert not is_open(address), address
        assert not is_public(address), address
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        assert is_open(address)
        assert is_public(address)


def test_accounts_are_there_and_the_launcher_has_no_token():
    assert one("FlinkDeployment")["spec"]["serviceAccount"] == one("RoleBinding")["subjects"][0]["name"]
    assert one("ServiceAccount", "densecast-nightly")["automountServiceAccountToken"] is False
    assert pod(one("CronJob"))["serviceAccountName"] == "densecast-nightly"
