import keras
import pytest
from config_files import HEUN, write

from trainlab.cli.configs.reading import load

pytestmark = pytest.mark.usefixtures("clean")


def test_later_wins_over_files_and_set(tmp_path):
    first = write(tmp_path / "first.gin", f"include '{HEUN}'\nrun.epochs = 1\nrun.seed = 1\nrun.batch_size = 8")
    second = write(tmp_path / "second.gin", "run.epochs = 2\nrun.seed = 2")
    settings = load([first, second], ["run.epochs = 3", "run.epochs = 4"]).build()
    assert (settings.batch_size, settings.seed, settings.epochs) == (8, 2, 4)


def test_a_load_starts_from_nothing(tmp_path):
    load([HEUN], ["run.epochs = 7"])
    assert load([HEUN]).build().epochs != 7


def test_include_is_relative_to_the_file_that_includes(tmp_path):
    write(tmp_path / "deep" / "a" / "top.gin", "include '../b/middle.gin'\nrun.epochs = 5")
    write(tmp_path / "deep" / "b" / "middle.gin", "include 'bottom.gin'")
    write(tmp_path / "deep" / "b" / "bottom.gin", f"include '{HEUN}'\nrun.seed = 9")
    write(tmp_path / "bottom.gin", "run.seed = 1")  # the control: beside the current directory, not beside the file
    settings = load(["deep/a/top.gin"]).build()
    assert (settings.seed, settings.epochs) == (9, 5)


def test_macros_scopes_blocks_schedules_and_whole_numbers_for_rates(tmp_path):
    file = write(
        tmp_path / "c.gin",
        f"include '{HEUN}'\nrate = 0.5\nrun.optimizer = @Adam()\nAdam:\n  learning_rate = @CosineDecay()\n"
        "CosineDecay.initial_learning_rate = %rate\nCosineDecay.decay_steps = 10\nCosineDecay.alpha = 1\n"
        "run.model = @wide/mlp\nwide/mlp.hidden_sizes = (7,)\n",
    )
    config = load([file])
    settings = config.build()
    assert settings.model((2,), 3).count_params() == 2 * 7 + 7 + 7 * 3 + 3
    assert isinstance(settings.optimizer, keras.optimizers.Adam)
    assert settings.optimizer.get_config()["learning_rate"]["config"]["initial_learning_rate"] == 0.5
    # A scope inherits what is bound outside it; what was bound for SGD has no use any more.
    assert [binding.name for binding in config.unused()] == ["keras.optimizers.SGD.learning_rate"]
