"""Real processes, stopped by signals wherever they are: they end soon, saved, with the right status, and leave nothing."""

import contextlib
import fcntl
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
from stopped_program import PHASES, UPDATES, train

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

PROGRAM = pathlib.Path(__file__).with_name("stopped_program.py")
ROOT = pathlib.Path(__file__).parents[2]
# What hangs, hangs for ever; a busy machine may be slow. On an idle one the longest takes 5 seconds.
PATIENCE = 60
QUICK = {("hanging generator", signal.SIGTERM), ("killed workers", signal.SIGTERM)}
# Nothing was committed when the signal came.
NOTHING_SAVED = {"importing", "building", "generator that hangs from the start", "trying XLA", "compiling"}
# Before a fit there is nobody who handles signals.
UNHANDLED = {"importing", "building"}
DATA = {"hanging file": "file", "hanging threads": "threads", "hanging processes": "processes", "killed workers": "processes"}
AT_LEAST = {"training": 33, "killed workers": 33, "a batch hook in C": 33}
AT_LEAST |= dict.fromkeys(("a callback in C", "a beginning in C"), 30)
AT_LEAST |= dict.fromkeys(("hanging generator", "hanging file", "hanging threads", "hanging processes"), 30)


def start(*arguments, before=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONFAULTHANDLER": "1"}

    def prepare():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()

    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=prepare
    )


def wait_until_ready(process, seconds=300):
    """Reads its output up to the line."""
    text, until = b"", time.monotonic() + seconds
    while b"ready\n" not in text:
        assert select.select([process.stdout], [], [], max(until - time.monotonic(), 0))[0], text
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, (text, process.stderr.read())
        text += piece
    return text.decode()


def in_session(leader):
    """The processes of a session that still run."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def ended(process, seconds=PATIENCE):
    """Its output, when it has ended with all that it had started."""
    try:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # it tells where it is
            raise AssertionError(process.communicate(timeout=30)[1].decode()) from None
        until = time.monotonic() + 10
        while in_session(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert in_session(process.pid) == []
        return out.decode(), err.decode()
    finally:
        for left in in_session(process.pid):
            os.kill(left, signal.SIGKILL)
        process.wait()


def updates_of(directory):
    """At which update the newest checkpoint is; None without one."""
    names = sorted(path.name for path in (directory / "checkpoints").glob("0*"))
    return int(names[-1].rpartition("-")[2]) if names else None


@pytest.fixture(scope="module")
def whole():
    """A run that nothing befell."""
    return train(None)


def result(out):
    return json.loads(out.splitlines()[-1])


STATUS = {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT, signal.SIGHUP: 129}
CASES = [(phase, signal.SIGTERM) for phase in PHASES if phase != "a disk that hangs"]
CASES += [
    (phase, signum)
    for phase in ("training", "hanging generator", "killed workers", "hanging evaluation", "a long update", "trying XLA")
    for signum in (signal.SIGINT, signal.SIGHUP)
]


@pytest.mark.parametrize(
    "phase, signum",
    [
        pytest.param(phase, signum, id=f"{phase}-{signum.name}", marks=() if (phase, signum) in QUICK else pytest.mark.slow)
        for phase, signum in CASES
    ],
)
def test_it_ends_soon_saved_and_leaves_nothing(phase, signum, whole, tmp_path):
    process = start(tmp_path, phase)
    wait_until_ready(process)
    started = time.monotonic()
    process.send_signal(signum)
    out, err = ended(process)
    print(f"{phase}, {signum.name}: {time.monotonic() - started:.1f} s")
    expected = {-signum} if phase in UNHANDLED else {STATUS[signum], 128 + signum}
    assert process.returncode in expected, out + err
    at = updates_of(tmp_path)
    if phase in NOTHING_SAVED:
        assert at is None
        return
    assert at >= AT_LEAST.get(phase, 1)
    if phase != "ending":
        assert f"stopped by a signal at update {at}: saved in" in out
    if phase == "a long update":
        return  # another model than the whole one
    if phase == "hanging file":
        assert at <= 50 and "cannot be saved where it stands" not in err
    again = start(tmp_path, "plain", DATA.get(phase, "generator"))
    out, err = ended(again, 300)
    assert again.returncode == 0, err
    found = result(out)
    assert found.pop("resumed_at") == at
    assert found == {name: value for name, value in whole.items() if name != "resumed_at"}
    assert found["updates"] == UPDATES


@pytest.mark.slow
def test_a_terminal_that_closes(whole, tmp_path):
    main, terminal = os.openpty()

    def take():
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for descriptor in (1, 2):
            os.dup2(terminal, descriptor)

    process = start(tmp_path, "training", before=take)
    os.close(terminal)
    text = b""
    while b"ready" not in text:
        text += os.read(main, 4096)
    os.close(main)
    ended(process)
    assert process.returncode == 129
    assert updates_of(tmp_path) >= 33
    again = start(tmp_path, "plain")
    assert result(ended(again, 300)[0])["digest"] == whole["digest"]


@pytest.mark.slow
def test_under_nohup_it_goes_on(whole, tmp_path):
    process = start(tmp_path, "training", before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until_ready(process)
    process.send_signal(signal.SIGHUP)
    out, err = ended(process, 300)
    assert process.returncode == 0, err
    assert result(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("data", ["processes", "threads"])
def test_a_training_that_nobody_stops_ends_by_itself(data, whole, tmp_path):
    out, err = ended(start(tmp_path, "plain", data), 300)
    assert result(out)["digest"] == whole["digest"], err


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["hanging generator", "hanging processes", "killed workers"])
def test_without_a_run_one_interrupt_is_enough(phase):
    process = start("none", phase)
    wait_until_ready(process)
    time.sleep(1)  # the workers' last batches are used
    process.send_signal(signal.SIGINT)
    out, err = ended(process)
    assert process.returncode in {130, -signal.SIGINT} and "KeyboardInterrupt" in err


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["training", "hanging generator"])
def test_the_signals_of_timeout_are_one(phase, tmp_path):
    process = start(tmp_path, phase)
    wait_until_ready(process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    out, err = ended(process)
    assert process.returncode == 143 and f"stopped by a signal at update {updates_of(tmp_path)}" in out, err


@pytest.mark.slow
def test_nobody_reads_what_it_prints(tmp_path):
    process = start(tmp_path, "training")  # into `tee`, say, which Ctrl-C ends as well
    wait_until_ready(process)
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    err = process.stderr.read().decode()
    assert process.wait(PATIENCE) == 143 and "BrokenPipe" not in err, err
    assert updates_of(tmp_path) >= 33


@pytest.mark.slow
def test_a_second_signal_waits_for_no_disk(tmp_path):
    process = start(tmp_path, "a disk that hangs")
    wait_until_ready(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None  # the first waits for what is being written
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 143
    assert updates_of(tmp_path) in {None, 20}
