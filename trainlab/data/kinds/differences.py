"""Why data may give other batches when they are read again than they gave before, in words."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

ELSE = "goes on in another order than it would have"
OTHER_SEEDS = "its shuffles have other seeds than before: give them seeds, or call keras.utils.set_random_seed before it is made"
OTHER_INTERLEAVES = (
    "it interleaves by another cycle_length, which without one is the number of cores: give interleave a cycle_length"
)
NO_ORDER = "the checkpoint is of an older version, which did not keep the order of its batches"
MOVED_ON = (
    "it was read before in this process, and what it draws from has moved on (make it anew, or give it a get_state() and a "
    "set_state(state))"
)
CUT_SHORT = "a pass before this one ended within the data, and nobody knows how far those had been read ahead"
NOT_THE_SAME = "it is not the same, or draws from something that is not"


def known_seeds(seeds: Iterable[tuple[int, int] | None]) -> list[list[int]]:
    """Those of a pipeline's shuffles that are not computed in a function, as JSON holds them."""
    return [list(pair) for pair in seeds if pair is not None]


def has_other_seeds(state: Mapping[str, Any], seeds: Iterable[tuple[int, int] | None]) -> bool:
    """Whether a state names others than these."""
    return "seeds" in state and state["seeds"] != known_seeds(seeds)


def has_other_interleaves(state: Mapping[str, Any], sizes: Any) -> bool:
    """Whether a state names others than these sizes."""
    return state.get("interleaves", sizes) != sizes


def tell_of_order(name: str, why: str, this_pass: str) -> None:
    """Warns of data whose later passes come otherwise."""
    warnings.warn(f"{name}: {why}; {this_pass}, and then {ELSE}", stacklevel=5)


def tell(name: str, state: Mapping[str, Any], reasons: Iterable[str], is_same: bool) -> None:
    """Warns of data that were read again up to this state, if there is a reason, or the last batch is not the same."""
    why = list(reasons)
    if not (is_same or why):
        why.append(NOT_THE_SAME)
    if why:
        where = f"batch {state['batches']} of pass {state['passes']}"
        what = f"{'may give' if is_same else 'gives'} other batches than before"
        warnings.warn(f"{name} was read again up to {where}, and {what}: {'; '.join(why)}", stacklevel=6)
