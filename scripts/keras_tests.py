"""Runs Keras' own tests with `keras.Model.fit` handed to a Trainer.

`python scripts/keras_tests.py KERAS`, where KERAS is an unpacked source tree of the installed version (nothing is imported from
it but the tests), runs every file of tests that trains. Those tests count that go through `fit`: its arguments are handed on
to one `trainlab.Trainer` a model, kept as long as the model is compiled as it was. `keras_testing/may_fail.txt` lists the
tests that may fail, each with its reason; the status is 1 if another fails, or if one of these passes. About a quarter of an
hour on two CPU cores.

`python scripts/keras_tests.py KERAS --strategy "Accumulate(2)" keras/src/callbacks` runs some of them with another step. What
follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from keras_testing import judging

HERE = Path(__file__).parent
_TRAINS = re.compile(r"\.fit\(|run_layer_test\(")
_OTHER_BACKENDS = ("keras/src/backend/jax/", "keras/src/backend/torch/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tests and returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the unpacked source tree of Keras")
    parser.add_argument("tests", nargs="*", help="files, folders or tests in it; all that train by default")
    parser.add_argument("--strategy", default="SGD()", help="the step, as Python in the names of trainlab; SGD() by default")
    parser.add_argument("--results", type=Path, help="a file to keep the outcomes in, a JSON object a line")
    options = parser.parse_intermixed_args(arguments[:cut])
    source = options.source.resolve()
    if said := other_version(source):
        print(said)
    tests = options.tests or files_that_train(source)
    with tempfile.TemporaryDirectory() as directory:
        results = options.results.resolve() if options.results else Path(directory) / "results.jsonl"
        results.write_text("")
        status = run(source, tests, options.strategy, results, Path(directory), arguments[cut + 1 :])
        allowed = judging.may_fail(judging.MAY_FAIL.read_text(encoding="utf-8"), options.strategy)
        judgement = judging.judged(judging.read(results), allowed)
    print("\n".join(judgement.lines()))
    if status not in (0, 1):  # 1: some tests failed, of which those count that went through fit
        print(f"pytest ended with status {status}")
        return status
    return 0 if judgement.is_good else 1


def other_version(source: Path) -> str:
    """A line if the tree is of another version than the installed package; "" if it is of the same."""
    text = (source / "keras" / "src" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "(.*?)"', text)
    version, installed = found[1] if found else "unknown", importlib.metadata.version("keras")
    same = version == installed
    return "" if same else f"{source} is Keras {version}, installed is {installed}: failures may be differences between the two"


def files_that_train(source: Path) -> list[str]:
    """The files of tests that call `fit`, themselves or by the check that Keras makes of its layers."""
    files = [(file, file.relative_to(source).as_posix()) for file in sorted((source / "keras").rglob("*_test.py"))]
    ours = [(file, name) for file, name in files if not name.startswith(_OTHER_BACKENDS)]
    return [name for file, name in ours if _TRAINS.search(file.read_text(encoding="utf-8"))]


def run(source: Path, tests: Sequence[str], strategy: str, results: Path, directory: Path, more: Sequence[str]) -> int:
    """Runs pytest, in a folder from which the source tree is not imported, and returns its status."""
    # Some tests import Keras' conftest by its name.
    (directory / "conftest.py").write_text((source / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\n")
    environment = {
        "KERAS_BACKEND": "tensorflow",
        "KERAS_TESTS_STRATEGY": strategy,
        "KERAS_TESTS_RESULTS": str(results),
        "KERAS_TESTS_SOURCE": str(source),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(directory)]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rN", "--disable-warnings"]
    command += ["-p", "keras_testing.plugin", "-p", "conftest", "-p", "no:cacheprovider", "--noconftest"]
    command += ["--import-mode=importlib", "--continue-on-collection-errors"]
    command += ["--rootdir", str(source), "-c", str(directory / "pytest.ini"), *more]
    command += [str(source / test) for test in tests]
    return subprocess.run(command, cwd=directory, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
