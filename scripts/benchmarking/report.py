"""What a benchmark says and keeps, and on what machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarking import memory
from benchmarking.timing import ratio


class Report:
    """Prints what it is told, and writes it to `results.md` and `results.json`."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._lines: list[str] = []
        self._numbers: dict[str, Any] = {"machine": machine()}

    def say(self, text: str) -> None:
        """A line of text."""
        print(text, flush=True)
        self._lines.append(text)
        (self._directory / "results.md").write_text("\n".join(self._lines) + "\n", encoding="utf-8")

    def keep(self, name: str, value: Any) -> None:
        """Numbers, for the JSON file."""
        self._numbers[name] = value
        (self._directory / "results.json").write_text(json.dumps(self._numbers, indent=1) + "\n", encoding="utf-8")

    def times(self, name: str, title: str, seconds: Any, pairs: list[tuple[str, str, str, str]]) -> None:
        """A table of times and one of ratios: what, whose time, over whose, what is wanted."""
        num_pairs = len(next(iter(seconds.values())))
        self.say(f"\n## {title}\n\n{num_pairs} pairs.\n\n| who | us a batch | least | most |\n|---|---:|---:|---:|")
        for who, values in seconds.items():
            us = [value * 1e6 for value in values]
            self.say(f"| {who} | {statistics.median(us):,.1f} | {min(us):,.1f} | {max(us):,.1f} |")
        self.say("\n| ratio | median | least | most | wanted |\n|---|---:|---:|---:|---|")
        ratios = {}
        for what, a, b, wanted in pairs:
            ratios[what] = ratio(seconds, a, b)
            middle, least, most = ratios[what]
            self.say(f"| {what} | {middle:.2f} | {least:.2f} | {most:.2f} | {wanted} |")
        self.keep(name, {"seconds_a_batch": seconds, "ratios": ratios})

    def finish(self) -> None:
        """Says where everything is."""
        print(f"\nwritten to {self._directory}/results.md and results.json")


def machine() -> str:
    """What this was run on, in a line."""
    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "no GPU"
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, Python {platform.python_version()}"
    kernels = " with oneDNN" if memory.counting_device() == "CPU:0" else ""
    return f"{cores} cores of {model}, {device}; {versions}{kernels}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
