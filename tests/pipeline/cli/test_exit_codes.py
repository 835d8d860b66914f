"""Exit codes: 2 for what fails again, 130 for what was interrupted, and how an interruption ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from conversion.errors import OptionError, UsageError
from conversion.export.preprocessing import channel_mean
from pipeline.cli.interruption import interruptible
from pipeline.cli.main import main
from pipeline.errors import InterruptedRunError
from pipeline.stopping import check_not_stopped, publishing, run_stoppable
from tests.support import fakes

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
Capture = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "flags",
    [
        ("--scales", "0"),
        ("--scales", "nan"),
        ("--max-rejected", "200%"),
        ("--device", "gpu:9x"),
        ("--tile-pixels", "1"),
        ("--tile-pixels", "0"),
        ("--features", "fc99"),
        ("--features", "fc7:int8"),
        ("--resize", "0"),
        ("--max-side", "-1"),
        ("--flink-master", "localhost:1"),
        ("--runner", "FlinkRunner"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(flags: tuple[str, ...], tmp_path: Path, capsys: Capture) -> None:
    model = fakes.write_model(tmp_path / "model")
    fakes.write_network(model)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    assert run("score", model, tmp_path / "photos", "-o", tmp_path / "maps", *flags) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ["topk = 3", "top-k = 0", "scales = [0]", "[nightly]\nlease = 1", "not toml", 'device = "gpu:9x"', "model = 5"],
)
def test_a_job_file_that_cannot_be_is_wrong_usage(line: str, tmp_path: Path, capsys: Capture) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        f'images = "photos"\noutput = "maps"\n{"" if "model" in line else "model = {!r}".format("m")}\n{line}\n'
    )
    assert run("nightly", job) == 2
    assert '"exit_code": 2' in capsys.readouterr().out


def test_an_option_that_does_not_fit_the_network_is_wrong_usage() -> None:
    with pytest.raises(OptionError, match="3 channels") as caught:
        channel_mean(np.array([1.0, 2.0]), 3)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("command", [("inspect", "digits"), ("rejected", "maps")])
def test_ctrl_c_is_130_everywhere(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.tools.inspect_network.inspect", interrupted)
    monkeypatch.setattr("pipeline.table.reader.MapTable", interrupted)
    assert run(*command) == 130


PROGRAM = """
    import hashlib, signal, sys, time
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup and the like ignore it
    from conversion import temporary_folder
    from pipeline.cli import main as program

    def work(*_, **__):
        with temporary_folder() as folder:
            print(folder, flush=True)
            if sys.argv[1] == "python":
                time.sleep(600)
            hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)  # nothing of Python runs meanwhile

    program.cli.main = work
    program.main([])
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("where", ["python", "outside"])
def test_a_signal_is_acknowledged_and_temporary_folders_are_removed(number: signal.Signals, where: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err == f"densecast: interrupted by {number.name}, stopping\n"
    assert not folder.exists()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interruption.came
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_local_run_is_left_at_once_and_publishes_nothing_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.interruption._PATIENCE_S", 60.0)  # a busy machine may stop a thread for long
    started, go_on = threading.Event(), threading.Event()
    outcomes: list[str] = []

    def work() -> None:
        started.set()
        go_on.wait(300)
        try:
            with publishing("r1"):
                outcomes.append("published")
        except InterruptedRunError:
            outcomes.append("nothing")

    def interrupt() -> None:
        started.wait(300)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with interruptible(), pytest.raises(KeyboardInterrupt):
        run_stoppable("r1", work)
    with pytest.raises(InterruptedRunError):
        check_not_stopped("r1")
    check_not_stopped("r2")
    go_on.set()
    assert run_stoppable("r1", lambda: 7) == 7, "the same run again waits for its thread"
    assert outcomes == ["nothing"]


JUST_BEFORE_A_WAIT = """
    import os, signal, threading
    from pipeline.cli import interruption
    interruption._PATIENCE_S = 60.0  # a busy machine may stop a thread for long

    def interrupt():
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # there a signal often comes at that moment
    for _ in range(10):
        started, never = threading.Event(), threading.Event()
        threading.Thread(target=interrupt).start()
        try:
            with interruption.interruptible():
                started.set()
                never.wait()
        except KeyboardInterrupt:
            pass
    print("each raised")
"""


def test_a_signal_just_before_the_main_thread_waits_is_raised() -> None:
    command = [sys.executable, "-c", textwrap.dedent(JUST_BEFORE_A_WAIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "each raised\n", done.stderr[-300:]
    assert done.returncode == 0


def test_what_a_local_run_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stoppable("r3", lambda: 1 // 0)
    assert run_stoppable("r3", lambda: 8) == 8


LAST_WORDS = """
import atexit, sys, threading, time
atexit.register(print, "registered first")
from pipeline.cli.main import main
atexit.register(print, "registered later")
def late():
    time.sleep(0.3)
    print("a thread")
threading.Thread(target=late).start()
try:
    main()
finally:
    print("finally", end="")  # still in the stream's buffer
"""


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("no-such-command", 2)])
def test_what_is_to_be_done_at_the_exit_is_done(argument: str, code: int):
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS, argument], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("finallya thread\nregistered later\nregistered first\n")
