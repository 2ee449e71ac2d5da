import pytest
from commands import CONFIGS
from config_files import HEUN, write

from trainlab.cli.configs.reading import load

pytestmark = pytest.mark.usefixtures("clean")


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
    config = load([CONFIGS / f"{name}.gin"])
    settings = config.build()
    model = settings.model(settings.data.input_shape, settings.data.num_classes)
    assert repr(settings.strategy) == strategy
    assert settings.batch_size == batch_size
    assert model.output_shape == (None, settings.data.num_classes)
    assert config.unused() == []


def test_the_text_of_a_run_loads_to_the_same_run(tmp_path):
    write(tmp_path / "text_module.py", "import trainlab as tl\nclass Plain(tl.SGD):\n  def __init__(self, a=1):\n    self.a = a")
    file = write(
        tmp_path / "c.gin",
        f"include '{HEUN}'\nimport text_module\nn = 3\nrun.epochs = %n\n"
        "run.strategy = @Accumulate()\nAccumulate.num_batches = 2\nAccumulate.inner = @text_module.Plain()\n"
        "text_module.Plain.a = 5\nkeras.optimizers.SGD.name = 'sgd'",
    )
    config = load([file])
    settings = config.build()
    settings.model((2,), 3)
    text = config.text()
    again = load([write(tmp_path / "again.gin", text)])
    settings_again = again.build()
    settings_again.model((2,), 3)
    assert repr(settings_again.strategy) == "Accumulate(num_batches=2, inner=Plain(a=5))" == repr(settings.strategy)
    assert settings_again.optimizer.get_config() == settings.optimizer.get_config()
    assert settings_again.loss.get_config() == settings.loss.get_config()
    assert settings_again.epochs == 3
    assert again.unused() == [] and again.text() == text


def test_seed_is_known_before_anything_is_built():
    assert load([HEUN]).seed == 0
    assert load([HEUN], ["run.seed = 3"]).seed == 3
    assert load([HEUN], ["n = 4", "run.seed = %n"]).seed == 4


def test_an_overridden_binding_is_not_unused():
    config = load([HEUN], ["run.epochs = 2", "run.epochs = 3"])
    settings = config.build()
    settings.model((2,), 3)
    assert config.unused() == []
