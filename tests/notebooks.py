"""Reads and runs the notebooks in scripts/, on the interpreter of the tests."""

import os
import pathlib
import re

import nbclient
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

import trainlab

ROOT = pathlib.Path(trainlab.__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "scripts").glob("*.ipynb"))
SECONDS_A_CELL = 240


def read(name):
    return nbformat.read(ROOT / "scripts" / f"{name}.ipynb", as_version=4)


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


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """What a cell has printed, but for what TensorFlow says of the machine."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def without_numbers(text):
    """The same, each number replaced: another machine rounds otherwise, and takes another time."""
    return re.sub(r"-?\d[\d,.]*(e[-+]?\d+)?(ms|us|s)?\b", "#", text)
