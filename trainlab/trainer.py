"""The Trainer: owns a model's variables while it trains them, one strategy's step after the other."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from trainlab import checks, inputs, jit, requirements
from trainlab.arrays import SameData, is_stream
from trainlab.data import ArraySource
from trainlab.epochs import Epochs, Validation
from trainlab.loop import Loop
from trainlab.strategies import SGD, StepStrategy
from trainlab.update import Update

_COMPILE_ARGUMENTS = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")


class Trainer:
    """Trains a Keras model with a step strategy, in a compiled loop; otherwise as `keras.Model.fit` does.

    Afterwards (and in between) the model is an ordinary Keras model: `model.evaluate`, `model.predict`, `model.save` and
    `model.optimizer` work as ever.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
        >>> model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        >>> trainer = Trainer(model, strategy=SGD())
        >>> x, y = np.ones([10, 4]), np.ones([10, 1])
        >>> history = trainer.fit(x, y, batch_size=5, epochs=3, verbose=0)
        >>> trainer.iterations, len(history.history["loss"])
        (6, 3)

    Attributes:
        model: the model.
        strategy: the step; assign another at any time, the next `fit` takes it.
        seed: of the data's order and of `State.seed`.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: StepStrategy | None = None,
        *,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        seed: int = 0,
        jit_compile: bool | str | None = None,
        run_eagerly: bool | None = None,
        steps_per_execution: int | None = None,
    ):
        """Takes a compiled model, or compiles it.

        Args:
            model: a functional, sequential or subclassed `keras.Model`.
            strategy: the step; `SGD()`, the plain one, by default.
            optimizer, loss, metrics, loss_weights, weighted_metrics: as in `model.compile`, which is called if any is given.
            seed: an int, 0 or more.
            jit_compile: True or False, whether XLA compiles the step; "auto" finds out by timing this very step, once, in the
              first `fit` that is long enough to repay it (see `trainlab.jit`). By default it is "auto", unless the model
              was compiled with another choice than Keras' own (which is False on a CPU, and True on a GPU).
            run_eagerly: runs Python step by step, for debugging; the compiled model's choice by default.
            steps_per_execution: updates in one compiled call, and the least distance of two batch hooks of callbacks; the
              compiled model's choice if it is not 1, otherwise as many as take about 0.1 s (results do not depend on it).

        Raises:
            TypeError, ValueError: the model cannot be trained here, in one line that says why and what to do.
        """
        given = dict(zip(_COMPILE_ARGUMENTS, (optimizer, loss, loss_weights, metrics, weighted_metrics), strict=True))
        given = {name: value for name, value in given.items() if value is not None}
        if given and isinstance(model, keras.Model):
            if model.compiled:  # compiling again must not replace what was not named
                before = model._compile_config.config
                given = {name: before.get(name) for name in _COMPILE_ARGUMENTS} | given
            steps = model.steps_per_execution
            model.compile(**given, jit_compile=jit_compile is True, run_eagerly=bool(run_eagerly), steps_per_execution=steps)
        requirements.check_compiled(model)
        checks.check_count("seed", seed, 0)
        if jit_compile not in (None, True, False, "auto"):
            raise ValueError(f'jit_compile must be True, False or "auto", not {jit_compile!r}')
        if steps_per_execution is not None:
            checks.check_count("steps_per_execution", steps_per_execution, 1)
        self.model = model
        self.strategy = SGD() if strategy is None else strategy
        self.seed = seed % 2**31
        if jit_compile is None and not given and model.jit_compile is not model._resolve_auto_jit_compile():
            jit_compile = model.jit_compile  # Keras does not keep "auto": what it would have chosen itself says nothing
        self._jit_compile = jit_compile if isinstance(jit_compile, bool) else None  # None: not found out yet
        self._run_eagerly = run_eagerly
        self._steps_per_execution = steps_per_execution
        self._loop: Loop | None = None
        self._update: Update | None = None
        self._built_for: Any = None
        self._position: tuple[SameData, int, int] | None = None  # the data, and epoch and position in them
        self._check_strategy()
        _grow_memory()

    @property
    def iterations(self) -> int:
        """Updates that the optimizer has done."""
        return int(self.model.optimizer.iterations.numpy())

    @property
    def num_traces(self) -> int:
        """How often an update was traced since the strategy, the optimizer or the trainable variables last changed."""
        return 0 if self._loop is None else self._loop.num_traces

    @property
    def jit_compile(self) -> bool | None:
        """Whether XLA compiles the step; None as long as "auto" has not found out, which is without XLA."""
        return self._jit_compile

    @property
    def device(self) -> str:
        """Where the step runs, in words."""
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return "CPU"
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        return f"{name} (GPU:0)"

    def describe(self, batch_size: int) -> str:
        """What an update is made of, in words.

        Example:
            >>> from trainlab.strategies import Accumulate
            >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
            >>> Trainer(model, Accumulate(4), loss="mse").describe(batch_size=16)
            '64 examples = 4 batches of 16'
        """
        batches = self.strategy.batches
        return (
            f"{batch_size} examples" if batches == 1 else f"{batches * batch_size} examples = {batches} batches of {batch_size}"
        )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        steps: int | None = None,
    ) -> keras.callbacks.History:
        """Trains; arguments, names and meanings are those of `keras.Model.fit`, with the following said precisely.

        A "batch" of callbacks and of `steps_per_epoch` is an update. Array data are shuffled by (seed, epoch, position): a
        further `fit` on the same arrays goes on where the last one stopped, in the middle of an epoch if it was
        interrupted or ended by `steps` there (the epoch begun counts as the first of `epochs`).

        Args:
            x: arrays, or nests of them; a `tf.data.Dataset`, `PyDataset`, generator or loader of batches.
            y: targets, for arrays.
            batch_size: examples a batch, for arrays; 32 by default.
            epochs: the number to stop at, counted from `initial_epoch`.
            verbose: 0 silent, 1 a progress bar, 2 a line an epoch; "auto" is 1 on a terminal or in a notebook, otherwise 2.
            callbacks: Keras callbacks. One that overrides a batch hook gets control at every update.
            validation_split: the share of the arrays' end that is held out.
            validation_data: `(x, y)`, `(x, y, sample_weight)`, or a data set.
            shuffle: whether each pass over arrays takes its own order.
            class_weight: weights by class, in place of `sample_weight`.
            sample_weight: weights of examples or of elements.
            initial_epoch: the number of the first epoch.
            steps_per_epoch: updates an epoch; by default a pass over the data.
            validation_steps, validation_batch_size, validation_freq: as in Keras.
            steps: total updates, in place of `epochs`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            TypeError, ValueError: bad input, in one line.
        """
        for name, value, minimum in (
            ("epochs", epochs, 0),
            ("initial_epoch", initial_epoch, 0),
            ("steps", steps, 0),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("batch_size", batch_size, 1),
            ("validation_batch_size", validation_batch_size, 1),
            ("validation_steps", validation_steps, 1),
        ):
            if value is not None:
                checks.check_count(name, value, minimum)
        if isinstance(validation_freq, int):
            checks.check_count("validation_freq", validation_freq, 1)
        if steps is not None and epochs != 1:
            raise ValueError(f"give epochs or steps, not both: epochs={epochs}, steps={steps}")
        epochs, initial_epoch = int(epochs), int(initial_epoch)  # NumPy's own would overflow
        verbose = _verbosity(verbose)
        requirements.check_compiled(self.model)
        self._check_strategy()
        given = (x, y)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = inputs.split((x, y, sample_weight), validation_split)
        source = inputs.source_of(x, y, sample_weight, class_weight, batch_size, shuffle, self.seed)
        update, loop = self._build(source)
        validation = None
        if validation_data is not None:
            inputs.check_validation(self.model, validation_data)
            arrays = inputs.validation_of(validation_data)
            size = validation_batch_size or (None if is_stream(arrays[0]) else batch_size)
            validation = Validation(*arrays, size, validation_steps, validation_freq)
        num_updates = steps_per_epoch or source.updates_per_pass(self.strategy.batches)
        if num_updates is None and steps is None and source.is_endless:
            raise ValueError("x never ends: give steps_per_epoch, or steps")
        if isinstance(source, ArraySource):
            inputs.check_against(self.model, source.given)
            self._warn_if_small(source)
            self._go_on(source, given, initial_epoch)
        if verbose == 1 and self.strategy.batches > 1:
            what = (
                self.describe(source.batch_size) if isinstance(source, ArraySource) else f"{self.strategy.batches} of x's batches"
            )
            print(f"{self.strategy!r}: an update is {what}, on {self.device}")
        last_epoch = epochs if steps is None else initial_epoch + -(-steps // (num_updates or max(steps, 1)))
        listener = callbacks
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            listener = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0,
                model=self.model,
                verbose=verbose,
                epochs=last_epoch,
                steps=num_updates,
            )
        self._choose_jit(loop, source, (epochs - initial_epoch) * (num_updates or 0) if steps is None else steps, verbose)
        run = Epochs(self.model, update, loop, source, listener, validation)
        try:
            run(initial_epoch, epochs if steps is None else None, steps, steps_per_epoch, self._updates_per_call())
        finally:
            self._built_for = (self._built_for[0], _settings(self.strategy), *self._built_for[2:])  # tracing may set some
            source.close()
            if isinstance(source, ArraySource):
                self._position = (SameData(given), source.epoch, source.position)
        return self.model.history

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`, with its arguments and result."""
        return self.model.evaluate(*args, **kwargs)

    def _go_on(self, source: ArraySource, given: Any, initial_epoch: int) -> None:
        """Puts a source where the last `fit` stopped: in the middle of a pass, if it was over the same arrays."""
        source.epoch = initial_epoch
        if self._position is None:
            return
        last, epoch, position = self._position
        is_same = last.matches(given)
        source.epoch = max(epoch + (not is_same and position > 0), initial_epoch)
        if is_same and source.epoch == epoch and position < source.num_examples:
            source.position = position

    def _build(self, source: Any) -> tuple[Update, Loop]:
        """Builds model, losses, metrics, optimizer and the loop, unless they are built for exactly this already."""
        model = self.model
        run_eagerly = bool(model.run_eagerly if self._run_eagerly is None else self._run_eagerly)
        inputs.build(model, source, run_eagerly)
        requirements.check_built(model)
        settings = _settings(self.strategy)
        # Held, not only compared: an id could be given out again.
        parts = [self.strategy, *model.trainable_variables, model._loss_tracker]  # each compile makes a new tracker
        built_for = (parts, settings, self._jit_compile, run_eagerly, self._updates_per_call(), self.seed)
        if self._update is None or self._loop is None or not _is_same(self._built_for, built_for):
            memory = None
            if self._update is not None and _is_same((self._built_for[0][:-1],), (parts[:-1],)):
                memory = self._update.memory  # the same strategy, perhaps with another setting
            self._update = Update(model, self.strategy, self.seed, memory)
            jit_compile = False if run_eagerly else self._jit_compile
            self._loop = Loop(self._update, self.strategy.batches, jit_compile, run_eagerly, self._updates_per_call())
            self._built_for = built_for
        return self._update, self._loop

    def _choose_jit(self, loop: Loop, source: Any, updates_ahead: int, verbose: int) -> None:
        if loop.jit_compile is not None:
            return
        without = [layer.name for layer in self.model._flatten_layers() if not getattr(layer, "supports_jit", True)]
        if without or updates_ahead < jit.FEWEST_UPDATES:  # 0 where nobody knows
            return
        if is_op_determinism_enabled():  # a choice that depends on timing could not be repeated
            return
        choice = loop.choose(source, updates_ahead)
        if not choice.is_final:
            loop.jit_compile = None
            return
        self._jit_compile = choice.jit_compile
        self._built_for = (*self._built_for[:2], choice.jit_compile, *self._built_for[3:])
        if verbose:
            print(choice.reason, flush=True)

    def _updates_per_call(self) -> int | None:
        if self._steps_per_execution is not None:
            return self._steps_per_execution
        return self.model.steps_per_execution if self.model.steps_per_execution != 1 else None

    def _check_strategy(self) -> None:
        if not isinstance(self.strategy, StepStrategy):
            hint = f": write {self.strategy.__name__}()" if isinstance(self.strategy, type) else ""
            raise TypeError(f"strategy must be a StepStrategy, not {self.strategy!r}{hint}")

    def _warn_if_small(self, source: ArraySource) -> None:
        per_update = source.batch_size * self.strategy.batches
        if source.num_examples < per_update:
            full, rest = divmod(source.num_examples, source.batch_size)
            held = " and ".join([f"{full} of {source.batch_size}"] * bool(full) + [f"1 of {rest}"] * bool(rest))
            warnings.warn(
                f"x has {source.num_examples} examples, fewer than one update takes ({self.describe(source.batch_size)}): "
                f"each epoch is a single update of all {source.num_examples} (batches: {held})",
                stacklevel=3,
            )


def _is_same(a: Any, b: Any) -> bool:
    return len(a[0]) == len(b[0]) and all(p is q for p, q in zip(a[0], b[0], strict=True)) and a[1:] == b[1:]


def _settings(value: Any) -> Any:
    """What a strategy's attributes hold, to be compared: a compiled step keeps the values that it was traced with."""
    if isinstance(value, StepStrategy):
        return type(value), tuple((name, _settings(item)) for name, item in sorted(vars(value).items()))
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_settings(item) for item in value)
    if isinstance(value, dict):
        return tuple((repr(name), _settings(item)) for name, item in value.items())
    return value if isinstance(value, (int, float, str, bool, bytes, type(None))) else id(value)


def _verbosity(verbose: str | int) -> int:
    if verbose == "auto":
        return 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2
    if verbose not in (0, 1, 2):
        raise ValueError(f'verbose must be 0, 1, 2 or "auto", not {verbose!r}')
    return int(verbose)


def _grow_memory() -> None:
    """Takes device memory as it is needed, where that can still be chosen."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the device is in use already, as it is
            return
