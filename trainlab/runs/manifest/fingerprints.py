"""What arrays and variables hold, as a hash of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trainlab.loop import is_touched

_MAX_HASHED = 2**28
_BLOCK = 2**20


class OfVariable(str):
    """A hash of what a variable holds."""


# In its place, where a step reads the variable: the values are in checkpoints, and hooks may have changed them since.
IN_CHECKPOINTS = OfVariable("in checkpoints")


def of_variable(variable: Any) -> OfVariable:
    """A hash of what a variable holds, if that is a setting."""
    return IN_CHECKPOINTS if is_touched(variable) else OfVariable(fingerprint(np.asarray(variable)))


def fingerprint(leaf: Any) -> str:
    """A hash of an array's bytes; of more than 256 MB, of those of blocks spread over it."""
    digested = hashlib.blake2b(digest_size=16)
    for block in _blocks(leaf):
        digested.update(
            np.ascontiguousarray(block).view(np.uint8).data if block.dtype.kind not in "OSU" else repr(block.tolist()).encode()
        )
    return digested.hexdigest()


def _blocks(leaf: Any) -> Iterable[np.ndarray]:
    if not isinstance(leaf, np.ndarray):
        leaf = np.asarray(leaf)
    if leaf.ndim == 0:
        return [leaf.reshape(1)]
    rows = max(_BLOCK // max(leaf[:1].nbytes, 1), 1)
    starts: Sequence[int] = range(0, len(leaf), rows)
    if leaf.nbytes > _MAX_HASHED:
        starts = np.linspace(0, len(leaf) - rows, _MAX_HASHED // _BLOCK).astype(np.int64).tolist()
    return (leaf[start : start + rows] for start in starts)
