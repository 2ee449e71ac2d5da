"""Workers, of which one does something that it should not: what all of them say, how they end, and how they go on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import working

HERE = Path(working.__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from workers import start  # noqa: E402

END_SECONDS = 30  # within which those that are left have ended


def begin(directory, mode, who=-1, number=2):
    directory.mkdir(exist_ok=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, str(HERE / "working.py"), str(directory), mode, str(who)]
    return start(number, command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ends(processes, but=()):
    """The statuses, and what was said; `but` are not waited for, and killed."""
    said = {}
    for rank, process in enumerate(processes):
        if rank not in but:
            said[rank] = process.communicate(timeout=300)[0]
    for rank in but:
        processes[rank].kill()
        processes[rank].communicate()
    return {rank: processes[rank].returncode for rank in said}, {rank: text.strip() for rank, text in said.items()}


def last_line(text):
    return text.splitlines()[-1] if text else ""


def assert_noticed_in_time(seconds):
    """After the time that was set, not before, and not much later; then the process ends."""
    assert working.ANSWER_SECONDS - 2 < seconds < working.ANSWER_SECONDS + END_SECONDS


def results(directory, number=2):
    return [dict(np.load(directory / f"{rank}.npz")) for rank in range(number)]


def are_same(a, b, but=("resumed_at",)):
    return sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a if name not in but)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What two workers leave whom nobody disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    statuses, said = ends(begin(directory, "none"))
    assert statuses == {0: 0, 1: 0}, said
    first, second = results(directory)
    assert are_same(first, second)
    return first


def go_on(directory, whole, number=2):
    """All are started again: they go on from the chief's checkpoint, and end as if nothing had been."""
    statuses, said = ends(begin(directory, "none", number=number))
    assert set(statuses.values()) == {0}, said
    found = results(directory, number)
    assert all(are_same(result, whole) for result in found)
    return int(str(found[0]["resumed_at"]))


def assert_goes_on_from_where_it_stopped(directory, whole, is_chief_lost):
    """The chief saves when it loses another; one that is lost itself has saved every 17 updates, and three epochs of 20."""
    stopped_at = None if is_chief_lost else int((directory / "stopped-0").read_text())
    resumed_at = go_on(directory, whole)
    assert resumed_at >= 51 if is_chief_lost else resumed_at == stopped_at >= 60


@pytest.mark.slow
def test_a_signal_to_another_worker_than_the_chief_saves_and_ends_all(tmp_path, whole):
    statuses, said = ends(begin(tmp_path / "a", "TERM", 1))
    assert statuses == {0: 143, 1: 143} and "saved in" in said[0], said
    assert go_on(tmp_path / "a", whole) > 60


@pytest.mark.slow
def test_workers_that_are_about_to_train_something_else_are_refused(tmp_path):
    statuses, said = ends(begin(tmp_path / "a", "size", 1))
    assert statuses == {0: 1, 1: 1}
    for text in said.values():
        assert "worker 1" in last_line(text) and "batch_size is 32, at the chief 16" in last_line(text)
    assert not (tmp_path / "a" / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name, status", [("TERM", 143), ("INT", 130)])
@pytest.mark.parametrize("who", [0, 1])
def test_a_signal_to_any(name, status, who, tmp_path, whole):
    statuses, said = ends(begin(tmp_path / "a", name, who))
    # Python ends by SIGINT itself what nobody has caught.
    assert all(code in (status, -2) if name == "INT" else code == status for code in statuses.values()), (statuses, said)
    assert go_on(tmp_path / "a", whole) > 60


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_killed_ends_all_in_a_line(who, number, tmp_path, whole):
    processes = begin(tmp_path / "a", "KILL", who, number)
    processes[who].wait(300)
    killed_at = time.monotonic()
    statuses, said = ends(processes)
    assert time.monotonic() - killed_at < END_SECONDS
    for rank in set(range(number)) - {who}:
        assert statuses[rank] == 1 and f"worker {who} (localhost:" in last_line(said[rank]), said[rank]
        assert "was lost: it has ended; start all of them again" in last_line(said[rank])
    if number == 2:
        assert_goes_on_from_where_it_stopped(tmp_path / "a", whole, is_chief_lost=who == 0)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_hangs_is_lost_after_the_time_that_was_set(who, tmp_path, whole):
    processes = begin(tmp_path / "a", "STOP", who)
    os.waitid(os.P_PID, processes[who].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    hangs_since = time.monotonic()
    statuses, said = ends(processes, but=[who])
    assert statuses == {1 - who: 1}
    assert_noticed_in_time(time.monotonic() - hangs_since)
    line = last_line(said[1 - who])
    assert f"worker {who} (localhost:" in line and re.search(r"no sign of life for \d+ s", line), line
    assert_goes_on_from_where_it_stopped(tmp_path / "a", whole, is_chief_lost=who == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, says",
    [
        ("rows", "data training[0].blake2b"),
        ("model", "units is 17, at the chief 16"),
        ("seed", "seed is 4, at the chief 3"),
        ("order", "has other batches than the chief"),
        ("short", "more updates where the chief has them"),
        ("failing", " data"),
        ("tensorflow", f"versions tensorflow is '2.0.1', at the chief '{tf.__version__}'"),
        ("keras", f"versions keras is '2.0.1', at the chief '{keras.__version__}'"),
    ],
)
def test_one_with_something_else_is_refused_everywhere(mode, says, tmp_path):
    statuses, said = ends(begin(tmp_path / "a", mode, 1))
    assert statuses == {0: 1, 1: 1}, said
    for text in said.values():
        assert "worker 1 (localhost:" in last_line(text) and says in last_line(text), text
    if mode not in ("short", "failing"):
        assert [int((tmp_path / "a" / f"stopped-{rank}").read_text()) for rank in (0, 1)] == [0, 0], "before the first update"


@pytest.mark.slow
def test_batches_that_differ_later_are_refused_before_their_call(tmp_path):
    """Of a call of 17 updates, until a checkpoint is due, the fourteenth has other rows at one."""
    statuses, said = ends(begin(tmp_path / "a", "later", 1))
    assert statuses == {0: 1, 1: 1}, said
    for line in map(last_line, said.values()):
        assert "worker 1 (localhost:" in line and "has other batches than the chief" in line
    assert not list((tmp_path / "a" / "run" / "checkpoints").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_data_that_hang_at_one_end_all(who, tmp_path):
    processes = begin(tmp_path / "a", "hanging", who)
    until = time.monotonic() + 300
    while not (tmp_path / "a" / "hangs").exists() and time.monotonic() < until:
        time.sleep(0.05)
    hangs_since = time.monotonic()
    statuses, said = ends(processes)
    assert statuses == {0: 1, 1: 1}, said
    assert_noticed_in_time(time.monotonic() - hangs_since)
    for line in map(last_line, said.values()):
        assert re.search(rf"worker {who} \(localhost:\d+\) was lost: it has waited for its data for \d+ s", line), line


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_where_arrays_do_not_fit_at_one_all_stream_them(who, tmp_path, whole):
    statuses, said = ends(begin(tmp_path / "a", "memory", who))
    assert statuses == {0: 0, 1: 0}, said
    first, second = results(tmp_path / "a")
    assert are_same(first, second) and sorted(first) == sorted(whole)
    for name in first.keys() - {"history", "resumed_at"}:
        np.testing.assert_allclose(first[name], whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_signal_to_another_whose_data_hang_does_not_wait_until_it_is_lost(tmp_path):
    processes = begin(tmp_path / "a", "hanging", 1)
    until = time.monotonic() + 300
    while not (tmp_path / "a" / "hangs").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.0)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = ends(processes)
    assert statuses == {0: 143, 1: 143} and "stopped by a signal at update" in said[0], said


@pytest.mark.slow
def test_a_signal_to_another_after_the_last_update_is_not_swallowed(tmp_path):
    statuses, said = ends(begin(tmp_path / "a", "last", 1))
    assert statuses == {0: 143, 1: 143}, said
    assert not list((tmp_path / "a").glob("?.npz")), "nothing of what comes after the fit is done"


@pytest.mark.slow
@pytest.mark.parametrize("who, missing", [(0, 0), (1, 1)])
def test_one_that_never_starts_is_named(who, missing, tmp_path):
    statuses, said = ends(begin(tmp_path / "a", "absent", who))
    assert statuses == {who: 0, 1 - who: 1}
    assert f"worker {missing} (localhost:" in last_line(said[1 - who]) and "has not started" in last_line(said[1 - who])


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_ends_while_all_join_is_named(who, tmp_path):
    """TensorFlow waits for it where nothing in Python can run."""
    processes = begin(tmp_path / "a", "joining", who, number=3)
    processes[who].wait(300)
    ended_at = time.monotonic()
    statuses, said = ends(processes)
    assert time.monotonic() - ended_at < END_SECONDS and statuses.pop(who) == 9
    assert all(status in (1, -9) for status in statuses.values()), statuses
    for rank in statuses:
        assert f"worker {who} (localhost:" in last_line(said[rank]), said[rank]
        assert "ended while the workers joined; start all of them again" in last_line(said[rank])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["late", "stream", "afresh"])
def test_a_late_one_and_a_stream_change_nothing(mode, tmp_path, whole):
    statuses, said = ends(begin(tmp_path / "a", mode, 1))
    assert statuses == {0: 0, 1: 0}, said
    first, second = results(tmp_path / "a")
    assert are_same(first, second) and are_same(first, whole) == (mode != "stream")


@pytest.mark.slow
def test_what_a_callback_of_the_chief_does_holds_for_all(tmp_path, whole):
    for mode in ("assign", "stop"):
        statuses, said = ends(begin(tmp_path / mode, mode))
        assert statuses == {0: 0, 1: 0}, said
        first, second = results(tmp_path / mode)
        assert are_same(first, second) and not are_same(first, whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode, error", [("error", "KeyError"), ("full", "OSError")])
def test_an_error_at_the_chief_ends_all(mode, error, tmp_path):
    statuses, said = ends(begin(tmp_path / "a", mode))
    assert statuses == {0: 1, 1: 1}
    assert last_line(said[0]).startswith(error) and f"the chief, ended the fit: {error}" in last_line(said[1])


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_chief_ends_all_in_a_line(tmp_path):
    """Seen at the first boundary after the write, which a thread does."""
    statuses, said = ends(begin(tmp_path / "a", "disk"))
    assert statuses == {0: 1, 1: 1}, said
    line = "a checkpoint could not be written (the disk is full: make room, then start again); the last good one is "
    assert last_line(said[0]).startswith("OSError: ") and line in last_line(said[0])
    assert "worker 0 (localhost:" in last_line(said[1]) and "the chief, ended the fit: OSError: " in last_line(said[1])
    assert line in last_line(said[1]) and last_line(said[1]).endswith("-step-68")
    assert 85 <= int((tmp_path / "a" / "stopped-0").read_text()) < 102, "it is not trained on until the next is due"


@pytest.mark.slow
def test_an_update_that_is_not_finite_stops_all_at_the_same(tmp_path):
    statuses, said = ends(begin(tmp_path / "a", "nan"))
    assert statuses == {0: 1, 1: 1}
    assert all("NonFiniteError: update 41" in text for text in said.values()), said


@pytest.mark.slow
def test_a_signal_while_the_chief_is_in_a_hook(tmp_path, whole):
    statuses, said = ends(begin(tmp_path / "a", "slow", 1))
    assert statuses == {0: 143, 1: 143}, said
    go_on(tmp_path / "a", whole)
