"""Who may know gin, and what importing trainlab costs; that imports run one way is a contract in pyproject.toml."""

import ast
import importlib
import json
import shutil
import subprocess
import sys
import textwrap

import pytest
from sources import PACKAGE, imports, modules

import trainlab


def knows_gin_or_absl(source):
    return bool({name.split(".")[0] for name in imports(source)} & {"gin", "absl"})


def test_only_the_command_line_knows_gin_and_absl():
    knows = {name for name, source in modules().items() if knows_gin_or_absl(source)}
    assert knows and all(name.startswith("cli.") for name in knows)
    for name, source in modules().items():
        if name != "train" and not name.startswith("cli"):
            assert not any(imported.startswith("trainlab.cli") for imported in imports(source)), name


def test_knowing_gin_would_be_found():
    assert knows_gin_or_absl("def f():\n    from gin import config")
    assert not knows_gin_or_absl("import begin")


@pytest.mark.parametrize("arrow", [("parameters", "objective"), ("data", "loop"), ("objective", "strategies"), ("runs", "cli")])
def test_an_import_against_the_arrows_breaks_the_contract(arrow, tmp_path):
    copy = tmp_path / "trainlab"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    shutil.copy(PACKAGE.parent / "pyproject.toml", tmp_path)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    low, high = arrow
    with open(copy / low / "__init__.py", "a") as file:
        file.write(f"\n\ndef against():\n    import trainlab.{high}\n")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and f"trainlab.{low} is not allowed to import trainlab.{high}" in result.stdout


def test_the_public_names():
    names = {
        "Trainer",
        "StepStrategy",
        "State",
        "Step",
        "Evaluation",
        "Vector",
        "SGD",
        "Accumulate",
        "AdaptiveStep",
        "Asam",
        "Extragradient",
        "Comparison",
        "Heun",
        "Lookahead",
        "Noise",
        "OptimisticGradient",
        "RungeKutta",
        "Sam",
        "Tableau",
        "NonFiniteError",
        "Run",
        "WorkerLost",
        "compare",
        "join_workers",
        "report",
    }
    assert set(trainlab.__all__) == names
    assert all(getattr(trainlab, name) for name in names)


def run(program, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=PACKAGE.parent)


def test_importing_is_quiet_and_has_no_side_effects():
    # What TensorFlow itself writes when it is imported is not ours: both halves are compared.
    program = """
        import json, sys
        print("begin"); print("begin", file=sys.stderr)
        import tensorflow as tf, keras
        before = set(sys.modules)
        print("middle"); print("middle", file=sys.stderr, flush=True)
        import trainlab
        trainlab.Trainer  # names are imported when they are used
        print("end"); print("end", file=sys.stderr, flush=True)
        from tensorflow.python.eager import context
        from absl import flags
        print(json.dumps({
            "gin": "gin" in sys.modules,
            "cli": "trainlab.cli" in sys.modules,
            "initialised": context.context()._initialized,
            "parsed": flags.FLAGS.is_parsed(),
            "touched": bool(tf.zeros([]) == 0) and context.context()._initialized,  # the control
            "new": sorted(name for name in set(sys.modules) - before if not name.startswith("trainlab")),
        }))
    """
    result = run(program, "--no_such_flag")
    assert result.stderr.split("middle\n")[1].split("end\n")[0] == ""
    _, _, rest = result.stdout.partition("middle\n")
    end, line = rest.splitlines()
    assert end == "end"
    found = json.loads(line)
    assert found.pop("new") == []
    assert found == {"gin": False, "cli": False, "initialised": False, "parsed": False, "touched": True}


def test_importing_the_package_imports_nothing_until_a_name_is_used():
    program = """
        import sys, trainlab as tl
        heavy = lambda: sorted({"tensorflow", "keras", "numpy"} & set(sys.modules))
        assert heavy() == [], heavy()
        assert {"Trainer", "Heun", "datasets", "__version__"} <= set(dir(tl)) and heavy() == []
        try:
            tl.Hun
        except AttributeError as error:
            assert str(error) == "module 'trainlab' has no attribute 'Hun'" and heavy() == []
        try:
            from trainlab import Hun
        except ImportError as error:
            assert "cannot import name 'Hun'" in str(error) and heavy() == []
        tl.Heun()
        assert heavy() == ["keras", "numpy", "tensorflow"]  # the control
        from trainlab import *
        assert Trainer is tl.Trainer and Heun is tl.strategies.Heun
    """
    run(program)


def test_every_name_is_that_of_its_package():
    for module, names in trainlab._HOMES.items():
        home = importlib.import_module(f"trainlab.{module}")
        assert getattr(trainlab, module) is home
        for name in names:
            assert getattr(trainlab, name) is getattr(home, name)
    assert {name for names in trainlab._HOMES.values() for name in names} == set(trainlab.__all__)
    assert set(trainlab.__all__) | {"datasets", "models", "callbacks"} <= set(dir(trainlab))


def test_type_checkers_see_the_same_names():
    """What is imported for them alone is what is imported at the first use."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module.removeprefix("trainlab."): tuple(alias.name for alias in node.names) for node in block.body}
    assert seen == {module: names for module, names in trainlab._HOMES.items() if names}
