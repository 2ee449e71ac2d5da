"""The notebooks run from top to bottom, and print what is stored with them."""

import re

import nbformat
import pytest
from notebooks import NOTEBOOKS, ROOT, code, execute, printed, read, without_numbers


def test_these_are_there():
    assert NOTEBOOKS == ["comparing", "own_data", "own_step", "quickstart", "runs"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_valid_and_stored_as_it_ran(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert printed(code(notebook)[-1]) == "all as it should be\n"
    assert "assert" in code(notebook)[-1].source
    kinds = {output.output_type for cell in code(notebook) for output in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}  # no error
    assert {output.name for cell in code(notebook) for output in cell.outputs if output.output_type == "stream"} == {"stdout"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_of_a_machine_is_in_it(name):
    text = (ROOT / "scripts" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.])/(?:tmp|home|root|work|usr|Users|var)/", text) == []
    assert len(text) < 200_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name):
    links = [link for cell in read(name).cells for link in re.findall(r"\]\(([^)#]+)", cell.source)]
    assert [link for link in links if "://" not in link and not (ROOT / "scripts" / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_prints_what_is_stored(name, tmp_path, monkeypatch):
    stored = [without_numbers(printed(cell)) for cell in code(read(name))]
    ran = [without_numbers(printed(cell)) for cell in code(execute(read(name), tmp_path, monkeypatch))]
    assert ran == stored


def test_numbers_are_left_out_and_words_are_not():
    assert without_numbers("23/23 - 1s - 33ms/step - loss: 1.77e-05 +- 0.5") == without_numbers(
        "23/23 - 0s - 452us/step - loss: 0.1 +- 12"
    )
    assert without_numbers("same: True") != without_numbers("same: False")
