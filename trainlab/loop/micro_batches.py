"""Batches too large for memory, evaluated in pieces: how large these are, by hand or found out."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainlab.data import Block
from trainlab.strategies import StepStrategy


class MicroBatches:
    """The largest piece that a batch is evaluated in: told, or halved until it fits.

    Args:
        setting: examples a piece; None for whole batches; "auto" starts with these.

    Attributes:
        size: examples a piece, None as long as batches are evaluated whole.
        is_auto: whether it may be halved.
        is_silent: whether nothing is printed.

    Raises:
        TypeError, ValueError: the setting is none of these.
    """

    def __init__(self, setting: int | str | None):
        if setting is not None and not (isinstance(setting, str) and setting == "auto"):
            _check(setting)
        self.is_auto = setting == "auto"
        self.size: int | None = None if isinstance(setting, str) or setting is None else int(setting)
        self.is_silent = False

    @property
    def safe_size(self) -> int | None:
        """Examples that may be evaluated at once where no error can be caught; None for a whole batch."""
        return 1 if self.is_auto else self.size

    def cut(self, block: Block | None) -> Block | None:
        """The same block, its batches in pieces."""
        if block is None or self.size is None:
            return block
        return block._replace(layout=block.layout.cut(self.size))

    def halve(self, block: Block, strategy: StepStrategy, error: Exception) -> int:
        """Goes on with half of what did not fit, and returns that.

        Raises:
            MemoryError: that is not to be done, or cannot be; one line says what to do.
        """
        tried = block.layout.largest(block.tensors, block.num_updates)
        if tried <= 1:
            raise MemoryError(
                f"out of memory: a single example does not fit under {strategy!r}, nothing was changed: "
                "no micro_batch_size helps, take a smaller model or smaller examples"
            ) from error
        if not self.is_auto:
            what = f"a batch of {tried} examples" if self.size is None else f"a piece of {tried} examples of a batch"
            raise MemoryError(
                f"out of memory: {what} does not fit under {strategy!r}, nothing was changed: "
                f'write Trainer(..., micro_batch_size={tried // 2}), or "auto"'
            ) from error
        self.size = tried // 2
        return self.size

    def report(self) -> None:
        """Prints what was chosen."""
        if not self.is_silent:
            print(
                f'micro_batch_size="auto": batches do not fit whole, they are evaluated {self.size} examples at a time',
                flush=True,
            )


def _check(setting: Any) -> None:
    is_number = isinstance(setting, (int, np.integer)) and not isinstance(setting, bool)
    if is_number and setting >= 1:
        return
    error = ValueError if is_number or isinstance(setting, str) else TypeError
    raise error(
        f'micro_batch_size must be a whole number of examples, at least 1, not {setting!r}; or "auto", which finds it out'
    )
