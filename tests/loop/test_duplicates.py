import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers
from small import close, compiled, differ, weights

import trainlab as tl
from trainlab.runs import manifest

X = np.array([[1, 1, 2], [2, 1, 3], [0, 0, 0], [3, 2, 2]] * 4, "int32")
Y = np.linspace(-1, 1, 16, dtype="float32")[:, None]


def text(optimizer, has_table=True):
    keras.utils.set_random_seed(1)
    first = layers.Embedding(50, 4, name="table") if has_table else layers.Dense(4)
    shape = keras.Input([3], dtype="int32" if has_table else "float32")
    return compiled(keras.Sequential([shape, first, layers.Flatten(), layers.Dense(1)]), optimizer)


def fitted(fit, **kwargs):
    return fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, **kwargs)


def told(model, strategy=None, fits=1, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = tl.Trainer(model, strategy, **kwargs)
        for _ in range(fits):
            fitted(trainer.fit)
    return [str(w.message) for w in caught if "sum_duplicate_rows" in str(w.message)]


SQUARING = [optimizers.Adam, optimizers.AdamW, optimizers.Nadam, optimizers.RMSprop, optimizers.Adagrad, optimizers.Adadelta]


@pytest.mark.parametrize("strategy", [None, tl.Heun(), tl.Accumulate(2)], ids=repr)
def test_it_is_said_once(strategy):
    model = text(optimizers.Adam(0.01))
    (line,) = told(model, strategy, fits=2)
    assert "\n" not in line and "'sequential/table/embeddings'" in line and "before Adam squares" in line
    assert told(model) == []


@pytest.mark.parametrize("make", [*SQUARING, optimizers.Ftrl, optimizers.Lamb], ids=lambda make: make.__name__)
def test_of_whom_it_is_said(make):
    assert len(told(text(make(0.01)))) == 1


@pytest.mark.slow
def test_of_what_clips():
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        (line,) = told(text(optimizers.SGD(0.01, **{name: 0.1})))
        assert "before SGD clips" in line


@pytest.mark.parametrize(
    "make",
    [
        lambda: text(optimizers.SGD(0.01)),
        lambda: text(optimizers.SGD(0.01, momentum=0.9)),
        lambda: text(optimizers.Lion(0.01)),
        lambda: text(optimizers.Adam(0.01), has_table=False),
    ],
)
def test_of_whom_it_is_not(make):
    assert told(make()) == []


@pytest.mark.parametrize(("of_table", "of_others"), [("SGD", "Adam"), ("Adam", "SGD")])
def test_of_several_optimizers_that_of_the_table_is_asked(of_table, of_others):
    table, others = (getattr(optimizers, name)(0.01) for name in (of_table, of_others))
    several = optimizers.MultiOptimizer(lambda variable: table if "table" in variable.path else others)
    lines = told(text(several), fits=2)
    assert len(lines) == (of_table == "Adam")
    assert all("before Adam squares them" in line and "'sequential/table/embeddings'" in line for line in lines)


@pytest.mark.parametrize("choice", [True, False])
def test_who_has_chosen_knows(choice):
    assert told(text(optimizers.Adam(0.01)), sum_duplicate_rows=choice) == []


@pytest.mark.parametrize("make", SQUARING, ids=lambda make: make.__name__)
def test_keras_way(make):
    theirs, ours, summed = (text(make(0.05)) for _ in range(3))
    fitted(theirs.fit)
    fitted(tl.Trainer(ours, sum_duplicate_rows=False).fit)
    fitted(tl.Trainer(summed, sum_duplicate_rows=True).fit)
    close(weights(ours), weights(theirs), rtol=1e-4)
    errors = [np.abs(weights(model)[0] - weights(theirs)[0]).max() for model in (ours, summed)]
    assert errors[1] > 20 * max(errors[0], 1e-6)  # the control


@pytest.mark.parametrize("optimizer", [optimizers.SGD(0.05), optimizers.SGD(0.05, momentum=0.9)], ids=["sgd", "momentum"])
def test_where_it_makes_no_difference(optimizer):
    config = optimizer.get_config()
    one, other, theirs = (text(optimizers.SGD.from_config(config)) for _ in range(3))
    fitted(tl.Trainer(one, sum_duplicate_rows=False).fit)
    fitted(tl.Trainer(other, sum_duplicate_rows=True).fit)
    fitted(theirs.fit)
    close(weights(one), weights(other))
    close(weights(one), weights(theirs))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("choice", [True, False])
def test_clipped_by_value_by_hand(choice, jit_compile):
    """A row that is looked up twice moves by the clipped sum, or by the sum of what is clipped."""
    model = text(optimizers.SGD(1.0, clipvalue=0.01))
    table, inner = weights(model)[0], model.layers[-1]
    kernel, bias = (np.array(v) for v in inner.variables)
    x, y = X[:1], Y[:1]
    residual = 2 * (table[x[0]].reshape(1, -1) @ kernel + bias - y)
    slices = (residual * kernel.T).reshape(3, 4)
    expected = table.copy()
    if choice:
        total = np.zeros_like(table)
        np.add.at(total, x[0], slices)
        expected -= np.clip(total, -0.01, 0.01)
    else:
        np.subtract.at(expected, x[0], np.clip(slices, -0.01, 0.01))
    tl.Trainer(model, jit_compile=jit_compile, sum_duplicate_rows=choice).fit(x, y, batch_size=1, verbose=0)
    np.testing.assert_allclose(weights(model)[0], expected, atol=1e-6)


def test_of_accumulated_batches_every_look_up_is_handed_on():
    """The update of a tape loop by hand that gives Adam the slices of both batches."""
    ours, by_hand, summed = (text(optimizers.Adam(0.05)) for _ in range(3))
    fitted(tl.Trainer(ours, tl.Accumulate(2), sum_duplicate_rows=False).fit)
    fitted(tl.Trainer(summed, tl.Accumulate(2), sum_duplicate_rows=True).fit)
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((by_hand(X, training=True) - Y) ** 2)
        by_hand.optimizer.apply(tape.gradient(loss, [v.value for v in by_hand.trainable_variables]), by_hand.trainable_variables)
    close(weights(ours), weights(by_hand), rtol=1e-4)
    assert differ([np.round(w, 3) for w in weights(summed)], [np.round(w, 3) for w in weights(by_hand)])


def test_a_resume_with_the_other_is_refused(tmp_path):
    def fit(epochs, **kwargs):
        trainer = tl.Trainer(text(optimizers.Adam(0.01)), run=tmp_path / "a", **kwargs)
        trainer.fit(X, Y, epochs=epochs, verbose=0)
        return trainer

    fit(1, sum_duplicate_rows=True)
    assert fit(2).resumed_at == 1  # which is the default, said or not
    with pytest.raises(manifest.OtherRun, match="sum_duplicate_rows: saved True, now False"):
        fit(3, sum_duplicate_rows=False)


def test_checkpoints_from_before_are_of_summed_rows(tmp_path):
    current = {"sum_duplicate_rows": True, "seed": 0}
    manifest.check(tmp_path, {"seed": 0}, current, ())
    with pytest.raises(manifest.OtherRun, match="sum_duplicate_rows: saved True, now False"):
        manifest.check(tmp_path, {"seed": 0}, current | {"sum_duplicate_rows": False}, ())


@pytest.mark.parametrize("value", [0, 1, "no", np.bool_(True)], ids=repr)
def test_what_is_no_choice(value):
    with pytest.raises(ValueError, match="^sum_duplicate_rows must be True, False or None, not "):
        tl.Trainer(text(optimizers.SGD(0.1)), sum_duplicate_rows=value)
