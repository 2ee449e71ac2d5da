"""What is found out by trying, and then kept: by later fits, and in checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainlab.loop.micro_batches import MicroBatches


class Findings:
    """What the user said, or left to be found out.

    Args:
        jit_compile: whether XLA compiles the step; None leaves it to be found out.
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

    def __init__(self, jit_compile: bool | None, micro_batch_size: int | str | None):
        self.jit_compile = jit_compile
        self.micro_batches = MicroBatches(micro_batch_size)
        self.is_described = False

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
