"""What a run is made of, as plain data: compared before anything is restored, so that a checkpoint never enters another run.

What a difference means is one table, `RULES`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainlab.data import Inputs
from trainlab.loop import Findings, Plan
from trainlab.objective import keras_internals
from trainlab.parameters import tensorflow_internals
from trainlab.runs.plain import fingerprint, plain, qualified
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
_MAX_LINES = 3  # of differences in one row that are shown

Manifest = dict[str, Any]


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


def of_fit(model: keras.Model, strategy: StepStrategy, seed: int, inputs: Inputs, plan: Plan, findings: Findings) -> Manifest:
    """All rows of a `fit` that is about to begin."""
    data, batches = {"training": of_data(inputs.source.arrays)}, {"steps_per_epoch": plan.steps_per_epoch}
    batches |= inputs.source.describe()
    if inputs.validation is not None:
        data["validation"] = of_data(inputs.validation[:3])
        batches["validation"] = plain(inputs.validation[3:])
    own = {"strategy": plain(strategy), "seed": seed, "batches": batches, "data": data}
    return of_model(model) | of_machine() | own | findings.known()


def of_model(model: keras.Model) -> Manifest:
    """The rows that a compiled and built model decides."""
    optimizer = dict(model.optimizer.get_config())
    optimizer.pop("learning_rate", None)
    optimizer.pop("name", None)
    config = keras_internals.compile_arguments(model)  # as given: Keras' own way to write it fails for some losses
    compiled = {key: config.get(key) for key in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    names = layer_names(model)
    return {
        "model": renumbered(plain(_architecture(model)), names),
        "variables": [[renumbered(v.path, names), list(v.shape), str(v.dtype)] for v in model.variables],
        "loss and metrics": renumbered(plain(compiled), _named_in(plain(compiled))),
        "optimizer": plain({"class": qualified(type(model.optimizer)), **optimizer}),
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
        "determinism": tensorflow_internals.is_op_determinism_enabled(),
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


def of_data(data: Any) -> Any:
    """The row of data: of arrays, shapes, dtypes and a fingerprint of the bytes.

    Of more than 256 MB the fingerprint is that of blocks spread over them. Of a stream there is nothing to compare but what
    its batches are, which is another row.
    """
    return [
        {"shape": list(leaf.shape), "dtype": tf.as_dtype(leaf.dtype).name, "blake2b": fingerprint(leaf)}
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


def check(path: Path, saved: Manifest, current: Manifest, override: Collection[str]) -> set[str]:
    """Compares what a checkpoint is of with what is about to go on from it, and warns where only the last bits may differ.

    Args:
        path: of the checkpoint.
        saved: its rows.
        current: the rows of now; those that only one of the two has are not compared.
        override: names of rows that were changed on purpose.

    Returns:
        Those of them that differ.

    Raises:
        OtherRun: it is another run's.
    """
    both = [row for row in RULES if row in saved and row in current]
    found = differences({row: saved[row] for row in both}, {row: current[row] for row in both})
    refusing, warning = refusals(found, override)
    if refusing:
        lines = [f"{path} is of another run; nothing was touched. It differs in:"]
        for row in dict.fromkeys(difference.row for difference in refusing):
            of_row = [difference for difference in refusing if difference.row == row]
            lines += [str(difference) for difference in of_row[:_MAX_LINES]]
            lines += [f"{row}: {len(of_row) - _MAX_LINES} more"] if len(of_row) > _MAX_LINES else []
        raise OtherRun("\n  ".join(lines))
    for difference in warning:
        warnings.warn(f"resuming in spite of a difference: {difference}", stacklevel=5)
    return {difference.row for difference in found if difference.row in override}


def layer_names(model: keras.Model) -> list[str]:
    """The names of the model, its layers and its seed generators, whose numbers Keras counts up from model to model."""
    owners = [part for variable in model.variables for part in variable.path.split("/")[:-1]]
    return list(dict.fromkeys([model.name, *(layer.name for layer in keras_internals.layers_of(model)), *owners]))


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
        return keras.saving.serialize_keras_object(model)["config"] | {"class": qualified(type(model))}
    except Exception:  # a subclassed model need not say how it is built
        return {
            "class": qualified(type(model)),
            "layers": [_layer(layer) for layer in keras_internals.layers_of(model, include_self=False)],
        }


def _layer(layer: keras.Layer) -> Any:
    try:
        return {"class": qualified(type(layer)), **layer.get_config()}
    except Exception:  # whatever a layer's own get_config raises, its variables are compared anyway
        return {"class": qualified(type(layer)), "name": layer.name}


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
