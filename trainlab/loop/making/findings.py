"""What is found out by trying, and then kept: by later fits, and in checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras

from trainlab.data import check_count
from trainlab.loop.micro_batches import MicroBatches
from trainlab.objective import keras_internals
from trainlab.strategies import StepStrategy


class Findings:
    """What the user said, or left to be found out.

    Args:
        jit_compile: whether XLA compiles the step; "auto" leaves it to be found out, and None too unless the model says more.
        micro_batch_size: see `MicroBatches`.

    Attributes:
        jit_compile: the same, or what was found; None as long as nobody knows, which is without XLA.
        micro_batches: the pieces that batches are evaluated in.
        is_described: whether somebody was told already what an update is made of.

    Example:
        >>> findings = Findings(jit_compile=None, micro_batch_size="auto")
        >>> findings.take({"jit_compile": True, "micro_batch_size": 8})
        >>> findings.record()
        {'jit_compile': True, 'micro_batch_size': 8}
    """

    ROWS = ("jit_compile", "micro_batch_size")

    def __init__(self, jit_compile: bool | str | None, micro_batch_size: int | str | None):
        self.jit_compile = jit_compile if isinstance(jit_compile, bool) else None
        self.micro_batches = MicroBatches(micro_batch_size)
        self.is_described = False
        self._is_open = jit_compile is None
        self._is_followed = False
        self._tracker: Any = None  # of the loss: each `compile` makes a new one

    def follow(self, model: keras.Model) -> None:
        """Takes what a model was compiled with since it was last looked at, unless the user said otherwise.

        Keras does not keep "auto", but what it came to: where that is what the model has, nothing was said.

        Args:
            model: compiled.
        """
        tracker = keras_internals.loss_tracker(model)
        if not self._is_open or tracker is self._tracker:
            return
        self._tracker = tracker
        if model.jit_compile is not keras_internals.default_jit_compile(model):
            self.jit_compile, self._is_followed = model.jit_compile, True
        elif self._is_followed:
            self.jit_compile, self._is_followed = None, False

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"jit_compile": self.jit_compile, "micro_batch_size": self.micro_batches.size}

    def take(self, record: Mapping[str, Any], override: Collection[str] = ()) -> None:
        """Takes what `record` returned in another process, but for what was changed on purpose."""
        self.jit_compile = record["jit_compile"]
        if "micro_batch_size" not in override:
            self.micro_batches.size = record["micro_batch_size"]

    def known(self) -> dict[str, Any]:
        """What is not left to be found out: what a resumed run must agree with."""
        known = {} if self.jit_compile is None else {"jit_compile": self.jit_compile}
        return known if self.micro_batches.is_auto else {**known, "micro_batch_size": self.micro_batches.size}


def check_given(seed: Any, jit_compile: Any, steps_per_execution: Any, sum_duplicate_rows: Any, on_nonfinite: Any) -> None:
    """Raises ValueError, in one line, for a setting of a Trainer's that is none of what it may be."""
    check_count("seed", seed, 0)
    if jit_compile not in (None, True, False, "auto"):
        raise ValueError(f'jit_compile must be True, False or "auto", not {jit_compile!r}')
    if steps_per_execution is not None:
        check_count("steps_per_execution", steps_per_execution, 1)
    if not isinstance(sum_duplicate_rows, (bool, type(None))):
        raise ValueError(f"sum_duplicate_rows must be True, False or None, not {sum_duplicate_rows!r}")
    if on_nonfinite not in ("stop", "skip"):
        raise ValueError(f'on_nonfinite must be "stop" or "skip", not {on_nonfinite!r}')


def check_strategy(strategy: Any) -> None:
    """Raises TypeError, in one line, unless it is a `StepStrategy`."""
    if not isinstance(strategy, StepStrategy):
        hint = f": write {strategy.__name__}()" if isinstance(strategy, type) else ""
        raise TypeError(f"strategy must be a StepStrategy, not {strategy!r}{hint}")
