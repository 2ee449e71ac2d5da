"""Speed against Keras' `fit` and a loop by hand, in turns; peak memory of the device."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from benchmarking import contestants, family
from benchmarking.timing import in_turns, ratio
from benchmarking.workloads import WORKLOADS

import trainlab as tl
from gpu_checking.telling import guarded, tell

WORKLOADS_HERE = {
    "mlp_32": WORKLOADS["mlp_32"],
    "cnn_256": dataclasses.replace(WORKLOADS["cnn"], name="CNN on 28x28, batch 256", batch_size=256),
    "transformer": WORKLOADS["transformer"],
    "embedding": WORKLOADS["embedding"],
}

_HALVED = ("cnn_256", "transformer")  # also trained under mixed_float16
_ENOUGH = 40.0  # seconds of rounds, after which no further one begins


def _mixed(make: Callable[[], tuple[contestants.Run, str]]) -> Callable[[], tuple[contestants.Run, str]]:
    """A contestant that is made, and runs, under mixed_float16: to change the policy between would have it traced anew."""

    def under(call: Callable[[], Any]) -> Any:
        keras.config.set_dtype_policy("mixed_float16")
        try:
            return call()
        finally:
            keras.config.set_dtype_policy("float32")

    def made() -> tuple[contestants.Run, str]:
        run, chosen = under(make)
        return lambda: under(run), chosen

    return made


def compare(name: str, is_short: bool) -> None:
    """A workload, plain, Heun and Accumulate(4)."""
    updates = 50 if is_short or name == "transformer" else 200
    workload = dataclasses.replace(WORKLOADS_HERE[name], updates=updates, epochs=1 if is_short else 2)
    makers: dict[str, Any] = {
        "Keras fit, defaults": lambda: contestants.keras_fit(workload),
        "Keras fit, 50 a call": lambda: contestants.keras_fit(workload, 50),
        "by hand, 50 a call": lambda: contestants.by_hand(workload, contestants.plain_step, 50, False),
        "by hand, 50 a call, XLA": lambda: contestants.by_hand(workload, contestants.plain_step, 50, True),
        "Heun by hand, 50 a call, XLA": lambda: contestants.by_hand(workload, contestants.heun_step, 50, True),
        "trainlab": lambda: contestants.ours(workload, tl.SGD()),
        "trainlab, no XLA": lambda: contestants.ours(workload, tl.SGD(), False),
        "trainlab, XLA": lambda: contestants.ours(workload, tl.SGD(), True),
        "trainlab Heun": lambda: contestants.ours(workload, tl.Heun()),
        "trainlab Accumulate(4)": lambda: contestants.ours(workload, tl.Accumulate(4)),
    }
    if name in _HALVED:
        makers |= {
            "Keras fit, 50 a call, mixed_float16": _mixed(lambda: (contestants.keras_fit(workload, 50), "")),
            "trainlab, mixed_float16": _mixed(lambda: contestants.ours(workload, tl.SGD())),
        }
    left = () if name.startswith("mlp") else ("trainlab, no XLA", "trainlab, XLA")  # where both are near, the choice tells enough
    left += ("by hand, 50 a call",) if name == "transformer" else ()  # each is a quarter of a minute to make
    makers = {key: maker for key, maker in makers.items() if key not in left}
    if is_short:
        makers = {key: makers[key] for key in makers if key in ("Keras fit, defaults", "trainlab") or "mixed" in key}
    runs, chosen = {}, {}
    for who, make in makers.items():
        with guarded(f"{name}, {who}"):
            started = time.monotonic()
            made = make()
            runs[who], chosen[who] = made if isinstance(made, tuple) else (made, "")
            runs[who]()
            begun_again = time.monotonic()
            batches = runs[who]()  # told at once: the part may be ended before all have had their turns
            each = (time.monotonic() - begun_again) / batches * 1e6
            told = f"{begun_again - started:.1f} s {chosen[who]}; the next {each:,.1f} us a batch"
            tell(f"{name}, {who}: made, and a first run", None, told)
    gc.collect()
    if not is_short:
        # The first turn after other programs were made is slower, on an H200 several times: XLA seems to record them anew.
        in_turns(runs, 1, warm_up=False)
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    rounds, begun = 0, time.monotonic()
    while rounds < (1 if is_short else 5) and (rounds == 0 or time.monotonic() - begun < _ENOUGH):
        for who, values in in_turns(runs, 1, warm_up=False).items():  # each was warmed up above
            seconds[who] += values
        rounds += 1
    tell(f"{name}: rounds", None, rounds)
    _tell_speed(name, seconds, chosen)
    if tf.config.list_physical_devices("GPU"):
        for who, run in runs.items():
            _tell_memory(f"{name}, {who}", run)
    keras.utils.clear_session()


def _tell_speed(name: str, seconds: dict[str, list[float]], chosen: dict[str, str]) -> None:
    for who, values in seconds.items():
        tell(f"{name}, {who}", None, f"{sorted(values)[len(values) // 2] * 1e6:,.1f} us a batch {chosen[who]}")
    for a in seconds:
        if not a.startswith("trainlab"):
            ours = "trainlab Heun" if a.startswith("Heun") else f"trainlab{', mixed_float16' if 'mixed' in a else ''}"
            tell(f"{name}, {a} / {ours}", None, "{:.2f} ({:.2f} to {:.2f})".format(*ratio(seconds, a, ours)))
    for a in ("trainlab Heun", "trainlab Accumulate(4)", "trainlab, mixed_float16"):
        if a in seconds:
            tell(f"{name}, {a} / trainlab", None, "{:.2f} ({:.2f} to {:.2f})".format(*ratio(seconds, a, "trainlab")))


def _tell_memory(title: str, run: contestants.Run) -> None:
    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    run()
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    tell(f"{title}: peak device memory above what lives", None, f"{peak / 1e6:,.1f} MB")


def compare_strategies(is_short: bool) -> None:
    """What a step of each strategy costs, in plain steps."""
    for name in ("mlp_32", "cnn_256")[: 1 if is_short else None]:
        workload = dataclasses.replace(WORKLOADS_HERE[name], updates=50 if is_short else 200, epochs=1 if is_short else 2)
        runs = {}
        for who, member in list(family.FAMILY.items())[: 2 if is_short else None]:
            with guarded(f"{name}, {who}"):
                runs[who], _ = contestants.ours(workload, member.make(), True)
                runs[who]()
        seconds = in_turns(runs, 1 if is_short else 5, warm_up=False)
        for who in runs:
            tell(f"{name}, {who} / plain", None, "{:.2f} ({:.2f} to {:.2f})".format(*ratio(seconds, who, family.PLAIN)))
