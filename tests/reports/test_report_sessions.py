"""A timeline put together: which epochs count, what they cost, and what became of each session."""

import json
import math
import os
import random

import pytest
from reporting import begin, end, epoch, learned, resumed, written

from trainlab.reports import TIMELINE, is_timeline
from trainlab.reports.reading.run import read_run
from trainlab.reports.reading.timeline import put_together


def found(records):
    sessions, epochs = put_together(records)
    return sessions, [(e.record["fit"], e.record["epoch"], e.record["update"], e.seconds) for e in epochs]


def test_one_session():
    sessions, epochs = found([begin(), epoch(0, 10, 1.0, loss=1.0), epoch(1, 20, 1.5, loss=0.5), end(20, 1.75)])
    assert epochs == [(0, 0, 10, 1.0), (0, 1, 20, 1.5)]
    assert [(s.update, s.seconds, s.end["why"]) for s in sessions] == [(20, 1.75, "finished")]


def test_what_a_killed_session_lost_is_left_out_and_its_seconds_count():
    records = [begin(), epoch(0, 10, 1.0), epoch(1, 20, 2.0), epoch(2, 30, 3.0)]  # killed; the last checkpoint was at update 15
    sessions, epochs = found([*records, begin(15, 1, resumed=True), epoch(1, 20, 0.5), epoch(2, 30, 1.5), end(30, 1.5)])
    assert epochs == [(0, 0, 10, 1.0), (0, 1, 20, 3.5), (0, 2, 30, 4.5)]
    assert [s.end is None for s in sessions] == [True, False] and [s.update for s in sessions] == [30, 30]


def test_an_epoch_whose_hooks_were_called_again_counts_once():
    records = [begin(), epoch(0, 10, 1.0, loss=1.0), begin(10, 0, resumed=True), epoch(0, 10, 0.1, loss=2.0)]
    sessions, epochs = put_together(records)
    assert [e.record["logs"] for e in epochs] == [{"loss": 2.0}]


def test_several_fits_are_added_up(tmp_path):
    records = [begin(evaluations=2), epoch(0, 10, 1.0, loss=3.0), end(10, 1.0)]
    records += [
        begin(fit=1, evaluations=1, batches=4, examples=40),  # 10 batches a pass: updates of 4, 4 and 2
        epoch(0, 5, 0.5, fit=1, loss=2.0),
        epoch(1, 10, 1.0, fit=1, loss=1.0),
        end(10, 1.0, fit=1),
    ]
    run = read_run(written(tmp_path / "a", records))
    assert run.axes == {"updates": [10, 15, 20], "evaluations": [20, 38, 54], "seconds": [1.0, 1.5, 2.0]}


def test_a_step_that_tells_its_evaluations_is_believed(tmp_path):
    """What is logged is their mean over the updates of an epoch."""
    records = [begin(evaluations=4), epoch(0, 10, 1.0, gradient_evaluations=5.5), epoch(1, 20, 2.0, gradient_evaluations=4.0)]
    assert read_run(written(tmp_path / "a", records)).axes["evaluations"] == [55, 95]
    records = [begin(evaluations=4, batches=2, settings={}), epoch(0, 10, 1.0, gradient_evaluations=4.5)]
    assert read_run(written(tmp_path / "b", records)).axes["evaluations"] == [90]


def test_a_fit_begun_afresh_leaves_out_what_was_before():
    first = [begin(), epoch(0, 10, 9.0), end(10, 9.0), begin(fit=1), epoch(0, 10, 9.0, fit=1)]
    sessions, epochs = found([*first, begin(), epoch(0, 10, 1.0)])
    assert epochs == [(0, 0, 10, 1.0)] and len(sessions) == 1
    sessions, epochs = found([*first, begin(fit=1), epoch(0, 10, 1.0, fit=1)])  # and a later one what it had itself
    assert epochs == [(0, 0, 10, 9.0), (1, 0, 10, 19.0)] and len(sessions) == 3


def test_three_resumptions(tmp_path):
    [path] = resumed(tmp_path)
    run = read_run(path)
    assert run.epochs == list(range(1, 31)) and run.axes["updates"] == [23 * i for i in range(1, 31)]
    assert run.total("seconds") == pytest.approx(0.9 + 0.9 + 0.8 + 0.9)
    assert run.axes["seconds"] == sorted(run.axes["seconds"]) and run.status == "finished"
    assert sum(map(math.isnan, run.speed)) == 4  # the first epoch of each session


@pytest.mark.parametrize("seed", range(4))
def test_damaged_lines_are_left_out(tmp_path, seed):
    """Whatever happens to some lines, the others are read, and nothing is raised."""
    rng = random.Random(seed)
    path = written(tmp_path / "a", [begin(), *learned(40), end(920, 4.0)]) / TIMELINE
    lines = path.read_bytes().splitlines(keepends=True)
    hit = set(rng.sample(range(1, 41), 8))
    ruin = [
        lambda line: line[: len(line) // 2] + b"\n",
        lambda line: b"\0" * 20 + b"\n",
        lambda line: b"[1, 2]\n",
        lambda line: b"\xff\xfe\n",
    ]
    ruin += [
        lambda line: b'{"event": "epoch", "fit": "x", "epoch": -1, "update": null, "seconds": "?", "logs": 3}\n',
        lambda line: b"[" * 99_999 + b"\n",
    ]
    path.write_bytes(b"".join(rng.choice(ruin)(line) if i in hit else line for i, line in enumerate(lines)))
    run = read_run(path.parent)
    assert len(run.epochs) == 32 and run.axes["updates"][-1] == 23 * max(i for i in range(1, 41) if i not in hit)


def test_without_its_beginning_the_epochs_are_still_read(tmp_path):
    run = read_run(written(tmp_path / "a", learned(3)))
    assert run.epochs == [1, 2, 3] and math.isnan(run.total("evaluations")) and run.examples is None


@pytest.mark.parametrize(
    ("content", "is_ours"),
    [
        ("", True),
        ("\n \0", True),
        ("notes\n", False),
        ('{"event": "concert"}\n', False),
        ('{"event": "begin"}\n', False),
        ("[]", False),
    ],
)
def test_whose_file_it_is(tmp_path, content, is_ours):
    path = tmp_path / TIMELINE
    assert is_timeline(path)
    path.write_text(content)
    assert is_timeline(path) == is_ours
    path.write_text(content + "\n" + json.dumps(begin()) + "\n")
    assert is_timeline(path)


def test_links_and_directories_are_nobodys(tmp_path):
    (tmp_path / "a").write_text(json.dumps(begin()))
    os.symlink(tmp_path / "a", tmp_path / TIMELINE)
    assert is_timeline(tmp_path / "a") and not is_timeline(tmp_path / TIMELINE) and not is_timeline(tmp_path)
