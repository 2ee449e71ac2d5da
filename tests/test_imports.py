"""Who may import whom, and what importing trainlab costs."""

import ast
import json
import pathlib
import pkgutil
import statistics
import subprocess
import sys
import textwrap

import pytest

import trainlab

PACKAGE = pathlib.Path(trainlab.__file__).parent

# Each module may import what stands on earlier lines, and nothing else of the package.
FLOORS = [
    ["same_tensor", "order", "arrays", "pulling", "iterators", "resident", "models", "datasets", "callbacks", "requirements"],
    ["rows"],
    ["table"],
    ["vector", "lookups"],
    ["encoding", "checkpoint", "lock", "signals"],
    ["run_directory", "callback_state"],
    ["graph_checks", "denominators", "inlining", "backward_order"],
    ["checks"],
    ["model_function"],
    ["objective"],
    ["strategies.base"],
    ["strategies.sgd"],
    ["strategies.accumulate", "strategies.heun"],
    ["strategies"],
    ["cutting"],
    ["update", "blocks", "manifest", "recipe", "plan"],
    ["stream_blocks", "jit", "nonfinite", "micro_batches"],
    ["stream"],
    ["data"],
    ["inputs", "loop"],
    ["epochs"],
    ["run"],
    ["trainer"],
    ["settings"],
    ["config"],
    ["train"],
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
CONFIG_SIDE = {"config", "train"}  # the only ones that may know gin and absl


def modules():
    names = [module.name.removeprefix("trainlab.") for module in pkgutil.walk_packages([str(PACKAGE)], "trainlab.")]
    return {name: source_of(name) for name in names}


def source_of(name):
    path = PACKAGE.joinpath(*name.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def imports(source):
    """Every module that a source imports, at the top or inside a function; `from a import b` may mean `a` or `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(source):
    """The modules of this package that a source imports."""
    names = {name.removeprefix("trainlab.") for name in imports(source) if name.startswith("trainlab.")}
    # `from trainlab.strategies import SGD` names the module, not an attribute of it.
    return {name for name in names if name in FLOOR}


def upward(name, source):
    return {other for other in own(source) if FLOOR[other] >= FLOOR[name]}


def test_every_module_has_its_place():
    assert set(modules()) == set(FLOOR)


def test_imports_run_one_way():
    assert {name: upward(name, source) for name, source in modules().items() if upward(name, source)} == {}


def test_the_reading_of_imports_can_fail():
    assert upward("vector", "from trainlab import objective") == {"objective"}
    assert upward("vector", "from trainlab.objective import Evaluation") == {"objective"}
    assert upward("strategies.heun", "def f():\n    import trainlab.trainer") == {"trainer"}
    assert upward("update", "from trainlab.vector import Vector") == set()
    assert own(source_of("trainer")) >= {"loop", "epochs", "strategies"}
    assert imports(source_of("config")) >= {"gin"}


def test_only_the_command_line_knows_gin_and_absl():
    knows = {name for name, source in modules().items() if {i.split(".")[0] for i in imports(source)} & {"gin", "absl"}}
    assert knows == CONFIG_SIDE
    for name, source in modules().items():
        if name not in CONFIG_SIDE:
            assert not own(source) & CONFIG_SIDE, name


def test_the_public_names():
    names = {"Trainer", "StepStrategy", "State", "Step", "Evaluation", "Vector", "SGD", "Accumulate", "Heun", "NonFiniteError"}
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
        print("end"); print("end", file=sys.stderr, flush=True)
        from tensorflow.python.eager import context
        from absl import flags
        print(json.dumps({
            "gin": "gin" in sys.modules,
            "config": "trainlab.config" in sys.modules,
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
    assert found == {"gin": False, "config": False, "initialised": False, "parsed": False, "touched": True}


@pytest.mark.slow
def test_importing_costs_no_more_than_importing_tensorflow():
    program = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    seconds = {"tensorflow": [], "tensorflow, keras, trainlab": []}
    for _ in range(3):
        for names, found in seconds.items():
            found.append(float(run(program.format(names)).stdout))
    base, ours = (statistics.median(found) for found in seconds.values())
    assert ours <= 1.25 * base, seconds
