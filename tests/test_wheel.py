"""The wheel, installed away from the clone, trains from Python and from the command line."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from sources import PACKAGE, ROOT

SCRIPT = """
import keras, trainlab as tl
from trainlab.datasets import digits

print(tl.__file__)
x, y = digits().train
model = keras.Sequential([keras.Input([8, 8, 1]), keras.layers.Flatten(), keras.layers.Dense(10)])
model.compile(optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = tl.Trainer(model, tl.Heun()).fit(x, y, epochs=2, verbose=0)
assert history.history["loss"][1] < history.history["loss"][0]
"""
CONFIG = """
import mine
run.data = @digits()
run.model = @mine.model
run.strategy = @mine.Half()
run.loss = @SparseCategoricalCrossentropy()
run.optimizer = @keras.optimizers.SGD()
run.epochs = 1
SparseCategoricalCrossentropy.from_logits = True
keras.optimizers.SGD.learning_rate = 0.1
"""
MINE = """
import trainlab as tl
from trainlab.models import mlp

def model(input_shape, num_classes):
    return mlp(input_shape, num_classes, (8,))

class Half(tl.StepStrategy):
    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient / 2, at=here)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory with nothing in it but what the wheel brings."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "clone").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    shutil.copytree(PACKAGE, folder / "clone" / "trainlab", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", str(folder / "clone"), "-w", str(folder)]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True)
    # The tests' own environment knows the clone, and would give whatever is missing here.
    (folder / "site" / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
    )
    return folder / "site"


def run(site, arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(site), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_holds_every_module_and_the_data_and_no_tests(site):
    [wheel] = site.parent.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    assert (
        modules
        | {
            f"trainlab/{name}"
            for name in ("py.typed", *(f"datasets/{name}.{kind}" for name in ("digits", "abalone") for kind in ("npz", "txt")))
        }
        <= names
    )
    assert not [name for name in names if name.startswith(("tests", "scripts", "configs"))]


@pytest.mark.slow
def test_what_is_missing_would_be_found(site, tmp_path):
    assert "No module named 'trainlab.no_such'" in run(site, ["-c", "import trainlab.no_such"], tmp_path).stderr
    part = shutil.copytree(site, tmp_path / "part", ignore=lambda folder, names: {"runs"} & set(names))
    assert "No module named 'trainlab.runs'" in run(part, ["-c", "from trainlab import Trainer"], tmp_path).stderr


@pytest.mark.slow
def test_it_trains_from_python(site, tmp_path):
    result = run(site, ["-c", SCRIPT], tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))


@pytest.mark.slow
def test_it_trains_from_the_command_line_with_a_config_of_ones_own(site, tmp_path):
    (tmp_path / "mine.gin").write_text(CONFIG)
    (tmp_path / "mine.py").write_text(MINE)
    result = run(site, ["-m", "trainlab.train", "--config", "mine.gin"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "strategy  Half()" in result.stdout and (tmp_path / "runs" / "mine" / "model.keras").exists()


def verb(site, arguments, cwd):
    """The command as a wheel installs it."""
    result = run(site, [str(site / "bin" / "trainlab"), *arguments], cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_command_is_installed(site, tmp_path):
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    assert verb(site, ["--version"], tmp_path) == "trainlab " + version.split('"')[1] + "\n"
    assert "mlp" in verb(site, ["--list", "models"], tmp_path)
    assert verb(site, ["--help", "Heun"], tmp_path).startswith("trainlab.Heun()\n")
    wrong = run(site, [str(site / "bin" / "trainlab"), "trian"], tmp_path)
    assert wrong.returncode == 2 and "did you mean train?" in wrong.stderr


@pytest.mark.slow
def test_every_verb_works_as_installed(site, tmp_path):
    (tmp_path / "mine.gin").write_text(CONFIG)
    (tmp_path / "mine.py").write_text(MINE)
    config = ["--config", "mine.gin"]
    assert "run.epochs = 1 " in verb(site, ["train", "--print-config", *config], tmp_path)
    assert "dry run" in verb(site, ["train", "--dry-run", *config], tmp_path) and not (tmp_path / "runs").exists()
    assert "results   runs/mine" in verb(site, ["train", *config], tmp_path)
    assert "Half(): 1 evaluation" in verb(site, ["show", "runs/mine"], tmp_path)
    assert "rate      " in verb(site, ["find-lr", *config, "--num_updates", "20"], tmp_path)
    if (PACKAGE / "reports").is_dir():
        assert "report    a.md" in verb(site, ["report", "runs/mine", "-o", "a.md"], tmp_path) and (tmp_path / "a.md").exists()
    if importlib.util.find_spec("shtab"):
        assert "_shtab_trainlab" in verb(site, ["--print-completion", "bash"], tmp_path)


@pytest.mark.slow
def test_importing_warns_of_nothing(site, tmp_path):
    result = run(site, ["-W", "error", "-c", "from trainlab import Trainer"], tmp_path)
    assert result.returncode == 0 and "Warning" not in result.stderr


def is_installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(is_installed("keras-nightly"), reason="a nightly Keras is installed in place of keras, which nothing knows")
def test_what_it_needs_is_there_and_fits(site, tmp_path):
    result = run(site, ["-m", "pip", "check"], tmp_path)
    assert result.returncode == 0, result.stdout
