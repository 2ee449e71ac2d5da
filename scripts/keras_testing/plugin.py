"""A plugin of pytest: while tests run, `fit` of every Keras model is that of a `trainlab.Trainer`.

It writes a JSON object for each test that went through `fit`, and says nothing of the others.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import pytest

import trainlab as tl

# What the plugin is told, as variables of the environment: pytest's own arguments are the tests.
STRATEGY, RESULTS, SOURCE = "KERAS_TESTS_STRATEGY", "KERAS_TESTS_RESULTS", "KERAS_TESTS_SOURCE"
# Keras' tests import them all, and use each in a few tests, or for another backend.
_PACKAGES = ("grain", "jax", "pandas", "requests", "scipy", "sklearn", "torch")


class Trainers:
    """The Trainer of each model, kept as long as the model is compiled as it was.

    Attributes:
        num_fits: calls of `fit` that were handed over.
    """

    def __init__(self, strategy: str):
        self._strategy = strategy
        self._made: dict[int, tuple[Any, Any, tl.Trainer]] = {}
        self.num_fits = 0

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of `model.fit`."""
        self.num_fits += 1
        return self._of(model).fit(*args, **kwargs)

    def forget(self) -> None:
        """Begins anew, for another test."""
        self._made.clear()
        self.num_fits = 0

    def _of(self, model: Any) -> tl.Trainer:
        compiled = vars(model).get("_compile_config")  # another at each call of `compile`
        held = self._made.get(id(model))
        if held is None or held[1] is not compiled:
            strategy = eval(self._strategy, {name: getattr(tl, name) for name in tl.__all__})
            held = self._made[id(model)] = model, compiled, tl.Trainer(model, strategy=strategy)
        return held[2]


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that are not installed while tests are collected; a test that uses one then fails for want of it.

    Attributes:
        names: of these packages.
    """

    def __init__(self) -> None:
        self.names = {name for name in _PACKAGES if importlib.util.find_spec(name) is None}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """See Python."""
        del path, target
        is_absent = fullname.partition(".")[0] in self.names
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if is_absent else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """See Python."""
        module = mock.MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """See Python."""

    def __enter__(self) -> Absent:
        sys.meta_path.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)
        for name in [name for name in sys.modules if name.partition(".")[0] in self.names]:
            del sys.modules[name]


class Plugin:
    """What pytest calls.

    Args:
        strategy: as Python, in the names of trainlab.
        results: the file to write to.
    """

    def __init__(self, strategy: str, results: Path):
        self._trainers, self._results, self._absent = Trainers(strategy), results, Absent()
        # A model's, or that of a layer which has Keras' base class of it mixed in, as in some of these tests.
        owner = next(kind for kind in keras.Model.__mro__ if "fit" in vars(kind))
        trainers = self._trainers

        @functools.wraps(owner.fit)
        def handed_over(model: Any, *args: Any, **kwargs: Any) -> Any:
            return trainers.fit(model, *args, **kwargs)

        owner.fit = handed_over

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        """Round the collection of tests."""
        with self._absent:
            return (yield)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """After a file."""
        if report.failed:
            error = report.longreprtext[-500:]
            outcome = "skipped" if any(name in error for name in self._absent.names) else "uncollected"
            self._write({"test": report.nodeid, "outcome": outcome, "message": error})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Round a test."""
        self._trainers.forget()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """After each part of a test."""
        report = yield
        if call.when == "call" and self._trainers.num_fits:
            found = {"test": item.nodeid, "outcome": report.outcome, "fits": self._trainers.num_fits}
            if report.failed and call.excinfo is not None:
                error = call.excinfo.value
                found |= {"error": type(error).__name__, "message": str(error)}
                if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
                    found["outcome"] = "skipped"
            self._write(found)
        return report

    def _write(self, found: dict[str, Any]) -> None:
        with open(self._results, "a", encoding="utf-8") as file:
            print(json.dumps(found), file=file)


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest, first of all."""
    source = Path(os.environ[SOURCE])
    if Path(keras.__file__).is_relative_to(source):
        raise pytest.UsageError(f"keras was imported from {source}, where the installed package is meant")
    config.pluginmanager.register(Plugin(os.environ[STRATEGY], Path(os.environ[RESULTS])))
