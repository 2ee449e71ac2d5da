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
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl
from gpu_checking.models import Case, noisy
from gpu_checking.telling import guarded, tell

SCRIPTS = Path(__file__).parents[1]


def resume(is_short: bool) -> None:
    """Stopped and gone on with, bit for bit, under op determinism."""
    strategies = {"SGD": tl.SGD, "Accumulate(2, Heun)": lambda: tl.Accumulate(2, tl.Heun())}
    for name, case in list(noisy(64).items())[: 1 if is_short else None]:
        for what, strategy in strategies.items():
            for jit in (False, True) if name != "lstm" else (False,):
                title = f"resume, {name}, {what}{', XLA' if jit else ''}"
                with guarded(title):
                    _resume(title, case, strategy, jit)


def _resume(title: str, case: Case, strategy: Any, jit: bool) -> None:
    def train(directory: str, *stops: int) -> list[np.ndarray]:
        for steps in stops:
            model = case.compiled(keras.optimizers.Adam(0.01))
            trainer = tl.Trainer(model, strategy(), run=directory, jit_compile=jit, deterministic=True)
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
            sent: list[float] = []

            def send(sent: list[float] = sent) -> None:
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGTERM)

            class Arm(keras.callbacks.Callback):
                def on_epoch_begin(self, epoch, logs=None, send=send):
                    if epoch == 2:
                        threading.Timer(1.0, send).start()

            trainer = tl.Trainer(case.compiled(keras.optimizers.SGD(0.01)), run=folder, jit_compile=jit)
            try:
                trainer.fit(case.x, case.y, steps_per_epoch=200_000, epochs=20, verbose=0, callbacks=[_Few(Arm())])
                tell(title, False, "fit ended by itself")
            except SystemExit as end:
                seconds = time.monotonic() - sent[0]
                saved = trainer.last_checkpoint is not None
                tell(title, end.code == 143 and saved and seconds < 5, f"{seconds:.2f} s, status {end.code}, saved {saved}")


class _Few(keras.callbacks.Callback):
    """Short epochs first, so that all is compiled; then a long one."""

    def __init__(self, then: keras.callbacks.Callback):
        super().__init__()
        self._then = then

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Arms in the first epoch that is long."""
        self._then.on_epoch_begin(epoch + 2, logs)


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
