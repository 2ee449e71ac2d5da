"""The device that the step runs on: its name, its memory, and arrays in a type that can be kept and gathered there.

TensorFlow keeps an int32 argument of a function in a GPU's host memory, and has no kernel that gathers rows of small integers
on a GPU: either way a loop would copy the whole array for each batch. Such arrays are kept as floats with the same bits, which
gathering does not look at, and the rows of a batch are turned back.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainlab.parameters import tensorflow_internals

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of what a container on Linux may use
_WORD = 4  # bytes
# TensorFlow copies an array twice, the second time to where it stays: larger ones are put there in pieces of so many bytes.
_PIECE = 2**24
# What is kept in place of each of these; arrays of other types are kept as they are.
_CARRIERS = {
    tf.int32: tf.float32,
    tf.uint32: tf.float32,
    tf.uint64: tf.float64,
    tf.int16: tf.float32,
    tf.uint16: tf.float32,
    tf.int8: tf.float32,
    tf.uint8: tf.float32,
}
# On a GPU memory that is short is told under many names, after which operation asked for it: cuDNN's scratch space is
# UNKNOWN (seen on an H200), its trials NOT_FOUND, a handle or plan of cuBLAS, cuSPARSE, cuFFT INTERNAL.
_GUISES = re.compile(
    r"out[ _]of[ _]memory|OOM when|RESOURCE_EXHAUSTED|failed to (re)?allocate|_ALLOC_FAILED|Dst tensor is not initialized|"
    r"scratch (space|allocator|buffer)|no-scratch runner|No algorithm (without scratch )?worked|"
    r"(without|get|create|initialize) (BLAS|cublas)",
    re.IGNORECASE,
)


def name() -> str:
    """The device, in words."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return f"{tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'GPU')} (GPU:0)"


def memory() -> int:
    """Its memory, in bytes."""
    if tf.config.list_physical_devices("GPU"):
        return tensorflow_internals.gpu_memory()
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(everything, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # there is none, or it says "max"
        return everything


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of TensorFlow's says, in whatever words, that something does not fit in the memory of the device.

    Example:
        >>> is_out_of_memory(tf.errors.UnknownError(None, None, "CUDNN failed to allocate the scratch space for the runner"))
        True
        >>> is_out_of_memory(tf.errors.InvalidArgumentError(None, None, "label 7 is out of range"))
        False
    """
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return True
    return isinstance(error, tf.errors.OpError) and _GUISES.search(error.message or "") is not None


def grow_memory() -> None:
    """Takes its memory as it is needed, where that can still be chosen."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError):  # it is in use already, as it is; or was cut into logical ones, each of a fixed size
            return


def switch_determinism(is_on: bool | None) -> None:
    """Switches TensorFlow's op determinism on, for the whole process; None leaves it as it is.

    Raises:
        ValueError: it is to be off, and is on.
    """
    if is_on:
        tf.config.experimental.enable_op_determinism()
    elif is_on is False and tensorflow_internals.is_op_determinism_enabled():
        raise ValueError("deterministic=False, but op determinism is on in this process, which nothing switches off")


def put(leaf: Any) -> tf.Tensor:
    """An array `[n, ...]` or `[n]`, NumPy's or a tensor, on the device: as it is, or as what `restored` takes.

    It takes the memory of what is returned, and a little: of a `numpy.memmap` no copy is made beside that.
    """
    dtype = tf.as_dtype(leaf.dtype)
    carrier = _carrier(dtype, leaf.shape[1:])
    if carrier is None and (isinstance(leaf, tf.Tensor) or dtype == tf.string):
        return tf.convert_to_tensor(leaf)
    length = int(leaf.shape[0])
    size = max(_PIECE // max(math.prod(leaf.shape[1:]) * dtype.size, 1), 1)
    if length <= size:
        return _kept(leaf, carrier)
    whole = None
    for start in range(0, length, size):
        rows = _kept(leaf[start : start + size], carrier)
        if whole is None:
            whole = tf.fill([length, *rows.shape[1:]], tf.zeros([], rows.dtype))
        places = tf.range(start, start + len(rows))
        whole = tf.raw_ops.InplaceUpdate(x=whole, i=places, v=rows)  # writes into x, which nobody else has
    return whole


def _kept(leaf: Any, carrier: tf.DType | None) -> tf.Tensor:
    if carrier is None:
        return tf.convert_to_tensor(leaf)
    array = np.ascontiguousarray(leaf)
    if array.itemsize < _WORD:
        array = array.reshape(len(array), -1)
        padding = -array.shape[1] % (_WORD // array.itemsize)
        array = np.pad(array, [(0, 0), (0, padding)]) if padding else array
    return tf.convert_to_tensor(array.view(carrier.as_numpy_dtype))


def restored(rows: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Rows that were gathered from what `put` returned, as they were.

    Args:
        rows: `[q, ...]`.
        spec: of the array that was put there, `[n, ...]`.
    """
    shape = spec.shape[1:]
    if _carrier(spec.dtype, shape) is None:
        return rows
    if spec.dtype.size >= _WORD:
        return tf.bitcast(rows, spec.dtype)
    size = math.prod(shape)
    parts = tf.bitcast(rows, spec.dtype)  # [q, words, parts of a word]
    flat = tf.reshape(parts, [-1, int(parts.shape[1] * parts.shape[2])])
    return tf.reshape(flat[:, :size] if flat.shape[1] > size else flat, [-1, *shape])


def _carrier(dtype: tf.DType, shape: Any) -> tf.DType | None:
    has_something = math.prod(shape) > 0
    return _CARRIERS.get(dtype) if has_something and tf.config.list_physical_devices("GPU") else None
