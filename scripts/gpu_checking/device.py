"""The device, the versions, and whether the three kinds of kernels run."""

from __future__ import annotations

import platform
import sys

import keras
import numpy as np
import tensorflow as tf

from gpu_checking.telling import guarded, tell, within

_MEGABYTES = 6144  # of each of two logical GPUs


def two_devices() -> list[str]:
    """Cuts the first GPU, or the CPU, into two logical devices, before TensorFlow uses it; returns their names."""
    gpus = tf.config.list_physical_devices("GPU")
    limit = tf.config.LogicalDeviceConfiguration(memory_limit=_MEGABYTES) if gpus else tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration((gpus or tf.config.list_physical_devices("CPU"))[0], [limit] * 2)
    return [f"{'GPU' if gpus else 'CPU'}:{i}" for i in range(2)]


def check() -> None:
    """Says what there is, and tries it."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, Python {platform.python_version()}"
    tell("device", None, f"{details or 'no GPU: CPU'}; {versions}; {sys.platform}")
    name = "GPU:0" if gpus else "CPU:0"
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(512, 512)).astype("float32") for _ in range(2))
    images, kernels = rng.normal(size=(8, 16, 16, 4)).astype("float32"), rng.normal(size=(3, 3, 4, 8)).astype("float32")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with tf.device("CPU:0"):
        convolved = tf.nn.conv2d(images, kernels, 1, "SAME").numpy()
    with guarded("kernels"), tf.device(name):
        product = a.astype("float64") @ b
        within("matmul", np.abs((tf.constant(a) @ tf.constant(b)).numpy() - product).max() / np.abs(product).max(), 1e-5)
        _tensor_float_32(tf.constant(a), tf.constant(b), product, bool(gpus))
        found = tf.nn.conv2d(tf.constant(images), tf.constant(kernels), 1, "SAME").numpy()
        within("convolution", np.abs(found - convolved).max() / np.abs(convolved).max(), 1e-5)
        compiled = tf.function(lambda x, y: tf.tanh(x @ y), jit_compile=True)
        within("XLA", np.abs(compiled(tf.constant(a), tf.constant(b)).numpy() - np.tanh(product)).max(), 1e-3)


def _tensor_float_32(a: tf.Tensor, b: tf.Tensor, product: np.ndarray, is_gpu: bool) -> None:
    """What the switch does: of a product's 24 bits TensorFloat-32 leaves 11."""
    errors = []
    for is_on in (False, True):
        tf.config.experimental.enable_tensor_float_32_execution(is_on)
        errors.append(float(np.abs((a @ b).numpy() - product).max() / np.abs(product).max()))
    tf.config.experimental.enable_tensor_float_32_execution(False)
    is_ok = errors[1] < 1e-2 if is_gpu else errors[0] == errors[1]
    tell("TensorFloat-32 off and on", is_ok, f"a matmul's error {errors[0]:.2g} and {errors[1]:.2g}")
