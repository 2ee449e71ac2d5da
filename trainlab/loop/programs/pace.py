"""How many steps a call of a compiled loop makes: as many as fill a tenth of a second or two, found out from call to call."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from trainlab.data import Block, Layout, Source

# A call lasts so many seconds or up to twice as many: an interrupt need not wait, and what is done once a call costs little.
TARGET_SECONDS = 0.1
MAX_STEPS_PER_CALL = 2**14
# Where training waits until batches of a stream are read, these are this part of a call's; then more and more are read ahead.
_FIRST_SHARE = 32


class Pace:
    """Learns how many steps a call may make.

    Args:
        fixed: so many, whatever they take; None finds out.

    Attributes:
        size: steps in the next call.
        is_fixed: whether it is to stay.
    """

    def __init__(self, fixed: int | None = None):
        self.is_fixed = fixed is not None
        self.size = fixed or 1
        self._sizes: dict[Layout, int] = {}  # found out
        self._source: Callable[[], Source | None] = lambda: None  # the last one

    def first(self, source: Source) -> int:
        """Steps to take in the next call; fewer where it waits for its data."""
        return max(self.size // _FIRST_SHARE, 1) if source.must_read and not self.is_fixed else self.size

    def expect(self, source: Source, seconds: float) -> None:
        """Reckons with steps of so many seconds each on the batches of a source."""
        if not self.is_fixed:
            self.size, self._source = max(round(1.5 * TARGET_SECONDS / seconds), 1), weakref.ref(source)

    def allows(self, source: Source, block: Block) -> bool:
        """Whether a call may make a block's steps; otherwise, `size` being smaller now, another block is to be taken.

        What was found out for batches of one size tells nothing of others, which may be larger by far: of what is new, one step
        is to tell.
        """
        if self.is_fixed or self._source() is source:
            return True
        self.size, self._source = self._sizes.get(block.layout, 1), weakref.ref(source)
        return block.num_updates <= self.size

    def note(self, block: Block, seconds: float, seconds_of_steps: float) -> None:
        """Learns from a call, in which nothing was compiled.

        Args:
            block: of the steps that it made; fewer than `size` tell of too many, but nothing of too few.
            seconds: it took, its data included: a signal waits for them too.
            seconds_of_steps: without its data. Who had to wait for them made a smaller call; that wait tells nothing of steps.
        """
        if self.is_fixed:
            return
        num_steps = block.num_updates
        if (seconds if num_steps == self.size else seconds_of_steps) > 2 * TARGET_SECONDS:
            self.size = max(num_steps // 2, 1)
        elif num_steps == self.size and seconds < TARGET_SECONDS:
            self.size = min(2 * self.size, MAX_STEPS_PER_CALL)
        if block.layout.is_sized:
            self._sizes[block.layout] = self.size
