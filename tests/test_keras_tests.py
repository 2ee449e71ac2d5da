"""The script that runs Keras' own tests through a Trainer: what it makes of outcomes; among the longer tests, a run of it."""

import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from keras_testing import judging  # noqa: E402

LIST = """
What may fail, and why.

## any
# refused: so and so
a_test.py::A::test_a
a_test.py::A::test_b

## Heun()
# two evaluations
b_test.py::B::test_c
"""
PASSED = [{"test": "a_test.py::A::test_z", "outcome": "passed", "fits": 1}]


def result(test, outcome, **more):
    return {"test": test, "outcome": outcome, "fits": 1, **more}


def test_what_may_fail_is_read_with_its_reason():
    of_all = {"a_test.py::A::test_a": "refused: so and so", "a_test.py::A::test_b": "refused: so and so"}
    assert judging.may_fail(LIST, "SGD()") == of_all
    assert judging.may_fail(LIST, "Heun()") == {**of_all, "b_test.py::B::test_c": "two evaluations"}


def test_the_list_here_gives_a_reason_for_each():
    text = judging.MAY_FAIL.read_text(encoding="utf-8")
    for strategy in ("SGD()", "Heun()", "Accumulate(2)"):
        listed = judging.may_fail(text, strategy)
        assert listed and all(len(reason) > 10 for reason in listed.values())
        assert all(name.startswith("keras/src/") and "::" in name for name in listed)
    names = [line for line in text.splitlines() if line.startswith("keras/")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("results", "is_good", "said"),
    [
        ([result("a_test.py::A::test_a", "failed", error="ValueError", message="so")], True, "may fail, 1: refused: so and so"),
        (
            [result("x_test.py::X::test_x", "failed", error="KeyError", message="k\nl")],
            False,
            "FAILED x_test.py::X::test_x: KeyError: k l",
        ),
        ([result("a_test.py::A::test_b", "passed")], False, "PASSED, though it stands in may_fail.txt: a_test.py::A::test_b"),
        ([result("b_test.py::B::test_c", "failed", error="E", message="")], False, "FAILED b_test.py::B::test_c: E: "),
        ([result("c_test.py", "uncollected", message="SyntaxError")], False, "NOT READ c_test.py: SyntaxError"),
        ([result("a_test.py::A::test_a", "skipped")], True, "skipped: a_test.py::A::test_a"),
        ([], True, "1 tests went through fit: 1 passed, 0 failed"),
    ],
)
def test_what_is_made_of_outcomes(results, is_good, said):
    judgement = judging.judged([*PASSED, *results], judging.may_fail(LIST, "SGD()"))
    assert judgement.is_good == is_good
    assert said in list(judgement.lines())


def test_nothing_that_passed_is_nothing_good():
    assert not judging.judged([], {}).is_good


TESTS = """
import numpy as np
import jax
from conftest import skip_if_backend
from keras.src import layers, losses, models, testing
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

class MixedIn(TensorFlowTrainer, layers.Dense):
    def __init__(self):
        layers.Dense.__init__(self, 1)
        TensorFlowTrainer.__init__(self)

class ATest(testing.TestCase):
    def fit(self, model, **kwargs):
        model.compile("sgd", "mse")
        return model.fit(np.ones([8, 2]), np.ones([8, 1]), **kwargs)

    def test_good(self):
        model = models.Sequential([layers.Dense(1)])
        self.assertEqual(len(self.fit(model, epochs=2).history["loss"]), 2)
        self.assertEqual(len(self.fit(model).epoch), 1)

    def test_mixed_in(self):
        self.fit(MixedIn())

    def test_without_fit(self):
        assert False

    def test_bad(self):
        self.fit(models.Sequential([layers.Dense(1)]))
        assert False, "for a reason"

    def test_another_package(self):
        self.fit(models.Sequential([layers.Dense(1)]))
        import jax
"""


@pytest.mark.slow
def test_a_run(tmp_path):
    folder = tmp_path / "keras" / "src"
    folder.mkdir(parents=True)
    for name in (tmp_path / "keras" / "__init__.py", folder / "__init__.py"):
        name.write_text("raise ImportError('the installed package is meant')")
    (folder / "version.py").write_text(f'__version__ = "{importlib.metadata.version("keras")}"')
    (tmp_path / "conftest.py").write_text("def skip_if_backend(): pass")
    (folder / "a_test.py").write_text(TESTS)
    (folder / "b_test.py").write_text("raise ImportError('never read: it trains nothing')")
    done = run(tmp_path)
    assert done.returncode == 1, done.stderr
    assert "3 tests went through fit: 2 passed, 1 failed" in done.stdout
    assert "FAILED keras/src/a_test.py::ATest::test_bad: AssertionError: for a reason" in done.stdout
    assert "skipped: keras/src/a_test.py::ATest::test_another_package" in done.stdout
    assert "test_without_fit" not in done.stdout and "Keras" not in done.stdout
    (folder / "version.py").write_text('__version__ = "0.1"')
    good = run(tmp_path, "--strategy", "Accumulate(2, Heun())", "keras/src/a_test.py::ATest::test_good")
    assert good.returncode == 0, good.stdout
    assert "1 tests went through fit: 1 passed, 0 failed" in good.stdout and "is Keras 0.1, installed is" in good.stdout


def run(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "keras_tests.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
