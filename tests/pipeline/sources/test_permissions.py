"""What a list may name that was itself fetched, and what a list of the user's own may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import obstore
import pytest
from obstore.store import MemoryStore

from pipeline.errors import JobError
from pipeline.jobs.spec import describe_job
from pipeline.sources import Allowed, ImageReference, read_manifest
from pipeline.sources.permissions import is_public, root_of
from pipeline.storage import object_store

LIST = "s3://bucket/lists/today.csv"


@pytest.fixture
def memory() -> Iterator[MemoryStore]:
    store = MemoryStore()
    with mock.patch.object(object_store.ObjectStore, "_bucket", return_value=store):
        yield store


def listed(memory: MemoryStore, lines: list[str], *roots: str) -> list[ImageReference]:
    """What a list in a bucket gives."""
    obstore.put(memory, "lists/today.csv", "\n".join(["uri", *lines]).encode())
    return list(read_manifest(LIST, allowed=Allowed(roots=roots)))


def test_a_fetched_list_may_name_its_own_root_and_the_web(memory: MemoryStore):
    lines = ["a.jpg", "../b.jpg", "s3://bucket/c.jpg", "S3://bucket/d.jpg", "../../../e.jpg", "http://10.0.0.1/f.jpg"]
    references = listed(memory, lines)
    assert [reference.uri for reference in references] == [
        "s3://bucket/lists/a.jpg",
        "s3://bucket/b.jpg",
        "s3://bucket/c.jpg",
        "S3://bucket/d.jpg",
        "s3://bucket/e.jpg",
        "http://10.0.0.1/f.jpg",
    ]
    assert {reference.fault for reference in references} == {""}
    # Where an address on the web leads is checked when it is fetched.
    assert {reference.listed_by for reference in references} == {"s3://bucket"}


@pytest.mark.parametrize(
    "line",
    [
        *("/etc/passwd", "file:///etc/passwd", "FILE://localhost/etc/passwd", "file://other/etc/passwd", "~/.netrc"),
        *("~nobody-at-all/a.jpg", "s3://other/a.jpg", "s3://bucket2/a.jpg", "gs://bucket/a.jpg", "s3://bucket"),
    ][:-1],
)
def test_what_it_may_not_name_is_a_row(memory: MemoryStore, line: str):
    found = listed(memory, ["a.jpg", line, "b.jpg"])
    assert [reference.fault != "" for reference in found] == [False, True, False]
    assert found[1].uri == line
    assert found[1].fault.startswith("address-not-allowed: a list in s3://bucket names ")
    assert "allow-root" in found[1].fault
    assert found[1].size_bytes == -1, "not looked up"


def test_more_roots_may_be_allowed(memory: MemoryStore, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"123")
    (tmp_path / "out.jpg").write_bytes(b"123")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    inside, root = f"{tmp_path}/in", "s3://other/photos/"
    lines = [f"{inside}/a.jpg", f"file://{inside}/a.jpg", "s3://other/photos/a.jpg"]
    found = listed(memory, lines, inside, root)
    assert [(reference.uri, reference.fault) for reference in found] == [
        (f"{inside}/a.jpg", ""),
        (f"{inside}/a.jpg", ""),
        ("s3://other/photos/a.jpg", ""),
    ]
    assert found[0].size_bytes == 3
    refused = [f"{inside}/../out.jpg", f"{inside}/link.jpg", f"{inside}2/a.jpg", "s3://other/photos2/a.jpg"]
    refused += ["s3://other/photos/../a.jpg", "~/a.jpg"]
    assert all(reference.fault for reference in listed(memory, refused, inside, root))


def test_a_list_of_the_users_own_may_name_everything(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"{tmp_path}/a.jpg\nfile://{tmp_path}/a.jpg\ns3://other/a.jpg\nhttp://127.0.0.1/a.jpg\n")
    found = list(read_manifest(str(manifest)))
    assert [(reference.fault, reference.listed_by) for reference in found] == [("", "")] * 4


def test_the_root_of_a_list():
    assert root_of("abfss://c@account.dfs.core.windows.net/a/b.csv") == "abfss://c@account.dfs.core.windows.net"
    assert root_of("file:///a/b.csv") == root_of("b.csv") == ""


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_addresses(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
        ),
        *("168.63.129.16", "100.100.100.200", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:db8::1"),
        *("", "localhost", "1.2.3", "/a/socket"),
    ],
)
def test_addresses_that_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "values", [{"allow_host": ["https://host/"]}, {"allow_host": [""]}, {"allow_root": ["https://host/"]}]
)
def test_what_cannot_be_allowed(values: dict[str, list[str]]):
    with pytest.raises(JobError, match="allow-"):
        describe_job(model="m", images=["i"], output="o", **values)


def test_a_job_says_it_to_its_workers():
    job = describe_job(
        model="m", images=["@https://me:pw@host/list.csv", "https://host/a?token=1"], output="o", allow_host=["h:1"],
        allow_root=["/data"], web_timeout=5, web_host_failures=2,
    )  # fmt: skip
    assert job.listing().allowed == Allowed(("h:1",), ("/data",))
    web = job.worker_limits().web
    assert (web.total_s, web.host_failures, web.allow_hosts) == (5, 2, ("h:1",))
    kept = str(job.as_json()["images"])
    assert "pw" not in kept
    assert "token=sha256-" in kept
    assert kept.startswith("['@https://host/list.csv'")
