"""First seconds: models, Trainers and sizes that were not seen before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

import trainlab as tl
from benchmarking import memory
from benchmarking.jobs.figures import Found, Size, Turn, number, ratio, seconds_of, take_turns
from benchmarking.jobs.fitting import BATCH_SIZE, EXAMPLES, KERAS, OURS
from benchmarking.jobs.things import IMAGE, arrays, perceptron, residual, vision_transformer

_IMAGES = 64  # a batch of them


def new_perceptron(size: Size) -> Found:
    """All of it: the model, its compiling, the Trainer, one epoch."""
    x, y = arrays(size.scaled(EXAMPLES, 10 * BATCH_SIZE))
    given = {"x": x, "y": y, "batch_size": BATCH_SIZE, "verbose": 0}
    seconds = take_turns({KERAS: _begins(perceptron, None, given), OURS: _begins(perceptron, tl.SGD(), given)}, size.pairs)
    return Found(seconds, [ratio(seconds, KERAS, OURS, ">= 1.8")])


def new_residual(size: Size) -> Found:
    """Two epochs of five updates: Keras' plain ones, and Heun's, which evaluate twice."""
    x, y = arrays(size.scaled(5) * _IMAGES, IMAGE)
    given = {"x": x, "y": y, "batch_size": _IMAGES, "epochs": 2, "verbose": 0}
    heun = "trainlab Heun"
    seconds = take_turns({KERAS: _begins(residual, None, given), heun: _begins(residual, tl.Heun(), given)}, size.pairs)
    return Found(seconds, [ratio(seconds, KERAS, heun, ">= 1.0")])


def new_transformer(size: Size) -> Found:
    """Ten updates of 64 images: Keras' plain ones, in four batches of 16, and Heun's."""
    x, y = arrays(size.scaled(10, 2) * _IMAGES, IMAGE)
    given = {"x": x, "y": y, "batch_size": _IMAGES, "verbose": 0}
    accumulate, heun = "trainlab Accumulate(4)", "trainlab Heun"
    turns = {
        KERAS: _begins(vision_transformer, None, given),
        accumulate: _begins(vision_transformer, tl.Accumulate(4), {**given, "batch_size": _IMAGES // 4}),
        heun: _begins(vision_transformer, tl.Heun(), given),
    }
    seconds = take_turns(turns, size.pairs)
    return Found(seconds, [ratio(seconds, accumulate, KERAS, "<= 1.5"), ratio(seconds, heun, KERAS, "<= 2.2")])


def _begins(model: Callable[[], keras.Model], strategy: tl.StepStrategy | None, given: dict[str, Any]) -> Turn:
    def begin() -> None:
        new = model()
        fit = new.fit if strategy is None else tl.Trainer(new, strategy).fit
        fit(**given)

    return lambda: seconds_of(begin)


def growing(size: Size) -> Found:
    """A model that is trained on all there is, each time that there is more."""
    count = size.scaled(40, 4)
    x, y = arrays(1000 + 37 * count)
    traces: list[float] = []
    resident: tuple[list[float], list[float]] = ([], [])

    def fit_all(fit: Callable[..., Any], after: Callable[[int], None] = lambda i: None) -> None:
        for i in range(count):
            length = 1000 + 37 * i
            fit(x[:length], y[:length], batch_size=BATCH_SIZE, verbose=0)
            after(i)

    def theirs() -> float:
        model = perceptron()
        return seconds_of(lambda: fit_all(model.fit))

    def ours() -> float:
        trainer = tl.Trainer(perceptron())

        def look(i: int) -> None:
            if i in (count // 4 - 1, count - 1):
                resident[i == count - 1].append(memory.resident("VmRSS"))

        taken = seconds_of(lambda: fit_all(trainer.fit, look))
        traces.append(trainer.num_traces)
        return taken

    seconds = take_turns({KERAS: theirs, OURS: ours}, size.pairs, warm_up=False)
    figures = [ratio(seconds, KERAS, OURS, ">= 2"), number("traces", traces, "<= 4")]
    places = (count // 4, count)
    figures += [number(f"MB resident after fit {n}", values) for n, values in zip(places, resident, strict=True)]
    grown = [late - early for early, late in zip(*resident, strict=True)]
    return Found(seconds, [*figures, number(f"MB from fit {places[0]} to fit {count}", grown)])
