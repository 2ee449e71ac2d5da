"""The notebook runs from top to bottom, on the interpreter of the tests."""

import os
import pathlib
import sys

import nbclient
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbformat.v4 import new_code_cell

import trainlab

ROOT = pathlib.Path(trainlab.__file__).parents[1]
NOTEBOOK = ROOT / "scripts" / "quickstart.ipynb"
SECONDS_A_CELL = 240


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook, tmp_path, monkeypatch):
    """Runs a notebook in `tmp_path`, whatever kernels are, or are not, installed on this machine."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    # With no directory to look for kernels in there is one only: ipykernel's own, on this interpreter.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, km=manager, timeout=SECONDS_A_CELL, startup_timeout=SECONDS_A_CELL, resources=resources
    )
    return client.execute()


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")


def test_it_is_valid_and_stored_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "assert" in code[-1].source


def test_it_shows_what_it_should():
    source = "\n".join(cell.source for cell in read().cells if cell.cell_type == "code")
    assert source.count("class Sam(tl.StepStrategy):") == 2
    for text in ("strategy=tl.Accumulate(4, tl.Heun())", "raise KeyboardInterrupt", "except KeyboardInterrupt", "digits()"):
        assert text in source


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    notebook = read()
    notebook.cells.append(new_code_cell("import sys\nprint(sys.executable)"))
    *cells, own = execute(notebook, tmp_path, monkeypatch).cells
    assert printed(cells[-1]) == "all as it should be\n"
    assert printed(own).strip() == sys.executable
    everything = "".join(printed(cell) for cell in cells if cell.cell_type == "code")
    assert "64 examples = 4 batches of 16" in everything
    assert "Warning" not in everything


@pytest.mark.slow
def test_a_failing_cell_would_be_found(tmp_path, monkeypatch):
    notebook = read()
    notebook.cells = [new_code_cell("assert 1 == 2, 'the control'")]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="the control"):
        execute(notebook, tmp_path, monkeypatch)
