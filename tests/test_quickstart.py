"""The first notebook shows what it should, on the interpreter of the tests."""

import sys

import nbclient
import pytest
from nbformat.v4 import new_code_cell
from notebooks import code, execute, printed, read


def test_it_shows_what_it_should():
    source = "\n".join(cell.source for cell in code(read("quickstart")))
    assert source.count("class Sam(tl.StepStrategy):") == 2
    for text in ("strategy=tl.Accumulate(4, tl.Heun())", "raise KeyboardInterrupt", "except KeyboardInterrupt", "digits()"):
        assert text in source


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    notebook = read("quickstart")
    notebook.cells.append(new_code_cell("import sys\nprint(sys.executable)"))
    *cells, own = execute(notebook, tmp_path, monkeypatch).cells
    assert printed(cells[-1]) == "all as it should be\n"
    assert printed(own).strip() == sys.executable
    everything = "".join(printed(cell) for cell in cells if cell.cell_type == "code")
    assert "64 examples = 4 batches of 16" in everything
    assert "Warning" not in everything


@pytest.mark.slow
def test_a_failing_cell_would_be_found(tmp_path, monkeypatch):
    notebook = read("quickstart")
    notebook.cells = [new_code_cell("assert 1 == 2, 'the control'")]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="the control"):
        execute(notebook, tmp_path, monkeypatch)
