"""The runs of a comparison on disk: what was changed is found out again, wherever the process is."""

import os

import pytest
from comparisons import asked, model

import trainlab as tl
from trainlab.comparing import racing


@pytest.mark.parametrize("name", ["result.json", "test.json", "target.json"])
def test_a_comparison_with_a_changed_result_ends_as_it_did(name, tmp_path, monkeypatch):
    monkeypatch.setattr(racing, "_SECONDS_A_TURN", 0.0)
    monkeypatch.setattr(racing, "_ROUNDS", 1)
    given, named = asked(tmp_path, [tl.Heun()], learning_rates=[0.1], seeds=1)
    first = tl.compare(*given, **named)
    path = next(tmp_path.rglob(name))
    before = path.read_bytes()
    path.write_text(before.decode().replace(": 0.", ": 0.0"))  # better
    assert path.read_bytes() != before
    with pytest.warns(UserWarning, match=name):
        again = tl.compare(*given, **named)
    assert again.table == first.table and again.verdicts == first.verdicts and path.read_bytes() == before


def test_wherever_the_process_goes_the_runs_are_where_they_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(racing, "_SECONDS_A_TURN", 0.0)
    monkeypatch.setattr(racing, "_ROUNDS", 1)
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"

    def wanders():
        elsewhere.mkdir(exist_ok=True)
        os.chdir(elsewhere)
        return model()

    given, named = asked("runs", [tl.Heun()], learning_rates=[0.1], seeds=1)
    found = tl.compare(wanders, *given[1:], **named)
    assert found.directory == tmp_path / "runs" and list(elsewhere.iterdir()) == []
    names = {path.relative_to(found.directory).parts[-1] for path in found.directory.rglob("*.json")}
    assert names >= {"plan.json", "target.json", "timing.json", "result.json", "test.json"}
