import pytest

from trainlab.cli.run_directory import RunDirectory


def holding(path, *names):
    for name in names:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return RunDirectory(path)


def test_the_config_is_written_whole(tmp_path):
    directory = RunDirectory(tmp_path / "a" / "run")
    directory.check("auto", overwrite=False)
    directory.begin("run.epochs = 1\n")
    directory.begin("run.epochs = 2\n")  # a longer run goes on with the first one's checkpoints
    assert directory.config.read_text() == "run.epochs = 2\n"
    assert [path.name for path in directory.path.iterdir()] == ["config.gin"]


CHECKPOINT = "checkpoints/00000001-step-5/state.json"


@pytest.mark.parametrize(
    "names, resume, overwrite, refusal",
    [
        ([], "never", False, None),
        (["config.gin", "metrics.jsonl"], "auto", False, None),  # killed before its first checkpoint
        (["config.gin", "model.keras", CHECKPOINT], "auto", False, None),
        (["config.gin", CHECKPOINT], "must", False, None),
        (["config.gin"], "never", False, r"without checkpoints \(config.gin\).*--run_dir .*-2"),
        ([CHECKPOINT], "never", False, r"holds a run already \(checkpoints\).*--resume=auto"),
        (["config.gin", CHECKPOINT], "never", True, None),
        (["model.keras"], "auto", False, r"without checkpoints \(model.keras\)"),
        (["model.keras"], "never", True, None),
    ],
)
def test_which_directories_are_refused(tmp_path, names, resume, overwrite, refusal):
    directory = holding(tmp_path / "run", *names)
    if refusal is None:
        directory.check(resume, overwrite)
        return
    with pytest.raises(FileExistsError, match=refusal):
        directory.check(resume, overwrite)


def test_release_leaves_things_as_they_were(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "a" / "b"):
        directory = RunDirectory(path)
        directory.check("auto", overwrite=False)
        directory.begin("")
        directory.metrics.write_text("{}")
        (path / "lock").write_text("")
        directory.release()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


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
