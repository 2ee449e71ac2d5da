"""What `fit` was given, made ready: converted, split, checked, turned into batches; each mistake is one line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import checks
from trainlab.data.array_source import ArraySource
from trainlab.data.arrays import as_arrays, class_weights, is_stream
from trainlab.data.stream_source import StreamSource

Arrays = tuple[Any, Any, Any]  # x, y, sample_weight
Source = ArraySource | StreamSource


class Given(NamedTuple):
    """What `fit` was given of data, under the names, and with the meanings, that its arguments have."""

    x: Any
    y: Any = None
    sample_weight: Any = None
    class_weight: Mapping[int, float] | None = None
    batch_size: int | None = None
    shuffle: bool = True
    validation_split: float = 0.0
    validation_data: Any = None
    validation_batch_size: int | None = None
    validation_steps: int | None = None
    validation_freq: int | Collection[int] = 1


class Validation(NamedTuple):
    """What to evaluate on, and when.

    Attributes:
        x, y, sample_weight: arrays, or a data set as `x`.
        batch_size, steps: as in `keras.Model.evaluate`.
        frequency: every so many epochs, or the numbers of the epochs after which.
    """

    x: Any
    y: Any
    sample_weight: Any
    batch_size: int | None
    steps: int | None
    frequency: int | Collection[int]

    def is_due(self, epoch: int) -> bool:
        """Whether to evaluate after the epoch of this number, counted from 1."""
        return epoch % self.frequency == 0 if isinstance(self.frequency, int) else epoch in self.frequency


class Inputs(NamedTuple):
    """Data that are ready.

    Attributes:
        source: the batches to train on, at their beginning.
        validation: None for none.
    """

    source: Source
    validation: Validation | None


def split(given: Given) -> Given:
    """The same, with the share that is to be held out for validation as `validation_data`; counts are checked.

    Raises:
        TypeError, ValueError: a count is wrong, or there is nothing to hold out, or nothing left.
    """
    for name in ("batch_size", "validation_batch_size", "validation_steps"):
        if getattr(given, name) is not None:
            checks.check_count(name, getattr(given, name), 1)
    if isinstance(given.validation_freq, int):
        checks.check_count("validation_freq", given.validation_freq, 1)
    return _split(given) if given.validation_split and given.validation_data is None else given


def prepared(model: keras.Model, given: Given, seed: int) -> Source:
    """The training data as a source at its beginning, checked as far as that goes before the model is built for them.

    Args:
        model: compiled.
        given: what `split` returned.
        seed: of the order of arrays.

    Raises:
        TypeError, ValueError: they cannot be trained on.
    """
    source = _source(given, seed)
    if source.arrays is not None:
        checks.check_shapes(model, source.arrays[0])
    checks.check_targets(model, source.batch_specs()[1])
    return source


def checked(model: keras.Model, given: Given, source: Source) -> Inputs:
    """All data, after what only a built model can tell: the range of labels, and whether arrays to validate on fit.

    Raises:
        TypeError, ValueError: they do not fit.
    """
    validation = None if given.validation_data is None else _validation(model, given)
    if source.arrays is not None:
        x, y, _ = source.arrays
        checks.check_labels(model, x, y)
    return Inputs(source, validation)


def _source(given: Given, seed: int) -> Source:
    if given.x is None:
        raise ValueError("x is missing: give arrays or a tf.data.Dataset")
    if is_stream(given.x):
        for name in ("y", "sample_weight", "batch_size"):
            if getattr(given, name) is not None:
                raise ValueError(f"{name} must not be given when x is a {type(given.x).__name__}, whose batches hold everything")
        return StreamSource(given.x, given.class_weight, given.shuffle)
    if given.class_weight is not None and given.sample_weight is not None:
        raise ValueError("give class_weight or sample_weight, not both")
    x, y, sample_weight = _converted((given.x, given.y, given.sample_weight))
    checks.check_lengths(x, y, sample_weight)
    if given.class_weight is not None:
        labels = [leaf for leaf in tf.nest.flatten(y) if leaf is not None]
        if len(labels) != 1:
            raise ValueError(f"class_weight needs one y, not {len(labels)}: for several outputs give sample_weight")
        sample_weight = class_weights(labels[0], given.class_weight)
    checks.check_values(x, y, sample_weight)
    return ArraySource((x, y, sample_weight), 32 if given.batch_size is None else given.batch_size, bool(given.shuffle), seed)


def _validation(model: keras.Model, given: Given) -> Validation:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given.validation_data)
    if not is_stream(x):
        _check_validation(model, (x, y, sample_weight))
    if hasattr(x, "__next__"):  # looked into once, or each reading after an epoch would lose what the look took
        x, y, sample_weight = StreamSource(x, None, False).dataset, None, None
    batch_size = given.validation_batch_size or (None if is_stream(x) else given.batch_size)
    return Validation(x, y, sample_weight, batch_size, given.validation_steps, given.validation_freq)


def _check_validation(model: keras.Model, arrays: Arrays) -> None:
    """Checks validation data as thoroughly as training data."""
    try:
        x, y, sample_weight = _converted(arrays)
        checks.check_targets(model, y)
        checks.check_lengths(x, y, sample_weight)
        checks.check_values(x, y, sample_weight)
        checks.check_shapes(model, x)
        checks.check_labels(model, x, y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation_data: {error}") from None


def _converted(arrays: Arrays) -> Arrays:
    """Arrays in Keras' floatx, from whatever holds numbers; what is none is told by the argument's name."""
    results = []
    for name, value in zip(("x", "y", "sample_weight"), arrays, strict=True):
        try:
            results.append(as_arrays(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {error}") from None
    return results[0], results[1], results[2]


def _split(given: Given) -> Given:
    """Holds out the last share of the arrays, as Keras does."""
    share = given.validation_split
    if is_stream(given.x):
        raise ValueError("validation_split needs arrays: for a data set give validation_data")
    if not 0 < share < 1:
        raise ValueError(f"validation_split must be between 0 and 1, not {share}")
    arrays = _converted((given.x, given.y, given.sample_weight))
    length = checks.check_lengths(*arrays)
    cut = int(np.floor(length * (1 - share)))
    if cut in (0, length):
        raise ValueError(f"validation_split={share} of {length} examples leaves nothing on one side")

    def part(selection: slice) -> Arrays:
        return tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[selection], arrays)

    x, y, sample_weight = part(slice(None, cut))
    return given._replace(x=x, y=y, sample_weight=sample_weight, validation_data=part(slice(cut, None)))
