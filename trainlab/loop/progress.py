"""How far a `fit` has come."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class Progress:
    """How far a `fit` has come: the one count of what was committed.

    Attributes:
        epoch: the number of the epoch under way, or of the next one; counted from 0.
        phase: "between" two epochs, at its "updates", at the "evaluation" after them, or at the "hooks" of its end.
        done: updates of this epoch, skipped ones too.
        updates: updates of this fit, skipped ones too.
        logs: what the last epoch reported; at the hooks of its end, this one.
        pair: of the batch hooks under way the number of their first update, how many callbacks have heard the first of them,
          and how many the second, -1 before that; nothing between two pairs.
    """

    epoch: int = 0
    phase: str = "between"
    done: int = 0
    updates: int = 0
    logs: dict[str, Any] = dataclasses.field(default_factory=dict)
    pair: list[int] = dataclasses.field(default_factory=list)

    def count(self, num_updates: int) -> None:
        """Counts updates that were committed, or skipped."""
        self.done += num_updates
        self.updates += num_updates
