"""What the machine and its software, and the settings of the process, decide about the last bits of a result."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import sys
from typing import Any

import keras
import tensorflow as tf

from trainlab.parameters import tensorflow_internals
from trainlab.runs.disk.compiled import processor
from trainlab.runs.manifest.plain import digest

# Of TensorFlow's graph optimizers, those and the switches that are off where nobody sets them; all others are on.
_OFF_UNLESS_TOLD = (
    "auto_mixed_precision",
    "auto_mixed_precision_mkl",
    "auto_mixed_precision_onednn_bfloat16",
    "debug_stripper",
    "disable_meta_optimizer",
    "disable_model_pruning",
    "pin_to_host_optimization",
    "scoped_allocator_optimization",
)


def of_machine() -> dict[str, Any]:
    """The rows that the machine and its software decide."""
    gpus, options = tf.config.list_physical_devices("GPU"), tf.config.optimizer.get_experimental_options()
    return {
        "determinism": tensorflow_internals.is_op_determinism_enabled(),
        "tensor_float_32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "compiler": {
            "jit": tf.config.optimizer.get_jit(),
            **{name: value for name, value in options.items() if value != (name not in _OFF_UNLESS_TOLD)},
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "flash attention": keras.config.is_flash_attention_enabled() is not False,
        },
        "threads": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        },
        "device": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus] or ["CPU"],
        **({} if gpus else {"processor": _processor()}),
        "versions": {
            "trainlab": version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
    }


def _processor() -> dict[str, str]:
    """What of a machine without a GPU decides about the last bits: whose instructions, and by which library of them."""
    told = processor() or platform.machine()
    name = re.search(r"^model name\s*: (.*)$", told, re.MULTILINE)
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1")  # it is on if nothing is said
    return {"name": name[1] if name else platform.machine(), "kind": digest(told), "TF_ENABLE_ONEDNN_OPTS": onednn}


@functools.cache  # what was imported stays, and to find and read it takes milliseconds
def version(package: str = "trainlab") -> str:
    """Of an installed package; "unknown" where nothing says it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # used from a folder, not installed; or it is called otherwise there
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))
