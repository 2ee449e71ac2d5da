import pytest

from trainlab.run_directory import RunDirectory


def test_a_claimed_directory_refuses_a_second_run_and_names_a_free_one(tmp_path):
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    first.check()
    second.check()  # nobody has it yet
    first.claim("run.epochs = 1\n")
    with pytest.raises(FileExistsError, match=r"holds a run already \(config.gin\).*--run_dir .*run-2"):
        second.claim("run.epochs = 2\n")
    second.release()
    assert first.config.read_text() == "run.epochs = 1\n"


@pytest.mark.parametrize("name", ["config.gin", "metrics.jsonl", "model.keras"])
def test_any_file_of_a_run_makes_it_one(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(FileExistsError, match=name):
        RunDirectory(tmp_path).check()


def test_release_leaves_things_as_they_were(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "a" / "b"):
        directory = RunDirectory(path)
        directory.check()
        directory.claim("")
        directory.metrics.write_text("{}")
        directory.release()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_cannot_be_written_is_found_by_check(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file; give a directory"):
        RunDirectory(tmp_path / "file").check()
    with pytest.raises(OSError, match="cannot be written"):
        RunDirectory(tmp_path / "file" / "run").check()
    with pytest.raises(OSError, match="cannot be written"):
        RunDirectory(tmp_path / ("x" * 300)).check()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
