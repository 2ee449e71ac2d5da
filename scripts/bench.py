"""Times trainlab against its peers: `python scripts/bench.py` prints the tables and writes them, and the numbers, to --out.

All contestants of a table run in turns, in one process (A B C A B C ...); what is reported is the median of the ratios pair by
pair, with the least and the most. Compiling, tracing and the choice of XLA happen before; what a first update takes without a
choice, tracing included, is measured as "first step". The part "jobs" is of another kind: whole calls, as people write them, with
validation, callbacks, generators or in new processes, against the same calls of Keras, and whether what is wanted was met.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from benchmarking import contestants, family, footprint, jobs, memory, replicas
from benchmarking.report import Report, machine
from benchmarking.timing import fastest, in_turns, ratio
from benchmarking.workloads import WORKLOADS, Workload, small_mlp

import trainlab as tl

STEPS_PER_EXECUTION = (1, 10, 50, 200)
PARTS = ("speed", "sweep", "memory", "footprint", "first_step", "checkpoints", "nonfinite", "strategies", "replicas", "jobs")
LIMIT = "the limit (fixed batch, XLA)"
SWEEP = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def main() -> None:
    """Runs what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES), metavar="NAME")
    parser.add_argument("--pairs", type=int, default=7, help="timed rounds (7)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the updates; less than 1 for a quick look")
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), choices=PARTS, metavar="PART", help=", ".join(PARTS) + " (all)"
    )
    names = ", ".join(jobs.JOBS) + " (all)"
    parser.add_argument("--jobs", nargs="*", default=list(jobs.JOBS), choices=list(jobs.JOBS), metavar="NAME", help=names)
    parser.add_argument("--jax_python", metavar="PATH", help=f"the Python of an environment with JAX ({jobs.HOW_TO_GET_JAX})")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="directory of the results (bench-results)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out)
    report.say(f"# {machine()}\n")
    if "speed" in options.parts:
        for name in options.workloads:
            workload = WORKLOADS[name]
            updates = max(int(workload.updates * options.scale) // 50 * 50, 50)
            race = Race(report, name, dataclasses.replace(workload, updates=updates), options.pairs)
            for strategy in options.strategies:
                STRATEGIES[strategy](race)
    if "sweep" in options.parts:
        sweep(report, options.pairs, options.scale, options.out)
    if "memory" in options.parts:
        peak_memory(report, options.pairs)
    if "footprint" in options.parts:
        report.keep("footprint", footprint.table(report.say))
    if "first_step" in options.parts:
        first_step(report, options.pairs)
    if "checkpoints" in options.parts:
        checkpoints(report, options.pairs, options.scale)
    if "nonfinite" in options.parts:
        nonfinite(report, options.pairs, options.scale)
    if "strategies" in options.parts:
        report.keep("strategies", family.table(report.say, options.pairs, options.scale))
    if "replicas" in options.parts:
        report.keep("replicas", replicas.table(report.say, options.pairs, options.scale))
    if "jobs" in options.parts:
        jobs.table(report, options.jobs, jobs.Size(options.pairs, options.scale, options.jax_python))
    report.finish()


class Race:
    """All contestants on one workload; those that several tables need are made once.

    In each table those whose times are close run next to each other, when the machine is most alike.
    """

    def __init__(self, report: Report, name: str, workload: Workload, pairs: int):
        self._report, self._name, self._workload, self._pairs = report, name, workload, pairs
        self._heat = dataclasses.replace(workload, epochs=1)
        settings = {_settings_in_words(n, jit): (n, jit) for n in STEPS_PER_EXECUTION for jit in (False, True)}
        best = fastest({name: contestants.keras_fit(self._heat, *given) for name, given in settings.items()})
        self._keras, self._keras_settings = f"Keras fit at its best ({best})", settings[best]
        self._keras_run = contestants.keras_fit(workload, *settings[best])
        plain, choice = contestants.ours(workload, tl.SGD())
        self._ours = {f"trainlab ({choice})": plain}

    def sgd(self) -> None:
        """The plain step."""
        (ours,) = self._ours
        by_hand, by_hand_run = self._best_by_hand(contestants.plain_step, "by hand")
        defaults = "Keras fit, defaults"
        limits = {LIMIT: contestants.limit(self._workload, contestants.bare_step, True)} if self._name == "mlp_32" else {}
        # On a GPU, where neither is known to be the better one, both are of interest.
        ways = {"trainlab, XLA": True, "trainlab, no XLA": False} if tf.config.list_physical_devices("GPU") else {}
        runs = {
            defaults: contestants.keras_fit(self._workload),
            self._keras: self._keras_run,
            **limits,
            **self._ours,
            by_hand: by_hand_run,
            **{name: contestants.ours(self._workload, tl.SGD(), jit)[0] for name, jit in ways.items()},
        }
        wanted = {"mlp_32": (">= 8", ">= 2"), "mlp_256": (">= 2.5", ">= 1.3")}.get(self._name, ("", ">= 0.98"))
        ratios = [
            ("Keras fit at its defaults / trainlab", defaults, ours, wanted[0]),
            ("Keras fit at its best / trainlab", self._keras, ours, wanted[1]),
            ("by hand / trainlab", by_hand, ours, ">= 0.98"),
        ]
        if limits:
            ratios.append(("trainlab / the limit", ours, LIMIT, "<= 1.6"))
        self._table("SGD", runs, ratios)

    def heun(self) -> None:
        """Two evaluations."""
        (plain,) = self._ours
        heun, choice = contestants.ours(self._workload, tl.Heun())
        by_hand, by_hand_run = self._best_by_hand(contestants.heun_step, "Heun by hand")
        ours = f"trainlab Heun ({choice})"
        is_sparse = self._name == "embedding"
        ratios = [
            ("trainlab Heun / trainlab SGD", ours, plain, "" if is_sparse else "<= 2.0"),
            ("Heun by hand / trainlab Heun", by_hand, ours, ">= 0.9" if is_sparse else ">= 0.98"),
        ]
        limits = {}
        if not is_sparse:  # whose limit would read and write the table
            bare = [f"{name} (fixed batch, {choice})" for name in ("the limit of Heun", "the limit of SGD")]
            steps = contestants.bare_heun_step, contestants.bare_step
            limits = {
                name: contestants.limit(self._workload, step, choice == "XLA") for name, step in zip(bare, steps, strict=True)
            }
            ratios.append(("the limit of Heun / the limit of SGD", *bare, ""))
        self._table("Heun", {by_hand: by_hand_run, ours: heun, **self._ours, **limits}, ratios)

    def accumulate(self) -> None:
        """Four batches an update."""
        (plain,) = self._ours
        accumulate, choice = contestants.ours(self._workload, tl.Accumulate(4))
        both, choice_of_both = contestants.ours(self._workload, tl.Accumulate(4, tl.Heun()))
        ours, ours_both = f"trainlab Accumulate(4) ({choice})", f"trainlab Accumulate(4, Heun()) ({choice_of_both})"
        theirs = f"Keras accumulation ({_settings_in_words(*self._keras_settings)})"
        runs = {
            theirs: contestants.keras_fit(self._workload, *self._keras_settings, accumulate=4),
            ours: accumulate,
            **self._ours,
            ours_both: both,
        }
        ratios = [
            ("trainlab Accumulate(4) / four plain steps", ours, plain, "<= 1.05"),
            ("Keras accumulation / trainlab Accumulate(4)", theirs, ours, "> 1"),
            ("trainlab Accumulate(4, Heun()) / four plain steps", ours_both, plain, ""),
        ]
        self._table("Accumulate(4)", runs, ratios)

    def _best_by_hand(self, step: Any, name: str) -> tuple[str, contestants.Run]:
        settings = {_settings_in_words(n, jit): (n, jit) for n in (1, 50) for jit in (False, True)}
        best = fastest({name: contestants.by_hand(self._heat, step, *given) for name, given in settings.items()})
        return f"{name} ({best})", contestants.by_hand(self._workload, step, *settings[best])

    def _table(self, title: str, runs: dict[str, contestants.Run], ratios: list[tuple[str, str, str, str]]) -> None:
        gc.collect()  # the iterators of contestants that were not the fastest, which have threads of their own
        seconds = in_turns(runs, self._pairs)
        self._report.times(f"{self._name}: {title}", f"{self._workload.name}: {title}", seconds, ratios)


STRATEGIES = {"sgd": Race.sgd, "heun": Race.heun, "accumulate": Race.accumulate}


def _settings_in_words(steps_a_call: int, jit_compile: bool) -> str:
    return f"{steps_a_call} steps a call, {'XLA' if jit_compile else 'no XLA'}"


def sweep(report: Report, pairs: int, scale: float, out: Path) -> None:
    """How the cost of a batch grows with its size, for the small MLP."""
    found: dict[str, list[float]] = {
        "trainlab": [],
        "Keras fit at its defaults": [],
        "Keras fit, 50 steps a call": [],
        "by hand": [],
    }
    for batch_size in SWEEP:
        updates = max(int(min(2048, 2**19 // batch_size) * scale) // 50 * 50, 100)
        workload = small_mlp(batch_size, updates, 1)
        runs = {
            "trainlab": contestants.ours(workload, tl.SGD())[0],
            "Keras fit at its defaults": contestants.keras_fit(workload),
            "Keras fit, 50 steps a call": contestants.keras_fit(workload, 50, False),
            "by hand": contestants.by_hand(workload, contestants.plain_step, 50, False),
        }
        seconds = in_turns(runs, min(pairs, 5))
        for name, values in seconds.items():
            found[name].append(statistics.median(values) * 1e6)
    report.say("\n## MLP 64-64-64-10: how the cost grows (us a batch)\n")
    report.say(f"| batch size | {' | '.join(found)} |\n|---:|{'---:|' * len(found)}")
    for i, batch_size in enumerate(SWEEP):
        report.say(f"| {batch_size} | {' | '.join(f'{values[i]:,.0f}' for values in found.values())} |")
    report.keep("sweep", {"batch_sizes": SWEEP, "us_a_batch": found})
    _draw(found, out / "batch_sizes.png")


def _draw(found: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, values in found.items():
        axes.loglog(SWEEP, values, marker="o", label=name, base=2)
    axes.set_yscale("log")
    axes.set(xlabel="batch size", ylabel="microseconds a batch", title="MLP 64-64-64-10, SGD")
    axes.legend()
    axes.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def peak_memory(report: Report, rounds: int) -> None:
    """Peak memory of one update, above that of the model and its data."""
    titles = {
        "batch:sgd": "SGD",
        "batch:heun": "Heun",
        "batch:accumulate": "Accumulate(4)",
        "batch:accumulate_heun": "Accumulate(4, Heun())",
        "whole:sgd": "SGD on the four batches as one",
    }
    what = f"four 3x3 convolutions of 32 on 32x32, batch {memory.BATCH_SIZE}, no XLA"
    _peak_memory_table(report, rounds, "memory", what, titles)
    titles = {
        "xla:sgd": "SGD",
        "xla:heun": "Heun",
        "xla:accumulate": "Accumulate(4)",
        "xla:accumulate_heun": "Accumulate(4, Heun())",
        "xla_whole:sgd": "SGD on the four batches as one",
    }
    what = f"MLP 64-512-512-512-512-10, batch {memory.BATCH_SIZE_XLA}, XLA"
    _peak_memory_table(report, rounds, "memory, XLA", what, titles)


def _peak_memory_table(report: Report, rounds: int, key: str, what: str, titles: dict[str, str]) -> None:
    """A process for each measurement, in turns; the first title is the plain step.

    As it runs by default, where an allocator counts; and, on a CPU, with all memory returned at once, as Linux counts.
    """
    plain = next(iter(titles))
    found: dict[str, dict[str, list[float]]] = {}
    environments: list[dict[str, str]] = [{}] if memory.counting_device() else []
    if not tf.config.list_physical_devices("GPU"):
        environments.append(memory.RETURNING)
    for _ in range(rounds):
        for name in titles:
            for environment in environments:
                one = memory.measure(name, environment)
                found.setdefault(one["counted_by"], {}).setdefault(name, []).append(one["peak_mb"])
    gradient = one["gradient_mb"]
    report.say(f"\n## Peak memory: {what} (a gradient: {gradient:.1f} MB)\n")
    report.say(f"Above that of the model and its data; in {rounds} processes each, in turns.")
    settings = " ".join(f"{name}={value}" for name, value in memory.RETURNING.items())
    for counted_by, peaks in found.items():
        allocated = f"What TensorFlow's allocator of {counted_by} gave out"
        report.say(f"\n{f'The resident set, under {settings}' if counted_by == 'Linux' else allocated}:\n")
        report.say("| step | MB | least | most | of a plain batch and a gradient | least | most | wanted |")
        report.say("|---|---:|---:|---:|---:|---:|---:|---|")
        allowed = {plain: [peak + gradient for peak in peaks[plain]]}
        for name, title in titles.items():
            shares = [] if name == plain else ratio({**allowed, name: peaks[name]}, name, plain)
            shares_in_words = " | ".join(f"{share:.2f}" for share in shares) or "| | "
            wanted = "<= 1.10" if title == "Accumulate(4)" else ""
            values = f"{statistics.median(peaks[name]):,.0f} | {min(peaks[name]):,.0f} | {max(peaks[name]):,.0f}"
            report.say(f"| {title} | {values} | {shares_in_words} | {wanted} |")
    report.keep(key, {"peak_mb": found, "gradient_mb": gradient})


def checkpoints(report: Report, pairs: int, scale: float) -> None:
    """What a checkpoint every second costs the small MLP."""
    workload = dataclasses.replace(WORKLOADS["mlp_32"], epochs=max(int(40 * scale), 1))
    without, saving = "trainlab", "trainlab, a checkpoint a second"
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            without: contestants.ours(workload, tl.SGD(), True)[0],
            saving: contestants.ours(workload, tl.SGD(), True, run=tl.Run(Path(folder) / "run", save_seconds=1.0))[0],
        }
        seconds = in_turns(runs, pairs)
    report.times(
        "checkpoints",
        f"{workload.name}: a checkpoint every second",
        seconds,
        [("throughput with / without", without, saving, ">= 0.97")],
    )


def nonfinite(report: Report, pairs: int, scale: float) -> None:
    """What it costs the small MLP that every call is looked at and can be taken back."""
    for title, settings in {
        "SGD": {"jit_compile": False},
        "SGD, XLA": {"jit_compile": True},
        "Adam": {"jit_compile": False, "optimizer": keras.optimizers.Adam},
        "Adam, one update a call": {"jit_compile": False, "optimizer": keras.optimizers.Adam, "steps_per_execution": 1},
    }.items():
        make = settings.pop("optimizer", keras.optimizers.SGD)
        workload = dataclasses.replace(WORKLOADS["mlp_32"], epochs=max(int(2 * scale), 1))
        guarded, _ = contestants.ours(workload, tl.SGD(), **settings, optimizer=make(0.01))
        runs = {"trainlab": guarded, "unguarded": contestants.ours_unguarded(workload, **settings, optimizer=make(0.01))}
        report.times(
            f"nonfinite: {title}",
            f"{workload.name}, {title}: what the watch for non-finite values costs",
            in_turns(runs, pairs),
            [("trainlab / unguarded", "trainlab", "unguarded", "<= 1.03, or 2 us")],
        )


def first_step(report: Report, pairs: int) -> None:
    """Seconds from calling `fit` to its return after one update, in new processes."""
    found: dict[str, list[float]] = {"trainlab": [], "Keras fit": []}
    for _ in range(pairs):
        for name, who in zip(found, ("ours", "keras"), strict=True):
            found[name].append(memory.measure(f"first_step:{who}")["seconds"])
    middle, least, most = ratio(found, "Keras fit", "trainlab")
    report.say("\n## First step of the MLP 64-64-64-10, batch 32\n")
    for name, values in found.items():
        report.say(f"- {name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    report.say(f"- Keras fit / trainlab: {middle:.2f} ({least:.2f} to {most:.2f}); wanted >= 1")
    report.keep("first_step", found)


if __name__ == "__main__":
    sys.exit(main())
