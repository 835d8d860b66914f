"""One set of options for object stores: what is taken from where, what each library gets, and what nobody sees."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.fs import SubTreeFileSystem

from pipeline import MapTable, credentials
from pipeline.cli.main import cli
from pipeline.errors import JobError, SourceError
from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from pipeline.jobs.toml_file import load_jobfile
from pipeline.sources import ImageReference, Reader, match
from pipeline.storage import object_store, options
from pipeline.storage.client_options import delta_options, object_store_arguments, settings
from pipeline.storage.errors import StorageError
from pipeline.storage.options import (
    OPTIONS,
    CredentialsError,
    StorageOptions,
    default_options,
    parse_options,
    storage_options,
    store_of,
    without_secrets,
)
from pipeline.table.paths import TableRoot
from tests.support.fakes import write_model

SECRETS = sorted(name for name, option in OPTIONS.items() if option.secret)
KEYS = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "tell-nobody"}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch):
    for option in OPTIONS.values():
        for variable in option.variables:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(options, "_default", StorageOptions())


@pytest.mark.parametrize(
    ("address", "store"),
    [
        ("s3://b/a", "aws"),
        ("S3A://b/a", "aws"),
        ("gs://b", "google"),
        ("az://c/a", "azure"),
        ("abfs://c@account.dfs.core.windows.net/a", "azure"),
        ("hdfs://host/a", None),
        ("file:///a", None),
        ("photos/s3://odd", None),
        ("https://host/a.jpg", None),
    ],
)
def test_which_store_an_address_is_in(address: str, store: str | None):
    assert store_of(address) == store


def test_the_environment_is_taken_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch):
    given = StorageOptions()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "shh")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://general.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/keys.json")
    assert settings("s3://b/a", given).options == {
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": "shh",
        "aws_region": "eu-west-1",
        "aws_endpoint_url": "https://s3.example",
    }
    assert settings("gs://b/a", given).options == {"google_application_credentials": "/keys.json"}
    given = storage_options({"aws_region": "us-west-2"})
    assert settings("s3://b/a", given).options["aws_region"] == "us-west-2"


def test_a_value_is_looked_up_where_it_is_used(monkeypatch: pytest.MonkeyPatch):
    given = storage_options({**KEYS, "aws_secret_access_key": "env:OURS"})
    with pytest.raises(CredentialsError, match=r"(?s)aws_secret_access_key: .* OURS is not set on .*what to do"):
        settings("s3://b/a", given)
    monkeypatch.setenv("OURS", "first")
    assert settings("s3://b/a", given).options["aws_secret_access_key"] == "first"  # noqa: S105
    monkeypatch.setenv("OURS", "second")
    assert settings("s3://b/a", given).options["aws_secret_access_key"] == "second"  # noqa: S105


def test_keys_of_options_and_of_the_environment_are_not_mixed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    given = storage_options(KEYS)
    with pytest.raises(CredentialsError, match=r"(?s)AWS_SESSION_TOKEN is set.*mixed.*unset"):
        settings("s3://b/a", given)
    assert settings("gs://b/a", given).options == {}
    given = storage_options({"aws_region": "eu-west-1"})
    assert settings("s3://b/a", given).options["aws_session_token"] == "of other keys"  # noqa: S105


@pytest.mark.parametrize(
    ("options", "http"),
    [
        ({"aws_endpoint_url": "http://127.0.0.1:9000"}, True),
        ({"aws_endpoint_url": "https://s3.example"}, False),
        ({"aws_endpoint_url": "https://s3.example", "aws_allow_http": "true"}, True),
        ({"aws_allow_http": "false"}, False),
        ({}, False),
    ],
)
def test_plain_http_is_used_where_an_endpoint_says_so(options: dict[str, str], http: bool):
    given = storage_options(options)
    assert settings("s3://b", given).http is http
    assert object_store_arguments("s3://b", given)["client_options"]["allow_http"] is http
    assert (delta_options("s3://b", given) or {})["allow_http"] == str(http).lower()


def test_both_libraries_get_the_same():
    given = storage_options({**KEYS, "aws_region": "eu-west-1", "timeout": "2m", "retry_timeout": "500ms"})
    arguments, delta = object_store_arguments("s3://b/a", given), delta_options("s3://b/a", given)
    assert delta is not None
    assert arguments["config"] == {**KEYS, "aws_region": "eu-west-1"}
    assert arguments["config"].items() <= delta.items()
    assert arguments["client_options"]["timeout"] == timedelta(minutes=2)
    assert arguments["retry_config"]["retry_timeout"] == timedelta(milliseconds=500)
    assert (delta["timeout"], delta["retry_timeout"], delta["connect_timeout"]) == ("120000ms", "500ms", "5000ms")
    assert delta["max_retries"] == str(arguments["retry_config"]["max_retries"])
    assert delta_options("maps", given) is None
    with pytest.raises(CredentialsError, match="is not in an object store"):
        settings("maps", given)


def test_an_endpoint_that_the_libraries_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://theirs.example")
    given = storage_options({"aws_endpoint_url": "https://ours.example"})
    with pytest.raises(CredentialsError, match=r"(?s)AWS_ENDPOINT_URL_S3.*unset"):
        settings("s3://b", given)
    given = storage_options({"aws_endpoint_url": "https://theirs.example"})
    assert settings("s3://b", given).options["aws_endpoint_url"] == "https://theirs.example"


def test_nothing_is_asked_again_where_no_time_is_given_for_it():
    given = storage_options({"retry_timeout": "0s"})
    assert object_store_arguments("s3://b", given)["retry_config"]["max_retries"] == 0


@pytest.mark.parametrize("scheme", ["s3://b/maps", "gs://b/maps", "az://c/maps"])
def test_every_library_takes_every_option(scheme: str):
    """What the libraries would not know, they refuse, or leave out without a word: the latter is looked for here."""
    from pipeline.storage.arrow import arrow_store
    from pipeline.storage.object_store import open_bucket

    store = store_of(scheme)
    values = {name: "true" if name in options._FLAGS else "value" for name in OPTIONS}
    values |= {"google_service_account": "", "google_service_account_key": "", "google_application_credentials": ""}
    values |= {"azure_storage_account_name": "account", "azure_storage_account_key": "a2V5", "timeout": "1s"}
    values |= {"aws_endpoint_url": "http://127.0.0.1:1", "google_base_url": "http://127.0.0.1:1",
               "azure_storage_endpoint": "http://127.0.0.1:1/account", "azure_storage_sas_token": "",
               "connect_timeout": "1s", "retry_timeout": "1s"}  # fmt: skip
    if store == "azure":
        values |= {"azure_storage_client_id": "", "azure_storage_client_secret": "", "azure_storage_tenant_id": ""}
    given = storage_options(
        {name: value for name, value in values.items() if value and OPTIONS[name].store in (None, store)}
    )
    assert open_bucket(scheme.removesuffix("/maps"), given) is open_bucket(scheme.removesuffix("/maps"), given)
    filesystem = arrow_store(scheme, given)
    assert isinstance(filesystem, SubTreeFileSystem)
    assert filesystem.base_path == f"{scheme[5:] if store != 'azure' else 'c/maps'}/"


def test_arrow_cannot_take_a_service_account():
    from pipeline.storage.arrow import arrow_store

    given = storage_options({"google_service_account": "/keys.json"})
    assert arrow_store("gs://b/maps", given) is None


# What is refused


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("aws_region", "not NAME=VALUE"),
        (
            "aws_secret=x",
            r"no storage option 'aws_secret'.*did you mean aws_secret_access_key\?.*azure_storage_endpoint",
        ),
        ("aws_region=", "aws_region: has no value"),
        ("aws_region=env:", "aws_region: has no value"),
        ("aws_allow_http=perhaps", "true or false"),
        ("timeout=soon", "duration"),
        ("retry_timeout=-1s", "duration"),
    ],
)
def test_options_that_are_refused(pair: str, told: str):
    with pytest.raises(CredentialsError, match=f"(?s){told}"):
        parse_options([pair])
    ended = CliRunner().invoke(cli, ["runs", "maps", "--storage-option", pair])
    assert ended.exit_code == 2
    assert "--storage-option" in ended.output


def test_a_variable_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch):
    given = StorageOptions()
    monkeypatch.setenv("DENSECAST_STORAGE_RETRY_TIMEOUT", "soon")
    with pytest.raises(CredentialsError, match="DENSECAST_STORAGE_RETRY_TIMEOUT: is 'soon'"):
        settings("s3://b", given)


# Secrets


@given(st.sampled_from(SECRETS), st.text("abcXYZ0189/+", min_size=6).filter(lambda text: text not in "StorageOptions"))
def test_no_secret_is_shown(name: str, secret: str):
    options = StorageOptions({name: secret})
    assert secret not in repr(options)
    assert secret not in f"{options}"
    given = storage_options(options)
    assert secret not in without_secrets(f"denied: {secret}, {secret}", given)
    with pytest.raises(CredentialsError) as caught:
        options.check_travels("FlinkRunner")
    assert secret not in str(caught.value)
    assert f"{name}=env:" in str(caught.value)
    StorageOptions({name: "env:OURS"}).check_travels("FlinkRunner")


@given(st.sampled_from(SECRETS))
def test_secrets_of_the_environment_are_not_shown(name: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPTIONS[name].variables[0], "tell-nobody")
        given = storage_options({})
        assert without_secrets("it was tell-nobody", given) == "it was ***"
        patch.setenv("OURS", "nor-this")
        given = storage_options({name: "env:OURS"})
        assert without_secrets("it was nor-this", given) == "it was ***"


def test_a_pair_that_is_none_is_not_shown():
    with pytest.raises(CredentialsError) as caught:
        parse_options(["tell-nobody"])
    assert "tell-nobody" not in str(caught.value)


def test_a_secret_is_not_sent_to_other_machines(tmp_path: Path):
    model = write_model(tmp_path / "model")
    job = describe_job(
        model=str(model),
        images=("s3://b/",),
        output="s3://b/maps",
        runner="FlinkRunner",
        flink_master="f:1",
        storage=StorageOptions(KEYS),
    )
    with pytest.raises(CredentialsError, match=r"(?s)sent with the pipeline to FlinkRunner.*env:AWS_SECRET_ACCESS_KEY"):
        run_job(job)
    assert "tell-nobody" not in f"{job} {job.as_json()} {job.flat()}"


def test_a_table_travels_with_its_options():
    root = pickle.loads(pickle.dumps(TableRoot("s3://b/maps", KEYS)))  # noqa: S301
    assert root == "s3://b/maps"
    assert dict(root.options.given) == KEYS
    assert dict(TableRoot(root).options.given) == KEYS
    assert "tell-nobody" not in f"{root!r} {root}"


def test_workers_get_the_options_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Everything that a job opens is opened with its options: images, containers, parts, log and records."""
    seen: set[tuple[str, str]] = set()
    opened = object_store.open_bucket

    def note(bucket: str, given: StorageOptions) -> Any:
        seen.add((bucket, given.given.get("aws_region", "")))
        return opened(bucket, given)

    monkeypatch.setattr(object_store.ObjectStore, "_bucket", lambda self, bucket: note(bucket, self.options))
    given = {"aws_region": "mars-1", "aws_endpoint_url": "http://127.0.0.1:1", "retry_timeout": "0s"}
    keys = {**given, "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    with pytest.raises(StorageError):
        MapTable("s3://maps/table", storage_options=keys).runs()
    with pytest.raises((SourceError, StorageError)):
        list(match("s3://photos/a/", StorageOptions(keys)))
    with Reader(options=StorageOptions(keys)) as reader, pytest.raises(StorageError):
        reader.read(ImageReference("s3://photos/a.jpg", size_bytes=5))
    table = TableRoot("s3://parts/table", keys)
    with pytest.raises(StorageError):
        table.store.list_files(table)
    assert seen == {("s3://photos", "mars-1"), ("s3://parts", "mars-1")}, "the Delta log is opened by deltalake"


def test_use_is_deprecated_and_still_works(monkeypatch: pytest.MonkeyPatch):
    with pytest.warns(DeprecationWarning, match="storage_options"):
        credentials.use({"aws_region": "eu-west-1"})
    assert settings("s3://b", default_options()).options["aws_region"] == "eu-west-1"
    assert TableRoot("s3://b/maps").options == StorageOptions({"aws_region": "eu-west-1"})
    assert TableRoot("s3://b/maps", {}).options == StorageOptions()


# Job files


def _jobfile(folder: Path, storage: str) -> Path:
    path = folder / "job.toml"
    path.write_text(f'model = "m"\nimages = "s3://b/"\noutput = "s3://b/maps"\n{storage}')
    return path


def test_a_job_file_has_a_table_of_options(tmp_path: Path):
    text = '[storage]\naws-region = "eu-west-1"\naws_allow_http = true\nretry-timeout = 5\n'
    file = load_jobfile(_jobfile(tmp_path, text))
    assert dict(file.storage.given) == {"aws_region": "eu-west-1", "aws_allow_http": "true", "retry_timeout": "5"}
    # They say where and how, not what is made.
    assert file.identity == load_jobfile(_jobfile(tmp_path, "")).identity
    assert dict(StorageOptions({"aws_region": "x"}).over(file.storage).given)["aws_region"] == "x"


def test_a_job_file_shows_no_secret(tmp_path: Path):
    file = load_jobfile(_jobfile(tmp_path, '[storage]\naws-secret-access-key = "tell-nobody"\n'))
    assert "tell-nobody" not in repr(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("storage = 1\n", "write .storage."),
        ('[storage]\naws-regio = "x"\n', "job.toml.*did you mean aws_region"),
        ("[storage]\naws-region = []\n", "job.toml.*aws_region: has no value"),
    ],
)
def test_a_job_file_with_wrong_options(tmp_path: Path, text: str, told: str):
    with pytest.raises(JobError, match=f"(?s){told}"):
        load_jobfile(_jobfile(tmp_path, text))
