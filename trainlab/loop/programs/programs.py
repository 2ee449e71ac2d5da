"""The compiled programs of a loop, one for each layout of data: the last few that were used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from trainlab.data import Layout, TrailingLayout

# Who alternates between data sets of several batch sizes traces each once; who goes on to ever new ones does not keep all.
MOST = 16


class Programs:
    """What was built of layouts, and is kept as long as it is among the last `MOST` that were asked for.

    The last update of a pass over arrays is traced for any number of examples. Where a model cannot be, because it asks for a
    number that only the data tell, it is traced for each number by itself.

    Args:
        build: from a layout and whether XLA compiles it to a program.

    Attributes:
        num_built: how many programs were built so far.
    """

    def __init__(self, build: Callable[[Layout, bool], Callable[..., Any]]):
        self._build = build
        self._programs: OrderedDict[tuple[Layout, bool], Callable[..., Any]] = OrderedDict()
        self._fixed: set[Layout] = set()  # layouts whose size cannot be left open
        self.num_built = 0

    def get(self, layout: Layout, jit_compile: bool) -> Callable[..., Any]:
        """The program of a layout, or of the one that stands for it (see `resolved`); built if it is not there.

        Raises:
            Exception: whatever tracing it for a known number of examples raises.
        """
        key = self.resolved(layout, jit_compile), jit_compile
        if key not in self._programs:
            program = self._tried(*key)
            if program is None:
                self._fixed.add(key[0])
                return self.get(layout, jit_compile)
            self._programs[key] = program
            self.num_built += 1
            if len(self._programs) > MOST:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def resolved(self, layout: Layout, jit_compile: bool) -> Layout:
        """The layout that is traced in place of this one.

        That of a known number of examples, where another cannot be traced; and where XLA is to compile what is trained and a
        pass is a single smaller update, so that there is nothing else.
        """
        if isinstance(layout, TrailingLayout) and ((jit_compile and layout.is_pass) or layout in self._fixed):
            return layout.static
        return layout

    def is_by_xla(self, layout: Layout, jit_compile: bool) -> bool:
        """Whether XLA compiles the program of a layout, where it is to."""
        return jit_compile and not isinstance(self.resolved(layout, jit_compile), TrailingLayout)

    def explain(self, layout: Layout, jit_compile: bool, problem: tf.errors.OpError) -> bool:
        """Called when a program failed: whether the one for this number of examples alone is to be tried, from now on too.

        That is so where an operation has no kernel but XLA's, with which the other updates run.

        Raises:
            Exception: with this number of examples known the update cannot even be traced, which says more than `problem`.
        """
        open_layout = self.resolved(layout, jit_compile)
        if not isinstance(open_layout, TrailingLayout):
            return False
        if jit_compile and _lacks_kernel(problem):
            self._fixed.add(open_layout)
            return True
        if isinstance(problem, tf.errors.InvalidArgumentError):
            self.get(open_layout.static, jit_compile)
        return False

    def keep(self, jit_compile: bool) -> None:
        """Lets go of all but those that XLA compiles, or of those."""
        self._programs = OrderedDict((key, value) for key, value in self._programs.items() if key[1] is jit_compile)

    def clear(self) -> None:
        """Lets go of all."""
        self._programs.clear()

    def values(self) -> Iterable[Callable[..., Any]]:
        """The programs, those used last at the end."""
        return self._programs.values()

    def _tried(self, layout: Layout, jit_compile: bool) -> Callable[..., Any] | None:
        """A new program; None where this number of examples must be known, and then nothing of the error is kept."""
        if not isinstance(layout, TrailingLayout):
            return self._build(layout, jit_compile)
        try:
            return self._build(layout, jit_compile)
        except Exception:  # whatever it is, if it is more than that, the program that is built instead raises it again
            return None


def _lacks_kernel(problem: tf.errors.OpError) -> bool:
    """Whether an operation cannot run on this device, at least not without XLA."""
    return any(text in problem.message for text in ("No OpKernel was registered", "Could not find device for node"))
