"""`Trainer.describe_loop`: what is said is what happens."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainlab as tl

X, Y = np.zeros([100, 4], "float32"), np.zeros([100, 1], "float32")


class Hearing(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class Told(keras.callbacks.Callback):
    """Writes down what it is told, and of whom."""

    def __init__(self, name, log):
        super().__init__()
        self.name, self.log = name, log

    def on_train_begin(self, logs=None):
        self.log.append(("on_train_begin", self.name))

    def on_epoch_end(self, epoch, logs=None):
        self.log.append(("on_epoch_end", self.name))


def trainer(strategy=None, **settings):
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    return tl.Trainer(model, strategy, loss="mse", optimizer=keras.optimizers.Adam(), **settings)


def test_nothing_need_be_given():
    text = trainer().describe_loop()
    for part in ("at the beginning", "for one epoch", "updates in one compiled call", "at the epoch's end", "at the end"):
        assert part in text
    assert "no validation" in text and "one update by Adam" in text and "checkpoint" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("strategy", "fit", "said"),
    [
        (None, {"x": X, "epochs": 3}, ["for each of 3 epochs", "4 updates, each", "takes 32 examples", "1 evaluation of loss"]),
        (
            tl.Accumulate(4, tl.Heun()),
            {"x": X, "batch_size": 8},
            ["32 examples = 4 batches of 8", "8 forward and backward passes"],
        ),
        (tl.Accumulate(2), {"x": X, "batch_size": 50, "validation_split": 0.2}, ["1 update, each", "the last 20 % of the data"]),
        (None, {"x": X, "steps": 9}, ["until there are 9 updates"]),
        (None, {"x": X, "steps_per_epoch": 7, "epochs": 2}, ["7 updates, each"]),
        (None, {"x": X, "epochs": 2, "validate_every": 3}, ["3 updates, each", "until there are 8 updates"]),
        (None, {"x": X, "validation_data": (X[:9], Y[:9]), "validation_freq": 2}, ["9 examples, after every 2 epochs"]),
        (None, {"validation_data": (X, Y), "validation_freq": [1, 4]}, ["after the epochs 1, 4"]),
    ],
)
def test_the_arguments_of_fit_are_told(strategy, fit, said):
    text = " ".join(trainer(strategy).describe_loop(**fit).split())
    for words in said:
        assert words in text, text


@pytest.mark.parametrize(
    "x",
    [
        tf.ragged.constant([[1.0], [2.0, 3.0], []]),
        tf.sparse.from_dense(np.eye(3)),
        {"a": np.zeros([3, 2])},
    ],
    ids=["ragged", "sparse", "a dictionary"],
)
def test_arrays_of_any_kind_are_counted(x):
    text = trainer().describe_loop(x=x, batch_size=2, validation_data=(x, Y[:3]), validation_freq=np.int64(2))
    assert "2 updates, each" in text and "validation on 3 examples, after every 2 epochs" in text


def test_who_evaluates_is_told():
    class Own(keras.Sequential):
        def test_step(self, data):
            return super().test_step(data)

    def said(model=None, callbacks=(), **settings):
        model = model or keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
        ours = tl.Trainer(model, loss="mse", optimizer="sgd", **settings)
        return " ".join(ours.describe_loop(X, validation_data=(X, Y), callbacks=list(callbacks)).split())

    by_keras = "after every epoch, batch by batch, as Keras does it ("
    assert f"{by_keras}Own has a test_step of its own)" in said(Own([keras.Input([4]), keras.layers.Dense(1)]))
    assert f"{by_keras}run_eagerly=True)" in said(run_eagerly=True)
    assert f"{by_keras}TensorBoard(update_freq=...) takes" in said(callbacks=[keras.callbacks.TensorBoard("a", update_freq=9)])
    assert "after every epoch, many batches in a call" in said(callbacks=[keras.callbacks.TensorBoard("a")])


def test_a_data_set():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    text = trainer(tl.Accumulate(2)).describe_loop(data, validation_data=data)
    assert "5 updates, each" in text and "takes 2 batches of the data" in text and "validation on a data set" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"micro_batch_size": 8}, "in pieces of at most 8 examples"),
        ({"on_nonfinite": "skip"}, "that update is left out"),
        ({"steps_per_execution": 5}, "5, as steps_per_execution says"),
        ({"run_eagerly": True}, "one: it runs eagerly"),
        ({"jit_compile": True}, "compiled by XLA"),
        ({"distribute": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}, "cut into 2 shards"),
    ],
)
def test_the_settings_of_the_trainer_are_told(settings, said):
    assert said in " ".join(trainer(**settings).describe_loop(x=X).split())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Hearing, "one, since Hearing hears of every batch (on_train_batch_end)"),
        (lambda: keras.callbacks.LambdaCallback(on_train_batch_end=print), "one, since LambdaCallback hears of every batch"),
        (lambda: keras.callbacks.TensorBoard("logs", update_freq=20), "TensorBoard hears of every 20th: a call ends there"),
        (lambda: keras.callbacks.ModelCheckpoint("a.keras", save_freq=50), "ModelCheckpoint hears of every 50th"),
        (lambda: keras.callbacks.EarlyStopping(monitor="val_loss"), "nobody hears of every batch"),
        (lambda: keras.callbacks.TensorBoard("logs"), "nobody hears of every batch"),
    ],
)
def test_how_many_updates_a_call_makes_and_why(make, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a TensorBoard that is told of its model begins a file
    assert said in " ".join(trainer().describe_loop(callbacks=[make()]).split())


def test_callbacks_are_named_in_the_order_in_which_they_are_called():
    log = []
    first, second = type("First", (Told,), {})("First", log), type("Second", (Told,), {})("Second", log)
    stopping = keras.callbacks.EarlyStopping(monitor="loss")
    ours = trainer()
    text = ours.describe_loop(X, Y, callbacks=[second, stopping, first], verbose=0)
    ours.fit(X, Y, callbacks=[second, stopping, first], verbose=0)
    for hook in ("on_train_begin", "on_epoch_end"):
        [line] = [line for line in text.splitlines() if line.strip().startswith(f"{hook}:")]
        heard = [name for told, name in log if told == hook]
        assert heard == ["Second", "First"] and line.index("Second") < line.index("EarlyStopping (loss)") < line.index("First")
    assert "training ends here if EarlyStopping says so" in text


def test_a_run_is_told_with_its_checkpoints(tmp_path):
    run = tl.Run(tmp_path / "a", save_seconds=5, save_steps=1000, keep=2, keep_best=("max", "val_mine"))
    text = " ".join(trainer(run=run).describe_loop(X, Y).split())
    for words in ("every 5 seconds and every 1,000 updates", "best so far by max val_mine", "the last 2 stay", "put back"):
        assert words in text
    assert not (tmp_path / "a").exists()


def test_an_argument_that_fit_does_not_have():
    with pytest.raises(TypeError, match="describe_loop has no argument 'epoch'; did you mean epochs?"):
        trainer().describe_loop(epoch=3)
    with pytest.raises(ValueError, match="steps"):
        trainer().describe_loop(steps=-1)


def test_nothing_is_trained_and_nothing_traced():
    ours = trainer()
    weights = [weight.copy() for weight in ours.model.get_weights()]
    ours.describe_loop(X, Y, epochs=3)
    assert ours.num_traces == ours.iterations == 0
    assert all((a == b).all() for a, b in zip(weights, ours.model.get_weights(), strict=True))


def test_nothing_is_left_behind(tmp_path):
    ours = trainer()
    history = ours.fit(X, Y, verbose=0)
    board = keras.callbacks.TensorBoard(tmp_path / "logs")
    others = [keras.callbacks.ModelCheckpoint(tmp_path / "a.keras"), keras.callbacks.CSVLogger(tmp_path / "a.csv")]
    said = ours.describe_loop(X, Y, callbacks=[board, *others], verbose=1)
    assert all(name in said for name in ("TensorBoard", "ModelCheckpoint", "CSVLogger"))
    assert not list(tmp_path.iterdir()) and ours.model.history is history
    ours.fit(X, Y, callbacks=[board], verbose=0)  # control: it does begin one when it is used
    assert list((tmp_path / "logs").rglob("events*"))
