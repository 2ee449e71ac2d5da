"""What `jax_scan.py` trains, and prints, by trainlab under XLA: `python -m benchmarking.jobs.our_scan` and the same arguments."""

from __future__ import annotations

import json
import statistics
import sys

import trainlab as tl
from benchmarking.jobs.figures import seconds_of
from benchmarking.jobs.things import arrays, perceptron


def _seconds_an_update(batch_size: int, examples: int, epochs: int) -> float:
    x, y = arrays(examples)
    trainer = tl.Trainer(perceptron(), jit_compile=True)
    found = [seconds_of(lambda: trainer.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)) for _ in range(4)]
    return statistics.median(found[1:]) / (epochs * examples // batch_size)


if __name__ == "__main__":
    print(json.dumps([_seconds_an_update(*map(int, case.split(","))) for case in sys.argv[1:]]))
