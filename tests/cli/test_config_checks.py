import gin
import pytest
from config_files import HEUN

from trainlab.cli.configs.checks import check_parameter
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.reading import load

pytestmark = pytest.mark.usefixtures("clean")

RATE = "keras.optimizers.SGD.learning_rate"


def test_a_parameter_that_is_not_there_is_shown_those_that_are():
    check_parameter("trainlab.Accumulate", "num_batches", "c.gin:1")
    with pytest.raises(ConfigError, match=r"^c.gin:1: Accumulate has no parameter 'num_batch'; did you mean num_batches\?$"):
        check_parameter("trainlab.Accumulate", "num_batch", "c.gin:1")
    with pytest.raises(ConfigError, match="^c.gin:1: Heun has no parameter 'x'; it has none$"):
        check_parameter("trainlab.Heun", "x", "c.gin:1")
    with pytest.raises(ConfigError, match="has no parameter 'lr'"):  # although it takes **kwargs
        check_parameter("keras.optimizers.SGD", "lr", "c.gin:1")


@pytest.mark.parametrize(
    "bindings, message",
    [
        ([f"{RATE} = %rate"], f"--set '{RATE} = %rate': nothing defines the macro %rate; add rate = VALUE"),
        (["rates = 1", f"{RATE} = %rate"], f"--set '{RATE} = %rate': nothing defines the macro %rate; did you mean %rates?"),
        (["a = %b", "b = %a"], "--set 'a = %b': the macro %b is defined by itself"),
        ([f"{RATE} = 'a'"], f"--set '{RATE} = 'a'': must be a number, like its default 0.01"),
        ([f"{RATE} = True"], f"--set '{RATE} = True': must be a number, like its default 0.01"),
        (
            ["rate = 'a'", f"{RATE} = %rate"],
            f"--set '{RATE} = %rate': the macro stands for 'a', but {RATE} must be a number, like its default 0.01",
        ),
    ],
)
def test_a_wrong_macro_or_literal_is_one_line(bindings, message):
    with pytest.raises(ConfigError) as caught:
        load([HEUN], bindings)
    assert str(caught.value) == message


def test_a_whole_number_becomes_a_float_where_the_default_is_one():
    load([HEUN], [f"{RATE} = 1", "keras.optimizers.SGD.weight_decay = 1"])
    assert type(gin.query_parameter(RATE)) is float
    assert type(gin.query_parameter("keras.optimizers.SGD.weight_decay")) is int  # the control: its default is None
