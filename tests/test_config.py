import ast
import sys
from pathlib import Path

import gin
import keras
import pytest

import trainlab
from trainlab import config as configs

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
HEUN = CONFIGS / "heun.gin"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """A directory of its own, and nothing left in gin or on the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    gin.clear_config()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "name, strategy, batch_size",
    [
        ("sgd", "SGD()", 64),
        ("accumulate", "Accumulate(num_batches=4, inner=SGD())", 16),
        ("heun", "Heun()", 64),
        ("accumulate_heun", "Accumulate(num_batches=4, inner=Heun())", 16),
        ("own_module", "Sam(rho=0.05)", 32),
    ],
)
def test_the_examples_build_and_bind_nothing_in_vain(name, strategy, batch_size):
    config = configs.load([CONFIGS / f"{name}.gin"])
    settings = config.build()
    model = settings.model(settings.data.input_shape, settings.data.num_classes)
    assert repr(settings.strategy) == strategy
    assert settings.batch_size == batch_size
    assert model.output_shape == (None, settings.data.num_classes)
    assert config.unused() == []


def test_later_wins_over_files_and_set(tmp_path):
    first = write(tmp_path / "first.gin", f"include '{HEUN}'\nrun.epochs = 1\nrun.seed = 1\nrun.batch_size = 8")
    second = write(tmp_path / "second.gin", "run.epochs = 2\nrun.seed = 2")
    settings = configs.load([first, second], ["run.epochs = 3", "run.epochs = 4"]).build()
    assert (settings.batch_size, settings.seed, settings.epochs) == (8, 2, 4)


def test_a_load_starts_from_nothing(tmp_path):
    configs.load([HEUN], ["run.epochs = 7"])
    assert configs.load([HEUN]).build().epochs != 7


def test_include_is_relative_to_the_file_that_includes(tmp_path):
    write(tmp_path / "deep" / "a" / "top.gin", "include '../b/middle.gin'\nrun.epochs = 5")
    write(tmp_path / "deep" / "b" / "middle.gin", "include 'bottom.gin'")
    write(tmp_path / "deep" / "b" / "bottom.gin", f"include '{HEUN}'\nrun.seed = 9")
    write(tmp_path / "bottom.gin", "run.seed = 1")  # the control: beside the current directory, not beside the file
    settings = configs.load(["deep/a/top.gin"]).build()
    assert (settings.seed, settings.epochs) == (9, 5)


def test_macros_scopes_blocks_schedules_and_whole_numbers_for_rates(tmp_path):
    file = write(
        tmp_path / "c.gin",
        f"include '{HEUN}'\nrate = 0.5\nrun.optimizer = @Adam()\nAdam:\n  learning_rate = @CosineDecay()\n"
        "CosineDecay.initial_learning_rate = %rate\nCosineDecay.decay_steps = 10\nCosineDecay.alpha = 1\n"
        "run.model = @wide/mlp\nwide/mlp.hidden_sizes = (7,)\n",
    )
    config = configs.load([file])
    settings = config.build()
    assert settings.model((2,), 3).count_params() == 2 * 7 + 7 + 7 * 3 + 3
    assert isinstance(settings.optimizer, keras.optimizers.Adam)
    assert settings.optimizer.get_config()["learning_rate"]["config"]["initial_learning_rate"] == 0.5
    # A scope inherits what is bound outside it; what was bound for SGD has no use any more.
    assert [binding.name for binding in config.unused()] == ["keras.optimizers.SGD.learning_rate"]


def test_the_text_of_a_run_loads_to_the_same_run(tmp_path):
    write(tmp_path / "text_module.py", "import trainlab as tl\nclass Plain(tl.SGD):\n  def __init__(self, a=1):\n    self.a = a")
    file = write(
        tmp_path / "c.gin",
        f"include '{HEUN}'\nimport text_module\nn = 3\nrun.epochs = %n\n"
        "run.strategy = @Accumulate()\nAccumulate.num_batches = 2\nAccumulate.inner = @text_module.Plain()\n"
        "text_module.Plain.a = 5\nkeras.optimizers.SGD.name = 'sgd'",
    )
    config = configs.load([file])
    settings = config.build()
    settings.model((2,), 3)
    text = config.text()
    again = configs.load([write(tmp_path / "again.gin", text)])
    settings_again = again.build()
    settings_again.model((2,), 3)
    assert repr(settings_again.strategy) == "Accumulate(num_batches=2, inner=Plain(a=5))" == repr(settings.strategy)
    assert settings_again.optimizer.get_config() == settings.optimizer.get_config()
    assert settings_again.loss.get_config() == settings.loss.get_config()
    assert settings_again.epochs == 3
    assert again.unused() == [] and again.text() == text


@pytest.mark.parametrize(
    "how, name",
    [
        ("import pkg_{}.inner", "pkg_{}.inner.Own"),
        ("from pkg_{} import inner", "inner.Own"),
        ("import pkg_{}.inner as mine", "mine.Own"),
        ("from __gin__ import dynamic_registration\nimport pkg_{}.inner", "pkg_{}.inner.Own"),
        ("import pkg_{}", "pkg_{}.inner.Own"),
    ],
)
def test_an_own_module_needs_no_decorators(tmp_path, how, name, request):
    tag = f"t{request.node.callspec.indices['how']}"
    own = "import trainlab as tl\nclass Own(tl.Heun):\n  def __init__(self, a=1):\n    self.a = a\n"
    write(tmp_path / "there" / f"pkg_{tag}" / "inner.py", own)
    write(tmp_path / "there" / f"pkg_{tag}" / "__init__.py", f"from pkg_{tag} import inner\n")
    how, name = how.format(tag), name.format(tag)
    file = write(tmp_path / "there" / "c.gin", f"{how}\ninclude '{HEUN}'\nrun.strategy = @{name}()\n{name}.a = 4\n")
    strategy = configs.load([file]).build().strategy
    assert repr(strategy) == "Own(a=4)" and isinstance(strategy, trainlab.Heun)


def test_a_module_in_the_current_directory_and_one_with_gin_decorators(tmp_path):
    write(
        tmp_path / "decorated.py",
        "import gin, trainlab\n@gin.register\ndef own_model(input_shape, num_classes, width=3):\n"
        "  return trainlab.models.mlp(input_shape, num_classes, (width,))\nimport trainlab.models\n",
    )
    file = write(
        tmp_path / "elsewhere" / "c.gin", f"include '{HEUN}'\nimport decorated\nrun.model = @own_model\nown_model.width = 5"
    )
    assert configs.load([file]).build().model((2,), 4).count_params() == 2 * 5 + 5 + 5 * 4 + 4


def test_seed_is_known_before_anything_is_built():
    assert configs.load([HEUN]).seed == 0
    assert configs.load([HEUN], ["run.seed = 3"]).seed == 3
    assert configs.load([HEUN], ["n = 4", "run.seed = %n"]).seed == 4


def test_an_overridden_binding_is_not_unused():
    config = configs.load([HEUN], ["run.epochs = 2", "run.epochs = 3"])
    settings = config.build()
    settings.model((2,), 3)
    assert config.unused() == []


def test_one_line():
    assert configs.one_line(KeyError("a b")) == "a b"
    assert configs.one_line(ValueError("")) == "ValueError"
    assert configs.one_line(ValueError("\n a\n  b \n\n details")) == "a b"


def test_only_config_and_train_know_gin_and_absl():
    package = Path(trainlab.__file__).parent
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & {"gin", "absl"}:
                assert file.name in ("config.py", "train.py")
            if file.name != "train.py":
                assert "trainlab.config" not in names
