"""What shows only on a GPU: `python -m pytest -m gpu` there; skipped elsewhere.

What changes a whole process, as two logical devices do, is a part of scripts/gpu_check.py, in a process of its own.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from small import compiled, everything, regression

import trainlab as tl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="no GPU here"),
]
SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"


def short(tmp_path, part):
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--short", "--out", str(tmp_path), "--parts", part]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]
    return {one["check"]: one for one in json.loads((tmp_path / "gpu_check.json").read_text())}


def test_tensor_float_32_is_off_in_the_tests_and_is_a_switch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 512, 512)).astype("float32")
    product = a.astype("float64") @ b

    def error():
        return np.abs((tf.constant(a) @ tf.constant(b)).numpy() - product).max() / np.abs(product).max()

    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    exact = error()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        rounded = error()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)
    assert exact < 1e-6 and rounded < 1e-2
    capability = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])["compute_capability"]
    assert capability < (8, 0) or rounded > 10 * exact


def test_determinism_has_the_same_bits():
    x, y = regression(64)
    ends = []
    for _ in range(2):
        model = compiled()
        tl.Trainer(model, tl.Accumulate(2, tl.Heun()), deterministic=True).fit(x, y, batch_size=7, epochs=3, verbose=0)
        ends.append(everything(model))
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


def test_two_logical_gpus_are_one(tmp_path):
    found = short(tmp_path, "replicas")
    assert "GPU:1" in found["two logical devices"]["seen"]


def test_micro_batches_are_found_that_fit_in_memory(tmp_path):
    found = short(tmp_path, "memory")
    assert found["micro_batch_size='auto'"]["ok"] and found["a batch that does not fit is one line"]["ok"]


def test_loss_scaling(tmp_path):
    found = short(tmp_path, "laws-float16")
    assert sum(one["ok"] is True for one in found.values()) > 8
