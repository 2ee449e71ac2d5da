import json
import os
import re
import socket

import pytest

from trainlab.cli.running.run_directory import RunDirectory
from trainlab.runs import Lock

LOCK = json.dumps({"host": "a", "pid": 1, "start": "2026-11-23T02:24:26+00:00"}) + "\n"
CONFIG = "import mine\n\n# Parameters for run:\n# =====\nrun.epochs = 3\n"
RECORD = '{"epoch": 1, "step": 23, "loss": 0.5}\n'
RESULT = '{"checkpoint": "00000001-step-5", "step": 5, "test": {"loss": 0.5}}\n'
CHECKPOINT = "checkpoints/00000001-step-5/state.json"
OURS = {"config.gin": CONFIG, "metrics.jsonl": RECORD, "lock": LOCK, "result.json": RESULT}
FILES = ("config.gin", "metrics.jsonl", "model.keras", "result.json", "lock")


def holding(path, *names, **contents):
    """A directory with these files, as a run writes them, and with others."""
    for name, content in {**{name: OURS.get(name, "") for name in names}, **contents}.items():
        file = path / name.replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return RunDirectory(path)


def everything_in(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_the_config_is_written_whole(tmp_path):
    directory = RunDirectory(tmp_path / "a" / "run")
    directory.check("auto", overwrite=False)
    directory.begin("run.epochs = 1\n")
    directory.begin("run.epochs = 2\n")  # a longer run goes on with the first one's checkpoints
    assert directory.config.read_text() == "run.epochs = 2\n"
    assert [path.name for path in directory.path.iterdir()] == ["config.gin"]


@pytest.mark.parametrize(
    "names, resume, overwrite, refusal",
    [
        ([], "never", False, None),
        (["lock", "config.gin", "metrics.jsonl"], "auto", False, None),  # killed before its first checkpoint
        (["lock"], "auto", False, None),
        (["config.gin", "model.keras", CHECKPOINT], "auto", False, None),
        (["config.gin", "lock", CHECKPOINT], "must", False, None),
        (["lock", "metrics.jsonl", "result.json", "model.keras", CHECKPOINT], "auto", False, None),  # somebody removed a file
        (["lock", "config.gin"], "never", False, r"without checkpoints \(config.gin\).*--run_dir .*-2"),
        ([CHECKPOINT], "never", False, r"holds a run already \(checkpoints\).*--resume=auto"),
        (["config.gin", CHECKPOINT], "never", True, None),
        (["lock", "config.gin", "model.keras"], "auto", False, r"without checkpoints \(model.keras\)"),
        (["lock", "config.gin", "model.keras"], "never", True, None),
    ],
)
def test_which_directories_are_refused(tmp_path, names, resume, overwrite, refusal):
    directory = holding(tmp_path / "run", *names)
    if refusal is None:
        directory.check(resume, overwrite)
        return
    with pytest.raises(FileExistsError, match=refusal):
        directory.check(resume, overwrite)


FOREIGN = {
    "config.gin": "run.epochs = 3\n",
    "metrics.jsonl": '{"epoch": 1, "step": 2, "loss": 0.1}\n',
    "model.keras": "my model",
    "result.json": RESULT,
    "timeline.jsonl": '{"event": "concert", "time": "20:00"}\n',
    "lock": "locked by me",
    "checkpoints/ckpt-1.index": "of tf.train",
    "checkpoints/epoch_3/weights.bin": "of somebody",
}


@pytest.mark.parametrize("resume, overwrite", [("auto", False), ("never", True), ("weights", False)])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_our_names_that_no_run_has_written_is_refused_and_left_alone(tmp_path, name, resume, overwrite):
    directory = holding(tmp_path / "run", **{name: FOREIGN[name]})
    before = everything_in(directory.path)
    shown = directory.path / name.split("/")[0]
    with pytest.raises(FileExistsError) as error:
        directory.check(resume, overwrite)
    line = f"{shown}: was not written by a run; give another directory with --run_dir {tmp_path}/run-2, or move it away"
    assert str(error.value) == line
    directory.release()
    assert everything_in(directory.path) == before


@pytest.mark.parametrize(
    "contents",
    [
        {"lock": LOCK, "config.gin": "run.epochs = 3\n"},  # the directory is a run's of Python, the config is its user's
        {"lock": LOCK, "metrics.jsonl": '{"loss": 0.5}\n'},
        {"lock": LOCK, CHECKPOINT: "", "timeline.jsonl": "1066 Hastings"},
        {"lock": LOCK, CHECKPOINT: "", "model.keras": "model.save"},
        {"lock": LOCK, CHECKPOINT: "", "result.json": '{"accuracy": 1}'},
        {"lock": LOCK, "checkpoints/mine.h5": "weights"},
        {"lock": "", "metrics.jsonl": RECORD},  # anybody's empty lock proves nothing
        {"lock": '{"pid": 1}', "config.gin": CONFIG},
        {"config.gin": CONFIG},  # copied from a run's
    ],
    ids=lambda contents: " ".join(contents),
)
def test_a_run_of_ours_makes_nothing_else_there_ours(tmp_path, contents):
    directory = holding(tmp_path / "run", **contents)
    before = everything_in(directory.path)
    with pytest.raises(FileExistsError, match="was not written by a run"):
        directory.check("auto", overwrite=False)
    assert everything_in(directory.path) == before


@pytest.mark.parametrize(
    "contents",
    [
        {"lock": ""},  # killed when it had just made it
        {"lock": "", "config.gin": CONFIG, "metrics.jsonl": RECORD},  # killed when a second start took it over
        {"lock": "\0\0\0", "config.gin": CONFIG.replace("\n", "\r\n")},
        {"lock": LOCK, "config.gin": CONFIG, "metrics.jsonl": "\0garbage"},  # damaged
        {"lock": LOCK, "config.gin": CONFIG, "timeline.jsonl": "\0garbage"},
        {"lock": LOCK, CHECKPOINT: "", "timeline.jsonl": '{"event": "begin", "fit": 0, "update": 0}\n{"event": "epo'},
        {"lock": LOCK, "checkpoints/.writing-00000001-step-5/state.json": ""},
        {"lock": "garbage", "config.gin": CONFIG, CHECKPOINT: ""},
        {"lock": LOCK, "config.gin": CONFIG, "checkpoints/best.json": "{}"},
        {"notes.txt": "mine", "plots/metrics.jsonl": "mine"},
    ],
    ids=lambda contents: " ".join(contents),
)
def test_a_run_killed_at_any_moment_is_let_in_again(tmp_path, contents):
    holding(tmp_path / "run", **contents).check("auto", overwrite=False)


@pytest.mark.parametrize("name", [*FILES, "checkpoints"])
@pytest.mark.parametrize("kind", ["directory", "link", "dangling link", "link to itself", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, name, kind):
    directory = holding(tmp_path / "run", *({*FILES, CHECKPOINT} - {name, CHECKPOINT if name == "checkpoints" else name}))
    place, precious = directory.path / name, tmp_path / "precious"
    if kind == "directory":
        place.mkdir() if name != "checkpoints" else place.write_text("a file")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        precious.write_text("mine") if kind == "link" else None
        place.symlink_to(name if kind == "link to itself" else precious)
    what = {"directory": "a directory", "pipe": "neither a file nor a directory"}.get(kind, "a link")
    right = "a directory" if name == "checkpoints" else "a file"
    what = "a file" if kind == "directory" and name == "checkpoints" else what
    with pytest.raises(FileExistsError) as error:
        directory.check("auto", overwrite=False)
    assert str(error.value).startswith(f"{place}: is {what}, where a run writes {right}; give another directory with --run_dir")
    directory.release()
    assert os.path.lexists(place) and (kind != "link" or precious.read_text() == "mine")
    assert kind != "dangling link" or not precious.exists()


def test_the_checkpoints_of_a_run_may_be_a_link_to_a_larger_disk(tmp_path):
    directory = holding(tmp_path / "run", "lock", "config.gin")
    (tmp_path / "disk").mkdir()
    (directory.path / "checkpoints").symlink_to(tmp_path / "disk")
    directory.check("auto", overwrite=False)
    holding(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(FileExistsError, match="checkpoints: is a link"):  # no run has made it
        RunDirectory(tmp_path / "empty").check("auto", overwrite=False)


def begun(path):
    """A run that has begun, written its config and a record, and ended without a checkpoint."""
    directory = RunDirectory(path)
    directory.check("auto", overwrite=False)
    with Lock(path / "lock"):
        directory.begin(CONFIG)
        directory.metrics.write_text(RECORD)
        (path / "checkpoints").mkdir(exist_ok=True)
    return directory


def test_release_leaves_things_as_they_were(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "a" / "b"):
        begun(path).release()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("names", [["lock"], ["lock", "config.gin"], ["lock", "config.gin", "metrics.jsonl"]])
def test_release_keeps_what_another_start_of_the_run_has_left(tmp_path, names):
    holding(tmp_path, *names)
    begun(tmp_path).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_release_keeps_what_another_process_has_begun_since(tmp_path):
    directory = begun(tmp_path)
    other = RunDirectory(tmp_path)  # takes it over, and is killed
    other.check("auto", overwrite=False)
    with Lock(tmp_path / "lock"):
        other.begin(CONFIG)
    before = everything_in(tmp_path)
    directory.release()
    assert everything_in(tmp_path).keys() == before.keys()
    held = {"host": socket.gethostname(), "pid": os.getpid() + 1, "start": "now"}
    (tmp_path / "lock").write_text(json.dumps(held))
    directory.release()
    assert everything_in(tmp_path).keys() == before.keys()


def test_release_keeps_the_board_of_another_process_that_trains(tmp_path):
    """Both have looked before either has begun, as two starts of a run within a second do; the second is refused."""
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    first.check("auto", overwrite=False)
    second.check("auto", overwrite=False)
    events = tmp_path / "run" / "tensorboard" / "train" / "events.out.tfevents.1.h.1"
    with Lock(first.path / "lock"):
        first.begin(CONFIG)
        events.parent.mkdir(parents=True)
        events.write_text("a")
        second.release()
        assert events.exists() and first.config.exists()
    second.release()
    assert events.exists()
    first.release()  # the control: it made no update, and goes
    assert list(tmp_path.iterdir()) == []


def test_release_without_a_check_makes_nothing(tmp_path):
    RunDirectory(tmp_path / "a").release()
    assert list(tmp_path.iterdir()) == []


def test_what_was_being_written_when_it_was_killed_is_tidied_up(tmp_path):
    litter = [".writing-0123456789abcdef-model.keras", ".writing-config.gin", ".writing-00ff-result.json"]
    mine = [".writing-mine.txt", ".config.gin", ".writing-xyz-model.keras"]
    directory = holding(tmp_path, "lock", *litter, *mine)
    directory.check("auto", overwrite=False)
    with directory.finishing():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["lock", *mine])


def complete(tmp_path):
    directory = holding(
        tmp_path, "lock", "config.gin", **{"model.keras": "weights", CHECKPOINT: "", f"{CHECKPOINT[:-10]}SHA256SUMS": "a"}
    )
    checkpoint = directory.path / "checkpoints" / "00000001-step-5"
    directory.result.write_text(directory.result_text(checkpoint, 5, {"loss": 0.5, "accuracy": None}))
    return directory, checkpoint


def test_a_result_is_believed_as_long_as_nothing_has_changed(tmp_path):
    directory, checkpoint = complete(tmp_path)
    assert directory.result_of(checkpoint) == ({"loss": 0.5, "accuracy": None}, None)
    assert json.loads(directory.result.read_text())["checkpoint"] == "00000001-step-5"


@pytest.mark.parametrize(
    "name, edit, said",
    [
        ("result.json", lambda text: text.replace("0.5", "0.1"), "result.json: changed since it was written; the test set is"),
        ("result.json", lambda text: text.replace('"step": 5', '"step": 6'), "result.json: changed"),
        ("result.json", lambda text: text.replace('"loss"', '"mean loss"'), "result.json: changed"),
        ("result.json", lambda text: text[:-20], "result.json: cannot be read"),
        ("result.json", lambda text: "[1]", "result.json: cannot be read|^$"),
        ("result.json", lambda text: RESULT, "^$"),  # as 0.2 wrote it
        ("model.keras", lambda text: "other", "model.keras: changed since it was written; it is written again"),
        ("checkpoints/00000001-step-5/SHA256SUMS", lambda text: "b", "^$"),  # another checkpoint of this name
    ],
)
def test_a_result_that_somebody_changed_is_not_believed(tmp_path, name, edit, said):
    directory, checkpoint = complete(tmp_path)
    file = tmp_path / name
    file.write_text(edit(file.read_text()))
    test, line = directory.result_of(checkpoint)
    assert test is None and re.search(said, line or ""), line
    assert line is None or "\n" not in line


def test_a_result_of_another_checkpoint_or_model_is_not_believed(tmp_path):
    directory, checkpoint = complete(tmp_path)
    assert directory.result_of(checkpoint.with_name("00000002-step-9")) == (None, None)
    assert directory.result_of(None) == (None, None)
    directory.model.unlink()
    assert directory.result_of(checkpoint)[0] is None


def test_release_keeps_what_can_be_gone_on_with(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.check("auto", overwrite=False)
    directory.begin("run.epochs = 1\n")
    holding(directory.path, CHECKPOINT)
    directory.release()
    assert directory.config.exists() and directory.has_checkpoints


def test_what_cannot_be_written_is_found_by_check(tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in [
        (tmp_path / "file", "is a file; give a directory"),
        (tmp_path / "file" / "run", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ]:
        with pytest.raises(OSError, match=message):
            RunDirectory(path).check("auto", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
