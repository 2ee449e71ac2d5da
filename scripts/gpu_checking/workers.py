"""Two workers on one device, which each of them sees: they are one device, and end with the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import workers

from gpu_checking.laws import relative
from gpu_checking.telling import guarded, tell, within

_EXACT = 1e-6
_SECONDS = 100


def check(is_short: bool) -> None:
    """One process and two of the same program, `gpu_checking/working.py`."""
    with tempfile.TemporaryDirectory() as folder, guarded("two workers"):
        environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        command = [sys.executable, "-m", "gpu_checking.working", *(["--short"] if is_short else [])]
        alone = subprocess.Popen([*command, f"{folder}/alone"], env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)
        pair = workers.start(2, [*command, f"{folder}/pair"], env=environment, stdout=-1, stderr=subprocess.STDOUT)
        try:
            said = [process.communicate(timeout=_SECONDS)[0] for process in (alone, *pair)]
        finally:
            for process in (alone, *pair):  # whichever did not end in time
                process.kill()
        statuses = [process.returncode for process in (alone, *pair)]
        tell(
            "two workers: they end",
            statuses == [0, 0, 0],
            f"status {statuses}" + "".join(text[-900:] for text in said if any(statuses)),
        )
        one, *two = (
            dict(np.load(path)) for path in (Path(folder, "alone-0.npz"), Path(folder, "pair-0.npz"), Path(folder, "pair-1.npz"))
        )
    devices = [str(result.pop("device")) for result in (one, *two)]
    tell("two workers: devices", None, devices)
    is_on_gpu = all("GPU" in device for device in devices[1:])
    tell("two workers: on the GPU", is_on_gpu or not tf.config.list_physical_devices("GPU"), devices[1:])
    for name in sorted({key.partition("/")[0] for key in one}):
        values = [[result[key] for key in sorted(result) if key.startswith(f"{name}/")] for result in (one, *two)]
        within(f"two workers are one device, {name}", relative(values[1], values[0]), 20 * _EXACT)
        same = all(np.array_equal(a, b) for a, b in zip(*values[1:], strict=True))
        tell(f"two workers end with the same bits, {name}", same, f"{len(values[0])} variables")
