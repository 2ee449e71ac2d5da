import json
import os
import subprocess
import sys

import pytest

from trainlab.runs.disk.lock import InUse, Lock


def test_a_second_holder_is_told_of_the_first(tmp_path):
    with (
        Lock(tmp_path / "lock"),
        pytest.raises(InUse, match=rf"another run is writing there \(process {os.getpid()} on .*, since 2"),
    ):
        Lock(tmp_path / "lock").__enter__()
    with Lock(tmp_path / "lock"):  # let go
        pass


@pytest.mark.slow
def test_death_releases_it(tmp_path):
    path = str(tmp_path / "lock")
    program = (
        f"import os, pathlib; from trainlab.runs.disk.lock import Lock; Lock(pathlib.Path({path!r})).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 9
    left = json.loads((tmp_path / "lock").read_text())
    assert left["pid"] != os.getpid()
    with Lock(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_holder_that_has_written_nothing_yet(tmp_path):
    with Lock(tmp_path / "lock"):
        (tmp_path / "lock").write_text("")
        with pytest.raises(InUse, match="process unknown"):
            Lock(tmp_path / "lock").__enter__()


def test_a_file_that_was_removed_meanwhile_is_not_the_lock(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    real = os.open

    def late(*args, **kwargs):
        monkeypatch.setattr(os, "open", real)
        descriptor = real(*args, **kwargs)
        path.unlink()  # by the one who held it and has left
        return descriptor

    monkeypatch.setattr(os, "open", late)
    with Lock(path), pytest.raises(InUse):
        Lock(path).__enter__()
