"""Runs that are stopped, killed and gone on with; batches that do not fit; what is said and done meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl
from gpu_checking.models import Case, noisy
from gpu_checking.telling import guarded, tell
from trainlab.loop import Loop

SCRIPTS = Path(__file__).parents[1]


def resume(is_short: bool) -> None:
    """Stopped and gone on with, bit for bit, under op determinism."""
    strategies = {"SGD": tl.SGD, "Accumulate(2, Heun)": lambda: tl.Accumulate(2, tl.Heun())}
    for name, case in list(noisy(64).items())[: 1 if is_short else None]:
        for what, strategy in strategies.items():
            for jit in (False, True) if name != "lstm" else (False,):
                title = f"resume, {name}, {what}{', XLA' if jit else ''}"
                with guarded(title):
                    stopped_twice(title, case, strategy, jit)


def stopped_twice(
    title: str, case: Case, strategy: Any, jit: bool, optimizer: Any = lambda: keras.optimizers.Adam(0.01), **settings: Any
) -> None:
    """Compares the bits of a run, of the same again, and of one that was stopped twice, under op determinism.

    Args:
        title: of the findings.
        case: what is trained.
        strategy, optimizer: make one.
        jit: whether XLA compiles.
        settings: more of the Trainer's.
    """

    def train(directory: str, *stops: int) -> list[np.ndarray]:
        for steps in stops:
            model = case.compiled(optimizer())
            trainer = tl.Trainer(model, strategy(), run=directory, jit_compile=jit, deterministic=True, **settings)
            trainer.fit(case.x, case.y, batch_size=7, steps=steps, verbose=0)
        return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]

    with tempfile.TemporaryDirectory() as folder:
        whole, again, parts = train(f"{folder}/a", 13), train(f"{folder}/b", 13), train(f"{folder}/c", 4, 9, 13)
    for what, other in (("twice the same", again), ("stopped twice", parts)):
        different = [i for i, (a, b) in enumerate(zip(whole, other, strict=True)) if not np.array_equal(a, b)]
        tell(f"{title}: {what}", not different, f"{len(whole) - len(different)} of {len(whole)} variables have the same bits")


def kill(is_short: bool) -> None:
    """The first command; and runs of another that are killed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "trainlab.train", "--config", "configs/heun.gin", "--run_dir", f"{folder}/heun"]
        command += ["--set=run.epochs = 3"] if is_short else []
        started = time.monotonic()
        done = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True)
        tell(
            "the first command",
            done.returncode == 0,
            f"{time.monotonic() - started:.1f} s; {done.stdout[-1200:]} {done.stderr[-1500:]}",
        )
    command = [sys.executable, str(SCRIPTS / "kill_and_resume.py"), "--runs", "1" if is_short else "2", "--controls", "0"]
    done = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True)
    ended = re.search(r"(\d+) of (\d+) runs ended", done.stdout)
    is_ok = done.returncode == 0 and ended is not None and ended[1] == ended[2]
    tell("killed, and gone on with", is_ok, f"{done.stdout[-700:]} {done.stderr[-700:]}")


def signals(is_short: bool) -> None:
    """How long a call of many updates keeps a signal waiting."""
    for name, size, jit in (("mlp", 4096, False), ("mlp", 4096, True), ("cnn", 4096, False)):
        title = f"SIGTERM to the end of fit, {name}{', XLA' if jit else ''}"
        with guarded(title), tempfile.TemporaryDirectory() as folder:
            case = noisy(size)[name]
            trainer = tl.Trainer(case.compiled(keras.optimizers.SGD(0.01)), run=folder, jit_compile=jit)
            sent: list[float] = []
            with _timed_calls() as calls:
                threading.Thread(target=_send, args=(calls, sent), daemon=True).start()
                try:
                    trainer.fit(case.x, case.y, steps_per_epoch=200_000, epochs=20, verbose=0)
                    tell(title, False, "fit ended by itself")
                    continue
                except SystemExit as end:
                    seconds, status = time.monotonic() - sent[0], end.code
            saved = trainer.last_checkpoint
            until_saved = "" if saved is None else f", {max(map(_written, saved.iterdir())) - sent[1]:.2f} s to saved"
            is_ok = status == 143 and saved is not None and seconds < 5
            tell(title, is_ok, f"{seconds:.2f} s{until_saved}, status {status}, saved {saved is not None}")
            # The first of all traces and compiles; how many updates a call makes is found out in some more.
            rest = sorted(calls[1:])
            told = f"{rest[-1]:.3f} s of {len(rest)}, the median {rest[len(rest) // 2]:.3f} s" if rest else "none but the first"
            tell(f"the longest call of many updates, {title.partition(', ')[2]}", bool(rest) and rest[-1] < 3, told)


def _send(calls: list[float], sent: list[float]) -> None:
    """Sends the signal once all is compiled, and calls are as long as they get; notes both clocks."""
    while len(calls) < 6:
        time.sleep(0.01)
    time.sleep(0.5)
    sent.extend((time.monotonic(), time.time()))
    os.kill(os.getpid(), signal.SIGTERM)


def _written(file: Path) -> float:
    return file.stat().st_mtime


@contextmanager
def _timed_calls() -> Iterator[list[float]]:
    """The seconds of each call of the loop, in which Python hears nothing."""
    seconds: list[float] = []
    own = Loop.run

    def run(*args: Any, **kwargs: Any) -> int:
        started = time.monotonic()
        try:
            return own(*args, **kwargs)
        finally:
            seconds.append(time.monotonic() - started)

    with mock.patch.object(Loop, "run", run):
        yield seconds


def memory(is_short: bool) -> None:
    """Batches that do not fit, on a GPU that is said to have one gigabyte."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        tell("out of memory", None, "no GPU")
        return
    tf.config.set_logical_device_configuration(gpus[0], [tf.config.LogicalDeviceConfiguration(memory_limit=1024)])
    x = np.random.default_rng(0).normal(size=(1024, 64, 64, 3)).astype("float32")
    y = np.zeros(len(x), "int32")

    def model() -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(64, 3, activation="relu", padding="same") for _ in range(4)]
        made = keras.Sequential([keras.Input([64, 64, 3]), *layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
        made.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return made

    try:
        tl.Trainer(model(), jit_compile=False).fit(x, y, batch_size=1024, verbose=0)
        tell("a batch that does not fit is one line", False, "it fitted")
    except Exception as error:
        tell(
            "a batch that does not fit is one line",
            "micro_batch_size" in str(error),
            f"{type(error).__name__}: {str(error)[:500]}",
        )
    with guarded("micro_batch_size='auto'"):
        trainer = tl.Trainer(model(), jit_compile=False, micro_batch_size="auto")
        trainer.fit(x, y, batch_size=1024, epochs=2, verbose=0)
        tell("micro_batch_size='auto'", trainer.micro_batch_size is not None, f"found {trainer.micro_batch_size}")
    with guarded("a fit after it"):
        trainer = tl.Trainer(model(), tl.Accumulate(16, tl.Heun()), jit_compile=False)
        trainer.fit(x, y, batch_size=64, epochs=1, verbose=0)
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
        tell("a fit after it", trainer.iterations == 1, f"Accumulate(16, Heun()) of 64; the peak was {peak:,.0f} MB")
