"""One evaluation, on the host: its hooks, its data, its results; those of `keras.Model.evaluate`."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import (
    Source,
    StopRequested,
    StreamSource,
    Validation,
    is_stream,
    note_pass,
    passes_of,
    stoppable,
    to_evaluate_on,
)
from trainlab.loop import EvaluationLoop, Evaluations, Loop
from trainlab.objective import keras_internals
from trainlab.runs import callback_state
from trainlab.runs.listeners.hearing import (
    count_unheard_test_batches,
    heard_once_a_call,
    hears_every_predict_batch,
    hears_every_test_batch,
    takes_summaries,
)
from trainlab.runs.listeners.remembered import Remembered


class Interrupted(Exception):
    """Ends an evaluation that is not worth finishing: the next boundary stops training."""


def _never() -> bool:
    return False


@heard_once_a_call
class EndsEvaluation(keras.callbacks.Callback):
    """Ends an evaluation of Keras' own when training is to stop."""

    def __init__(self, should_stop: Callable[[], bool]):
        super().__init__()
        self._should_stop = should_stop

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """See Keras."""
        del batch, logs
        if self._should_stop():
            raise Interrupted


class Validator:
    """Evaluates a model, in training, on the data to validate on.

    Args:
        model: built.
        loop: what trains it.
        validation: the data, and when.
        listener: the callbacks.
        evaluations: the compiled ones.
        is_silent: whether nothing is to be printed.

    Attributes:
        should_stop: says whether training is to stop.
        stop: called when it is, everything being as it was before the evaluation; raises.
        keeps_place: whether the data are to be put behind the evaluations that were, at a resume.
        place: where the data stand after the evaluations that were, as JSON holds it; None for arrays, and before the first.
        beginning: where the last one began, for `tf.data`; see `StreamSource`.
    """

    def __init__(
        self,
        model: keras.Model,
        loop: Loop,
        validation: Validation,
        listener: keras.callbacks.CallbackList,
        evaluations: Evaluations,
        is_silent: bool,
    ):
        self._model, self._loop, self._validation, self._listener = model, loop, validation, listener
        self._evaluations, self._is_silent = evaluations, is_silent
        self._evaluation_loop: EvaluationLoop | None = None
        self._is_known = False  # whether that is what it is to be
        self.is_due = validation.is_due
        self.should_stop = _never
        self.stop: Callable[[], None] = lambda: None
        self.place: dict[str, Any] | None = None
        self.beginning: dict[str, tf.Tensor] = {}
        self.keeps_place = False

    def __call__(self) -> dict[str, Any]:
        """The results, by names that begin with `val_`."""
        self._find_out()
        callbacks = self._listener.callbacks
        remembered = Remembered(callback_state.get_states(callbacks))
        try:
            with self._loop.transaction():  # an evaluation cut short leaves its own sums in the metrics
                results = self._by_keras() if self._evaluation_loop is None else self._compiled(self._evaluation_loop)
        except BaseException as error:  # the variables are what they were, and so is what callbacks know of them
            callback_state.set_states(callbacks, remembered.states(callback_state.get_states(callbacks)))
            if not isinstance(error, Interrupted):
                raise
            self.stop()
            raise KeyboardInterrupt from None  # there was nobody yet who could save
        self._note_place()
        return {f"val_{name}": value for name, value in results.items()}

    def restore(self, place: Mapping[str, Any] | None, serialized: Mapping[str, tf.Tensor]) -> None:
        """Puts the data behind the evaluations that were: those that come in another order each time go on with the next.

        What was the same in all of them is not read again.
        """
        if place is None or not is_stream(self._validation.x):
            return
        self.place, self.beginning = dict(place), dict(serialized)
        if hasattr(self._validation.x, "__next__"):
            if place["moves"]:
                warnings.warn(
                    "validation_data is a generator: evaluations go on with other batches than they would", stacklevel=4
                )
        elif serialized or place["moves"] is not False or place["passes"] == 1 or place["own"] is not None:
            steps = self._validation.steps
            self._stream().most = 0 if place["moves"] is None else math.inf if steps is None else steps
            self._stream().restore(place, serialized)

    def _stream(self) -> StreamSource:
        source = self._validation.source
        assert isinstance(source, StreamSource)
        return source

    def _note_place(self) -> None:
        """One more evaluation was made; whether all gave the same batches shows in their last."""
        if not (self.keeps_place and is_stream(self._validation.x)):
            return
        last = self.place or {"moves": False, "passes": 0}
        if self._evaluation_loop is None:  # Keras has read it
            note_pass(self._validation.x)
            begun = passes_of(self._validation.x).begun
            count = last["passes"] + 1
            self.place = {"passes": count, "batches": 0, "is_open": False, "own": None, "before": begun - count, "moves": None}
            self.place["opened_at"] = 0  # unknown: of what shares a shuffle with training, that of training counts
        else:
            where = self._stream().state()
            is_other = self.place is not None and where.get("last_batch") != last.get("last_batch")
            self.place, self.beginning = {**where, "moves": last["moves"] or is_other}, self._stream().beginning()

    def _find_out(self) -> None:
        """Traces the evaluation, once, when the first is due; where that is not to be, says why."""
        if self._is_known:
            return
        if self._evaluations.may_compile(self._model, self._loop.is_eager, takes_summaries(self._listener)):
            source, jit_compile = self._validation.source, self._loop.jit_compile
            if isinstance(source, StreamSource):
                source.is_to_be_saved = self.keeps_place
            self._evaluation_loop = self._evaluations.loop(self._model, source, jit_compile)
        self._is_known = True
        if not self._is_silent and (line := self._evaluations.tell()) is not None:
            print(line, flush=True)

    def _compiled(self, loop: EvaluationLoop) -> dict[str, Any]:
        source, steps = self._validation.source, self._validation.steps
        return evaluate(self._model, loop, source, steps, self._listener, self.should_stop)

    def _by_keras(self) -> dict[str, Any]:
        callbacks = self._listener.callbacks
        callbacks.append(watcher := EndsEvaluation(self.should_stop))
        try:
            given = self._validation.for_keras()
            results: dict[str, Any] = self._model.evaluate(**given, callbacks=self._listener, return_dict=True, verbose=0)
            return results
        finally:
            callbacks.remove(watcher)


def evaluate(
    model: keras.Model,
    loop: EvaluationLoop,
    source: Source,
    steps: int | None,
    listener: keras.callbacks.CallbackList,
    should_stop: Callable[[], bool] = _never,
    has_progress_bar: bool = False,
) -> dict[str, Any]:
    """Evaluates the model on a pass over a source, or on the first so many batches.

    Args:
        model: built.
        loop: traced for the source.
        source: at the beginning of a pass; afterwards at that of the next.
        steps: the most batches; None for all.
        listener: the callbacks. Those with a batch hook for evaluations get control at every batch.
        should_stop: whether the evaluation is to end, asked between two calls.
        has_progress_bar: whether one of the callbacks shows how far it is, with results.

    Returns:
        Numbers by name, sorted; arrays where a metric returns them.

    Raises:
        Interrupted: `should_stop()` was true.
    """
    steps = _capped(steps)
    hears, stride = hears_every_test_batch(listener), model.steps_per_execution
    model.stop_evaluating = False
    listener.on_test_begin()
    loop.reset()
    done, most = 0, sys.maxsize if steps is None else steps
    try:
        with stoppable(should_stop):
            while done < most and not model.stop_evaluating and not source.at_end:
                if hears:
                    count = _told_batches(loop, source, listener, done, min(most - done, stride), stride)
                else:
                    count = _told_call(loop, source, listener, done, most - done, stride, has_progress_bar)
                if not count:
                    break
                done += count
                if should_stop():
                    raise Interrupted
    except StopRequested:
        raise Interrupted from None
    finally:
        source.next_pass()
    if steps is not None and done < steps and not model.stop_evaluating:
        warnings.warn(f"the data to evaluate on ran out after {done} of {steps} steps", stacklevel=3)
    logs = _numbers(loop) if done else dict.fromkeys(_numbers(loop), math.nan)
    listener.on_test_end(logs)
    return logs


def _told_batches(
    loop: EvaluationLoop, source: Source, listener: keras.callbacks.CallbackList, first: int, most: int, stride: int
) -> int:
    """Runs what is a batch to the hooks, and returns how many batches it was; none at the end of a pass."""
    done, begin = 0, functools.partial(listener.on_test_batch_begin, first)
    while done < most and not source.at_end:
        count = loop.run(source, most - done, before=None if done else begin)
        if not count:
            break
        done += count
    if done:
        listener.on_test_batch_end(first + stride - 1, _numbers(loop))
    return done


def _told_call(
    loop: EvaluationLoop,
    source: Source,
    listener: keras.callbacks.CallbackList,
    first: int,
    most: int,
    stride: int,
    has_progress_bar: bool,
) -> int:
    """Makes a call, and tells those who only count, or draw, of its last batch; returns how many batches it was."""
    done = loop.run(source, most)
    heard = -(-(first + done) // stride) - -(-first // stride)  # so often they would have been told by Keras
    if heard:
        count_unheard_test_batches(listener, heard - 1)
        listener.on_test_batch_begin(first)
        listener.on_test_batch_end(first + done - 1, _numbers(loop) if has_progress_bar else {})
    return done


def evaluate_alone(
    model: keras.Model, evaluations: Evaluations, given: Mapping[str, Any], jit_compile: bool | None, is_eager: bool
) -> Any:
    """`keras.Model.evaluate`, of these arguments, with its result."""
    source = loop = None
    if evaluations.may_compile(model, is_eager, any(map(takes_summaries, keras.tree.flatten(given["callbacks"] or [])))):
        source = to_evaluate_on(model, *(given[name] for name in ("x", "y", "sample_weight", "batch_size", "steps")))
        loop = evaluations.loop(model, source, jit_compile)
    if source is None or loop is None:
        if given["verbose"] and (line := evaluations.tell()) is not None:
            print(line, flush=True)
        return model.evaluate(**_for_keras(given, source))
    callbacks, verbose, steps = given["callbacks"], given["verbose"], given["steps"]
    listener = _listener(model, callbacks, verbose, source.updates_per_pass(1) if steps is None else steps)
    try:
        logs = evaluate(model, loop, source, steps, listener, has_progress_bar=verbose != 0)
    finally:
        source.close()
    return logs if given["return_dict"] else keras_internals.in_order_of_metrics(model, logs)


def predict_alone(model: keras.Model, evaluations: Evaluations, given: Mapping[str, Any], is_eager: bool) -> Any:
    """`keras.Model.predict`, of these arguments, with its result; where somebody listens to its batches, Keras' own."""
    callbacks, verbose, steps = given["callbacks"], given["verbose"], _capped(given["steps"])
    source = loop = None
    if evaluations.may_predict(model, is_eager) and not any(map(hears_every_predict_batch, keras.tree.flatten(callbacks or []))):
        source = to_evaluate_on(model, given["x"], None, None, given["batch_size"], steps, has_targets=False)
        loop = evaluations.prediction(model, source)
    if source is None or loop is None:
        return model.predict(**_for_keras(given, source))
    listener = _listener(model, callbacks, verbose, source.updates_per_pass(1) if steps is None else steps)
    model.stop_predicting = False
    listener.on_predict_begin()
    loop.reset()
    done, most = 0, sys.maxsize if steps is None else steps
    try:
        while done < most and not model.stop_predicting and not source.at_end:
            count = loop.run(source, most - done, before=functools.partial(listener.on_predict_batch_begin, done))
            if not count:
                break
            done += count
            listener.on_predict_batch_end(done - 1, {})
    finally:
        source.close()
    listener.on_predict_end()
    if not done:
        raise ValueError("x gave no batch: there is nothing to predict")
    if steps is not None and done < steps and not model.stop_predicting:
        warnings.warn(f"the data to predict on ran out after {done} of {steps} steps", stacklevel=3)
    return loop.result()


def _for_keras(given: Mapping[str, Any], source: Source | None) -> Mapping[str, Any]:
    """The arguments for Keras' own, after a look at the data: a generator has given its first batches to whoever looked."""
    if isinstance(source, StreamSource) and hasattr(given["x"], "__next__"):
        return {**given, "x": source.dataset}
    return given


def _listener(model: keras.Model, callbacks: Any, verbose: Any, steps: int | None) -> keras.callbacks.CallbackList:
    """What Keras makes of the argument `callbacks` of an evaluation or a prediction."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return keras.callbacks.CallbackList(callbacks, add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=steps, model=model)


def _capped(steps: int | None) -> int | None:
    cap = keras.config.max_steps_per_epoch()
    if cap and (steps is None or cap < steps):
        warnings.warn(f"Limiting steps_per_epoch to {cap}", stacklevel=4)
        return int(cap)
    return steps


def _numbers(loop: EvaluationLoop) -> dict[str, Any]:
    arrays = {name: np.asarray(value) for name, value in loop.logs().items()}
    return {name: float(array) if array.ndim == 0 else array for name, array in arrays.items()}
