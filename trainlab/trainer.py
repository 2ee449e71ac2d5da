"""The Trainer: owns a model's variables while it trains them, one strategy's step after the other."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainlab import runs
from trainlab.data import Given, Inputs, Source, Whereabouts, build_for, checked, describe_update, device, prepared, split
from trainlab.distribution import replicas_of
from trainlab.loop import Evaluations, Findings, Loop, Loops, Plan, begin, check_given, check_strategy, plan_of
from trainlab.objective import check_compiled, compile_model
from trainlab.reports import notebook
from trainlab.runs import Asked, Found, Keeper, Run, RunKeeper, manifest, workers
from trainlab.strategies import SGD, StepStrategy


class Trainer:
    """Trains a Keras model with a step strategy, in a compiled loop; otherwise as `keras.Model.fit` does.

    Afterwards the model is an ordinary Keras model: `model.fit`, `model.predict`, `model.save` work as ever.

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
        run: Run | str | os.PathLike[str] | None = None,
        seed: int = 0,
        deterministic: bool | None = None,
        jit_compile: bool | str | None = None,
        run_eagerly: bool | None = None,
        steps_per_execution: int | None = None,
        micro_batch_size: int | str | None = None,
        on_nonfinite: str = "stop",
        sum_duplicate_rows: bool | None = None,
        distribute: tf.distribute.Strategy | str | None = None,
        **unknown: Any,
    ):
        """Takes a compiled model, or compiles it.

        Args:
            model: a functional, sequential or subclassed `keras.Model`.
            strategy: the step; `SGD()`, the plain one, by default.
            optimizer, loss, metrics, loss_weights, weighted_metrics: as in `model.compile`, which is called if any is given.
            run: where `fit` saves checkpoints, and goes on from them: a directory, or `tl.Run(directory, ...)`, which says how
              often, and which are kept. Without it nothing is written.
            seed: an int, 0 or more.
            deterministic: True switches TensorFlow's op determinism on, for the whole process, so that two runs on one machine
              are equal to the last bit; call `keras.utils.set_random_seed` before the model is made. None leaves it as it is.
            jit_compile: whether XLA compiles the step; "auto" finds out by timing this very step, once, in the first `fit` that
              is long enough to repay it, not among workers. None is "auto", unless the model was compiled with one of its own.
            run_eagerly: runs Python step by step, for debugging; the compiled model's choice by default.
            steps_per_execution: updates a compiled call, and so between two batch hooks; fewer where they would take more than
              65,536 examples. None: the compiled model's if it is not 1, else as many as take 0.1 to 0.2 s, to the same results.
            micro_batch_size: evaluates every batch in pieces of at most so many examples, one after the other, where one does
              not fit in memory. Loss and gradient stay those of the whole batch; Dropout draws anew and BatchNorm takes its
              statistics piece by piece; for metrics of a batch each is one. None: whole; "auto" halves until they fit.
            on_nonfinite: what becomes of an update that leaves a NaN or an infinity in weights, statistics, the optimizer, the
              memory or the mean of the losses. "stop" raises `NonFiniteError`, the model being at the update before it. "skip"
              uses up its batches and changes nothing else, not `iteration` or dropout seeds; at most 10 in a row.
            sum_duplicate_rows: whether the gradients of an embedding's row that an update looks up more than once are summed
              before the optimizer sees them; False hands them on singly, as Keras does. None sums, and says so where it matters.
            distribute: a `tf.distribute.MirroredStrategy`, or "mirrored" for all devices of this machine: every batch is cut into
              one shard a device; for several machines, what `join_workers` returned. The model is made outside its scope.

        Raises:
            TypeError, ValueError: the model cannot be trained here, in one line that says why and what to do.
        """
        runs.refuse_unknown(unknown, Trainer)
        given = {"optimizer": optimizer, "loss": loss, "loss_weights": loss_weights, "metrics": metrics}
        given |= {"weighted_metrics": weighted_metrics}
        compile_model(model, given, jit_compile, run_eagerly)
        check_compiled(model)
        check_given(seed, jit_compile, steps_per_execution, sum_duplicate_rows, on_nonfinite)
        self.model, self.on_nonfinite = model, on_nonfinite
        self.strategy = SGD() if strategy is None else strategy
        self.seed = int(seed) % 2**31
        self._sum_duplicate_rows = sum_duplicate_rows
        self._findings = Findings(jit_compile, micro_batch_size)
        self._findings.follow(model)
        device.grow_memory()  # before a device is used, which making a strategy may do
        self._replicas = replicas_of(distribute).check(micro_batch_size)
        self._loops = Loops(self._findings, self._replicas, run_eagerly, steps_per_execution, sum_duplicate_rows)
        self._begin(run)
        self._evaluations = Evaluations()
        self._resumed_at: int | None = None
        check_strategy(self.strategy)
        device.switch_determinism(deterministic)

    @property
    def iterations(self) -> int:
        """Updates that the optimizer has done."""
        return int(self.model.optimizer.iterations.numpy())

    @property
    def num_traces(self) -> int:
        """How often an update was traced since what it is traced with last changed: the strategy, the model, a setting of one."""
        return self._loops.num_traces

    @property
    def jit_compile(self) -> bool | None:
        """Whether XLA compiles the step; None as long as "auto" has not found out, which is without XLA."""
        return self._findings.jit_compile

    @property
    def resumed_at(self) -> int | None:
        """The update from which the last `fit` went on, by a checkpoint; None if it began afresh. Of workers the chief knows."""
        return self._resumed_at

    @property
    def last_checkpoint(self) -> Path | None:
        """The run's last checkpoint; None if there is none, and at other workers than the chief, which alone has the run."""
        return self._keeper.last_checkpoint

    @property
    def micro_batch_size(self) -> int | None:
        """Examples evaluated at once, at most; None if batches are evaluated whole. Under "auto", what was found so far."""
        return self._findings.micro_batches.size

    @property
    def device(self) -> str:
        """Where the step runs, in words."""
        return str(self._replicas) if self._replicas.are_several else device.name()

    def describe(self, batch_size: int) -> str:
        """What an update is made of, in words."""
        self._findings.is_described = True  # so that `fit` need not say it again
        return describe_update(batch_size, self.strategy.batches)

    def describe_loop(self, x: Any = None, y: Any = None, **arguments: Any) -> str:
        """What a `fit` with these arguments would do, in words: in which order, who is called when, and how much at once.

        Args:
            x, y, arguments: those of `fit`; any may be left out.

        Raises:
            TypeError, ValueError: `fit` has no such argument, or would have no end.
        """
        own = (self.model, self.strategy, self._keeper.run, self.device, self._replicas.number, self.micro_batch_size)
        how = (self._updates_per_call, self._is_eager, self.on_nonfinite, self.jit_compile)
        return runs.describe_loop(runs.Described(*own, *how), self.fit, x, y, arguments)

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
        validate_every: int | None = None,
        resume: str = "auto",
        overwrite: bool = False,
        override: Collection[str] = (),
        check_data: bool = True,
    ) -> keras.callbacks.History:
        """Trains; arguments, result and meanings are those of `keras.Model.fit`, with the following said precisely.

        A "batch" of callbacks and of `steps_per_epoch` is an update. Array data are shuffled by (seed, epoch, position): a
        further `fit` on the same arrays goes on where the last one stopped, in the middle of an epoch if it was
        interrupted or ended by `steps` there (the epoch begun counts as the first of `epochs`).

        Args:
            x: arrays, or nests of them; a `tf.data.Dataset`, `PyDataset`, generator or loader of batches.
            y: targets, for arrays.
            batch_size: examples a batch, for arrays; 32 by default, or as many as let `steps_per_epoch` take all there are.
            epochs: the number to stop at, counted from `initial_epoch`.
            verbose: 0 silent, 1 a progress bar, 2 a line an epoch; "auto" is 1 on a terminal or in a notebook, otherwise 2.
            callbacks: a batch hook of yours, or TerminateOnNaN, is called at every update; Keras' others if their settings ask.
            validation_split, validation_data: the share held out, of the arrays' end; a data set, `(x, y)` or `(x, y, weights)`.
            shuffle: whether each pass over arrays takes its own order.
            class_weight, sample_weight: weights by class; or of examples or of elements.
            initial_epoch: the number of the first epoch.
            steps_per_epoch: updates an epoch; by default a pass over the data.
            validation_steps, validation_batch_size, validation_freq: as in Keras.
            steps: total updates, in place of `epochs`.
            validate_every: updates between two validations, where passes are too long, or have no end: an epoch of callbacks and
              of History then has so many, whatever passes (`epochs` of them) begin and end in it.
            resume: where the Trainer has a `run`: "auto" goes on from the newest good checkpoint of this run, or begins
              it; "must" goes on or fails; "never" begins, and refuses a directory that holds a run; "weights" takes nothing
              but the model's weights from there and begins a new run.
            overwrite: with resume="never", removes that run's checkpoints once an update is traced; begins `timeline.jsonl` anew.
            override: what was changed on purpose: "learning_rate", "data", "micro_batch_size", "on_nonfinite".
            check_data: whether arrays are looked through for NaN, infinity and labels out of range; False where these are masked.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            TypeError, ValueError: bad input, in one line.
            NonFiniteError: an update is not finite (see `on_nonfinite`); the model is at the update before it.
            MemoryError: a batch does not fit, and what to do, in one line; the model is at a committed update.
        """
        plan = plan_of(initial_epoch, epochs, steps, steps_per_epoch, validate_every)
        validation = (validation_split, validation_data, validation_batch_size, validation_steps, validation_freq)
        given = split(Given(x, y, sample_weight, class_weight, batch_size, shuffle, *validation, check_data))
        asked = Asked(resume, overwrite, override)
        asked.check(has_run=self._keeper.run is not None or self._replicas.is_follower)
        verbose = runs.verbosity(verbose)
        check_compiled(self.model)
        check_strategy(self.strategy)
        self._findings.follow(self.model)
        source = prepared(self.model, given, self.seed, steps_per_epoch, self.strategy.batches)
        self._build(source)
        inputs = checked(self.model, given, source)
        plan = plan.on(source.updates_per_pass(self.strategy.batches), source.is_endless)
        source.warn(self.strategy.batches, plan.updates_per_epoch)
        link = self._loop().link  # a strategy may fail to shape its memory: before anything is touched
        if link is not None and workers.meet(link, self._manifest(inputs, plan), self._loop, source):
            return workers.follow(link, self._findings, self._loop, inputs, self.model)
        with self._keeper.alone(), workers.led(link, self.model, self._keeper), self._keeper.opened():
            found = self._keeper.find(asked, plan, lambda: self._manifest(inputs, plan))
            with closing(inputs):
                return notebook.shown(self._train(inputs, (x, y), plan, found, callbacks, verbose), inputs.is_validated)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """`keras.Model.evaluate`, its arguments and result, many batches a compiled call; TypeError, ValueError for bad input."""
        given = {"x": x, "y": y, "batch_size": batch_size, "verbose": verbose, "sample_weight": sample_weight, "steps": steps}
        given |= {"callbacks": callbacks, "return_dict": return_dict}
        return runs.evaluate_alone(self.model, self._evaluations, given, self._findings.jit_compile, self._is_eager)

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: str | int = "auto", steps: int | None = None, callbacks: Any = None
    ) -> Any:
        """`keras.Model.predict`, its arguments and result, many batches a compiled call; TypeError, ValueError for bad input."""
        given = {"x": x, "batch_size": batch_size, "verbose": verbose, "steps": steps, "callbacks": callbacks}
        return runs.predict_alone(self.model, self._evaluations, given, self._is_eager)

    def find_learning_rate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        smallest: float = 1e-7,
        largest: float = 10.0,
        num_updates: int = 100,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
    ) -> runs.rates.LearningRates:
        """Makes `fit`'s updates at ever larger learning rates, puts everything back bit for bit, and suggests one.

        Args:
            x, y, batch_size, sample_weight, class_weight: as for `fit`; data that end begin again.
            smallest, largest, num_updates: of the rates, each by one factor larger than the one before it; one update each.

        Returns:
            The suggestion, why, and the curve; `help(trainlab.runs.rates.LearningRates)` says how it is chosen.

        Raises:
            TypeError, ValueError: bad input, or a model without a rate to look for, in one line.
            NonFiniteError: a loss is not finite before any rate could matter.
        """
        sweep = runs.rates.Sweep(smallest, largest, num_updates).check()
        check_compiled(self.model)
        check_strategy(self.strategy)
        self._findings.follow(self.model)
        made, given = self._loops.made, Given(x, y, sample_weight, class_weight, batch_size)
        try:
            return runs.rates.find(sweep, given, self.model, self.strategy, self.seed, self._build, self._loop)
        finally:
            self._loops.made = made or self._loops.made  # one that was traced with another rate than a schedule is of no use

    def start_over(self, seed: int, run: Run | str | os.PathLike[str] | None = None) -> None:
        """Makes the next `fit` the first of another run, on the model as it is now; only the first such call has it traced again.

        Weights and the optimizer's variables are the caller's to set; the strategy's memory, the place in the data and the order
        are those of a new Trainer with this `seed` (an int, 0 or more) and `run`. Raises TypeError or ValueError for another.
        """
        check_given(seed, None, None, None, "stop")
        self.seed = int(seed) % 2**31
        self._begin(run)
        self._loops.start_over(self.seed)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The curves of the last `fit`, as a `matplotlib.figure.Figure`; written to `path` (.png, .pdf, .svg) if there is one.

        Raises:
            ValueError, OSError, ModuleNotFoundError: no `fit` yet; no path to write such a picture to; matplotlib is missing.
        """
        return notebook.plot_history(getattr(self.model, "history", None), path, self.model.name)

    def load_best(self) -> Path:
        """Gives the model the weights of the best checkpoint, by `keep_best` of the run.

        Returns:
            The checkpoint; `best.json` in the run's directory says which it is, and how good.

        Raises:
            FileNotFoundError: there is none; of several workers the chief alone has the run.
            ValueError: it is of another model, or damaged; nothing is touched.
        """
        return self._keeper.load_best(self.model)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return notebook.trainer_html(self)

    def _begin(self, run: Run | str | os.PathLike[str] | None) -> None:
        described = None if self._replicas.is_follower else Run.of(run)
        self._keeper = Keeper(self._replicas.is_follower) if described is None else RunKeeper(described)
        self._whereabouts = Whereabouts()

    def _build(self, source: Source) -> None:
        """Builds the model, its losses, metrics and optimizer for these batches; by a small real pass if it runs eagerly."""
        with self._keeper.alone():
            build_for(self.model, source, self._findings.micro_batches.safe_size, self._is_eager)

    def _manifest(self, inputs: Inputs, plan: Plan) -> manifest.Manifest:
        own = {"on_nonfinite": self.on_nonfinite, "sum_duplicate_rows": self._sum_duplicate_rows is not False}
        of_fit = manifest.of_fit(self.model, self.strategy, self.seed, inputs, plan, self._findings, **own)
        return of_fit | {"replicas": self._replicas.number, "run_eagerly": self._is_eager}

    def _train(
        self, inputs: Inputs, data: Any, plan: Plan, found: Found, callbacks: Any, verbose: int
    ) -> keras.callbacks.History:
        """The part of `fit` that changes something."""
        source = inputs.source
        if found.is_resuming and found.loaded is not None:
            self._findings.take(found.loaded.state, found.override)
        else:
            self._whereabouts.go_on(source, data, plan.initial_epoch)
        self._findings.micro_batches.is_silent = verbose == 0
        loop = self._loop()
        begin(loop, source, self._findings)
        if verbose == 1 and self.strategy.batches > 1 and not self._findings.is_described:
            print(f"{self.strategy!r}: an update is {source.describe_update(self.strategy.batches)}, on {self.device}")
        listener = runs.callback_list(callbacks, self.model, plan, verbose)
        progress = found.progress(plan.initial_epoch)
        self._resumed_at = progress.updates if found.is_resuming else None
        fit = runs.fit_of(self.model, loop, inputs, listener, progress, self._findings, self._evaluations, verbose)
        if has_found_out := runs.find_out(fit, found, plan.updates - progress.updates):
            self._loops.keep()
        self._keeper.begin(fit, found, must_save=has_found_out)
        try:
            return runs.history_of(fit, self._keeper, found, plan, self._updates_per_call)
        finally:
            self._loops.keep()
            self._whereabouts.remember(source, data)

    def _loop(self, anew: bool = False) -> Loop:
        return self._loops.of(self.model, self.strategy, self.seed, self.on_nonfinite, anew)

    @property
    def _is_eager(self) -> bool:
        return self._loops.is_eager(self.model)

    @property
    def _updates_per_call(self) -> int | None:
        return self._loops.updates_per_call(self.model)
