"""Non-finite values: found in what a compiled call has left, named, and stopped at or skipped.

A loss alone does not show them: relu turns NaN into 0. So the state is watched: everything that an update may change and
that must stay finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import tensorflow as tf

from trainlab.data import Block, check_labels, find_non_finite
from trainlab.loop.progress import Progress
from trainlab.loop.update import Update
from trainlab.objective import SMALLEST_SCALE, Batches, keras_internals, native
from trainlab.parameters import Rows, Vector

# So many updates in a row are skipped; one more stops the run, for then it is not the data that are bad here and there.
MAX_SKIPS = 10

_LOSS = "the mean of the losses"
_SCALE = "the loss scale"  # it has fallen too far
_OVERFLOW = "a gradient"  # of an update whose data are not finite, so that it need not be the loss scale's


class NonFiniteError(ArithmeticError):
    """An update is not finite; the model is at the update before it, bit for bit, and can be trained from there.

    Example:
        >>> import keras, numpy as np
        >>> from trainlab import Trainer
        >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> trainer = Trainer(model, optimizer=keras.optimizers.SGD(1e25), loss="mse")
        >>> try:
        ...     history = trainer.fit(np.ones([1, 1]), np.zeros([1, 1]), epochs=9, verbose=0)
        ... except NonFiniteError as error:
        ...     print(error)
        update 2 (number 1 of epoch 2): evaluation 1 of 1 gave a loss of inf; the model is at update 1, the last good one. Lower
        the learning rate, clip the gradient (clipnorm), or leave out such updates (on_nonfinite="skip")
        >>> trainer.iterations
        1

    Attributes:
        iteration: updates that the model's optimizer has done; all of them were good.
        is_of_data: whether the data of the update are not finite, or hold labels out of range.
    """

    def __init__(self, message: str, iteration: int = 0, is_of_data: bool = False):
        super().__init__(message)
        self.iteration = iteration
        self.is_of_data = is_of_data


class Undo(Exception):
    """Takes a call back: what it left is not finite. Its argument names the first such variable."""


class Watch:
    """Watches what must stay finite: trained variables, statistics, the optimizer, the memory, the mean of the losses.

    Metrics and logs are not watched; they may be NaN lawfully. A call is looked at when it is over: a memory that is not
    finite after one update and finite again after the next may pass.

    Args:
        update: whose variables.
    """

    def __init__(self, update: Update):
        model = update.function.model
        self._iterations = model.optimizer.iterations
        self._trained = [(repr(v.path), native(v)) for v in update.function.variables]
        named = [
            *self._trained,
            *((repr(v.path), native(v)) for v in (*model.non_trainable_variables, *model.optimizer.variables)),
            *((f"memory[{name!r}]", v) for name, value in update.memory.items() for v in tf.nest.flatten(value)),
            *((_LOSS, native(v)) for v in keras_internals.loss_tracker(model).variables),
        ]
        self._scale = None if update.scaling is None else native(update.scaling.variable)
        watched = {id(v): (name, v) for name, v in named if v.dtype.is_floating and v is not self._scale}
        self._watched = list(watched.values())
        self._excused: dict[int, tf.Tensor] = {}  # which of its numbers, by a variable's id
        self._compiled_flags: Callable[[], tf.Tensor] | None = None

    def start(self) -> None:
        """Excuses what is not finite already, lawfully: a mask kept as a weight, a memory of the best loss so far.

        Raises:
            NonFiniteError: a trained variable holds NaN, or the loss scale is none.
        """
        self._excused, self._compiled_flags = {}, None
        if self._scale is not None and not self._has_scale():
            line = f"the loss scale is {self.loss_scale:g} before the first update, and must be finite and at least 2**-24: "
            raise NonFiniteError(f"{line}assign optimizer.dynamic_scale another, such as 2.0**15", int(self._iterations))
        are_finite = self._flags().numpy()  # eagerly: the first step would wait for a trace
        bad = [named for named, is_finite in zip(self._watched, are_finite, strict=True) if not is_finite]
        trained = {id(v) for _, v in self._trained}
        for name, variable in bad:
            if id(variable) in trained and bool(tf.reduce_any(tf.math.is_nan(variable))):
                line = f"{name} holds NaN before the first update, and so would every update: load or make other weights"
                raise NonFiniteError(line, int(self._iterations))
        # The losses' mean is set to zero at the start of an epoch, whatever it was.
        self._excused = {id(v): ~tf.math.is_finite(v) for name, v in bad if name != _LOSS}

    def is_surely_finite(self) -> tf.Tensor:
        """A scalar bool, part of a compiled call: nothing else is read back. If it is False, `first` knows.

        The sum of the squares is finite only if every number is. It may overflow without one that is not, and some may be
        excused; but it is one operation a variable, and a call may make a single update of a small model.
        """
        dtypes = dict.fromkeys(v.dtype for _, v in self._watched)
        sums = [tf.add_n([_half_square(v) for _, v in self._watched if v.dtype == dtype]) for dtype in dtypes]
        flags = [tf.math.is_finite(s) for s in sums]
        return tf.reduce_all(tf.stack(flags if self._scale is None else [*flags, self._has_scale()]))

    def first(self) -> str | None:
        """The name of the first variable that is not finite, trained ones before others; None if all is as it must be.

        A loss scale that has fallen below 2**-24 is named too, and a gradient that overflowed with data that are not finite.
        """
        if self._compiled_flags is None:  # where something is excused, it is asked after every call
            self._compiled_flags = tf.function(self._flags, autograph=False).get_concrete_function()
        are_finite = self._compiled_flags().numpy()
        bad = [name for (name, _), is_finite in zip(self._watched, are_finite, strict=True) if not is_finite]
        if self._scale is not None and not self._has_scale():
            bad.append(_OVERFLOW if np.isnan(self._scale.numpy()) else _SCALE)
        return bad[0] if bad else None

    @property
    def loss_scale(self) -> float | None:
        """As it is now; None of one that does not move."""
        return None if self._scale is None else float(self._scale)

    def _has_scale(self) -> tf.Tensor:
        """Whether the loss scale is one; where it falls for ever it is not the scale that makes gradients overflow."""
        assert self._scale is not None
        return (self._scale >= SMALLEST_SCALE) & tf.math.is_finite(self._scale)

    def _flags(self) -> tf.Tensor:
        """Whether each variable is finite, but for what is excused."""
        return tf.stack([tf.reduce_all(tf.math.is_finite(v) | self._excused.get(id(v), False)) for _, v in self._watched])


def _half_square(variable: tf.Variable) -> tf.Tensor:
    return tf.nn.l2_loss(variable if variable.dtype in (tf.float32, tf.float64) else tf.cast(variable, tf.float32))


class Guard:
    """Decides what becomes of an update that is not finite, and says which one it is and why.

    Args:
        update: one update.

    Attributes:
        watch: tells whether a call left everything finite.
        on_nonfinite: "stop" or "skip".
        progress: of the fit; counts what is committed or skipped.
        num_skipped: updates that were left out since the fit began, or went on.
    """

    def __init__(self, update: Update):
        self._update = update
        self.watch = Watch(update)
        self.on_nonfinite = "stop"
        self.progress = Progress()
        self.num_skipped = self._num_in_a_row = 0

    def start(self, progress: Progress) -> None:
        """Begins a fit, or goes on with one.

        Raises:
            NonFiniteError: a trained variable holds NaN.
        """
        self.watch.start()
        self.num_skipped = self._num_in_a_row = 0
        self.progress = progress

    def accept(self, num_updates: int) -> None:
        """Counts updates that were committed."""
        self.progress.count(num_updates)
        self._num_in_a_row = 0

    def excused(self, block: Block, problem: Exception, again: Callable[[], Exception | None]) -> Exception | None:
        """What is left of `problem`, because of which the single update of a block was taken back; None if it is made now.

        Where the data are not finite the update may only have too large a loss scale: a model that masks such data has a finite
        gradient if the loss is not scaled. Then it is made `again`, which skips it. This is asked at every such update, lest
        what excuses one hide another's data, or a run that goes on decide otherwise than the unbroken one.
        """
        scaling = self._update.scaling
        if scaling is None or not isinstance(problem, Undo) or problem.args[0] != _OVERFLOW:
            return problem
        scale = tf.convert_to_tensor(scaling.variable)
        scaling.variable.assign(1.0)
        try:
            is_excused = self._reasons(block)[1] is None
        finally:
            scaling.variable.assign(scale)
        if not is_excused:
            return problem
        scaling.may_be_non_finite.assign(True)
        try:
            return again()
        finally:
            scaling.may_be_non_finite.assign(False)

    def reject(self, block: Block, problem: Exception) -> None:
        """Skips the single update of a block, which has been taken back because of `problem`, or stops at it.

        Raises:
            NonFiniteError: it stops.
            Exception: `problem` itself, if it is an error that bad data do not explain.
        """
        is_last = self.on_nonfinite == "stop" or self._num_in_a_row == MAX_SKIPS
        count = self.num_skipped + 1
        is_told = is_last or str(count).strip("0") == "1"
        iteration = int(self._update.function.model.optimizer.iterations)
        # Looking costs as much as many updates: not for every one that is skipped.
        data, evaluation = self._reasons(block) if is_told or not isinstance(problem, Undo) else (None, None)
        if data is None and not isinstance(problem, Undo):
            raise problem
        found = list(filter(None, (data, evaluation)))
        if isinstance(problem, Undo) and problem.args[0] == _SCALE:
            found.insert(0, f"its gradients overflow though the loss scale has fallen to {self.watch.loss_scale:.3g}")
        reason = "; ".join(found) or f"it left {problem.args[0]} non-finite"
        line = self._line(0, reason)
        if is_last:
            where = f"the model is at update {iteration}, the last good one"
            what = "Clean the data" if data else "Lower the learning rate, clip the gradient (clipnorm)"
            skip = ', or leave out such updates (on_nonfinite="skip")'
            if self.on_nonfinite == "skip":
                where, skip = f"{MAX_SKIPS} updates before it were skipped in a row, no more are; {where}", ""
            cause = None if isinstance(problem, Undo) else problem
            raise NonFiniteError(f"{line}; {where}. {what}{skip}", iteration, data is not None) from cause
        self.progress.count(1)
        self._num_in_a_row += 1
        self.num_skipped = count
        if is_told:
            so_far = f"{count} so far" if count > 1 else "the 10th, the 100th and so on will be reported too"
            warnings.warn(f"{line}; skipped ({so_far})", stacklevel=2)

    def explained(self, block: Block, problem: Exception) -> Exception:
        """What tells of an error that a block's call has had at one of several workers, which has been taken back there.

        Returns:
            A `NonFiniteError` that names the first update whose data explain it; `problem` itself, if none do.
        """
        found: list[str | None] = []
        with suppress(Exception):  # whatever fails here must not hide the error
            block.layout.program(lambda batches: found.append(_bad_data(self._update, batches)), None)(*block.arguments)
        for number, reason in enumerate(found):
            if reason is not None:
                iteration = int(self._update.function.model.optimizer.iterations)
                line = (
                    f"{self._line(number, reason)}; the model is at update {iteration}, the last before this call. Clean the data"
                )
                if self.on_nonfinite == "skip":
                    line += ': on_nonfinite="skip" cannot leave out what fails at one worker alone'
                return NonFiniteError(line, iteration, is_of_data=True)
        return problem

    def _line(self, ahead: int, reason: str) -> str:
        """Says which update it is, so many after the next one, and why."""
        update, progress = int(self._update.function.model.optimizer.iterations) + 1 + ahead, self.progress
        return f"update {update} (number {progress.done + 1 + ahead} of epoch {progress.epoch + 1}): {reason}"

    def _reasons(self, block: Block) -> tuple[str | None, str | None]:
        """What is wrong with the data of a block's one update, and with its evaluations; None where nothing is, or shows."""
        found: list[str | None] = [None, None]

        def look(batches: Sequence[Batches]) -> None:
            found[0] = _bad_data(self._update, batches)
            found[1] = _bad_evaluation(self._update, batches)

        try:
            # Eagerly, and with the state before it. Whatever fails here must not hide that the update was bad.
            block.layout.program(look, None)(*block.arguments)
        except Exception:
            pass
        return found[0], found[1]


def _bad_data(update: Update, batches: Sequence[Batches]) -> str | None:
    total, number = sum(part.num_batches for part in batches), 0
    for part in batches:
        for i in range(part.num_batches):
            number += 1
            x, y, sample_weight = part.fetch(i)
            line = find_non_finite(x, y, sample_weight)
            if line is None:
                try:
                    check_labels(update.function.model, x, y)
                except ValueError as error:
                    line = str(error)
            if line is not None:
                return f"in its batch, {line}" if total == 1 else f"in batch {number} of its {total}, {line}"
    return None


def _bad_evaluation(update: Update, batches: Sequence[Batches]) -> str | None:
    evaluations, step = update.observe(batches)
    for number, evaluation in enumerate(evaluations, 1):
        name = f"evaluation {number} of {len(evaluations)} gave a"
        if not np.isfinite(float(evaluation.loss)):
            return f"{name} loss of {float(evaluation.loss)}"
        variable = _first_bad(update, evaluation.gradient)
        if variable is not None:
            return f"{name} non-finite gradient of {variable}"
    variable = _first_bad(update, step.gradient)
    return None if variable is None else f"the step made of finite evaluations a non-finite gradient of {variable}"


def _first_bad(update: Update, gradient: Vector) -> str | None:
    for variable, leaf in zip(update.function.variables, gradient.leaves, strict=True):
        values = leaf.values if isinstance(leaf, Rows) else leaf
        if not bool(tf.reduce_all(tf.math.is_finite(values))):
            return repr(variable.path)
    return None
