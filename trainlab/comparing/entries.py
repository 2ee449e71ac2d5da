"""Who takes part: the strategies that are given, and the plain steps that they must beat."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trainlab.strategies import SGD, StepStrategy

PLAIN = "SGD()"


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """Somebody in a comparison.

    Attributes:
        name: in the table.
        strategy: the step.
        cost: evaluations of one batch's gradient that an update takes, as the strategy says: evaluations × batches.
        divisor: by which the learning rate is divided: 1, or for a plain step the cost of those that it stands against.
        rivals: names of the plain steps that it must beat; none for those that were not asked for.
    """

    name: str
    strategy: StepStrategy
    cost: int
    divisor: int = 1
    rivals: tuple[str, ...] = ()


def entries_of(strategies: Mapping[str, StepStrategy] | Sequence[StepStrategy]) -> list[Entry]:
    """The plain steps, then the strategies in their order.

    The plain step is always there; and for each cost of an update the plain step with the learning rate divided by it, which
    makes so many more updates of the same evaluations. A strategy that costs as much as the plain step has that one to beat.

    Args:
        strategies: by name, or a list, in which each is named as it is written.

    Raises:
        TypeError, ValueError: there is none, one is none, or two have one name.

    Example:
        >>> from trainlab.strategies import Heun
        >>> [entry.name for entry in entries_of([Heun()])]
        ['SGD()', 'SGD(), rate / 2', 'Heun()']
        >>> entries_of([Heun()])[-1].rivals
        ('SGD()', 'SGD(), rate / 2')
    """
    named = _named(strategies)
    plain = SGD()
    found = [Entry(PLAIN, plain, 1)]
    others = {name: strategy for name, strategy in named.items() if name != PLAIN or type(strategy) is not SGD}
    if PLAIN in others:
        raise ValueError(f"strategies: {PLAIN!r} is the name of the plain step, which is always there: give another name")
    for cost in sorted({_cost(name, strategy) for name, strategy in others.items()} - {1}):
        found.append(Entry(f"{PLAIN}, rate / {cost}", plain, 1, divisor=cost))
    for name, strategy in others.items():
        cost = _cost(name, strategy)
        rivals = (PLAIN,) if cost == 1 else (PLAIN, f"{PLAIN}, rate / {cost}")
        if name in [entry.name for entry in found]:
            raise ValueError(f"strategies: {name!r} is the name of a plain step, which is always there: give another name")
        found.append(Entry(name, strategy, cost, rivals=rivals))
    return found


def _named(strategies: Any) -> dict[str, StepStrategy]:
    if isinstance(strategies, StepStrategy) or not isinstance(strategies, (Mapping, Sequence)) or isinstance(strategies, str):
        raise TypeError(f"strategies must be a list, as in [tl.Heun(), tl.Sam()], or a dictionary by name, not {strategies!r}")
    pairs = list(strategies.items()) if isinstance(strategies, Mapping) else [(repr(one), one) for one in strategies]
    if not pairs:
        raise ValueError("strategies is empty: give at least one, as in [tl.Heun()]")
    for name, strategy in pairs:
        if not isinstance(strategy, StepStrategy):
            hint = f": write {strategy.__name__}()" if isinstance(strategy, type) else ""
            raise TypeError(f"strategies: must be StepStrategies, not {strategy!r}{hint}")
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"strategies: {name!r} is no name: give text")
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"strategies: {twice[0]} is there twice: give names, as in {{'a': {twice[0]}, 'b': {twice[0]}}}")
    return dict(pairs)


def _cost(name: str, strategy: StepStrategy) -> int:
    cost = strategy.evaluations * strategy.batches
    if not isinstance(cost, int) or cost < 1:
        raise ValueError(
            f"strategies: {name} says that an update takes {cost!r} evaluations: must be a whole number of at least 1"
        )
    return cost
