"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil

import pytest

import trainlab

MODULES = [module.name for module in pkgutil.walk_packages(trainlab.__path__, "trainlab.")]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", ["trainlab", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some of them write files, some read the shipped configs
    (tmp_path / "configs").symlink_to(pathlib.Path(trainlab.__file__).parents[1] / "configs", target_is_directory=True)
    monkeypatch.setattr("trainlab.comparing.racing._SECONDS_A_TURN", 0.0)  # a clock is not what they are about
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0


def examples(item):
    found = doctest.DocTestFinder(recurse=False).find(item, getattr(item, "__name__", ""))
    return [example for test in found for example in test.examples]


def test_every_public_name_has_a_docstring_and_the_classes_an_example():
    without = [name for name in trainlab.__all__ if not inspect.getdoc(getattr(trainlab, name))]
    assert without == []
    # A `Comparison` is shown at work in the example of `compare`.
    assert [name for name in trainlab.__all__ if name != "Comparison" and not examples(getattr(trainlab, name))] == []


def test_a_wrong_example_would_be_found():
    module = type(trainlab)("wrong")
    module.__doc__ = ">>> 1 + 1\n3\n"
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=lambda text: None)
    assert runner.summarize(verbose=False).failed == 1
