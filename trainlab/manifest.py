"""What a run is made of, as plain data: compared before anything is restored, so that a checkpoint never enters another run.

What a difference means is one table, `RULES`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import os
import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from trainlab.strategies import StepStrategy

# Every row of a manifest: what a difference in it does, and what to do about it.
REFUSE, WARN = "refuse", "warn"
RULES: dict[str, tuple[str, str]] = {
    "model": (REFUSE, "build the model as it was"),
    "variables": (REFUSE, "build the model as it was"),
    "loss and metrics": (REFUSE, "compile with those that were saved"),
    "optimizer": (REFUSE, "compile with the one that was saved"),
    "optimizer variables": (REFUSE, "compile with the one that was saved"),
    "learning_rate": (REFUSE, 'give it back, or say override=["learning_rate"] to go on with the new one'),
    "strategy": (REFUSE, "give the Trainer the one that was saved"),
    "seed": (REFUSE, "give the Trainer the one that was saved"),
    "batches": (REFUSE, "call fit with what was saved"),
    "data": (REFUSE, "give fit the data that were saved"),
    "dtypes": (REFUSE, "set them as they were"),
    "jit_compile": (REFUSE, 'give the one that was saved, or "auto", which takes it'),
    "micro_batch_size": (REFUSE, 'give the one that was saved, or "auto", which takes it'),
    "determinism": (WARN, "the result may differ in the last bits"),
    "threads": (WARN, "the result may differ in the last bits"),
    "device": (WARN, "the result may differ in the last bits"),
    "versions": (WARN, "the result may differ in the last bits"),
}
# What a user may change on purpose, by naming it.
OVERRIDABLE = ("learning_rate", "data", "micro_batch_size")

Manifest = dict[str, Any]
_MAX_HASHED = 2**28
_BLOCK = 2**20
_MAX_DEPTH = 8  # of objects in objects


class Difference(NamedTuple):
    """One value that is not what it was.

    Attributes:
        row: of `RULES`.
        place: in the row, such as `layers[2].config.units`; may be empty.
        saved, current: the values, or `ABSENT`.
    """

    row: str
    place: str
    saved: Any
    current: Any

    def __str__(self) -> str:
        name = f"{self.row} {self.place}" if self.place else self.row
        return f"{name}: saved {_brief(self.saved)}, now {_brief(self.current)} ({RULES[self.row][1]})"


class OtherRun(ValueError):
    """A checkpoint is of another run than this one; a line for each difference."""


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


def of_model(model: keras.Model) -> Manifest:
    """The rows that a compiled and built model decides."""
    optimizer = dict(model.optimizer.get_config())
    optimizer.pop("learning_rate", None)
    optimizer.pop("name", None)
    config = model._compile_config.config  # as given: Keras' own way to write it fails for some losses
    compiled = {key: config.get(key) for key in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    names = layer_names(model)
    return {
        "model": renumbered(plain(_architecture(model)), names),
        "variables": [[renumbered(v.path, names), list(v.shape), str(v.dtype)] for v in model.variables],
        "loss and metrics": renumbered(plain(compiled), _named_in(plain(compiled))),
        "optimizer": plain({"class": _qualified(type(model.optimizer)), **optimizer}),
        # Their names are made of those of the model's.
        "optimizer variables": [[list(v.shape), str(v.dtype)] for v in model.optimizer.variables],
        "learning_rate": learning_rate(model.optimizer),
        "dtypes": {"floatx": keras.config.floatx(), "policy": keras.config.dtype_policy().name},
    }


def learning_rate(optimizer: keras.Optimizer) -> Any:
    """The row of the learning rate: a number of seven digits (float32 makes 0.10000000149 of 0.1), or a schedule."""
    rate = optimizer.get_config().get("learning_rate")
    return float(f"{rate:.7g}") if isinstance(rate, (int, float)) else plain(rate)


def of_machine() -> Manifest:
    """The rows that the machine and its software decide."""
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "determinism": bool(is_op_determinism_enabled()),
        "threads": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        },
        "device": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus] or ["CPU"],
        "versions": {
            "trainlab": _version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
    }


def of_strategy(strategy: StepStrategy) -> Any:
    """The row of a strategy: its class and what it holds, wrapped ones included."""
    return plain(strategy)


def of_data(data: Any) -> Any:
    """The row of data: of arrays, shapes, dtypes and a fingerprint of the bytes.

    Of more than 256 MB the fingerprint is that of blocks spread over them. Of a stream there is nothing to compare but what
    its batches are, which is another row.
    """
    return [
        {"shape": list(leaf.shape), "dtype": tf.as_dtype(leaf.dtype).name, "blake2b": _fingerprint(leaf)}
        for leaf in tf.nest.flatten(data)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    ]


def differences(saved: Manifest, current: Manifest) -> list[Difference]:
    """What is not what it was, row by row."""
    found = []
    for row in RULES:
        a, b = _flat(saved.get(row, ABSENT)), _flat(current.get(row, ABSENT))
        for place in dict.fromkeys([*a, *b]):
            before, now = a.get(place, ABSENT), b.get(place, ABSENT)
            if before != now and not (before != before and now != now):  # NaN is what it was
                found.append(Difference(row, place, before, now))
    return found


def refusals(found: Sequence[Difference], override: Collection[str] = ()) -> tuple[list[Difference], list[Difference]]:
    """Splits differences into those that refuse and those that warn; `override` names rows that were changed on purpose."""
    refusing = [d for d in found if RULES[d.row][0] == REFUSE and d.row not in override]
    return refusing, [d for d in found if RULES[d.row][0] == WARN]


def plain(value: Any) -> Any:
    """Any setting as what JSON holds, so that two are equal if they mean the same.

    Functions are told apart by name and source, arrays by their bytes, other objects by class and attributes.

    Example:
        >>> plain({"rate": np.float32(0.5), "shape": (2, 3)})
        {'rate': 0.5, 'shape': [2, 3]}
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(item) for item in value)
    if isinstance(value, (np.ndarray, tf.Tensor, tf.Variable, keras.Variable)):
        array = np.asarray(value)
        return {"shape": list(array.shape), "dtype": str(array.dtype), "blake2b": _fingerprint(array)}
    if isinstance(value, type):
        return _qualified(value)
    if depth > _MAX_DEPTH:
        return _qualified(type(value))
    if isinstance(value, functools.partial):
        return {"partial": [_plain(part, depth + 1) for part in (value.func, value.args, value.keywords)]}
    if inspect.isroutine(value) or inspect.isfunction(value):
        cells = getattr(value, "__closure__", None) or ()
        closed = [_plain(cell.cell_contents, depth + 1) for cell in cells if not _is_empty(cell)]
        defaults = _plain(getattr(value, "__defaults__", None), depth + 1)
        return {"function": _qualified(value), "source": _source(value), "closure": closed, "defaults": defaults}
    if not isinstance(value, StepStrategy) and hasattr(value, "get_config"):
        try:
            config = _plain(value.get_config(), depth + 1)
            return {"class": _qualified(type(value)), "source": _source(type(value)), **config}
        except Exception:  # users' code may raise anything; the attributes are left
            pass
    # What begins with an underscore is the object's own business: tracing may set some.
    attributes = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"class": _qualified(type(value)), "source": _source(type(value)), **_plain(attributes, depth + 1)}


def layer_names(model: keras.Model) -> list[str]:
    """The names of the model, its layers and its seed generators, whose numbers Keras counts up from model to model."""
    owners = [part for variable in model.variables for part in variable.path.split("/")[:-1]]
    return list(dict.fromkeys([model.name, *(layer.name for layer in model._flatten_layers()), *owners]))


def renumbered(value: Any, names: Iterable[str]) -> Any:
    """The same, with the numbers at the ends of layers' names replaced by their ranks among those of one stem.

    So a model built a second time, whose layers Keras calls `dense_2` and `dense_3` and no longer `dense` and `dense_1`,
    looks as the first; and two layers that have changed places do not.

    Example:
        >>> renumbered(["dense_2/kernel", "dense_3/kernel"], ["dense_2", "dense_3"])
        ['dense#0/kernel', 'dense#1/kernel']
        >>> renumbered(["block_2", "block_1"], ["block_2", "block_1"])
        ['block#1', 'block#0']
    """
    stems: dict[str, list[int]] = {}
    parts = {name: _stem(name) for name in names}
    for stem, number in parts.values():
        stems.setdefault(stem, []).append(number)
    ranks = {name: f"{stem}#{sorted(stems[stem]).index(number)}" for name, (stem, number) in parts.items()}

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            return "/".join(ranks.get(part, part) for part in item.split("/"))
        if isinstance(item, list):
            return [walk(element) for element in item]
        if isinstance(item, dict):
            return {walk(key): walk(element) for key, element in item.items()}
        return item

    return walk(value)


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell  # never; an empty one raises
    except ValueError:
        return True


def _named_in(value: Any) -> list[str]:
    """Every name in a configuration: Keras counts those of metrics and losses up too."""
    if isinstance(value, dict):
        own = [value["name"]] if isinstance(value.get("name"), str) else []
        return own + [name for item in value.values() for name in _named_in(item)]
    return [name for item in value for name in _named_in(item)] if isinstance(value, list) else []


def _version() -> str:
    try:
        return importlib.metadata.version("trainlab")
    except importlib.metadata.PackageNotFoundError:  # used from a folder, not installed
        return "unknown"


def _stem(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)_(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _architecture(model: keras.Model) -> Any:
    try:
        return keras.saving.serialize_keras_object(model)["config"] | {"class": _qualified(type(model))}
    except Exception:  # a subclassed model need not say how it is built
        return {
            "class": _qualified(type(model)),
            "layers": [_layer(layer) for layer in model._flatten_layers(include_self=False)],
        }


def _layer(layer: keras.Layer) -> Any:
    try:
        return {"class": _qualified(type(layer)), **layer.get_config()}
    except Exception:  # whatever a layer's own get_config raises, its variables are compared anyway
        return {"class": _qualified(type(layer)), "name": layer.name}


def _qualified(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', repr(type(value))))}"


def _source(value: Any) -> str | None:
    """A hash of a function's or class's source; None for what is installed, whose version is another row, or has none."""
    module = (getattr(value, "__module__", None) or "").split(".")[0]
    if module in ("keras", "tensorflow", "numpy", "trainlab", "builtins"):
        return None
    try:
        return hashlib.blake2b(inspect.getsource(value).encode(), digest_size=8).hexdigest()
    except (OSError, TypeError):
        return None


def _fingerprint(leaf: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for block in _blocks(leaf):
        digest.update(
            np.ascontiguousarray(block).view(np.uint8).data if block.dtype.kind not in "OSU" else repr(block.tolist()).encode()
        )
    return digest.hexdigest()


def _blocks(leaf: Any) -> Iterable[np.ndarray]:
    if not isinstance(leaf, np.ndarray):
        leaf = np.asarray(leaf)
    if leaf.ndim == 0:
        return [leaf.reshape(1)]
    rows = max(_BLOCK // max(leaf[:1].nbytes, 1), 1)
    starts: Sequence[int] = range(0, len(leaf), rows)
    if leaf.nbytes > _MAX_HASHED:
        starts = np.linspace(0, len(leaf) - rows, _MAX_HASHED // _BLOCK).astype(np.int64).tolist()
    return (leaf[start : start + rows] for start in starts)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Every leaf of nested data by its place."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{place}.{key}" if place else str(key)).items()}
    if isinstance(value, list) and value and not all(_is_leaf(item) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{place}[{i}]").items()}
    return {place: value}


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (dict, list))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
