"""A lock works for all who may write to its folder, whoever made its file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.storage.errors import AccessError, StorageError
from pipeline.storage.file_lock import locked, share_with_folder
from pipeline.storage.local import LocalStore
from pipeline.table.lease import Lease

IS_ROOT = os.geteuid() == 0
ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
NOBODY = 65534


def as_nobody(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code as another user, who may read this checkout only as far as its permissions allow."""
    # All is imported before, by a first lease: the checkout may be in a folder of root's.
    program = (
        "import os, sys, tempfile; from pipeline.table.lease import Lease\n"
        "from pipeline.storage.errors import StorageError\n"
        "with tempfile.TemporaryDirectory() as name, Lease(name, 'first'): pass\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n{code}"
    )
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


TAKE = "Lease(sys.argv[1], 'service', 60).__enter__(); print('held')"


@pytest.fixture
def table() -> Iterator[Path]:
    """A table's folder that belongs to the service's user; not in pytest's folders, which are root's alone."""
    with tempfile.TemporaryDirectory(prefix="densecast-lock-") as name:
        Path(name).chmod(0o755)
        folder = Path(name, "maps")
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        os.chown(folder, NOBODY, NOBODY)
        yield folder


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / ".lock", [0], [0]

    def work() -> None:
        for _ in range(20):
            with locked(lock, 60):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_who_waits_too_long_gets_an_error(tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".lock", 1),
        pytest.raises(TimeoutError, match="another process"),
        locked(tmp_path / ".lock", 0),
    ):
        pass


def test_a_lock_whose_file_was_deleted_is_not_held_twice(tmp_path: Path) -> None:
    """As the message advises: who then waits for the old file takes the new one."""
    lock = tmp_path / ".lock"
    with locked(lock, 1):
        lock.unlink()
        with locked(lock, 1):
            assert lock.exists()
            with pytest.raises(TimeoutError), locked(lock, 0):
                pass


def test_a_file_that_may_only_be_read_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / ".lock"
    lock.touch(0o644)
    real = os.open

    def as_another_user(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", as_another_user)
    with locked(lock, 1), pytest.raises(TimeoutError), locked(lock, 0):
        pass


def test_a_lock_that_cannot_be_opened_is_named_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.storage.file_lock._open", refuse)
    with pytest.raises(AccessError) as caught:
        LocalStore().swap(str(tmp_path / "lease.json"), b"1", None)
    assert caught.value.where == str(tmp_path / ".lease.json.lock")
    assert "delete it while no run is at work" in caught.value.remedy
    with pytest.raises(StorageError, match=r"\.lease\.json\.lock: the lease cannot be locked: Permission denied"):
        Lease(str(tmp_path), "ours").__enter__()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_files_of_the_lease_have_the_permissions_of_the_folder(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    folder.chmod(0o775)
    before = os.umask(umask)
    try:
        with Lease(str(folder), "ours"):
            pass
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert modes == {"_densecast": 0o775, "lease.json": 0o664, ".lease.json.lock": 0o664}


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    share_with_folder(path, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


@ROOT_ONLY
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_root_leaves_does_not_lock_the_service_out(table: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Lease(str(table), "by hand"):
            pass
    finally:
        os.umask(before)
    done = as_nobody(TAKE, str(table))
    assert done.stdout == "held\n", done.stderr


@ROOT_ONLY
def test_what_an_older_version_left_does_not_either(table: Path) -> None:
    with Lease(str(table), "by hand"):
        pass
    lock = table / "_densecast" / ".lease.json.lock"
    os.chown(lock, 0, 0)
    lock.chmod(0o644)
    done = as_nobody(TAKE, str(table))
    assert done.stdout == "held\n", done.stderr
    lock.chmod(0o600)
    done = as_nobody(f"try:\n    {TAKE}\nexcept StorageError as error: print(error)", str(table))
    assert str(lock) in done.stdout, done.stderr
