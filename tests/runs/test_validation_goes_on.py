"""Data to validate on that come otherwise at each evaluation go on where they stood, wherever a run was stopped."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from resuming import small
from small import regression

Dataset = tf.data.Dataset
X, Y = regression(24)


def examples():
    return Dataset.from_tensor_slices((X, Y))


def shuffled():
    return examples().shuffle(12, seed=3)


def split_by_skip_and_take():
    """Both shuffle by the same counter, so that an evaluation moves the order of the next epoch on."""
    both = shuffled()
    return both.skip(8).batch(4), both.take(8).batch(4)


class Batches(keras.utils.PyDataset):
    """Takes another order after each pass."""

    def __init__(self):
        super().__init__()
        self.order, self.random = np.arange(24), np.random.default_rng(3)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = self.order[4 * index : 4 * index + 4]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


def drawn():
    """Draws noise in TensorFlow, whose generator only reading moves on."""
    return examples().map(lambda x, y: (x + tf.random.normal([3], seed=4), y)).batch(4)


def with_arrays(validation):
    return lambda: ((X, Y), validation())


# What to train and to validate on, and how many batches an evaluation has.
CASES = {
    "shuffle": (with_arrays(lambda: shuffled().batch(5)), None),
    "a part of a shuffle": (with_arrays(lambda: shuffled().batch(4)), 2),
    # So many that TensorFlow, reading ahead, never comes to an end of the shuffle.
    "shuffle, repeat": (with_arrays(lambda: examples().repeat(99).shuffle(12, seed=3).repeat().batch(4)), 2),
    "skip and take of a shuffle": (split_by_skip_and_take, None),
    "filter": (with_arrays(lambda: shuffled().filter(lambda x, _: x[0] > 0).batch(4)), None),
    "shuffle twice": (with_arrays(lambda: shuffled().shuffle(5, seed=2).batch(4)), None),
    "PyDataset": (with_arrays(Batches), None),
    "tf.random": (with_arrays(drawn), None),
}
OFTEN = ["shuffle", "skip and take of a shuffle", "PyDataset"]
STOPS = {
    "in an epoch": ("on_train_batch_end", 7),
    "between two epochs": ("on_epoch_begin", 3),
    "at an epoch's end": ("on_epoch_end", 2),
    "in an evaluation": ("on_test_batch_end", 3),
}


def fit(directory, case, stop=None, **settings):
    """What an evaluation and an epoch found, of four; each number bit for bit."""
    tf.random.set_seed(0)
    make, steps = CASES[case]
    train, validation = make()
    callback, calls = keras.callbacks.Callback(), []
    if stop is not None:
        hook, when = STOPS[stop]

        def interrupt(*args, logs=None):
            calls.append(args)
            if len(calls) == when:
                raise KeyboardInterrupt

        setattr(callback, hook, interrupt)
    x, y = train if isinstance(train, tuple) else (train, None)
    size = {} if y is None else {"batch_size": 6}
    trainer = small(directory, **settings)
    given = {"validation_data": validation, "validation_steps": steps, "callbacks": [callback], "verbose": 0}
    return trainer.fit(x, y, epochs=4, **given, **size).history


@pytest.mark.parametrize("case", [c if c in OFTEN else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_numbers_are_those_of_a_run_that_was_not_stopped(case, tmp_path, recwarn):
    whole = fit(tmp_path / "whole", case)
    for stop in STOPS:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / stop, case, stop)
        assert fit(tmp_path / stop, case) == whole, stop
    ours = [w for w in recwarn if str(w.message).startswith("validation_data")]
    assert not ours
    assert len(set(whole["val_loss"])) == 4


@pytest.mark.slow
def test_a_control_that_forgets_them(tmp_path, monkeypatch):
    """Other numbers come if the data begin anew, of each kind of stop after an evaluation."""
    from trainlab.runs.evaluating import Validator

    whole = fit(None, "a part of a shuffle")
    monkeypatch.setattr(Validator, "restore", lambda *_: None)
    for stop in STOPS:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / stop, "a part of a shuffle", stop)
        assert fit(tmp_path / stop, "a part of a shuffle")["val_loss"][2:] != whole["val_loss"][2:], stop


@pytest.mark.slow
def test_keras_evaluates_on_them_as_well(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", "a part of a shuffle", run_eagerly=True)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "part", "a part of a shuffle", "in an epoch", run_eagerly=True)
    assert fit(tmp_path / "part", "a part of a shuffle", run_eagerly=True)["val_loss"] == whole["val_loss"]


@pytest.mark.slow
def test_what_is_always_the_same_is_not_read_again(tmp_path):
    read = []

    def batches():
        read.append(None)
        yield from zip(X[:8], Y[:8], strict=True)

    spec = tuple(tf.TensorSpec(part.shape[1:], part.dtype) for part in (X, Y))
    CASES["a generator's"] = with_arrays(lambda: Dataset.from_generator(batches, output_signature=spec).batch(4)), None
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, "a generator's", "between two epochs")
        before = len(read)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(tmp_path, "a generator's")
        assert len(read) - before <= 3  # two evaluations, and a look
    finally:
        del CASES["a generator's"]


@pytest.mark.slow
def test_a_generator_cannot_go_on(tmp_path):
    def case():
        return (X, Y), ((X[i : i + 4], Y[i : i + 4]) for _ in range(20) for i in range(0, 24, 4))

    CASES["generator"] = case, 3  # the first two are the same ones each time, as in Keras
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, "generator", "between two epochs")
        with pytest.warns(UserWarning, match="validation_data is a generator: evaluations go on with other batches"):
            fit(tmp_path, "generator")
    finally:
        del CASES["generator"]


@pytest.mark.slow
def test_the_same_data_go_on_in_the_same_process(tmp_path):
    whole = fit(tmp_path / "whole", "a part of a shuffle")
    tf.random.set_seed(0)
    data = shuffled().batch(4)
    for stopped in (True, False):
        CASES["kept"] = (lambda: ((X, Y), data)), 2
        try:
            if stopped:
                with pytest.raises(KeyboardInterrupt):
                    fit(tmp_path / "kept", "kept", "in an epoch")
            else:
                assert fit(tmp_path / "kept", "kept") == whole
        finally:
            del CASES["kept"]


@pytest.mark.slow
def test_an_older_checkpoint_says_nothing_of_them(tmp_path, monkeypatch):
    from trainlab.runs import resuming

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, "shuffle", "in an epoch")
    real = resuming.newest

    def older(*args, **kwargs):
        loaded = real(*args, **kwargs)
        loaded.state.pop("validation")
        return loaded

    monkeypatch.setattr("trainlab.runs.keeping.newest", older)
    assert len(fit(tmp_path, "shuffle")["loss"]) == 4
