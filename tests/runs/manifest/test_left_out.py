"""What Keras' own objects are set to and their `get_config` does not say; which part of a model something holds."""

import copy
import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import regression
from test_manifest import as_saved, rows_that_differ

import trainlab as tl
from trainlab.runs import manifest
from trainlab.runs.manifest import rows as rows_module
from trainlab.runs.manifest.left_out import LEFT_OUT
from trainlab.runs.manifest.plain import plain


class ForgetfulAdam(keras.optimizers.Adam):
    def get_config(self):
        return {"by": 1}


class ForgetfulDropout(keras.layers.Dropout):
    def get_config(self):
        return {}


class AnnealedDropout(keras.layers.Dropout):
    """Sets its own rate while it is trained: no setting."""

    def get_config(self):
        return {}

    def call(self, x, training=False):
        self.rate = self.rate * 0.5
        return super().call(x, training=training)


class Unwritable:
    """Keras cannot write it."""

    def __call__(self, x):
        return x


def model_with(layer=None, **compiling):
    layers = [keras.layers.Dense(4), *([] if layer is None else [layer]), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([3]), *layers])
    model.compile(**{"loss": "mse", "optimizer": "sgd", **compiling})
    model.optimizer.build(model.trainable_variables)
    return model


def with_loss(kind, **settings):
    return lambda value: model_with(loss=kind(**{name: value for name in settings}))


def excluding(names=None, place=None):
    optimizer = keras.optimizers.AdamW(0.1)
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4), keras.layers.Dense(1)])
    if names or place is not None:
        listed = None if place is None else [model.trainable_variables[place]]
        optimizer.exclude_from_weight_decay(var_list=listed, var_names=names)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    return model


def leaky(alpha=0.2, l2=1e-3):
    return model_with(
        keras.layers.Dense(
            8, activation=functools.partial(tf.nn.leaky_relu, alpha=alpha), kernel_regularizer=keras.regularizers.L2(l2)
        )
    )


def unwritable(activity):
    return model_with(keras.layers.Dense(8, activation=Unwritable(), activity_regularizer=keras.regularizers.L1(activity)))


def looking_up(kind, words):
    x = keras.Input([1], dtype=tf.string)
    layer = kind(output_mode="count") if kind is keras.layers.StringLookup else kind(max_tokens=9, output_mode="count")
    layer.adapt(np.array(words))
    model = keras.Model(x, keras.layers.Dense(1)(layer(x)))
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


LOSS, OPTIMIZER, CODE = "loss and metrics", "optimizer", "layers' code"
CASES = {
    "Huber": (lambda v: model_with(loss=keras.losses.Huber(v)), 1.0, 5.0, LOSS),
    "Huber, of one of two outputs": (lambda v: model_with(loss=[keras.losses.Huber(v)]), 1.0, 5.0, LOSS),
    "CosineSimilarity": (lambda v: model_with(loss=keras.losses.CosineSimilarity(axis=v)), -1, 0, LOSS),
    "Sparse": (lambda v: model_with(loss=keras.losses.SparseCategoricalCrossentropy(axis=v)), -1, 1, LOSS),
    "Tversky": (lambda v: model_with(loss=keras.losses.Tversky(axis=v)), None, 0, LOSS),
    "the dtype of a loss": (lambda v: model_with(loss=keras.losses.MeanSquaredError(dtype=v)), None, "float64", LOSS),
    "a metric": (lambda v: model_with(metrics=[keras.metrics.CosineSimilarity(axis=v)]), -1, 0, LOSS),
    "a loss in a strategy": (lambda v: keras.losses.Huber(v), 1.0, 5.0, None),
    "weight decay, names": (excluding, None, ["bias"], OPTIMIZER),
    "weight decay, other names": (excluding, ["bias", "kernel"], ["bias"], OPTIMIZER),
    "weight decay, a variable": (lambda v: excluding(place=v), None, 0, OPTIMIZER),
    "weight decay, another variable": (lambda v: excluding(place=v), 0, 1, OPTIMIZER),
    "a class derived from Adam": (lambda v: model_with(optimizer=ForgetfulAdam(0.1, beta_1=v)), 0.9, 0.5, OPTIMIZER),
    "clipping, of one": (lambda v: model_with(optimizer=ForgetfulAdam(0.1, clipnorm=v)), None, 1.0, OPTIMIZER),
    "a class derived from Dropout": (lambda v: model_with(ForgetfulDropout(v)), 0.1, 0.5, CODE),
    "a partial": (leaky, 0.2, 0.3, CODE),
    "a regularizer beside it": (lambda v: leaky(l2=v), 1e-3, 1e-2, CODE),
    "a regularizer beside an object": (unwritable, 1e-3, 1e-2, CODE),
    "StringLookup": (lambda v: looking_up(keras.layers.StringLookup, v), ["a", "b"], ["c", "d"], CODE),
    "TextVectorization": (lambda v: looking_up(keras.layers.TextVectorization, v), ["a b"], ["c d"], CODE),
}


@pytest.mark.parametrize("name", CASES)
def test_what_get_config_does_not_say_is_compared(name):
    make, before, after, row = CASES[name]
    if row is None:
        assert plain(make(before)) == plain(make(before)) != plain(make(after))
        return
    rows = [manifest.of_model(make(value)) for value in (before, before, after)]
    saved = as_saved(rows[0])
    assert manifest.differences(saved, rows[1]) == []
    assert rows_that_differ(saved, rows[2]) == [row]


@pytest.mark.parametrize("name", ["Huber", "weight decay, a variable", "a class derived from Dropout", "a partial", "a metric"])
def test_training_changes_nothing_of_it(name):
    make, _, value, _ = CASES[name]
    model = make(value)
    saved = as_saved(manifest.of_model(model))
    x, y = regression()
    tl.Trainer(model).fit(x[:, :3], y, 32, verbose=0)
    assert manifest.differences(saved, manifest.of_model(model)) == []


def test_what_a_layers_own_call_sets_does_not_count():
    a, b = (manifest.of_model(model_with(AnnealedDropout(rate))) for rate in (0.1, 0.5))
    assert manifest.differences(a, b) == []


def test_of_what_keras_writes_whole_nothing_is_said_twice():
    x = keras.Input([4, 4, 2])
    parts = [keras.layers.Conv2D(2, 2), keras.layers.BatchNormalization(), keras.layers.Flatten(), keras.layers.Dropout(0.1)]
    model = keras.Sequential([x, *parts, keras.layers.Dense(1, "relu", kernel_regularizer="l2")])
    model.compile(keras.optimizers.AdamW(0.1, clipnorm=1.0, use_ema=True), "mse", metrics=["mae", "accuracy"])
    model.optimizer.build(model.trainable_variables)
    assert LEFT_OUT not in json.dumps(manifest.of_model(model))


def test_another_process_comes_to_the_same(tmp_path):
    code = "import keras, json\nfrom trainlab.runs.manifest.plain import plain\n"
    code += "o = keras.optimizers.AdamW(0.1)\no.exclude_from_weight_decay(var_names=['a', 'b', 'c', 'd'])\n"
    code += "record = json.dumps([plain(o), plain(keras.losses.Huber(2.0))])\n"
    space = {}
    exec(code, space)
    printed = subprocess.run([sys.executable, "-c", code + "print(record)"], check=True, capture_output=True, text=True).stdout
    assert json.loads(printed.splitlines()[-1]) == json.loads(space["record"])


class Holding(tl.StepStrategy):
    """Holds parts of a model, and a loss through a helper."""

    def __init__(self, *parts):
        self.parts, self.of = parts, {part: i for i, part in enumerate(parts) if isinstance(part, keras.Layer)}

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient * helper(), at=here)


LOSS_USED = keras.losses.Huber(1.0)


def helper():
    return LOSS_USED.reduction == "x"


def fit_rows(model, strategy):
    reader = rows_module.Reader(rows_module._trained(model))
    return {"strategy": reader.read(strategy), "form": {"manifest": 3, "code": sys.implementation.cache_tag}}


def test_which_part_of_a_model_something_holds_is_compared():
    def rows(*places):
        model = model_with(keras.layers.Dense(4))
        return as_saved(fit_rows(model, Holding(*(model.layers[place] for place in places))))

    assert manifest.differences(rows(0), rows(0)) == []
    assert rows_that_differ(rows(0), rows(1)) == ["strategy"]
    assert rows_that_differ(rows(0, 1), rows(1, 0)) == ["strategy"]


class Turn(keras.Model):
    """One side of a game."""

    def __init__(self, one, other, part):
        super().__init__()
        self.one, self.other, self.part = one, other, part

    def call(self, x):
        return self.other(self.one(x))


def test_which_player_of_a_game_it_is_is_compared():
    def rows(place):
        players = [keras.Sequential([keras.Input([3]), keras.layers.Dense(3)]) for _ in range(2)]
        model = Turn(*players, players[place])
        model(np.ones([2, 3], "float32"))
        model.compile("sgd", "mse")
        model.optimizer.build(model.trainable_variables)
        return as_saved(manifest.of_model(model))

    assert manifest.differences(rows(1), rows(1)) == []
    assert rows_that_differ(rows(0), rows(1)) == ["layers' code"]


def test_which_variable_of_a_model_something_holds_is_compared():
    first, second = model_with(), model_with()
    a, b = (fit_rows(model, Holding(model.variables[place])) for model, place in ((first, 0), (second, 2)))
    assert rows_that_differ(a, b) == ["strategy"]


def without_new_keys(value):
    """As an older trainlab wrote it."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in (LEFT_OUT, "which one")}
        return {
            key.replace(', "which one": 0', "").replace(', "which one": 1', ""): without_new_keys(v) for key, v in kept.items()
        }
    return [without_new_keys(item) for item in value] if isinstance(value, list) else value


def test_a_checkpoint_that_was_written_before_resumes():
    model = model_with(keras.layers.Dense(4), loss=keras.losses.Huber(2.0))
    current = {**manifest.of_model(model), **fit_rows(model, Holding(model.layers[0], model.layers[1]))}
    saved = without_new_keys(as_saved(copy.deepcopy(current)))
    assert saved["strategy"] != as_saved(current)["strategy"]  # a control: there are such keys
    assert manifest.differences(saved, current) != []
    saved["form"] = {**current["form"], "manifest": 2}
    assert manifest.differences(saved, current) == []
    saved["strategy"]["of"]['{"class": "keras.src.layers.core.dense.Dense"}'] = 7
    assert rows_that_differ(saved, current) == ["strategy"]


def set_remapping(is_on):
    tf.config.optimizer.set_experimental_options({"remapping": is_on})


@pytest.mark.parametrize(
    "place, change, back",
    [
        ("jit", lambda: tf.config.optimizer.set_jit("autoclustering"), lambda: tf.config.optimizer.set_jit(False)),
        ("remapping", lambda: set_remapping(False), lambda: set_remapping(True)),
        ("flash attention", keras.config.disable_flash_attention, keras.config.enable_flash_attention),
        (
            "XLA_FLAGS",
            lambda: os.environ.update(XLA_FLAGS="--xla_cpu_enable_fast_math=true"),
            lambda: os.environ.update(XLA_FLAGS=""),
        ),
    ],
)
def test_how_programs_are_compiled_is_a_warning(place, change, back, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    back()
    saved = manifest.of_machine()
    change()
    try:
        current = manifest.of_machine()
    finally:
        back()
    assert rows_that_differ(saved, current) == ["compiler"] and manifest.of_machine() == saved
    with pytest.warns(UserWarning, match=f"compiler {place}: saved"):
        assert manifest.check("a", saved, current, ()) == set()


def test_tensor_float_32_is_a_warning():
    was = tf.config.experimental.tensor_float_32_execution_enabled()
    saved = manifest.of_machine()
    tf.config.experimental.enable_tensor_float_32_execution(not was)
    try:
        current = manifest.of_machine()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(was)
    assert rows_that_differ(saved, current) == ["tensor_float_32"]
    with pytest.warns(UserWarning, match=f"tensor_float_32: saved {was}, now {not was}"):
        assert manifest.check("a", saved, current, ()) == set()
