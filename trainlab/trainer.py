"""The Trainer: owns a model's variables while it trains them, one strategy's step after the other."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from trainlab import checks, inputs, jit, manifest, requirements
from trainlab.arrays import SameData, is_stream
from trainlab.checkpoint import Loaded
from trainlab.data import ArraySource, StreamSource
from trainlab.epochs import Epochs, Keeper, Progress, Validation
from trainlab.loop import Loop
from trainlab.manifest import OVERRIDABLE
from trainlab.micro_batches import MicroBatches
from trainlab.nonfinite import NonFiniteError
from trainlab.plan import Plan, plan_of
from trainlab.recipe import Recipe, recipe_of, settings_of
from trainlab.run import RESUME, Parts, Request, Run, progress_of
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
        on_nonfinite: "stop" or "skip", as given.
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
        deterministic: bool | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        save_steps: int | None = None,
        save_seconds: float | None = 60.0,
        keep: int = 3,
        keep_best: str | None = None,
        on_nonfinite: str = "stop",
        micro_batch_size: int | str | None = None,
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
            steps_per_execution: updates in one compiled call, and so between two batch hooks of callbacks; fewer where so many
              would take more than 65,536 examples. The compiled model's choice if it is not 1, otherwise as many as take 0.1
              to 0.2 s (results do not depend on it).
            deterministic: True switches TensorFlow's op determinism on, for the whole process, so that two runs on one machine
              are equal to the last bit; call `keras.utils.set_random_seed` before the model is made. None leaves it as it is.
            run_dir: the run's directory. `fit` saves checkpoints there, and goes on from them; without it nothing is written.
            save_steps: updates between two checkpoints; None for none by steps.
            save_seconds: seconds between two; None for none by time.
            keep: how many of the last checkpoints are kept, at least 1.
            keep_best: a name in the logs, such as "val_loss", by which the best checkpoint is kept besides; checkpoints are
              then also written after an epoch that was the best so far. Less is better, but for names with acc, auc,
              precision, recall, f1 or iou in them.
            on_nonfinite: what becomes of an update that leaves a NaN or an infinity in weights, statistics, the optimizer, the
              memory or the mean of the losses. "stop" raises `NonFiniteError`, the model being at the update before it.
              "skip" leaves it out: its batches are used up and nothing else changes, so that the next update has the same
              `iteration` and dropout seeds; at most `trainlab.nonfinite.MAX_SKIPS` (10) in a row.
            micro_batch_size: evaluates every batch in pieces of at most so many examples, one after the other, for batches that
              do not fit in memory. Loss and gradient stay those of the whole batch, and an update stays an update; Dropout
              draws anew and BatchNorm takes its statistics piece by piece, as batch by batch in `Accumulate`. By default
              batches are evaluated whole; "auto" starts so, and halves until they fit.

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
        if save_steps is not None:
            checks.check_count("save_steps", save_steps, 1)
        if save_seconds is not None and not (isinstance(save_seconds, (int, float)) and save_seconds >= 0):
            raise ValueError(f"save_seconds must be a number of seconds of at least 0, or None, not {save_seconds!r}")
        checks.check_count("keep", keep, 1)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        elif deterministic is False and is_op_determinism_enabled():
            raise ValueError("deterministic=False, but op determinism is on in this process, which nothing switches off")
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f'on_nonfinite must be "stop" or "skip", not {on_nonfinite!r}')
        self._micro_batches = MicroBatches(micro_batch_size)
        self.model = model
        self.on_nonfinite = on_nonfinite
        self.strategy = SGD() if strategy is None else strategy
        self.seed = int(seed) % 2**31
        if jit_compile is None and not given and model.jit_compile is not model._resolve_auto_jit_compile():
            jit_compile = model.jit_compile  # Keras does not keep "auto": what it would have chosen itself says nothing
        self._jit_compile = jit_compile if isinstance(jit_compile, bool) else None  # None: not found out yet
        self._run_eagerly = run_eagerly
        self._steps_per_execution = steps_per_execution
        self._loop: Loop | None = None
        self._update: Update | None = None
        self._recipe: Recipe | None = None
        self._position: tuple[SameData, int, int] | None = None  # the data, and epoch and position in them
        self._run = None if run_dir is None else Run(Path(run_dir), save_steps, save_seconds, keep, keep_best)
        self._resumed_at: int | None = None
        self._rates: tuple[Any, Any] | None = None  # as the last fit left the learning rate, and as it was given
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
    def resumed_at(self) -> int | None:
        """The update from which the last `fit` went on, by a checkpoint; None if it began afresh."""
        return self._resumed_at

    @property
    def last_checkpoint(self) -> Path | None:
        """The run's last checkpoint; None if there is none."""
        return self._run.last_checkpoint if self._run else None

    @property
    def micro_batch_size(self) -> int | None:
        """Examples evaluated at once, at most; None if batches are evaluated whole. Under "auto", what was found so far.

        Example:
            >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
            >>> Trainer(model, loss="mse", micro_batch_size=8).micro_batch_size
            8
        """
        return self._micro_batches.size

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
        resume: str = "auto",
        overwrite: bool = False,
        override: Collection[str] = (),
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
            resume: where the Trainer has a `run_dir`: "auto" goes on from the newest good checkpoint of this run, or begins
              it; "must" goes on or fails; "never" begins, and refuses a directory that holds a run; "weights" takes nothing
              but the model's weights from there and begins a new run.
            overwrite: with resume="never", removes the checkpoints of the run that is there.
            override: names of settings that were changed on purpose since the checkpoint: "learning_rate".

        Returns:
            The `keras.callbacks.History`.

        Raises:
            TypeError, ValueError: bad input, in one line.
            NonFiniteError: an update is not finite (see `on_nonfinite`); the model is at the update before it.
            MemoryError: a batch does not fit, and what to do, in one line; the model is at a committed update.
        """
        plan = plan_of(initial_epoch, epochs, steps, steps_per_epoch)
        for name, value in (
            ("batch_size", batch_size),
            ("validation_batch_size", validation_batch_size),
            ("validation_steps", validation_steps),
        ):
            if value is not None:
                checks.check_count(name, value, 1)
        if isinstance(validation_freq, int):
            checks.check_count("validation_freq", validation_freq, 1)
        if resume not in RESUME:
            raise ValueError(f"resume must be one of {', '.join(map(repr, RESUME))}, not {resume!r}")
        if self._run is None and (resume != "auto" or overwrite):
            raise ValueError(f"resume={resume!r} needs a run's directory: Trainer(..., run_dir=...)")
        if not set(override) <= set(OVERRIDABLE) or isinstance(override, str):
            raise ValueError(f"override must be a list of names from {list(OVERRIDABLE)}, not {override!r}")
        verbose = _verbosity(verbose)
        self._micro_batches.is_silent = verbose == 0
        requirements.check_compiled(self.model)
        self._check_strategy()
        given = (x, y)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = inputs.split((x, y, sample_weight), validation_split)
        source = inputs.source_of(x, y, sample_weight, class_weight, batch_size, shuffle, self.seed)
        self._build(source)
        validation = None
        if validation_data is not None:
            inputs.check_validation(self.model, validation_data)
            arrays = inputs.validation_of(validation_data)
            size = validation_batch_size or (None if is_stream(arrays[0]) else batch_size)
            validation = Validation(*arrays, size, validation_steps, validation_freq)
        plan = plan.on(source.updates_per_pass(self.strategy.batches), source.is_endless)
        if isinstance(source, ArraySource):
            inputs.check_against(self.model, source.given)
            self._warn_if_small(source)
        with self._run.opened() if self._run else nullcontext():
            loaded = self._find(source, validation, plan, resume, overwrite, override) if self._run else None
            try:
                return self._fit(source, given, validation, plan, callbacks, verbose, loaded, resume, override)
            finally:
                source.close()

    def _fit(
        self,
        source: ArraySource | StreamSource,
        given: Any,
        validation: Validation | None,
        plan: Plan,
        callbacks: Any,
        verbose: int,
        loaded: Loaded | None,
        resume: str,
        override: Collection[str],
    ) -> keras.callbacks.History:
        """The part of `fit` that changes something."""
        run = self._run
        is_resuming = loaded is not None and resume != "weights"
        if loaded is not None and is_resuming:
            self._jit_compile = loaded.state["jit_compile"]
            if "micro_batch_size" not in override:
                self._micro_batches.size = loaded.state["micro_batch_size"]
        update, loop = self._build(source)
        if isinstance(source, ArraySource) and not is_resuming:
            self._go_on(source, given, plan.initial_epoch)
        if verbose == 1 and self.strategy.batches > 1:
            what = (
                self.describe(source.batch_size) if isinstance(source, ArraySource) else f"{self.strategy.batches} of x's batches"
            )
            print(f"{self.strategy!r}: an update is {what}, on {self.device}")
        listener = callbacks
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            listener = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0,
                model=self.model,
                verbose=verbose,
                epochs=plan.last_epoch,
                steps=plan.updates_per_epoch,
            )
        progress = Progress(plan.initial_epoch)
        if loaded is not None and is_resuming:
            progress = progress_of(loaded)
        has_chosen = False
        # What was not worth finding out may be, for a run that is made longer; but a stream would have to be read again.
        is_longer = run is not None and loaded is not None and run.is_longer(loaded)
        if not is_resuming or (is_longer and isinstance(source, ArraySource)):
            has_chosen = self._choose_jit(loop, source, plan.updates - progress.updates, verbose)
        self._resumed_at = progress.updates if is_resuming else None
        if run is not None:
            parts = Parts(self.model, loop, source, listener, progress, self._record)
            run.begin(parts, loaded if is_resuming else None, must_save=has_chosen)
            self._announce(run, loaded, resume, progress, verbose)
            if loaded is not None and not is_resuming:
                run.restore_weights(loaded)
            elif loaded is not None and run.is_over(loaded):
                run.restore_finished(loaded)
                if isinstance(source, ArraySource):
                    self._position = (SameData(given), source.epoch, source.position)
                self._rates = manifest.learning_rate(self.model.optimizer), run.given["learning_rate"]
                self.model.history = _history(run.skip())
                return self.model.history
        loop.guard.on_nonfinite = self.on_nonfinite
        epochs = Epochs(self.model, update, loop, source, listener, validation, progress, run or Keeper())
        try:
            epochs(plan.epochs, plan.steps, plan.steps_per_epoch, self._updates_per_call())
        except NonFiniteError as error:
            if run is None or run.last_checkpoint is None:
                raise
            raise NonFiniteError(f"{error}; the last checkpoint is {run.last_checkpoint}", error.iteration) from error.__cause__
        finally:
            assert self._recipe is not None
            self._recipe = self._recipe._replace(settings=settings_of(self.strategy))  # tracing may set some
            if run is not None:
                self._rates = manifest.learning_rate(self.model.optimizer), run.given["learning_rate"]
            if isinstance(source, ArraySource):
                self._position = (SameData(given), source.epoch, source.position)
        return self.model.history

    def _find(
        self,
        source: ArraySource | StreamSource,
        validation: Validation | None,
        plan: Plan,
        resume: str,
        overwrite: bool,
        override: Collection[str],
    ) -> Loaded | None:
        """The checkpoint to go on from, compared with what is to be trained now."""
        assert self._run is not None
        current = manifest.of_model(self.model) | manifest.of_machine()
        if self._rates is not None and current["learning_rate"] == self._rates[0]:
            current["learning_rate"] = self._rates[1]  # as a callback has left it: nobody else has changed it
        current |= {"strategy": manifest.of_strategy(self.strategy), "seed": self.seed}
        current["batches"] = {"steps_per_epoch": plan.steps_per_epoch, **source.describe()}
        current["data"] = {"training": manifest.of_data(source.given if isinstance(source, ArraySource) else None)}
        if validation is not None:
            current["data"]["validation"] = manifest.of_data(validation[:3])
            current["batches"]["validation"] = manifest.plain(validation[3:])
        if self._jit_compile is not None:
            current["jit_compile"] = self._jit_compile
        if not self._micro_batches.is_auto:
            current["micro_batch_size"] = self._micro_batches.size
        return self._run.find(resume, overwrite, override, current, Request(plan.epochs, plan.steps))

    def _record(self) -> dict[str, Any]:
        """What was found out, and is kept by later fits and in checkpoints."""
        return {"jit_compile": self._jit_compile, "micro_batch_size": self._micro_batches.size}

    def _announce(self, run: Run, loaded: Loaded | None, resume: str, progress: Progress, verbose: int) -> None:
        if not verbose:
            return
        if loaded is None:
            what = f"goes on with fit {run.fits + 1}" if run.fits else "begun"
        elif resume == "weights":
            what = f"begun with the weights of {loaded.path.name}"
        elif run.is_over(loaded):
            what = f"finished at update {progress.updates:,} ({loaded.path.name})"
        else:
            what = f"resumed at update {progress.updates:,}, epoch {progress.epoch + 1} ({loaded.path.name})"
        print(f"run       {run.directory}: {what}", flush=True)

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
        inputs.build(model, source, run_eagerly, self._micro_batches.safe_size)
        requirements.check_built(model)
        per_call = self._updates_per_call()
        recipe = recipe_of(model, self.strategy, self._jit_compile, run_eagerly, per_call, self.seed)
        if self._update is None or self._loop is None or self._recipe is None or not self._recipe.matches(recipe):
            memory = None
            if self._update is not None and self._recipe is not None and self._recipe.has_same_memory(recipe):
                memory = self._update.memory
            self._update = Update(model, self.strategy, self.seed, memory)
            jit_compile = False if run_eagerly else self._jit_compile
            self._loop = Loop(self._update, self.strategy.batches, jit_compile, run_eagerly, per_call, self._micro_batches)
            self._recipe = recipe
        return self._update, self._loop

    def _choose_jit(self, loop: Loop, source: Any, updates_ahead: int, verbose: int) -> bool:
        """Finds out, where that may be, whether XLA compiles the step; returns whether it is known now and was not before."""
        if loop.jit_compile is not None:
            return False
        without = [layer.name for layer in self.model._flatten_layers() if not getattr(layer, "supports_jit", True)]
        if without or updates_ahead < jit.FEWEST_UPDATES:  # 0 where nobody knows
            return False
        if is_op_determinism_enabled():  # a choice that depends on timing could not be repeated
            return False
        choice = loop.choose(source, updates_ahead)
        if not choice.is_final:
            loop.jit_compile = None
            return False
        self._jit_compile = choice.jit_compile
        assert self._recipe is not None
        self._recipe = self._recipe._replace(jit_compile=choice.jit_compile)
        if verbose:
            print(choice.reason, flush=True)
        return True

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


def _history(record: Mapping[str, Any]) -> keras.callbacks.History:
    history = keras.callbacks.History()
    history.epoch, history.history = list(record["epoch"]), dict(record["history"])
    return history


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
