"""Which evaluations are compiled, and for how long what was traced for them is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from trainlab.data import Source
from trainlab.loop.evaluation.evaluation_loop import CannotCompile, EvaluationLoop, first_line
from trainlab.loop.evaluation.prediction_loop import PredictionLoop
from trainlab.loop.making.recipe import traced_settings
from trainlab.loop.settings import Settings
from trainlab.objective import functions_inlined, keras_internals

_OF_EVALUATION = ("evaluate", "test_step", "make_test_function")
_OF_PREDICTION = ("predict", "predict_step", "make_predict_function")


class _Made(NamedTuple):
    model: keras.Model
    tracker: Any  # of the loss: each `compile` makes a new one
    jit_compile: bool
    settings: Settings
    loop: EvaluationLoop


class Evaluations:
    """The evaluation loop of a model; a new one where what it was traced with has changed.

    Attributes:
        why_not: why the last evaluation that was asked for is not compiled, in a line; None if it is.

    Example:
        >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        >>> model.compile(loss="mse", run_eagerly=True)
        >>> evaluations = Evaluations()
        >>> evaluations.may_compile(model, is_eager=True), evaluations.why_not
        (False, 'run_eagerly=True')
    """

    def __init__(self) -> None:
        self.why_not: str | None = None
        self._told: set[str] = set()
        self._made: _Made | None = None
        self._predicting: tuple[Settings, PredictionLoop] | None = None

    def may_predict(self, model: keras.Model, is_eager: bool) -> bool:
        """Whether it is worth trying to compile predictions: only of a model that is built."""
        own = [name for name in _OF_PREDICTION if getattr(type(model), name) is not getattr(keras_internals.TRAINER, name)]
        return not own and not is_eager and model.built

    def prediction(self, model: keras.Model, source: Source) -> PredictionLoop | None:
        """The loop, traced for a source; None if that fails."""
        settings = traced_settings(model)
        if self._predicting is None or self._predicting[0] != settings:
            self._predicting = settings, PredictionLoop(model, settings.tracing)
        try:
            self._predicting[1].prepare(source)
        except CannotCompile:
            self._predicting = None
        return None if self._predicting is None else self._predicting[1]

    def may_compile(self, model: keras.Model, is_eager: bool, takes_summaries: bool = False) -> bool:
        """Whether it is worth trying: Keras' own evaluation would do no more than the loop does.

        Args:
            model: compiled.
            is_eager: whether it runs eagerly.
            takes_summaries: whether somebody takes what the model writes to TensorBoard, batch by batch.
        """
        own = [name for name in _OF_EVALUATION if getattr(type(model), name) is not getattr(keras_internals.TRAINER, name)]
        self.why_not = "run_eagerly=True" if is_eager else None
        if own:
            self.why_not = f"{type(model).__name__} has a {own[-1]} of its own"
        elif takes_summaries:
            self.why_not = "TensorBoard(update_freq=...) takes what the model writes in a batch"
        return self.why_not is None

    def loop(self, model: keras.Model, source: Source, jit_compile: bool | None) -> EvaluationLoop | None:
        """The loop, traced for a source; None if that fails, which `why_not` then explains.

        Args:
            model: compiled; it is built for the source's batches, unless it is.
            source: at its beginning.
            jit_compile: whether XLA compiles the update.
        """
        try:
            self._build(model, source)
            made = self._made_by(model, bool(jit_compile))
            made.loop.prepare(source)
        except CannotCompile as error:
            self._made, self.why_not = None, str(error)
            return None
        return made.loop

    def _build(self, model: keras.Model, source: Source) -> None:
        try:
            with functions_inlined():  # see `build_model`
                keras_internals.build(model, source.batch_specs())
        except Exception as error:  # Keras' own evaluation will say it, or manage by running a batch
            raise CannotCompile(f"the model cannot be built for these data: {first_line(error)}") from error

    def _made_by(self, model: keras.Model, jit_compile: bool) -> _Made:
        tracker, settings, made = keras_internals.loss_tracker(model), traced_settings(model), self._made
        is_same = made is not None and made.model is model and made.tracker is tracker and made.jit_compile is jit_compile
        if made is None or not is_same or made.settings != settings:
            made = _Made(model, tracker, jit_compile, settings, EvaluationLoop(model, jit_compile, settings.tracing))
            self._made = made
        return made

    def tell(self) -> str | None:
        """A line, once for each reason, about an evaluation that is not compiled."""
        if self.why_not is None or self.why_not in self._told:
            return None
        self._told.add(self.why_not)
        return f"evaluation: batch by batch, as Keras does it ({self.why_not})"
