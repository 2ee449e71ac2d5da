"""Directories of runs, written as training writes them, for the tests of reports."""

import json
import math

VERSIONS = {"trainlab": "0.4.0", "tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7"}


def begin(update=0, epoch=0, fit=0, resumed=False, **other):
    """The line of a beginning."""
    record = {"event": "begin", "time": f"2026-11-27T0{fit}:{epoch % 60:02d}:21.384+00:00", "fit": fit, "update": update}
    record |= {"epoch": epoch, "resumed": resumed, "host": "machine", "device": "CPU", "cores": 2, "versions": VERSIONS}
    record |= {"strategy": "SGD()", "evaluations": 1, "batches": 1, "examples": 10, "model": "mlp", "parameters": 9610}
    record |= {"optimizer": "Adam", "jit_compile": False, "directions": {}, "settings": {"examples": 95, "seed": 0}}
    return record | other


def epoch(number, update, seconds, fit=0, rate=0.1, **logs):
    """The line of an epoch, whose number is from 0."""
    logs = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in logs.items()}
    where = {"event": "epoch", "fit": fit, "epoch": number, "update": update, "seconds": seconds}
    return where | {"learning_rate": rate, "logs": logs}


def end(update, seconds, why="finished", fit=0):
    """The line of an end."""
    return {"event": "end", "time": "2026-11-27T01:00:00.000+00:00", "fit": fit, "update": update, "seconds": seconds, "why": why}


def written(directory, records, config=None, test=None):
    """A run's directory with this timeline."""
    directory.mkdir(parents=True)
    (directory / "timeline.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if config is not None:
        (directory / "config.gin").write_text(config)
    if test is not None:
        (directory / "result.json").write_text(json.dumps({"test": test}))
    return directory


def learned(num, rate=0.3, floor=0.1, updates=23, first=0, seconds=0.1, extra=0, lrate=0.1):
    """The lines of so many epochs in which a model learns, numbered from `first`."""
    lines = []
    for i in range(first, first + num):
        loss = floor + 2 * math.exp(-rate * i) + 0.02 * math.sin(7 * i)
        logs = {"loss": loss, "accuracy": 1 - loss / 4, "val_loss": loss * 1.2, "val_accuracy": 1 - loss / 3.5}
        logs |= {f"metric_{k}": math.sin(i / (k + 3)) for k in range(extra)}
        lines.append(epoch(i, updates * (i + 1), seconds * (i - first + 1), rate=lrate * 0.95**i, **logs))
    return lines


def config(**values):
    """The text of a config.gin with these settings."""
    lines = "\n".join(f"run.{name} = {value}" for name, value in values.items())
    return f"# Parameters for run:\n# ==============================\n{lines}\n"


def one(tmp_path):
    """A run of 30 epochs."""
    lines = [begin(), *learned(30), end(690, 3.1)]
    return [written(tmp_path / "heun", lines, config(epochs=30, seed=0), {"accuracy": 0.96, "loss": 0.1})]


def four(tmp_path):
    """Four strategies."""
    kinds = {"sgd": (1, 1, 0.2), "heun": (2, 1, 0.3), "accumulate": (1, 4, 0.15), "accumulate_heun": (2, 4, 0.25)}
    runs = []
    for name, (evaluations, batches, rate) in kinds.items():
        cost = 0.05 * evaluations * batches
        whole = {"examples": 10 * batches, "settings": {"examples": 40, "seed": 0}}  # so that every update is
        lines = [
            begin(evaluations=evaluations, batches=batches, strategy=name, **whole),
            *learned(25, rate, updates=23, seconds=cost),
        ]
        lines += [end(25 * 23, 25 * cost)]
        runs.append(
            written(tmp_path / name, lines, config(strategy=f"@{name}()", epochs=25, seed=0), {"accuracy": 0.9 + rate / 10})
        )
    return runs


def fifty(tmp_path, epochs=40, extra=16):
    """Fifty runs, with many metrics."""
    runs = []
    for k in range(50):
        lines = [
            begin(),
            *learned(epochs, 0.05 + k / 120, 0.1 + (k % 7) / 20, extra=extra, seconds=0.1 + k / 500),
            end(epochs * 23, 5.0),
        ]
        runs.append(written(tmp_path / f"seed{k:02d}", lines, config(seed=k, **{"optimizer.learning_rate": 0.001 * (k + 1)})))
    return runs


def gaps(tmp_path):
    """A run with NaN, and one that went astray and was ended by it."""
    lines = learned(30)
    for k in (4, 5, 6, 15, 29):
        lines[k]["logs"] |= {"loss": None, "val_loss": None}
    astray = learned(30)
    for k in range(20, 30):
        astray[k]["logs"] |= {"loss": 10.0 ** (k - 18), "val_loss": 10.0 ** (k - 17)}
    return [
        written(tmp_path / "gaps", [begin(), *lines, end(690, 3.1)]),
        written(tmp_path / "astray", [begin(), *astray, end(690, 3.1, "NonFiniteError")]),
    ]


def resumed(tmp_path):
    """A run that was resumed three times: killed, sent a signal, and interrupted."""
    lines = [begin(), *learned(9)]  # killed: the last checkpoint was at update 161
    lines += [begin(161, 7, resumed=True), *learned(8, first=7), end(345, 0.9, "signal SIGTERM")]
    lines += [begin(345, 15, resumed=True), *learned(6, first=15), end(490, 0.8, "KeyboardInterrupt")]
    lines += [begin(490, 21, resumed=True), *learned(9, first=21), end(690, 1.0)]
    return [written(tmp_path / "resumed", lines, config(epochs=30))]


CASES = {"one": one, "four": four, "fifty": fifty, "gaps": gaps, "resumed": resumed}
