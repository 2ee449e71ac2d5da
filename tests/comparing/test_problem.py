"""What is compared: data of any kind, told apart and known again, and settings."""

import json

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from comparisons import TRAIN, VALIDATION, model, problem

from trainlab.comparing import Executor, plan_of, problem_of
from trainlab.comparing.problem import _digest_of_data
from trainlab.comparing.racing import Racer
from trainlab.comparing.schedules import optimizer_like
from trainlab.strategies import SGD


def test_data_of_any_kind_are_told_apart_and_known_again():
    """Whatever `fit` takes: what is equal has one description, and in another process too, what is not another."""
    words = lambda end: np.array(["a", "b", "c" + end] * 4, object)  # noqa: E731
    kinds = {
        "words": (words("c"), words("c"), words("d")),
        "pandas": tuple(pandas.DataFrame({"a": [1.5, 2.5], "b": [True, last]}) for last in (False, False, True)),
        "sparse": tuple(tf.sparse.from_dense([[0.0, 1.0], [last, 0.0]]) for last in (2.0, 2.0, 3.0)),
        "ragged": tuple(tf.ragged.constant([[1.0, 2.0], [last]]) for last in (2.0, 2.0, 3.0)),
        "a dictionary": tuple({"a": np.ones([2, 1]), "b": np.array([["x"], [last]], object)} for last in ("y", "y", "z")),
    }
    for kind, made in kinds.items():
        of = [problem_of(model, (x, np.zeros(2), None), VALIDATION, loss="mse") for x in made]
        first, same, other = (_digest_of_data(each.train) for each in of)
        assert first == same != other, kind
        assert of[0].batches_per_pass == 1


def test_settings_are_written_without_addresses():
    def described(**settings):
        return problem(settings=settings).described()

    one, other = (described(distribute=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])) for _ in (0, 1))
    assert one == other and " at 0x" not in str(one)
    assert described(jit_compile=True) != described(jit_compile=False)


class Far(keras.losses.Loss):
    """Has no `get_config` of its own."""

    def __init__(self, factor=2.0, **given):
        super().__init__(**given)
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


class FarMetric(keras.metrics.Mean):
    """Neither has it."""

    def __init__(self, factor=2.0, **given):
        super().__init__(**given)
        self._factor = factor

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(self._factor * keras.ops.square(y_true - y_pred), sample_weight)


class Halved(keras.optimizers.SGD):
    """Neither has it."""

    def __init__(self, learning_rate=0.1, factor=0.5, **given):
        super().__init__(learning_rate, **given)
        self.factor = factor


def without_bias(*names):
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.exclude_from_weight_decay(var_names=list(names))
    return optimizer


def test_what_get_config_does_not_tell_is_trained_with_all_the_same():
    x, y = np.ones([4, 2], "float32"), np.zeros([4, 1], "float32")

    def ones():
        return keras.Sequential([keras.Input([2]), keras.layers.Dense(1, kernel_initializer="ones")])

    judged = {"metric": "far_metric", "metrics": [FarMetric(3.0, name="far_metric")]}
    of = problem_of(ones, (x, y, None), (x, y), loss=Far(5.0), optimizer=without_bias("bias"), **judged)
    all_runs = plan_of(of, [SGD()], 0.1, 1, 1)
    racer = Racer(of, all_runs, SGD())
    trainer = racer._begin(all_runs.trials(all_runs.entries[0])[0], None)
    found = trainer.evaluate(x, y, verbose=0, return_dict=True)
    assert found == {"loss": 5 * 2.0**2, "far_metric": 3 * 2.0**2}  # with the defaults both are 2 * 2 ** 2
    decay = {variable.name: trainer.model.optimizer._use_weight_decay(variable) for variable in trainer.model.variables}
    assert decay == {"kernel": True, "bias": False}
    scaled = optimizer_like(keras.optimizers.LossScaleOptimizer(without_bias("bias"))).inner_optimizer
    assert [scaled._use_weight_decay(variable) for variable in trainer.model.variables] == [True, False]


@pytest.mark.parametrize(
    "given, other",
    [
        ({"loss": Far(5.0)}, {"loss": Far(2.0)}),
        ({"loss": keras.losses.Huber(3.0)}, {"loss": keras.losses.Huber()}),
        ({"metrics": [FarMetric(5.0)]}, {"metrics": [FarMetric()]}),
        ({"optimizer": without_bias("bias")}, {"optimizer": without_bias("kernel")}),
    ],
    ids=["loss", "loss of Keras", "metric", "optimizer"],
)
def test_what_get_config_does_not_tell_is_told_apart(given, other):
    first, again, second = (json.loads(json.dumps(problem(**each).described())) for each in (given, given, other))
    assert first == again
    [name] = given
    assert first[name] != second[name]


def test_names_that_keras_counts_up_make_no_other_comparison():
    one, other = (problem(loss=Far(), metrics=[keras.metrics.AUC()]) for _ in range(2))
    assert one.loss.name != other.loss.name and one.metrics[0].name != other.metrics[0].name
    assert one.described() == other.described()


def test_an_optimizer_that_its_configuration_makes_another_is_refused():
    problem(optimizer=Halved(factor=0.5))
    with pytest.raises(ValueError, match=r"^optimizer: Halved made again from its get_config\(\) is another one in factor: let "):
        problem(optimizer=Halved(factor=0.25))
    built = keras.optimizers.AdamW()
    built.exclude_from_weight_decay(var_list=[keras.Variable([1.0])])
    with pytest.raises(ValueError, match=r"^optimizer: exclude_from_weight_decay\(var_list=...\) names variables of one model"):
        problem(optimizer=built)


class Batches(keras.utils.PyDataset):
    """One batch."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return TRAIN


@pytest.mark.parametrize("x", [Batches(), iter([TRAIN])], ids=["PyDataset", "generator"])
def test_what_not_every_run_can_read_from_its_beginning_is_refused(x):
    with pytest.raises(TypeError, match=f"^x must be arrays or a tf.data.Dataset of known length.* not {type(x).__name__}$"):
        problem_of(model, (x, None, None), VALIDATION, loss="mse")


@pytest.mark.parametrize("name", ["x", "validation_data", "test_data"])
@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data: data.shuffle(96), "not every run would read the same: it shuffles without a seed: give shuffle one, or "),
        (lambda data: data.map(varied), "it holds a variable, as a random layer does, so that a run would go on where the last "),
        (lambda data: data.shuffle(96, seed=1), ""),
    ],
    ids=["shuffle without a seed", "variable", "shuffle with a seed"],
)
def test_a_data_set_that_not_every_run_would_read_alike_is_refused(name, change, said):
    tf.random.set_seed(None)  # as in a process that has set none
    whole = tf.data.Dataset.from_tensor_slices(TRAIN)
    parts = {part: (change(whole) if part == name else whole).batch(16) for part in ("x", "validation_data", "test_data")}
    given = (model, (parts["x"], None, None), parts["validation_data"], parts["test_data"])
    if not said:
        assert problem_of(*given, loss="mse").batches_per_pass == 6
        return
    with pytest.raises(ValueError, match=f"^{name}: {said}") as error:
        problem_of(*given, loss="mse")
    assert "\n" not in str(error.value)


COUNTED = tf.Variable(0.0)


def varied(x, y):
    return x + COUNTED.assign_add(1.0), y


@pytest.mark.parametrize(
    "x",
    [
        tf.sparse.from_dense([[0.0, 1.0], [2.0, 0.0], [3.0, 1.0]]),
        pandas.DataFrame({"a": [1.5, 2.5, 3.5], "b": [True, False, True]}),
        np.ones([3, 2]),
    ],
    ids=["sparse", "pandas", "float64"],
)
def test_a_model_that_is_not_built_is_built_of_them(x):
    def unbuilt():
        return keras.Sequential([keras.layers.Dense(1)])

    of = problem_of(unbuilt, (x, np.zeros(3), None), VALIDATION, loss="mse")
    assert [value.shape for value in of.initial(0)] == [(2, 1), (1,)]


def two_heads():
    x = keras.Input([6])
    return keras.Model(x, {"a": keras.layers.Dense(1, name="a")(x), "b": keras.layers.Dense(1, name="b")(x)})


@pytest.mark.parametrize(
    "metrics, judged",
    [
        ({"a": "mae", "b": [keras.metrics.MeanSquaredError("far")]}, "b_far"),
        ({"b": ["mae"]}, "b_mae"),
        (None, "b_loss"),
    ],
    ids=["by outputs", "of one output", "none"],
)
@pytest.mark.slow
def test_metrics_are_those_of_compile(metrics, judged, tmp_path):
    x, ys = TRAIN[0], {"a": TRAIN[0][:, :1], "b": TRAIN[0][:, 1:2]}
    given = {"loss": {"a": "mse", "b": keras.losses.MeanAbsoluteError()}, "metrics": metrics, "metric": judged}
    of = problem_of(two_heads, (x, ys, None), (x, ys), optimizer="sgd", **given)
    all_runs = plan_of(of, [SGD()], np.float32(0.1), np.int64(2), 1)
    assert (all_runs.rates, all_runs.seeds) == ([pytest.approx(0.1)], [0, 1])
    executor = Executor(of, all_runs, tmp_path / "a")
    executor.prepare()  # which looks whether there is such a metric
    again = Executor(problem_of(two_heads, (x, ys, None), (x, ys), optimizer="sgd", **given), all_runs, tmp_path / "a")
    again.prepare()  # the same comparison
    [trial, _] = all_runs.trials(all_runs.entries[0])
    assert Racer(of, all_runs, SGD()).run(trial, tmp_path / "run")["points"][-1]["value"] > 0
    other = problem_of(two_heads, (x, ys, None), (x, ys), optimizer="sgd", **(given | {"metrics": {"a": "mse"}}))
    with pytest.raises(ValueError, match="another comparison: its metrics differ"):
        Executor(other, all_runs, tmp_path / "a").prepare()
