"""Bad input to the Trainer: each mistake is one line that names the value, the rule and the remedy, and nothing moves."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, compiled, dense_model, labelled, regression, weights

from trainlab import SGD, Accumulate, Heun, Trainer

X, Y = regression(20)
XL, YL = labelled(20)


def bad(array, value, example=7):
    array = np.array(array)
    array[example] = value
    return array


def dataset(x=X, y=Y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(x)


def subclassed():
    return compiled(Subclassed(), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def two_outputs():
    keras.utils.set_random_seed(1)
    inputs = keras.Input([3])
    outputs = {"a": keras.layers.Dense(4, name="a")(inputs), "b": keras.layers.Dense(2, name="b")(inputs)}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(keras.Model(inputs, outputs), loss={"a": loss, "b": loss})


LABEL_RULE = "labels must be whole numbers from 0 to 3, the model's output having 4 classes"

# The model, the arguments of fit, and what the line must say.
BAD_FITS = {
    "no x": (compiled, {}, "x is missing: give arrays or a tf.data.Dataset"),
    "empty x": (compiled, {"x": X[:0], "y": Y[:0]}, "x has 0 examples: give at least one"),
    "empty list": (compiled, {"x": [], "y": []}, "x is empty: give at least one array"),
    "lengths": (compiled, {"x": X, "y": Y[:19]}, "x has 20 examples but y has 19: they must be the same number"),
    "lengths of weights": (
        compiled,
        {"x": X, "y": Y, "sample_weight": np.ones(3)},
        "x has 20 examples but sample_weight has 3: they must be the same number",
    ),
    "no y": (compiled, {"x": X}, "{any}y is missing{any}"),
    "feature shape": (
        compiled,
        {"x": X[:, :2], "y": Y},
        "x has examples of shape (2,) but the model's input '{any}' takes (3,): reshape the data",
    ),
    "feature shape of a data set": (
        compiled,
        {"x": dataset(X[:, :2])},
        "model, losses or metrics do not fit batches of x (None, 2) and y (None, 1): {any}",
    ),
    "wrong target shape": (compiled, {"x": X, "y": np.ones([20, 5, 2])}, "{any}5, 2{any}"),
    "unknown loss": (lambda: compiled(loss="mean_sqared_error"), {"x": X, "y": Y}, "{any}mean_sqared_error{any}"),
    "unknown metric": (lambda: compiled(metrics=["acurracy"]), {"x": X, "y": Y}, "{any}acurracy{any}"),
    "NaN in x": (compiled, {"x": bad(X, np.nan), "y": Y}, "x holds NaN in example 7: clean the data{any}"),
    "inf in y": (compiled, {"x": X, "y": bad(Y, np.inf)}, "y holds an infinite number in example 7: clean the data{any}"),
    "NaN in weights": (
        compiled,
        {"x": X, "y": Y, "sample_weight": bad(np.ones(20), np.nan)},
        "sample_weight holds NaN in example 7: clean the data{any}",
    ),
    "label too large": (classifier, {"x": XL, "y": bad(YL, 4)}, f"y holds the label 4 in example 7: {LABEL_RULE}"),
    "label negative": (classifier, {"x": XL, "y": bad(YL, -1)}, f"y holds the label -1 in example 7: {LABEL_RULE}"),
    "label fractional": (
        classifier,
        {"x": XL, "y": bad(YL.astype("float32"), 1.5)},
        f"y holds the label 1.5 in example 7: {LABEL_RULE}",
    ),
    "label, subclassed": (subclassed, {"x": XL, "y": bad(YL, 9)}, f"y holds the label 9 in example 7: {LABEL_RULE}"),
    "label, two outputs": (
        two_outputs,
        {"x": XL, "y": {"a": YL, "b": bad(YL % 2, 2)}},
        "y['b'] holds the label 2 in example 7: labels must be whole numbers from 0 to 1, the model's output having 2 classes",
    ),
    "label in validation": (
        classifier,
        {"x": XL, "y": YL, "validation_data": (XL, bad(YL, 4))},
        f"validation_data: y holds the label 4 in example 7: {LABEL_RULE}",
    ),
    "NaN in validation": (
        compiled,
        {"x": X, "y": Y, "validation_data": (bad(X, np.nan), Y)},
        "validation_data: x holds NaN in example 7: clean the data{any}",
    ),
    "lengths in validation": (
        compiled,
        {"x": X, "y": Y, "validation_data": (X, Y[:3])},
        "validation_data: x has 20 examples but y has 3: they must be the same number",
    ),
    "shape in validation": (
        compiled,
        {"x": X, "y": Y, "validation_data": (X[:, :1], Y)},
        "validation_data: x has examples of shape (1,) but the model's input '{any}' takes (3,): reshape the data",
    ),
    "list in validation": (
        compiled,
        {"x": X, "y": Y, "validation_data": ([1.0, 2.0], Y)},
        "validation_data: x: 1.0 is a single value, not an array of examples; a list of numbers needs np.array",
    ),
    "python list": (
        compiled,
        {"x": X.tolist(), "y": Y},
        "x: {any} is a single value, not an array of examples; a list of numbers needs np.array",
    ),
    "python list as y": (
        compiled,
        {"x": X, "y": [1.0] * 20},
        "y: 1.0 is a single value, not an array of examples; a list of numbers needs np.array",
    ),
    "objects": (
        compiled,
        {"x": np.array([{}] * 20), "y": Y},
        "x: an array of dtype object holds no batch of numbers or strings; convert it with astype",
    ),
    "epochs < 0": (compiled, {"x": X, "y": Y, "epochs": -1}, "epochs must be at least 0, not -1"),
    "epochs no int": (compiled, {"x": X, "y": Y, "epochs": 1.5}, "epochs must be a whole number, not 1.5"),
    "steps < 0": (compiled, {"x": X, "y": Y, "steps": -3}, "steps must be at least 0, not -3"),
    "steps a string": (compiled, {"x": X, "y": Y, "steps": "10"}, "steps must be a whole number, not '10'"),
    "initial_epoch < 0": (compiled, {"x": X, "y": Y, "initial_epoch": -1}, "initial_epoch must be at least 0, not -1"),
    "steps_per_epoch 0": (compiled, {"x": X, "y": Y, "steps_per_epoch": 0}, "steps_per_epoch must be at least 1, not 0"),
    "batch_size 0": (compiled, {"x": X, "y": Y, "batch_size": 0}, "batch_size must be at least 1, not 0"),
    "batch_size no int": (compiled, {"x": X, "y": Y, "batch_size": 2.0}, "batch_size must be a whole number, not 2.0"),
    "epochs and steps": (
        compiled,
        {"x": X, "y": Y, "epochs": 3, "steps": 5},
        "give epochs or steps, not both: epochs=3, steps=5",
    ),
    "y and a data set": (
        compiled,
        {"x": dataset(), "y": Y},
        "y must not be given when x is a {any}Dataset, whose batches hold everything",
    ),
    "weights and a data set": (
        compiled,
        {"x": dataset(), "sample_weight": Y},
        "sample_weight must not be given when x is a {any}Dataset, whose batches hold everything",
    ),
    "verbose": (compiled, {"x": X, "y": Y, "verbose": 3}, 'verbose must be 0, 1, 2 or "auto", not 3'),
    "verbose, a word": (compiled, {"x": X, "y": Y, "verbose": "loud"}, "verbose must be 0, 1, 2 or \"auto\", not 'loud'"),
    "validation_split too large": (
        compiled,
        {"x": X, "y": Y, "validation_split": 1.5},
        "validation_split must be between 0 and 1, not 1.5",
    ),
    "validation_split negative": (
        compiled,
        {"x": X, "y": Y, "validation_split": -0.1},
        "validation_split must be between 0 and 1, not -0.1",
    ),
    "validation_split of nothing": (
        compiled,
        {"x": X[:1], "y": Y[:1], "validation_split": 0.5},
        "validation_split=0.5 of 1 examples leaves nothing on one side",
    ),
    "validation_split of a data set": (
        compiled,
        {"x": dataset(), "validation_split": 0.5},
        "validation_split needs arrays: for a data set give validation_data",
    ),
    "class_weight and sample_weight": (
        classifier,
        {"x": XL, "y": YL, "class_weight": {0: 1.0}, "sample_weight": np.ones(20)},
        "give class_weight or sample_weight, not both",
    ),
    "class_weight of two outputs": (
        two_outputs,
        {"x": XL, "y": {"a": YL, "b": YL % 2}, "class_weight": {0: 1.0}},
        "class_weight needs one y, not 2: for several outputs give sample_weight",
    ),
    "weights of no output": (
        two_outputs,
        {"x": XL, "y": {"a": YL, "b": YL % 2}, "sample_weight": {"c": np.ones(20)}},
        "sample_weight is for 'c', which is none of the outputs: 'a', 'b'",
    ),
    "shuffle as a word": (
        compiled,
        {"x": X, "y": Y, "shuffle": "batch"},
        "shuffle must be True or False, not 'batch': for shuffled batches give a tf.data.Dataset that shuffles them",
    ),
    "validation_freq 0": (
        compiled,
        {"x": X, "y": Y, "validation_data": (X, Y), "validation_freq": 0},
        "validation_freq must be at least 1, not 0",
    ),
    "endless data": (compiled, {"x": dataset().repeat()}, "x never ends: give steps_per_epoch, or steps"),
    "a string": (compiled, {"x": "digits", "y": Y}, "x: 'digits' is a single value, not an array of examples{any}"),
    "a number": (compiled, {"x": 3, "y": Y}, "x: 3 is a single value, not an array of examples{any}"),
}


@pytest.mark.parametrize("name", BAD_FITS)
def test_a_bad_fit(name):
    make, kwargs, message = BAD_FITS[name]
    model = make()
    trainer = Trainer(model, Heun())
    before = weights(model)
    with pytest.raises((ValueError, TypeError)) as error:
        trainer.fit(**{"verbose": 0, **kwargs})
    line = str(error.value)
    assert "\n" not in line
    assert re.fullmatch(re.escape(message).replace(re.escape("{any}"), "[^\x1b]*"), line), line
    if before:
        assert_same(weights(model), before)
    assert trainer.iterations == 0


@pytest.mark.parametrize(
    "name", ["NaN in x", "feature shape", "label too large", "epochs < 0", "endless data", "lengths in validation"]
)
def test_after_a_bad_fit_the_trainer_is_as_good_as_new(name):
    make, kwargs, _ = BAD_FITS[name]
    trainer = Trainer(make())
    with pytest.raises(ValueError):
        trainer.fit(**{"verbose": 0, **kwargs})
    trainer.fit(X, YL if make is classifier else Y, verbose=0)
    assert trainer.iterations == 1


GOOD_FITS = {
    "float labels": (classifier, {"x": XL, "y": YL.astype("float32")}),
    "one epoch and steps": (compiled, {"x": X, "y": Y, "epochs": 1, "steps": 2}),
    "numpy ints": (compiled, {"x": X, "y": Y, "epochs": np.int64(2), "batch_size": np.int32(5)}),
    "split of 0": (compiled, {"x": X, "y": Y, "validation_split": 0}),
    "list of arrays": (compiled, {"x": [X], "y": [Y]}),
    "float64": (compiled, {"x": X.astype("float64"), "y": Y.astype("float64")}),
    "float16": (compiled, {"x": X.astype("float16"), "y": Y}),
    "integers": (compiled, {"x": np.ones([20, 3], int), "y": Y}),
    "flat targets": (compiled, {"x": X, "y": Y[:, 0]}),
    "verbose as a bool": (compiled, {"x": X, "y": Y, "verbose": False}),
    "shuffle as a number": (compiled, {"x": X, "y": Y, "shuffle": 1}),
}


@pytest.mark.parametrize("name", GOOD_FITS)
def test_what_is_not_bad(name):
    make, kwargs = GOOD_FITS[name]
    trainer = Trainer(make())
    trainer.fit(**{"verbose": 0, **kwargs})
    assert trainer.iterations >= 1


BAD_TRAINERS = {
    "no model": (lambda: Trainer(None), TypeError, "model must be a keras.Model, not NoneType"),
    "a function": (lambda: Trainer(compiled, loss="mse"), TypeError, "model must be a keras.Model, not function"),
    "uncompiled": (
        lambda: Trainer(dense_model()),
        ValueError,
        "model '{any}' is not compiled: call model.compile(optimizer=..., loss=...), or give the Trainer a loss and an optimizer",
    ),
    "a class": (lambda: Trainer(compiled(), Heun), TypeError, "strategy must be a StepStrategy, not {any}: write Heun()"),
    "a name": (lambda: Trainer(compiled(), "heun"), TypeError, "strategy must be a StepStrategy, not 'heun'"),
    "an optimizer": (
        lambda: Trainer(compiled(), keras.optimizers.SGD(0.1)),
        TypeError,
        "strategy must be a StepStrategy, not {any}",
    ),
    "an inner class": (
        lambda: Accumulate(4, Heun),
        TypeError,
        "Accumulate: inner must be a StepStrategy, not {any}; write Heun()",
    ),
    "no batches": (lambda: Accumulate(0), ValueError, "Accumulate: num_batches must be at least 1, not 0"),
    "half a batch": (lambda: Accumulate(1.5), TypeError, "Accumulate: num_batches must be an int, not 1.5"),
    "a negative seed": (lambda: Trainer(compiled(), seed=-1), ValueError, "seed must be at least 0, not -1"),
    "a seed that is none": (lambda: Trainer(compiled(), seed="a"), TypeError, "seed must be a whole number, not 'a'"),
    "steps_per_execution": (
        lambda: Trainer(compiled(), steps_per_execution=0),
        ValueError,
        "steps_per_execution must be at least 1, not 0",
    ),
    "negative learning rate": (
        lambda: Trainer(compiled(optimizer=keras.optimizers.SGD(-0.1))),
        ValueError,
        "the learning rate must be finite and at least 0, not -0.1",
    ),
    "no learning rate": (
        lambda: Trainer(dense_model(), loss="mse", optimizer=keras.optimizers.Adam(float("nan"))),
        ValueError,
        "the learning rate must be finite and at least 0, not nan",
    ),
    "loss_scale_factor": (
        lambda: Trainer(compiled(optimizer=keras.optimizers.SGD(0.1, loss_scale_factor=0.0))),
        ValueError,
        "SGD loss_scale_factor=0.0 must be a finite number above 0; None does not scale the loss",
    ),
    "gradient_accumulation_steps": (
        lambda: Trainer(compiled(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))),
        ValueError,
        "optimizer gradient_accumulation_steps=3 would accumulate a second time: leave it None and use strategy=Accumulate(3)",
    ),
    "initial_scale": (
        lambda: Trainer(compiled(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=0.0))),
        ValueError,
        "LossScaleOptimizer initial_scale=0.0 must be a finite number of at least 2**-24, below which training would stop",
    ),
    "unknown optimizer": (lambda: Trainer(dense_model(), loss="mse", optimizer="agd"), ValueError, "{any}agd{any}"),
}


@pytest.mark.parametrize("name", BAD_TRAINERS)
def test_a_bad_trainer(name):
    make, exception, message = BAD_TRAINERS[name]
    with pytest.raises(exception) as error:
        make()
    line = str(error.value)
    pattern = re.escape(message).replace(re.escape("{any}"), ".*")
    assert re.fullmatch(pattern, line, re.DOTALL if name.startswith("unknown") else 0), line  # that one is Keras' own


@pytest.mark.parametrize("rate", [-1.0, np.nan, np.inf])
def test_a_learning_rate_set_wrongly_between_two_fits(rate):
    model = compiled()
    trainer = Trainer(model)
    trainer.fit(X, Y, verbose=0)
    before = weights(model)
    model.optimizer.learning_rate = rate
    with pytest.raises(ValueError, match=f"^the learning rate must be finite and at least 0, not {rate:g}$"):
        trainer.fit(X, Y, verbose=0)
    assert_same(weights(model), before)


def test_a_strategy_assigned_wrongly():
    trainer = Trainer(compiled())
    trainer.strategy = SGD
    with pytest.raises(TypeError, match=r"strategy must be a StepStrategy, not .*: write SGD\(\)"):
        trainer.fit(X, Y, verbose=0)


def test_a_tf_distribute_scope_opened_round_fit():
    model = compiled()
    trainer = Trainer(model)
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        with pytest.raises(ValueError, match="outside it; Trainer\\(..., distribute=strategy\\) divides"):
            trainer.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("num_examples", "strategy", "update", "held"),
    [
        (20, Accumulate(4), "128 examples = 4 batches of 32", "1 of 20"),
        (70, Accumulate(4), "128 examples = 4 batches of 32", "2 of 32 and 1 of 6"),
        (64, Accumulate(4), "128 examples = 4 batches of 32", "2 of 32"),
    ],
)
def test_data_smaller_than_an_update_are_warned_of_and_used(num_examples, strategy, update, held):
    x, y = regression(num_examples)
    trainer = Trainer(compiled(), strategy)
    with pytest.warns(UserWarning) as warned:
        trainer.fit(x, y, verbose=0)
    (line,) = [str(w.message) for w in warned if "update" in str(w.message)]
    assert line == (
        f"x has {num_examples} examples, fewer than one update takes ({update}): "
        f"each epoch is a single update of all {num_examples} (batches: {held})"
    )
    assert trainer.iterations == 1


@pytest.mark.parametrize(
    "num_examples, strategy", [(64, Accumulate(2)), (20, None), (20, Heun()), (1, None), (20, Accumulate(1))]
)
def test_data_that_fill_an_update_and_a_batch_that_is_not_full_are_not_warned_of(num_examples, strategy):
    x, y = regression(num_examples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(compiled(), strategy).fit(x, y, verbose=0)
