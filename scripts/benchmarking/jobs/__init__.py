"""Whole jobs, as people call them, against the same by Keras: what is timed is all that a call takes, wherever it goes.

Both sides take turns in one process. Each job has a process of its own: what one leaves behind is no other's, and one that fails
is a line in the table.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence

from benchmarking.jobs import beginning, fitting, processes, scan
from benchmarking.jobs.figures import Found, Size
from benchmarking.jobs.scan import HOW_TO_GET_JAX
from benchmarking.report import Report

__all__ = ["HOW_TO_GET_JAX", "JOBS", "Size", "table"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is measured, and in words."""

    measure: Callable[[Size], Found]
    words: str


JOBS = {
    "plain": Job(fitting.plain, "`fit(x, y)`, 8,192 examples, 3 epochs"),
    "validation": Job(fitting.validation, "the same with `validation_split=0.2`"),
    "callbacks": Job(fitting.callbacks, "that and EarlyStopping, ReduceLROnPlateau, ModelCheckpoint, CSVLogger"),
    "tensorboard": Job(fitting.tensorboard, "validation and TensorBoard"),
    "evaluate": Job(fitting.evaluate, "`evaluate`, 4,096 examples"),
    "predict": Job(fitting.predict, "`predict`, 4,096 examples"),
    "batch_hook": Job(fitting.batch_hook, "a callback with a batch hook"),
    "generator": Job(fitting.generator, "a Python generator of batches"),
    "images": Job(fitting.images, "CNN on 32x32x3, batch 64, `tf.data` with augmentation, validation"),
    "terminal": Job(fitting.terminal, "a progress bar on a terminal"),
    "growing": Job(beginning.growing, "40 fits of one model on data that grow"),
    "new_perceptron": Job(beginning.new_perceptron, "a new MLP, one epoch"),
    "new_residual": Job(beginning.new_residual, "a new residual net of 14 convolutions, 10 updates"),
    "new_transformer": Job(beginning.new_transformer, "a new vision transformer, 10 updates"),
    "resumed": Job(processes.resumed, "under XLA, from a process' start to the first update"),
    "command": Job(processes.command, "the README's first command, and a plain Keras script"),
    "scan": Job(scan.scan, "an update, of whole epochs in JAX's `lax.scan`"),
}


def table(report: Report, names: Sequence[str], size: Size) -> None:
    """Says what each of them took, as it is found."""
    report.say("\n## Whole jobs: how long a call takes\n")
    report.say(f"MLP 64-64-64-10, batch 32, Adam, where nothing else is said; {size.pairs} pairs.\n")
    report.say("| job | ratio | median | least | most | wanted | | seconds, medians |")
    report.say("|---|---|---:|---:|---:|---|---|---|")
    for name in names:
        if name == "scan" and size.jax_python is None:
            report.say(f"| {JOBS[name].words} | left out: it needs --jax_python PATH ({HOW_TO_GET_JAX}) | | | | | | |")
            continue
        try:
            found = measured(name, size)
        except RuntimeError as error:
            report.say(f"| {JOBS[name].words} | failed: {' '.join(str(error).replace('|', '/').split())} | | | | | | |")
            report.keep(f"jobs: {name}", {"failed": str(error)})
        else:
            for line in lines(JOBS[name].words, found):
                report.say(line)
            report.keep(f"jobs: {name}", {**found.as_json(), "verdicts": [figure.verdict for figure in found.figures]})


def measured(name: str, size: Size) -> Found:
    """Measures a job in a process of its own.

    Raises:
        RuntimeError: it failed; with the reason in a line.
    """
    command = [sys.executable, "-m", "benchmarking.jobs", name, json.dumps(dataclasses.asdict(size))]
    found = json.loads(processes.ended(command).splitlines()[-1])
    if "failed" in found:
        raise RuntimeError(found["failed"])
    return Found.of_json(found)


def lines(words: str, found: Found) -> Iterator[str]:
    """Rows of the table; the times stand in the first."""
    times = "; ".join(f"{who} {statistics.median(values):.3g}" for who, values in found.seconds.items())
    for figure in found.figures:
        values = " | ".join(f"{value:.{2 if value < 100 else 0}f}" for value in (figure.median, figure.least, figure.most))
        verdict = {"missed": "**missed**"}.get(figure.verdict, figure.verdict)
        yield f"| {words} | {figure.what} | {values} | {figure.wanted} | {verdict} | {times} |"
        words, times = "", ""
