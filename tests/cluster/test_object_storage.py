"""Images and tables on a real S3-compatible server on loopback: what works on a disk works there, faults included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from deltalake import DeltaTable

from conversion.errors import DensecastError
from pipeline.cli.main import cli
from pipeline.errors import SourceError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.nightly import Output, run_nights
from pipeline.jobs.run import JobResult
from pipeline.jobs.toml_file import load_jobfile
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.storage.client_options import delta_options
from pipeline.storage.errors import StorageError, UnavailableError
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions
from pipeline.table.lease import Holder, Lease, LeaseHeldError
from pipeline.table.lease_store import open_lease
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.table.schema import IDENTITY
from tests.cluster.s3 import PATIENCE_S, ROOT, Server, served
from tests.faults.collection import Images, without_tensorflow
from tests.faults.driver import Child, Ended

OUTAGE_S = 4.0
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from served(tmp_path_factory.mktemp("s3") / "state")


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A folder of the test's own in the server's bucket; the environment has the keys."""
    server.start()  # where a test has left it dead
    for name in KEYS:
        monkeypatch.setenv(name, server.environment[name])
    return f"{server.bucket}/{request.node.name.replace('[', '-').replace(']', '').replace(' ', '-')}"


class Remote:
    """A collection on disk, its copy in a bucket, and a table there."""

    def __init__(self, folder: Path, bucket: str) -> None:
        self.images, self.bucket = Images(folder).fill(), bucket
        self.storage: StorageOptions | None = None
        self.upload()

    @property
    def table(self) -> TableRoot:
        return TableRoot(f"{self.bucket}/maps", self.storage)

    def upload(self) -> None:
        for path in self.images.folder.iterdir():
            open_store(f"{self.bucket}/images/{path.name}").write_atomically(
                f"{self.bucket}/images/{path.name}", path.read_bytes()
            )

    def values(self, **options: Any) -> dict[str, Any]:
        return {**self.images.values(Path(self.table)), "output": self.table, "images": (f"{self.bucket}/images/",),
                "storage": self.storage, **options}  # fmt: skip

    def run(self, **options: Any) -> JobResult:
        values = self.values(**options)
        output = values.pop("output")
        return self.images.run(output, **{name: value for name, value in values.items() if name != "model"})

    def settled(self, undisturbed: Any) -> None:
        """Nothing lost, nothing twice, nothing damaged, and the same as on a disk."""
        report = check(self.table)
        assert report.clean, report.findings
        assert report.images == len(self.images.listed())
        assert comparable(self.table) == undisturbed


def comparable(output: str | Path) -> Any:
    """The rows of a table, but for where images are, and when and by whom rows were made."""
    rows = MapTable(output).to_arrow().sort_by([(name, "ascending") for name in IDENTITY])
    return [
        {**row, "uri": row["uri"].rpartition("/")[2]}
        for row in rows.drop_columns(["run_id", "scored_at", "image_version"]).to_pylist()
    ]


@pytest.fixture
def remote(tmp_path: Path, bucket: str) -> Remote:
    return Remote(tmp_path / "collection", bucket)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The rows of the same collection in a table on a disk."""
    root = tmp_path_factory.mktemp("local")
    Images(root).fill().run(root / "maps")
    return comparable(root / "maps")


def densecast(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=True)


# What works on a disk works here


def test_a_table_in_a_bucket_is_the_one_on_a_disk(remote: Remote, undisturbed: Any):
    first = remote.run()
    assert (first.summary.version, first.summary.scored, first.summary.rejected) == (0, 20, 4)
    remote.settled(undisturbed)
    again = remote.run()
    assert (again.summary.images["keep"], again.summary.images.get("read", 0)) == (24, 0)
    remote.settled(undisturbed)


def test_a_second_night_replaces_what_has_changed(remote: Remote, tmp_path: Path):
    remote.run()
    images = remote.images
    images.run(tmp_path / "local")
    images.change()
    images.run(tmp_path / "local", prune=True)
    open_store(f"{remote.bucket}/images/03.png").delete(f"{remote.bucket}/images/03.png")
    remote.upload()
    done = remote.run(prune=True)
    assert (done.summary.images["delete"], done.summary.images["replaced"]) == (1, 5)
    assert comparable(remote.table) == comparable(tmp_path / "local")
    assert check(remote.table).clean


def test_archives_manifests_and_tiles(remote: Remote, tmp_path: Path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("01.jpg", "02.jpg", "03.png"):
            archive.add(remote.images.folder / name, name)
    open_store(f"{remote.bucket}/a.tar").write_atomically(f"{remote.bucket}/a.tar", (tmp_path / "a.tar").read_bytes())
    open_store(f"{remote.bucket}/list.csv").write_atomically(
        f"{remote.bucket}/list.csv", b"uri,id\nimages/04.jpg,four\nimages/05.jpg,five\n"
    )
    images = (f"{remote.bucket}/*.tar", f"@{remote.bucket}/list.csv", f"{remote.bucket}/images/0[67].*")
    done = remote.run(images=images, tile_pixels=700)
    assert (done.summary.scored, done.summary.rejected) == (7, 0)
    table = MapTable(remote.table)
    assert table.read("four").uri == f"{remote.bucket}/images/04.jpg"
    tiles = table.to_arrow(["uri", "tile_count"]).to_pylist()
    assert max(row["tile_count"] for row in tiles) > 1
    assert check(remote.table).clean


def test_all_commands(remote: Remote, tmp_path: Path):
    remote.run(run_id="one")
    remote.images.change()
    remote.upload()
    remote.run(run_id="two")
    table = remote.table
    listed = json.loads(densecast("runs", table, "--json").stdout)
    assert [line["run_id"] for line in listed] == ["one", "two"]
    shown = densecast("show", table, f"{remote.bucket}/images/02.jpg", "--output", str(tmp_path / "map.png"))
    assert shown.exit_code == 0, shown.output
    assert "02.jpg" in shown.output
    assert "bad-half.jpg\ttruncated" in densecast("rejected", table).stdout
    drift = json.loads(densecast("drift", table, "--json").stdout)
    assert (drift["run"]["run_id"], drift["against"]["run_id"]) == ("two", "one")
    before = comparable(table)
    compacted = json.loads(densecast("compact", table, "--json").stdout)
    assert compacted["files_after"] < compacted["files_before"]
    assert comparable(table) == before
    vacuumed = densecast("vacuum", table, "--retention", "0h", "--force", "--json")
    assert vacuumed.exit_code == 0, vacuumed.output
    assert len(json.loads(vacuumed.stdout)["deleted"]) >= compacted["files_before"]
    checked = densecast("check", table, "--json")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["notes"] == []
    assert comparable(table) == before


def test_more_objects_than_a_page_has(bucket: str):
    for number in range(1003):
        open_store(f"{bucket}/many/{number:04}.parquet").write_atomically(f"{bucket}/many/{number:04}.parquet", b"-")
    assert len(open_store(f"{bucket}/many").list_files(f"{bucket}/many", ".parquet")) == 1003
    assert len(open_store(f"{bucket}/many").list_entries(f"{bucket}/many")) == 1003


def test_a_large_part_leaves_no_upload_behind(bucket: str, server: Server, tmp_path: Path):
    data = os.urandom(1 << 20) * 20
    open_store(f"{bucket}/large").write_atomically(f"{bucket}/large", data)
    assert open_store(f"{bucket}/large").read_bytes(f"{bucket}/large") == data
    with open_store(f"{bucket}/large").open_stream(f"{bucket}/large") as stream:
        stream.seek(19 << 20)
        assert stream.read() == data[: 1 << 20]
        # Replaced while it is read: what was read and what comes would be of two files.
        open_store(f"{bucket}/large").write_atomically(f"{bucket}/large", data[:-1] + b"x")
        stream.seek(10 << 20)
        with pytest.raises(StorageError, match="replaced"):
            stream.read(1)


# Credentials


def test_options_reach_workers_in_processes_of_their_own(
    remote: Remote, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
):
    given = {name.lower(): os.environ[name] for name in KEYS}
    monkeypatch.setenv("OUR_SECRET", given["aws_secret_access_key"])
    for name in KEYS:
        monkeypatch.delenv(name)
    remote.storage = StorageOptions({**given, "aws_secret_access_key": "env:OUR_SECRET"})
    remote.run(beam_options=("--direct_running_mode=multi_processing", "--direct_num_workers=2"))
    remote.settled(undisturbed)


def test_options_of_a_command(remote: Remote, monkeypatch: pytest.MonkeyPatch):
    remote.run()
    options = [f"--storage-option={name.lower()}={os.environ[name]}" for name in KEYS]
    for name in KEYS:
        monkeypatch.delenv(name)
    assert densecast("check", remote.table, *options).exit_code == 0
    assert json.loads(densecast("runs", remote.table, "--json", *options).stdout)[0]["scored"] == 20


def test_no_secret_is_kept(remote: Remote, server: Server):
    given = {name.lower(): os.environ[name] for name in KEYS}
    remote.storage = StorageOptions(given)
    done = remote.run()
    secret = given["aws_secret_access_key"]
    kept = (
        open_store(f"{remote.table}/_densecast/runs/{done.summary.run_id}.json")
        .read_bytes(f"{remote.table}/_densecast/runs/{done.summary.run_id}.json")
        .decode()
    )
    log = (
        open_store(f"{remote.table}/_delta_log/00000000000000000000.json")
        .read_bytes(f"{remote.table}/_delta_log/00000000000000000000.json")
        .decode()
    )
    assert secret not in kept + log
    assert "aws_" not in kept + log


REFUSALS = {
    "a wrong key": ({"AWS_ACCESS_KEY_ID": "nobody"}, "the credentials are refused: InvalidAccessKeyId"),
    "a wrong secret": ({"AWS_SECRET_ACCESS_KEY": "wrong-and-never-shown"}, "the credentials are refused: Signature"),
    "no permission": ({"AWS_ACCESS_KEY_ID": "weak", "AWS_SECRET_ACCESS_KEY": "weak-never-shown"}, "access is denied"),
    "no such bucket": ({}, "there is no such bucket"),
    "a server that does not answer": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the store does not answer"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_refuses_is_told_at_once(
    what: str, remote: Remote, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment, told = REFUSALS[what]
    if what == "no permission":
        server.add_user("weak", environment["AWS_SECRET_ACCESS_KEY"])
    place = remote.bucket if what != "no such bucket" else "s3://there-is-none"
    images, table, model = f"{place}/images/", f"{place}/maps", str(remote.images.model)
    job = tmp_path / "job.toml"
    job.write_text(f'model = "{model}"\nimages = "{images}"\noutput = "{table}"\n')
    commands = [
        ("score", model, images, "--output", table),
        ("score", model, images, "--output", str(tmp_path / "maps")),
        ("runs", table),
        ("check", table),
        ("show", table, "01.jpg"),
        ("compact", table),
        ("nightly", str(job)),
    ]
    with monkeypatch.context() as patch:
        patch.setenv("DENSECAST_STORAGE_RETRY_TIMEOUT", "1s")
        for name, value in environment.items():
            patch.setenv(name, value)
        secret = os.environ["AWS_SECRET_ACCESS_KEY"]
        for command in commands:
            ended = densecast(*command)
            assert ended.exit_code == ExitCode.FAILED, ended.output
            if command[0] != "nightly":
                assert isinstance(ended.exception, DensecastError), (command, ended.exception)
            text = f"{ended.output}{ended.exception}"
            assert told in text
            assert "what to do" in text
            assert place in text
            assert secret not in text
    assert open_store(remote.table).list_files(remote.table) == []


def test_a_bucket_that_may_be_read_and_not_written(remote: Remote, server: Server, tmp_path: Path):
    remote.run()
    before = comparable(remote.table)
    remote.images.change()
    remote.upload()
    server.stop()
    server.start("--readonly")
    try:
        with pytest.raises(StorageError, match="cannot be written: access is denied"):
            remote.run()
        with pytest.raises(StorageError, match=r"(?s)the lease cannot be written.*lease-minutes = 0"):
            Lease(remote.table, "ours").__enter__()
        assert comparable(remote.table) == before
    finally:
        server.stop()
        server.start()
    remote.run()
    assert check(remote.table).clean


# Writers at once


def _at_once(meet: Path, *jobs: dict[str, Any]) -> list[Ended]:
    meet.mkdir()
    ended = [child.end() for child in [Child(values, "before the commit", meet, len(jobs)) for values in jobs]]
    assert all(end.reached for end in ended), [end.about for end in ended]
    return ended


def test_two_writers_of_different_images(remote: Remote, undisturbed: Any, tmp_path: Path):
    halves = [(f"{remote.bucket}/images/0*",), (f"{remote.bucket}/images/[1b]*",)]
    ended = _at_once(tmp_path / "meet", *(remote.values(images=half) for half in halves))
    assert [end.error for end in ended] == ["", ""], [end.about for end in ended]
    assert sorted(end.about["version"] for end in ended) == [0, 1]
    remote.settled(undisturbed)


def test_two_writers_of_the_same_images(remote: Remote, undisturbed: Any, tmp_path: Path):
    ended = _at_once(tmp_path / "meet", remote.values(run_id="one"), remote.values(run_id="two"))
    assert sorted(end.error for end in ended) == ["", "ConflictError"], [end.about for end in ended]
    assert "run again" in next(end.about for end in ended if end.error)
    remote.settled(undisturbed)
    assert remote.run().summary.images["keep"] == 24
    remote.settled(undisturbed)


def test_every_version_is_written_once(bucket: str):
    table, writers, commits = f"{bucket}/maps", 4, 5
    command = [sys.executable, "-m", "tests.cluster.appender", table]
    children = [
        subprocess.Popen([*command, f"w{n}", str(commits)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for n in range(writers)
    ]
    told = [child.communicate(timeout=PATIENCE_S)[0] for child in children]
    assert [child.returncode for child in children] == [0] * writers
    made = {run: int(version) for run, version in (line.split() for text in told for line in text.splitlines())}
    assert sorted(made.values()) == list(range(writers * commits))
    delta = DeltaTable(table, storage_options=delta_options(table, StorageOptions()))
    assert {entry["densecast"]["run_id"]: entry["version"] for entry in delta.history()} == made
    report = check(table)
    assert (report.clean, report.images) == (True, writers * commits)


# A server that goes away


def _interrupted(server: Server, values: dict[str, Any], point: str, meet: Path) -> Child:
    """A run that has come to a point, and the server is dead; it goes on."""
    meet.mkdir()
    child = Child(values, point, meet, 2)
    deadline = time.monotonic() + PATIENCE_S
    while not list(meet.iterdir()):
        assert time.monotonic() < deadline, "the run did not come to the point"
        assert child.process.is_alive(), child.end().about
        time.sleep(0.01)
    server.crash()
    (meet / "us").touch()
    return child


@pytest.mark.parametrize("point", ["infer", "before the commit", "after the commit"])
def test_a_short_outage_is_survived(point: str, remote: Remote, server: Server, undisturbed: Any, tmp_path: Path):
    child = _interrupted(server, remote.values(), point, tmp_path / "meet")
    threading.Event().wait(OUTAGE_S)  # which is what an outage is
    server.start()
    ended = child.end()
    assert (ended.status, ended.error) == (0, ""), ended.about
    assert ended.about["version"] == 0
    remote.settled(undisturbed)


@pytest.mark.parametrize("point", ["infer", "before the commit", "after the commit"])
def test_after_a_long_outage_the_same_command_completes(
    point: str, remote: Remote, server: Server, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setenv("DENSECAST_STORAGE_RETRY_TIMEOUT", "2s")
        ended = _interrupted(server, remote.values(run_id="dead"), point, tmp_path / "meet").end()
    assert (ended.status, ended.error) == (1, "OutageError"), (ended.error, ended.about)
    assert "does not answer" in ended.about
    assert "what to do" in ended.about
    server.start()
    done = remote.run().summary.images
    if point == "before the commit":
        assert done["adopt"] == 20
    if point == "after the commit":
        assert done["keep"] == 24
    remote.settled(undisturbed)


def test_killed_runs_leave_what_the_next_one_adopts(remote: Remote, undisturbed: Any):
    ended = Child(remote.values(run_id="dead"), "before the commit").end()
    assert ended.status == -signal.SIGKILL
    assert remote.run().summary.images["adopt"] == 20
    remote.settled(undisturbed)
    assert not [entry for entry in open_store(remote.table).list_entries(remote.table) if ".partial" in entry.path]


# The lease, and nights


def _job(remote: Remote, folder: Path, extra: str = "") -> Path:
    job = folder / "job.toml"
    job.write_text(
        f'model = "{remote.images.model}"\nimages = "{remote.bucket}/images/"\noutput = "{remote.table}"\n'
        f'top-k = 2\nmax-rejected = "50%"\n{extra}'
    )
    return job


def test_nights_with_a_table_of_options(
    remote: Remote, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NIGHT_SECRET", os.environ["AWS_SECRET_ACCESS_KEY"])
    lines = "".join(
        f'{name.lower().replace("_", "-")} = "{os.environ[name]}"\n' for name in KEYS if "SECRET" not in name
    )
    job = _job(remote, tmp_path, f'[storage]\n{lines}aws-secret-access-key = "env:NIGHT_SECRET"\n')
    for name in KEYS:
        monkeypatch.delenv(name)
    file = load_jobfile(job)
    remote.storage = file.storage
    with without_tensorflow():
        reports = [
            run_nights(file, [date(2026, 11, day)], output=Output(lambda line: None, lambda line: None))
            for day in (1, 2, 2)
        ]
    assert [(r.exit_code, r.nights[0].status) for r in reports] == [(0, "done")] * 3
    assert reports[-1].nights[0].scored == 0
    remote.settled(undisturbed)
    planned = densecast("nightly", str(job), "--date", "2026-11-02", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert " 0 unchanged" not in planned.output
    assert "to score" not in planned.output


def test_of_two_nights_at_once_one_is_told_who_works(remote: Remote, tmp_path: Path):
    with Lease(remote.table, "theirs"):
        ended = densecast("nightly", str(_job(remote, tmp_path)))
    assert ended.exit_code == ExitCode.BUSY, ended.output
    assert "run theirs" in ended.output
    assert not open_store(remote.table).list_files(remote.table, ".parquet")


def test_of_many_that_find_the_lease_free_one_gets_it(remote: Remote):
    start, gotten, refused = threading.Barrier(6), [], []

    def take(number: int) -> None:
        lease = Lease(remote.table, f"run{number}")
        start.wait()
        try:
            lease.__enter__()
        except LeaseHeldError:
            refused.append(number)
        else:
            gotten.append(lease)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(gotten), len(refused)) == (1, 5)
    gotten[0].__exit__(None, None, None)


def test_the_lease_of_a_killed_run_is_broken_and_one_of_another_machine_lapses(remote: Remote):
    take = f"from pipeline.table.lease import Lease; Lease({remote.table!r}, 'dead').__enter__()"
    take += "; print('has it', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{take}; import time; time.sleep({PATIENCE_S})"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    with pytest.raises(LeaseHeldError, match="run dead"):
        Lease(remote.table, "ours").__enter__()
    process.kill()
    process.communicate()
    with Lease(remote.table, "ours"):
        store = open_lease(remote.table)
        found = store.read()
        assert found is not None
    elsewhere = Holder.model_validate_json(found.data).model_copy(update={"space": "another machine", "seconds": 1.0})
    assert store.swap(elsewhere.model_dump_json().encode(), store.read()) is not None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with Lease(remote.table, "ours again"):
                break
        except LeaseHeldError:
            assert time.monotonic() < deadline, "a lease of one second did not lapse"


def test_images_that_cannot_be_listed_any_more_end_the_run(remote: Remote, server: Server):
    with pytest.raises((SourceError, UnavailableError), match="no such bucket"):
        remote.run(images=("s3://there-is-none/images/",))
    with pytest.raises(SourceError, match="no such file or folder"):
        remote.run(images=(f"{remote.bucket}/nothing/",))


def test_an_outage_is_no_damage(remote: Remote, server: Server, monkeypatch: pytest.MonkeyPatch):
    remote.run()
    monkeypatch.setenv("DENSECAST_STORAGE_RETRY_TIMEOUT", "1s")
    with pytest.raises(UnavailableError, match="does not answer"):
        check(remote.table, lambda done, in_all: server.crash() if done < in_all else None)
    server.start()
    assert check(remote.table).clean


def test_a_compaction_whose_answer_is_lost_keeps_what_it_has_written(
    remote: Remote, server: Server, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
):
    """The log has the new files, and the client was told nothing: to delete them would be to lose their rows."""
    remote.run()
    monkeypatch.setenv("DENSECAST_STORAGE_RETRY_TIMEOUT", "1s")
    real = DeltaTable.create_write_transaction

    def lose(self: DeltaTable, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        server.crash()
        raise OSError("Error performing PUT: HTTP error: error sending request")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", lose)
        with pytest.raises(UnavailableError, match="does not answer"):
            compact(remote.table)
    server.start()
    remote.settled(undisturbed)


def test_a_run_whose_answer_is_lost_knows_that_it_has_published(
    remote: Remote, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
):
    remote.run(images=(f"{remote.bucket}/images/0*",))
    real = DeltaTable.create_write_transaction

    def lose(self: DeltaTable, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        raise OSError("Error performing PUT: HTTP error: error sending request")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", lose)
        assert remote.run().summary.version == 1
    remote.settled(undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", lose)
        assert compact(remote.table).passes == 1
    remote.settled(undisturbed)
