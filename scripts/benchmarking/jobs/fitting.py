"""`fit`, `evaluate` and `predict` as people call them, on models and Trainers that have been called before."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

import trainlab as tl
from benchmarking.jobs.figures import Found, Size, Turn, fastest, ratio, seconds_of, take_turns
from benchmarking.jobs.things import IMAGE, arrays, augmented, convolutional, perceptron

KERAS, OURS = "Keras", "trainlab"
STEPS_PER_EXECUTION = (1, 10, 50, 200)
EXAMPLES, EVALUATED, BATCH_SIZE, EPOCHS = 8192, 4096, 32, 3

Given = Callable[[], contextlib.AbstractContextManager[dict[str, Any]]]  # new arguments of `fit`, for one call
Model = Callable[..., keras.Model]


def fits(fit: Callable[..., Any], given: Given) -> Turn:
    """Calls it; what it is given is made before."""

    def turn() -> float:
        with given() as arguments:
            return seconds_of(lambda: fit(**{"verbose": 0, **arguments}))

    return turn


def against(size: Size, given: Given, wanted: str, wanted_at_best: str = "", model: Model = perceptron) -> Found:
    """Keras' `fit`, at its defaults and, where that is asked for, at its best `steps_per_execution`, over ours."""
    turns = {KERAS: fits(model().fit, given), OURS: fits(tl.Trainer(model()).fit, given)}
    if not wanted_at_best:
        seconds = take_turns(turns, size.pairs)
        return Found(seconds, [ratio(seconds, KERAS, OURS, wanted)])
    settings = {f"Keras, steps_per_execution={n}": n for n in STEPS_PER_EXECUTION}
    heats = {name: fits(model(steps_per_execution=n).fit, given) for name, n in settings.items()}
    best = fastest(heats)
    turns[best] = heats[best]
    del heats
    gc.collect()  # the iterators of those that were not the fastest, which have threads of their own
    seconds = take_turns(turns, size.pairs)
    return Found(seconds, [ratio(seconds, KERAS, OURS, wanted), ratio(seconds, best, OURS, wanted_at_best)])


def _given(size: Size, make: Callable[[Path], dict[str, Any]]) -> Given:
    """The small data and these arguments, made anew, with a temporary folder, for each call."""
    x, y = arrays(size.scaled(EXAMPLES, 10 * BATCH_SIZE))

    @contextlib.contextmanager
    def given() -> Iterator[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            yield {"x": x, "y": y, "batch_size": BATCH_SIZE, "epochs": EPOCHS, **make(Path(folder))}

    return given


def plain(size: Size) -> Found:
    """Nothing but x and y."""
    return against(size, _given(size, lambda folder: {}), "")


def validation(size: Size) -> Found:
    """A fifth held out."""
    return against(size, _given(size, lambda folder: {"validation_split": 0.2}), ">= 5", ">= 2.5")


def callbacks(size: Size) -> Found:
    """The callbacks of tutorials."""

    def make(folder: Path) -> dict[str, Any]:
        of = keras.callbacks
        listed = [
            of.EarlyStopping(patience=1000),
            of.ReduceLROnPlateau(patience=1000),
            of.ModelCheckpoint(folder / "best.keras", save_best_only=True),
            of.CSVLogger(folder / "log.csv"),
        ]
        return {"validation_split": 0.2, "callbacks": listed}

    return against(size, _given(size, make), ">= 2")


def tensorboard(size: Size) -> Found:
    """TensorBoard at its defaults."""
    return against(
        size,
        _given(size, lambda folder: {"validation_split": 0.2, "callbacks": [keras.callbacks.TensorBoard(folder)]}),
        ">= 2",
    )


class _BatchHook(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Does nothing, as nobody can know."""


def batch_hook(size: Size) -> Found:
    """Control at every batch."""
    return against(size, _given(size, lambda folder: {"callbacks": [_BatchHook()]}), ">= 2.5")


def generator(size: Size) -> Found:
    """Batches that Python makes."""
    x, y = arrays(size.scaled(EXAMPLES, 10 * BATCH_SIZE))
    updates = len(x) // BATCH_SIZE

    def batches() -> Iterator[Any]:
        while True:
            for i in range(updates):
                rows = slice(i * BATCH_SIZE, (i + 1) * BATCH_SIZE)
                yield x[rows], y[rows]

    def given() -> contextlib.AbstractContextManager[dict[str, Any]]:
        return contextlib.nullcontext({"x": batches(), "steps_per_epoch": updates, "epochs": EPOCHS})

    return against(size, given, ">= 2")


def images(size: Size) -> Found:
    """A `tf.data` set with augmentation, and one to validate on."""
    batch_size = 64
    data = augmented(*arrays(size.scaled(3200, 2 * batch_size), IMAGE), batch_size)
    x, y = arrays(size.scaled(640, batch_size), IMAGE)
    held_out = data.from_tensor_slices((x, y)).batch(batch_size)

    def given() -> contextlib.AbstractContextManager[dict[str, Any]]:
        return contextlib.nullcontext({"x": data, "validation_data": held_out, "epochs": 2})

    return against(size, given, ">= 1.5", ">= 1.0", convolutional)


def terminal(size: Size) -> Found:
    """A progress bar on a terminal, and silence."""
    fit = tl.Trainer(perceptron()).fit
    silent = _given(size, lambda folder: {})

    @contextlib.contextmanager
    def shown() -> Iterator[dict[str, Any]]:
        with silent() as arguments, on_a_terminal():
            yield {**arguments, "verbose": 1}

    seconds = take_turns({"verbose=1": fits(fit, shown), "verbose=0": fits(fit, silent)}, size.pairs)
    return Found(seconds, [ratio(seconds, "verbose=1", "verbose=0", "<= 1.1")])


@contextlib.contextmanager
def on_a_terminal() -> Iterator[None]:
    """What is printed inside goes to a terminal, which another process reads, as is the case where people look at one."""
    ours, theirs = os.openpty()
    reader = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(ours)
    try:
        with os.fdopen(theirs, "w") as screen, contextlib.redirect_stdout(screen):
            yield
    finally:
        reader.wait()


def evaluate(size: Size) -> Found:
    """Loss and accuracy."""
    x, y = arrays(size.scaled(EVALUATED, 2 * BATCH_SIZE))
    return _race(size, perceptron().evaluate, tl.Trainer(perceptron()).evaluate, ">= 8", x, y)


def predict(size: Size) -> Found:
    """Logits; of the Trainer, where it has `predict`, otherwise of its model."""
    x, _ = arrays(size.scaled(EVALUATED, 2 * BATCH_SIZE))
    trainer = tl.Trainer(perceptron())
    return _race(size, perceptron().predict, getattr(trainer, "predict", trainer.model.predict), "", x)


def _race(size: Size, theirs: Callable[..., Any], ours: Callable[..., Any], wanted: str, *data: Any) -> Found:
    def turn_of(call: Callable[..., Any]) -> Callable[[], float]:
        return lambda: seconds_of(lambda: call(*data, batch_size=BATCH_SIZE, verbose=0))

    seconds = take_turns({KERAS: turn_of(theirs), OURS: turn_of(ours)}, size.pairs)
    return Found(seconds, [ratio(seconds, KERAS, OURS, wanted)])
