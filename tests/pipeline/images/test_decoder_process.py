"""A decoder that hangs or dies costs one image; its process ends whatever happens to ours."""

import gc
import io
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from conversion.errors import DensecastError
from pipeline.images import decoder_process
from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.decoder_process import IsolatedDecoder, IsolationError
from pipeline.images.multiscale import ScalingLimits
from pipeline.images.resize import Scaling
from pipeline.rejection import Reason, Rejected
from tests.support import hostile_decoders

LIMITS = DecodeLimits()
HELPERS = Path(hostile_decoders.__file__).parent
PIXELS = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Clock:
    """A time limit that is over once there is a file, which the child makes when it hangs, and never before."""

    def __init__(self, sign):
        self.sign = sign

    def __call__(self, seconds):
        return self

    def wait(self, event):
        while not event.poll(1):
            if self.sign.exists():
                self.sign.unlink()
                self.over()

    def over(self):
        raise decoder_process._HungError


@pytest.fixture
def sign(tmp_path):
    return tmp_path / "sign"


@pytest.fixture
def hostile(monkeypatch):
    """Makes decoders that do what the bytes say; the child finds them on our module path."""
    monkeypatch.syspath_prepend(HELPERS)
    monkeypatch.setattr(decoder_process, "_DYING_S", 600.0)  # a child that ends may take its time
    made = []

    def make(timeout_s=60.0, **options):
        made.append(IsolatedDecoder(timeout_s, function="hostile_decoders:decode", **options))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()


def rejection(decoder, data):
    with pytest.raises(Rejected) as caught:
        decoder.call(data, LIMITS)
    return caught.value.reason, caught.value.detail


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder() as decoder:
        yield decoder


def test_gives_what_decode_gives_from_one_process(decoder):
    large = np.random.default_rng(4).integers(0, 256, (300, 1000, 3), np.uint8)
    pids = set()
    for data in (encoded("PNG"), encoded("JPEG"), encoded("BMP", large), encoded("TIFF", large), encoded("GIF")):
        here, there = decode(data, LIMITS), decoder.call(data, LIMITS)
        np.testing.assert_array_equal(there.pixels, here.pixels)
        assert {**vars(there), "pixels": 0} == {**vars(here), "pixels": 0}
        assert (there.pixels.dtype, there.pixels.flags.c_contiguous) == (np.uint8, True)
        assert not there.pixels.flags.writeable
        pids.add(decoder.pid)
    assert len(pids) == 1


def test_results_are_not_overwritten_by_later_ones(decoder):
    images = [decoder.call(encoded("PNG", PIXELS + i), LIMITS) for i in range(5)]
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image.pixels, PIXELS + i)


@pytest.mark.parametrize("data", [b"", b"text", encoded("PNG")[:-80], encoded("JPEG")[:300]])
def test_rejections_come_back_as_they_are(decoder, data):
    with pytest.raises(Rejected) as here:
        decode(data, LIMITS)
    assert rejection(decoder, data) == (here.value.reason, here.value.detail)


def test_limits_are_those_of_the_call(decoder):
    with pytest.raises(Rejected) as caught:
        decoder.call(encoded("PNG"), DecodeLimits(max_pixels=100))
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


def test_arguments_and_results_of_any_kind_pass(hostile):
    decoder = hostile()
    pid, limits, options = decoder.call(b"name_process", LIMITS, at_least=(3, 4))
    assert (pid, limits, options) == (decoder.pid, LIMITS, {"at_least": (3, 4)})
    first, none, last = decoder.call(b"arrays", LIMITS)
    np.testing.assert_array_equal(first, np.arange(5))
    assert none.shape == (0, 3)
    np.testing.assert_array_equal(last, np.full((200, 200, 3), 7))
    assert decoder.call(b"allocate 20000000", LIMITS).sum() == 20_000_000
    big = b"name_process " + b"x" * 20_000_000
    assert decoder.call(big, LIMITS)[0] == pid


@pytest.mark.parametrize("verb", ["sleep", "hold_the_lock"])
def test_a_hang_is_rejected_and_the_next_image_is_decoded(hostile, sign, verb):
    decoder = hostile(timeout_s=0.3, clock=Clock(sign))
    first = decoder.call(b"name_process", LIMITS)[0]
    assert rejection(decoder, f"{verb} {sign}".encode()) == (Reason.DECODER_HUNG, "not finished after 0.3 s")
    assert not is_running(first)
    assert decoder.pid is None
    assert decoder.call(b"name_process", LIMITS)[0] != first


def test_a_hang_is_rejected_by_the_clock_that_is_used_where_none_is_given(hostile, sign):
    decoder = hostile(timeout_s=0.1)
    assert rejection(decoder, f"sleep {sign}".encode()) == (Reason.DECODER_HUNG, "not finished after 0.1 s")
    assert decoder.pid is None


def test_the_time_limit_is_for_one_call(hostile, sign):
    """Each call waits one slice in vain, and has time for no second one."""

    class Slow(decoder_process._Clock):
        vain = True

        def wait(self, event):
            super().wait(cast("select.poll", SimpleNamespace(poll=lambda milliseconds: self.poll(event))))

        def poll(self, event):
            if self.vain:
                self.vain = False
                return []
            while not (found := event.poll(1)):
                sign.unlink(missing_ok=True)  # the parent waits: the child may end
            return found

    decoder = hostile(timeout_s=1.5 * decoder_process._SLICE_S, clock=Slow)
    assert [decoder.call(f"wait_for {sign}".encode(), LIMITS) for _ in range(5)] == ["awake"] * 5


def test_time_in_which_this_process_was_stopped_is_not_counted():
    """Of a wait that took an hour one slice is counted."""
    waits = iter([[], [], [("a", 1)]])
    clock = decoder_process._Clock(2.5)

    class Poll:
        def poll(self, milliseconds):
            assert milliseconds <= 1000
            return next(waits)

    clock.wait(cast("select.poll", Poll()))
    with pytest.raises(decoder_process._HungError):
        clock.wait(type("Never", (), {"poll": lambda self, milliseconds: []})())


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (f"die {signal.SIGSEGV:d}", "killed by SIGSEGV, then killed by SIGSEGV"),
        (f"die {signal.SIGRTMIN + 1:d}", f"killed by signal {signal.SIGRTMIN + 1:d}, then killed by signal"),
        ("leave 7", "ended with status 7"),
        ("fail_unsendably", "ended with status 1"),
    ],
)
def test_a_death_is_rejected_and_the_next_image_is_decoded(hostile, data, detail):
    decoder = hostile()
    reason, found = rejection(decoder, data.encode())
    assert reason is Reason.DECODER_DIED
    assert found.startswith(detail)
    assert decoder.call(b"name_process", LIMITS)[0] == decoder.pid


def test_an_image_whose_process_was_killed_once_gets_a_second_one(hostile, tmp_path):
    decoder = hostile()
    assert decoder.call(f"die_once {tmp_path / 'died'}".encode(), LIMITS) == "second child"


def test_a_process_killed_between_two_images_costs_none(hostile):
    decoder = hostile()
    first = decoder.call(b"name_process", LIMITS)[0]
    os.kill(first, signal.SIGKILL)
    assert decoder.call(b"name_process", LIMITS)[0] != first


def test_a_process_that_hangs_up_and_lives_is_killed(hostile, monkeypatch):
    monkeypatch.setattr(decoder_process, "_DYING_S", 0.1)
    assert rejection(hostile(), b"hang_up")[0] is Reason.DECODER_DIED


def test_other_errors_come_back_with_their_origin(hostile):
    decoder = hostile()
    pid = decoder.call(b"name_process", LIMITS)[0]
    with pytest.raises(KeyError, match="a bug") as caught:
        decoder.call(b"fail a bug", LIMITS)
    assert "in fail\n" in caught.value.__notes__[0]
    assert decoder.call(b"name_process", LIMITS)[0] == pid


def test_what_libraries_print_is_not_shown(hostile, capfd):
    hostile().call(b"speak Python", LIMITS)
    assert tuple(capfd.readouterr()) == ("", "Python\n")


def test_memory_is_limited():
    bits = np.zeros((20_000, 20_000), bool)
    with IsolatedDecoder(memory_bytes=2**29) as decoder:
        decoder.call(encoded("PNG"), LIMITS)
        pid = decoder.pid
        reason, _ = rejection(decoder, encoded("PNG", bits[:13_000, :13_000]))
        assert (reason, decoder.pid) == (Reason.OUT_OF_MEMORY, pid)
        decoder.call(encoded("PNG"), LIMITS)


def test_memory_errors_are_the_fate_of_the_image(hostile):
    decoder = hostile(memory_bytes=2**30)
    assert rejection(decoder, b"allocate 2000000000")[0] is Reason.OUT_OF_MEMORY
    assert decoder.call(b"limits_of_process RLIMIT_AS", LIMITS)[0] == 2**30
    assert decoder.call(b"limits_of_process RLIMIT_CORE", LIMITS) == (0, 0)


ALLOWED = {"PIL", "conversion", "lazy_loader", "numpy", "pipeline"} | sys.stdlib_module_names
OWN = {
    "conversion",
    "conversion.errors",
    "pipeline",
    "pipeline.errors",
    "pipeline.images",
    "pipeline.images.bmp",
    "pipeline.images.decode",
    "pipeline.images.decoder_child",
    "pipeline.images.formats",
    "pipeline.images.frames",
    "pipeline.images.jpeg",
    "pipeline.images.libvips",
    "pipeline.images.multiscale",
    "pipeline.images.resize",
    "pipeline.images.samples",
    "pipeline.images.stored_image",
    "pipeline.images.tiff",
    "pipeline.images.tiff_layout",
    "pipeline.own_packages",
    "pipeline.rejection",
    "pipeline.settings",
}


@pytest.mark.parametrize(("kind", "plugin"), [("JPEG", "JpegImagePlugin"), ("PNG", "PngImagePlugin")])
def test_a_child_loads_only_what_its_first_image_needs(kind, plugin, monkeypatch):
    """Every start of a child is waited for, and each module makes it longer."""
    if "coverage" in sys.modules:
        pytest.skip("what measures coverage loads modules of its own into the child")
    monkeypatch.syspath_prepend(HELPERS)
    with IsolatedDecoder(function="hostile_decoders:loaded_modules") as decoder:
        modules = decoder.call(encoded(kind), ScalingLimits(LIMITS), scaling=Scaling())
    # What the installation itself loads (`site`, hooks of editable installs) is not the child's choice.
    modules = [name for name in modules if not name.startswith(("_", "sitecustomize"))]
    assert {name.partition(".")[0] for name in modules} <= ALLOWED
    assert {name for name in modules if name.startswith(("conversion", "pipeline"))} <= OWN
    plugins = {name.removeprefix("PIL.") for name in modules if name.startswith("PIL.") and "ImagePlugin" in name}
    assert plugins == {plugin}


@pytest.mark.parametrize("function", ["no_such_thing:decode", "pipeline.images.decode:no_such_thing"])
def test_a_process_that_cannot_start_is_no_images_fault(function, capfd):
    decoder = IsolatedDecoder(function=function)
    with pytest.raises(IsolationError, match="ended with status"):
        decoder.call(b"", LIMITS)
    assert "no_such_thing" in capfd.readouterr().err
    assert decoder.pid is None
    assert issubclass(IsolationError, DensecastError)


def test_no_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(IsolationError, match="/no/such/python"):
        IsolatedDecoder().call(b"", LIMITS)


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"memory_bytes": 0}])
def test_limits_are_positive(options):
    with pytest.raises(ValueError, match="must be positive"):
        IsolatedDecoder(**options)


def test_nothing_is_left_behind(hostile, sign):
    gc.collect()  # what earlier tests left must not go meanwhile
    before = sorted(Path("/proc/self/fd").iterdir())
    pids = []
    for _ in range(2):
        decoder = hostile(clock=Clock(sign))
        pids.append(decoder.call(b"name_process", LIMITS)[0])
        rejection(decoder, f"sleep {sign}".encode())
        rejection(decoder, b"leave 1")
        pids.append(decoder.call(b"name_process", LIMITS)[0])
        decoder.close()
        decoder.close()
        with pytest.raises(ValueError, match="closed"):
            decoder.call(b"name_process", LIMITS)
    assert not any(map(is_running, pids))  # a zombie would still take a signal
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_garbage_takes_the_process_along():
    decoder = IsolatedDecoder()
    decoder.call(encoded("PNG"), LIMITS)
    pid = decoder.pid
    del decoder
    gc.collect()
    assert not is_running(pid)


def test_closing_ends_a_decode_in_another_thread(hostile, sign):
    decoder = hostile()
    decoder.call(b"name_process", LIMITS)
    errors = []

    def run():
        try:
            decoder.call(f"sleep {sign}".encode(), LIMITS)
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while not sign.exists():
        assert thread.is_alive()
        time.sleep(0.001)
    decoder.close()
    thread.join()
    assert errors == ["the decoder is closed"]
    assert decoder.pid is None


def test_threads_that_share_one_get_their_own_answers(decoder):
    def run(value):
        pixels = np.full((30, 40, 3), value, np.uint8)
        data = encoded("PNG", pixels)
        same[value] = all((decoder.call(data, LIMITS).pixels == value).all() for _ in range(20))

    same = {}
    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == dict.fromkeys(range(4), True)


SCRIPT = """
import os, sys, threading, time
from pipeline.images.decode import DecodeLimits
from pipeline.images.decoder_process import IsolatedDecoder

print("main", flush=True)
sys.path.append({here!r})
decoder = IsolatedDecoder(function="hostile_decoders:decode")
decoder.call(b"name_process", DecodeLimits())
"""


def run_python(*arguments, cwd):
    """Waits until all that write to the script's standard error are gone: its children, too."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("form", ["file", "-c"])
def test_a_script_is_not_run_again_and_leaves_no_process(form, tmp_path):
    script = SCRIPT.format(here=str(HELPERS))
    path = tmp_path / "script.py"
    path.write_text(script)
    arguments = {"file": [str(path)], "-c": ["-c", script]}[form]
    ended = run_python(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "main\n", "")


@pytest.mark.parametrize("verb", ["hold_the_lock", "name_process"])
def test_the_process_ends_with_a_parent_that_is_killed(verb, sign, tmp_path):
    script = SCRIPT.format(here=str(HELPERS)) + textwrap.dedent(f"""
        thread = threading.Thread(target=decoder.call, args=(b"{verb} {sign}", DecodeLimits()), daemon=True)
        thread.start()
        while thread.is_alive() and not os.path.exists({str(sign)!r}):
            time.sleep(0.001)
        time.sleep(0.1)  # from the sign to the lock it is a moment
        os.kill(os.getpid(), {signal.SIGKILL:d})
    """)
    ended = run_python("-c", script, cwd=tmp_path)  # times out where the child lives on
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGKILL, "main\n", "")


def test_daemonic_and_forked_processes_may_decode(tmp_path):
    """Daemonic processes of multiprocessing may have no children of its own making."""
    script = SCRIPT.format(here=str(HELPERS)) + textwrap.dedent("""
        import multiprocessing

        def again():
            theirs = decoder.call(b"name_process", DecodeLimits())[0]
            print(theirs == decoder.pid, theirs != ours, flush=True)
            decoder.close()

        ours = decoder.pid
        process = multiprocessing.get_context("fork").Process(target=again, daemon=True)
        process.start()
        process.join()
        print(process.exitcode, decoder.call(b"name_process", DecodeLimits())[0] == ours)
    """)
    ended = run_python("-c", script, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "main\nTrue True\n0 True\n", "")


def test_ctrl_c_is_for_the_parent(tmp_path):
    """The terminal sends it to the whole process group, and the decoder must not be the one to report it."""
    script = (
        "import os; os.setpgid(0, 0)"
        + SCRIPT.format(here=str(HELPERS))
        + textwrap.dedent("""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
        try:
            os.killpg(0, signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            print(decoder.call(b"name_process", DecodeLimits())[0] == decoder.pid)
    """)
    )
    ended = run_python("-c", script, cwd=tmp_path)
    assert (ended.stdout, ended.stderr) == ("main\nTrue\n", "")


def test_an_interrupt_does_not_leave_an_answer_for_the_next_image(hostile, sign):
    """An answer that is still to come must not be taken for that of the next request."""

    class Interrupted(Clock):
        def over(self):  # the child, too, sees that the file is gone, and answers
            raise KeyboardInterrupt

    decoder = hostile(clock=Interrupted(sign))
    first = decoder.call(b"name_process", LIMITS)[0]
    with pytest.raises(KeyboardInterrupt):
        decoder.call(f"wait_for {sign}".encode(), LIMITS)
    assert decoder.call(b"name_process", LIMITS)[0] == decoder.pid != first


DECODE = "pipeline.images.decode:decode"


def test_a_decoder_takes_a_process_that_was_started_ahead_and_the_rest_end():
    data = encoded("PNG")
    with decoder_process.decoders_ahead(2, DECODE):
        ahead = [child.process.pid for child in decoder_process._spares]
        with IsolatedDecoder(function=DECODE) as taker, IsolatedDecoder(function=DECODE, memory_bytes=2**32) as other:
            np.testing.assert_array_equal(taker.call(data, LIMITS).pixels, PIXELS)
            assert taker.pid in ahead
            other.call(data, LIMITS)
            assert other.pid not in ahead, "it has another limit of memory"
        [left] = [child.process for child in decoder_process._spares]
    assert left.returncode is not None
    assert not decoder_process._spares


def test_a_process_started_ahead_that_has_died_is_not_taken():
    with decoder_process.decoders_ahead(1, DECODE), IsolatedDecoder(function=DECODE) as decoder:
        [child] = decoder_process._spares
        child.process.kill()
        child.process.wait()
        np.testing.assert_array_equal(decoder.call(encoded("PNG"), LIMITS).pixels, PIXELS)
        assert decoder.pid != child.process.pid
