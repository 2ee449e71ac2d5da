"""What is trained, for how long: a budget of evaluations, and how many updates each entry makes of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from trainlab.comparing.entries import Entry

NUM_POINTS = 20  # of a curve


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run: one entry at one learning rate by one seed.

    Attributes:
        entry: who.
        index: of the rate among those that all entries try.
        rate: the learning rate that the optimizer gets, divided where the entry says so.
        seed: of the initial weights, the order and the masks.
        updates: how many it makes.
        every: after so many it is validated.
        name: of its directory.
    """

    entry: Entry
    index: int
    rate: float
    seed: int
    updates: int
    every: int
    name: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        entries: who takes part; the plain step first.
        rates: that every entry tries.
        seeds: by which every entry tries each.
        budget: evaluations of one batch's gradient that a run may use.
        batches_per_pass: batches of a pass over the training data; None where nobody knows.
    """

    entries: Sequence[Entry]
    rates: Sequence[float]
    seeds: Sequence[int]
    budget: int
    batches_per_pass: int | None = None

    def trials(self, entry: Entry) -> list[Trial]:
        """The runs of an entry: rate by rate, seed by seed."""
        updates = self.updates(entry)
        every = max(1, -(-updates // NUM_POINTS))
        number = list(self.entries).index(entry)
        slug = re.sub(r"[^A-Za-z0-9]+", "-", entry.name).strip("-").lower()[:40]
        return [
            Trial(entry, i, rate / entry.divisor, seed, updates, every, f"{number}-{slug}/rate-{i}-seed-{seed}")
            for i, rate in enumerate(self.rates)
            for seed in self.seeds
        ]

    def updates(self, entry: Entry) -> int:
        """How many updates an entry makes of the budget.

        A plain step whose rate is divided makes as many evaluations as those that it stands against. Of an update of several
        batches the last one of a pass takes what is left.

        Raises:
            ValueError: the budget is not enough for one.

        Example:
            >>> from trainlab.comparing.entries import entries_of
            >>> from trainlab.strategies import Accumulate, Heun
            >>> entries = entries_of({"heun": Heun(), "four": Accumulate(4)})
            >>> plan = Plan(entries, [0.1], [0], budget=101, batches_per_pass=10)
            >>> {entry.name: plan.updates(entry) for entry in entries}
            {'SGD()': 101, 'SGD(), rate / 2': 100, 'SGD(), rate / 4': 100, 'heun': 50, 'four': 30}
        """
        if entry.divisor > 1:
            updates = self.budget // entry.divisor * entry.divisor
        else:
            evaluations, batches = entry.strategy.evaluations, entry.strategy.batches
            available = self.budget // evaluations  # batches
            if self.batches_per_pass is None or batches == 1:
                updates = available // batches
            else:
                passes, rest = divmod(available, self.batches_per_pass)
                updates = passes * -(-self.batches_per_pass // batches) + rest // batches
        if updates < 1:
            raise ValueError(
                f"the budget of {self.budget} evaluations is less than an update of {entry.name} takes ({entry.cost}): "
                "give more epochs"
            )
        return updates


def batches_of(num_updates: int, strategy_batches: int, batches_per_pass: int | None) -> int:
    """How many batches so many updates take, the last one of a pass what is left.

    Example:
        >>> batches_of(3, 4, 10), batches_of(4, 4, 10), batches_of(5, 1, 10), batches_of(3, 4, None)
        (10, 14, 5, 12)
    """
    if batches_per_pass is None or strategy_batches == 1:
        return num_updates * strategy_batches
    passes, rest = divmod(num_updates, -(-batches_per_pass // strategy_batches))
    return passes * batches_per_pass + rest * strategy_batches


def drawn_rates(smallest: float, largest: float, number: int, seed: int = 0) -> list[float]:
    """Learning rates for trials, log-uniform between two: each is tried by every entry, so that all have the same luck.

    Args:
        smallest, largest: above 0.
        number: how many.
        seed: of the draw.

    Raises:
        ValueError: the bounds are none.

    Example:
        >>> rates = drawn_rates(0.01, 1.0, 3)
        >>> len(rates), all(0.01 <= rate <= 1.0 for rate in rates), rates == drawn_rates(0.01, 1.0, 3)
        (3, True, True)
    """
    if not 0 < smallest < largest < math.inf:
        raise ValueError(f"the rates are drawn between two, 0 < smallest < largest, not {smallest!r} and {largest!r}")
    drawn = np.random.default_rng(seed).uniform(math.log(smallest), math.log(largest), number)
    return [float(f"{rate:.6g}") for rate in np.clip(np.exp(drawn), smallest, largest)]
