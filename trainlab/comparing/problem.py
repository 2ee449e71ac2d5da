"""What is trained: the same for all who take part."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.comparing.schedules import decay_exclusions, optimizer_like
from trainlab.data import as_arrays, nature_of
from trainlab.data import copied as begun_anew
from trainlab.runs import manifest

# Initial weights that are kept in memory, of all seeds; of larger models they are made anew for each run.
_MOST_BYTES = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model, its data, and how it is judged.

    Attributes:
        make_model: called without arguments, returns a new `keras.Model`, not compiled.
        train: `(x, y, sample_weight)`; of a data set `(dataset, None, None)`.
        validation: what runs are judged on, in the same form.
        test: the same, or None.
        batch_size: examples a batch; None for a data set.
        optimizer, loss, metrics: as in `model.compile`; each run has an optimizer of its own like this one.
        metric: the name that runs are judged by, without `val_`.
        is_up: whether more of it is better.
        is_said: whether somebody has said so.
        settings: other arguments of the `Trainer`.
    """

    make_model: Callable[[], keras.Model]
    train: tuple[Any, Any, Any]
    validation: tuple[Any, Any, Any]
    test: tuple[Any, Any, Any] | None
    batch_size: int | None
    optimizer: keras.Optimizer
    loss: Any
    metrics: Any
    metric: str = "loss"
    is_up: bool = False
    is_said: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _initial: dict[int, list[np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def batches_per_pass(self) -> int | None:
        """Batches of a pass over the training data; None where nobody knows."""
        x = self.train[0]
        if hasattr(x, "element_spec"):
            number = int(x.cardinality()) if hasattr(x, "cardinality") else -1
            return number if number > 0 else None
        return -(-int(tf.nest.flatten(as_arrays(x))[0].shape[0]) // (self.batch_size or 32))

    def build(self) -> keras.Model:
        """A new model with its variables.

        Raises:
            TypeError: `make_model` returns no model.
        """
        model = self.make_model()
        if not isinstance(model, keras.Model):
            raise TypeError(f"model must be a function that returns a keras.Model, not a {type(model).__name__}")
        if not model.built:
            model(self._some())
        return model

    def initial(self, seed: int) -> list[np.ndarray]:
        """The variables of a new model by a seed, those of dropout among them: the same for everybody who takes part."""
        if seed not in self._initial:
            keras.utils.set_random_seed(seed)
            values = [keras.ops.convert_to_numpy(v) for v in self.build().variables]
            if sum(value.nbytes for kept in (*self._initial.values(), values) for value in kept) > _MOST_BYTES:
                self._initial.clear()
            self._initial[seed] = values
        return self._initial[seed]

    def described(self) -> dict[str, Any]:
        """What tells one problem from another, as JSON can hold it."""
        random.seed(0)
        model = self.build()
        shapes = [(v.path.rpartition("/")[2], list(v.shape), str(v.dtype)) for v in model.variables]
        model.compile(optimizer_like(self.optimizer), loss=self.loss, metrics=self.metrics)
        rows = manifest.of_model(model)
        code = [rows["layers' code"], rows["loss and metrics"], *([inner] if (inner := rows["inner layers"]) else [])]
        return {
            "model": _digest_of(json.dumps(rows["model"], sort_keys=True)),
            "variables": _digest_of(json.dumps(shapes)),
            "data": {name: _digest_of_data(getattr(self, name)) for name in ("train", "validation", "test")},
            "batch_size": self.batch_size,
            "optimizer": json.loads(_without_names(json.dumps(self.optimizer.get_config(), default=_written)))
            | {"without weight decay": decay_exclusions(self.optimizer)},
            "loss": _described(self.loss),
            "metrics": _described(self.metrics),
            "metric": [self.metric, "up" if self.is_up else "down"],
            "settings": {name: _written(value) for name, value in self.settings.items()},
            "python": sys.implementation.cache_tag,
            "code of layers, loss and metrics": _digest_of(json.dumps(code)),
        }

    def _some(self) -> Any:
        x = self.train[0]
        if hasattr(x, "element_spec"):
            element = next(iter(x.take(1)))
            return element[0] if isinstance(element, (tuple, list)) else element
        return tf.nest.map_structure(lambda leaf: _first(leaf, min(self.batch_size or 32, 2)), as_arrays(x))


def check_repeatable(name: str, data: Any) -> None:
    """Raises ValueError, in one line, if not every run would read the same of a `tf.data` set; of anything else says nothing."""
    if not isinstance(data, tf.data.Dataset):
        return
    nature = nature_of(data)
    if not nature.is_copyable:
        is_unknown = nature.why_not_saved.startswith("TensorFlow cannot describe")
        why = nature.why_not_saved if is_unknown else "it holds a variable, as a random layer does"
        raise ValueError(f"{name}: {why}, so that a run would go on where the last one ended: give arrays, or a set without that")
    if nature.chance:
        raise ValueError(f"{name}: not every run would read the same: {nature.chance_in_words}")


def from_the_beginning(part: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """`(x, y, sample_weight)` as every run reads them: of a `tf.data` set a copy, since a shuffle goes on from pass to pass."""
    x, y, sample_weight = part
    return (begun_anew(x) if isinstance(x, tf.data.Dataset) else x), y, sample_weight


def code_of(thing: Any) -> str:
    """What tells somebody's code, and what it holds, from another's; the same in every process of one Python."""
    return _digest_of(json.dumps(manifest.of_object(thing), sort_keys=True))


def copied(metrics: Any) -> Any:
    """Metrics as `compile` takes them, each another one like that which was given; anything else as it is.

    One of which no other can be made that is like it, as its `get_config` does not say all, is used by all, one after the other.
    """
    return keras.tree.map_structure(_copied, metrics)


def _copied(thing: Any) -> Any:
    if not isinstance(thing, keras.Metric):
        return thing
    try:
        other = type(thing).from_config(thing.get_config())
    except Exception:  # somebody's own
        return thing
    return other if _told(other) == _told(thing) else thing


def _described(given: Any) -> Any:
    """Losses or metrics as plain data; of their names, which Keras counts up in a process, their ranks."""
    names = [thing.name for thing in keras.tree.flatten(given) if isinstance(thing, (keras.Loss, keras.Metric))]
    return manifest.renumbered(keras.tree.map_structure(_settings_of, given), names)


def _settings_of(thing: Any) -> Any:
    if not isinstance(thing, (keras.Loss, keras.Metric)):
        return getattr(thing, "__name__", _written(thing))
    found = {"class": type(thing).__name__}
    with suppress(Exception):  # a configuration of somebody's own
        found |= thing.get_config()
    for name, value in _held(thing).items():  # a configuration need not say all, as that of `keras.losses.Huber` does not
        with suppress(TypeError, ValueError):
            found[name] = json.loads(json.dumps(value))
    return json.loads(json.dumps(found, default=_written, sort_keys=True))


def _told(thing: keras.Metric) -> Any:
    """All that is set of a metric."""
    return [manifest.of_object(thing), manifest.of_object(_held(thing))]


def _held(thing: keras.Loss | keras.Metric) -> dict[str, Any]:
    """The attributes of a loss or a metric, but for its state."""
    leaves = {name: tf.nest.flatten(value) for name, value in vars(thing).items()}
    is_state = {name: any(isinstance(leaf, (tf.Variable, keras.Variable)) for leaf in leaves[name]) for name in leaves}
    return {name: value for name, value in vars(thing).items() if not is_state[name]}


def _written(thing: Any) -> str:
    """In words that are the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(thing))


def _without_names(config: str) -> str:
    """A configuration without names, which Keras counts up in a process."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in ("name", "keras_history", "shared_object_id")}
        return [bare(v) for v in value] if isinstance(value, list) else value

    return json.dumps(bare(json.loads(config)), sort_keys=True)


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_of_data(part: Any) -> str:
    if part is None:
        return "none"
    if hasattr(part[0], "element_spec"):
        return _digest_of(str(part[0].element_spec))
    return _digest_of(json.dumps(manifest.of_data([as_arrays(each) for each in part])))


def _first(leaf: Any, number: int) -> Any:
    """The first examples of an array."""
    if isinstance(leaf, tf.SparseTensor):
        return tf.sparse.slice(leaf, [0] * len(leaf.shape), [number, *leaf.shape[1:]])
    return leaf[:number] if isinstance(leaf, tf.RaggedTensor) else tf.convert_to_tensor(leaf[:number])
