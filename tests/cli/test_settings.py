import keras
import numpy as np
import pytest
from commands import CONFIGS

from trainlab import Heun, datasets, models
from trainlab.cli.configs.settings import Settings


def settings(**changed):
    x, y = np.zeros((4, 2), "float32"), np.zeros(4, "int32")
    valid = {
        "data": datasets.Data("zeros", (x, y), (x, y), 2),
        "model": models.mlp,
        "loss": "mse",
        "optimizer": keras.optimizers.SGD(0.1),
    }
    return Settings(**{**valid, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"epochs": 0},
        {"steps": 0},
        {"epochs": np.int64(3)},
        {"optimizer": keras.optimizers.SGD(0.0)},
        {"optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.0, 5))},
        {"metrics": ()},
        {"sum_duplicate_rows": False},
        {"distribute": "mirrored"},
        {"distribute": "workers"},
    ],
)
def test_what_is_allowed(changed):
    settings(**changed)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"data": 3}, r"run.data = 3: must be a data set, as in run.data = @digits\(\)"),
        ({"data": datasets.digits}, r"run.data = @digits: .*the parentheses are missing"),
        ({"strategy": Heun}, r"run.strategy = @Heun: .*the parentheses are missing"),
        ({"optimizer": "sgd"}, "run.optimizer = 'sgd': must be a Keras optimizer"),
        ({"model": "mlp"}, "run.model = 'mlp': must be a function"),
        ({"model": models.mlp((2,), 2)}, "run.model = .*: must be a function"),
        ({"epochs": -1}, "run.epochs = -1: must be a whole number of at least 0"),
        ({"epochs": True}, "run.epochs = True"),
        ({"epochs": 1.5}, "run.epochs = 1.5"),
        ({"epochs": "3"}, "run.epochs = '3'"),
        ({"steps": -1}, "run.steps = -1"),
        ({"batch_size": 0}, "run.batch_size = 0: must be a whole number of at least 1"),
        ({"seed": -1}, "run.seed = -1"),
        ({"seed": 2**32}, "run.seed = 4294967296: .* at most 4294967295"),
        ({"jit_compile": "yes"}, "run.jit_compile = 'yes': must be True, False or None"),
        ({"sum_duplicate_rows": 0}, "run.sum_duplicate_rows = 0: must be True, False or None"),
        ({"distribute": "all"}, "run.distribute = 'all': must be 'mirrored', 'workers' or None"),
        ({"distribute": 2}, "run.distribute = 2: must be 'mirrored', 'workers' or None"),
        ({"metrics": "accuracy"}, r"run.metrics = 'accuracy': must be a list"),
        ({"optimizer": keras.optimizers.SGD(-0.1)}, "SGD.learning_rate = -0.1: must be a finite number of at least 0"),
        ({"optimizer": keras.optimizers.Adam(float("inf"))}, "Adam.learning_rate = inf"),
        ({"optimizer": keras.optimizers.Adam(float("nan"))}, "Adam.learning_rate = nan"),
    ],
)
def test_what_is_not(changed, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        settings(**changed)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_choice_about_rows_reaches_the_trainer(command):
    first = ["--config", CONFIGS / "sgd.gin", "--set", "run.steps = 2"]
    assert command(*first, "--set", "run.sum_duplicate_rows = False")[0] == 0
    status, _, err = command(*first, "--set", "run.steps = 3")
    assert status != 0 and "sum_duplicate_rows: saved False, now True" in err


@pytest.mark.slow
def test_several_devices(command, tmp_path):
    first = ["--config", CONFIGS / "sgd.gin", "--run_dir", tmp_path / "run"]
    status, out, err = command(*first, "--set", "run.steps = 2", "--set", "run.distribute = 'mirrored'")
    assert (status, err) == (0, "") and "device    4 replicas: CPU:0, CPU:1, CPU:2, CPU:3" in out
    assert "run.distribute = 'mirrored'" in (tmp_path / "run" / "config.gin").read_text()
    status, out, err = command(*first, "--set", "run.steps = 4")
    assert status == 0 and "replicas: saved 4, now 1" in err and "device    CPU" in out
