"""What `fit` was given, made ready: converted, split, checked, turned into batches; each mistake is one line."""

from __future__ import annotations

import copy
import functools
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import checks, pipelines
from trainlab.data.array_source import ArraySource, size_of_batches
from trainlab.data.arrays import as_arrays, is_stream, note_passes, own_state, passes_of
from trainlab.data.kinds import by_label, class_weights, matched
from trainlab.data.stream import unpack
from trainlab.data.stream_source import StreamSource
from trainlab.objective import build_model, cutting, has_own_step

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
    check_data: bool = True


class Validation:
    """What to evaluate on, and when.

    Attributes:
        x, y, sample_weight: arrays, or a data set as `x`, as `keras.Model.evaluate` takes them.
        batch_size, steps: as there.
        frequency: every so many epochs, or the numbers of the epochs after which.
    """

    def __init__(self, arrays: Arrays, given: Given, converted: Arrays | None):
        """Takes data as they were given, and arrays among them besides as `ArraySource` does."""
        self.x, self.y, self.sample_weight = arrays
        self.steps, self.frequency = given.validation_steps, given.validation_freq
        self.batch_size = given.validation_batch_size or (None if is_stream(self.x) else given.batch_size)
        self._converted = converted
        self._source: Source | None = None

    def is_due(self, epoch: int) -> bool:
        """Whether to evaluate after the epoch of this number, counted from 1."""
        return epoch % self.frequency == 0 if isinstance(self.frequency, int) else epoch in self.frequency

    @property
    def source(self) -> Source:
        """The batches, in the order in which they were given; arrays on the device, from the first time on."""
        if self._source is None:
            self._source = _in_order(self._converted or (self.x, None, None), self.batch_size, self.steps)
            if isinstance(self._source, StreamSource):
                self._source.name = "validation_data"
        return self._source

    def for_keras(self) -> dict[str, Any]:
        """Arguments of `keras.Model.evaluate`."""
        x, y, sample_weight, batch_size = self.x, self.y, self.sample_weight, self.batch_size
        # A generator is looked into once, or each reading after an epoch would lose what the look took.
        if hasattr(x, "__next__") or (isinstance(x, tf.data.Dataset) and self._source is not None):
            source = self.source
            assert isinstance(source, StreamSource)
            x, y, sample_weight = source.dataset, None, None
        return {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": batch_size, "steps": self.steps}

    def close(self) -> None:
        """Lets go of what was read ahead."""
        if self._source is not None:
            self._source.close()


def _in_order(arrays: Arrays, batch_size: int | None, steps: int | None) -> Source:
    """Converted arrays, or a data set as the first of them, as they come; see `to_evaluate_on`."""
    if is_stream(arrays[0]):
        return StreamSource(arrays[0], None, False, keeps_place=False)
    return ArraySource(arrays, size_of_batches(checks.check_lengths(*arrays), batch_size, steps), False, 0)


def to_evaluate_on(
    model: keras.Model,
    x: Any,
    y: Any,
    sample_weight: Any,
    batch_size: int | None,
    steps: int | None,
    has_targets: bool = True,
) -> Source:
    """What `evaluate` was given, in its order, converted and looked at as far as that costs nothing.

    Args:
        batch_size: for arrays; without it they are cut into so many `steps`, as Keras does it, or by 32.
        has_targets: whether there are to be targets where the loss needs them: not for a prediction.

    Raises:
        TypeError, ValueError: the model cannot be evaluated on it.
    """
    for name, count in (("batch_size", batch_size), ("steps", steps)):
        if count is not None:
            checks.check_count(name, count, 1)
    if x is None or is_stream(x):
        return _source(model, Given(x, y, sample_weight, shuffle=False), 0)
    arrays = _matched(model, _converted((x, y, sample_weight)))
    checks.check_lengths(*arrays)
    if has_targets:
        checks.check_targets(model, arrays[1])
    checks.check_shapes(model, arrays[0])
    return _in_order(arrays, batch_size, steps)


class Inputs(NamedTuple):
    """Data that are ready.

    Attributes:
        source: the batches to train on, at their beginning.
        validation: None for none.
    """

    source: Source
    validation: Validation | None

    @property
    def is_validated(self) -> Callable[[int], bool] | None:
        """Whether to validate after the epoch of a number, from 1; None if there is nothing to validate on."""
        return None if self.validation is None else self.validation.is_due

    def close(self) -> None:
        """Lets go of what was read ahead."""
        self.source.close()
        if self.validation is not None:
            self.validation.close()


@contextmanager
def set_apart(x: Any) -> Iterator[Any]:
    """Gives data that can be read without anybody noticing afterwards: what `fit` is given then comes as if nobody had looked.

    Arrays are handed on. Of a `tf.data.Dataset` it is a copy, of which no pass was begun; what keeps account of its own state
    (`get_state()` and `set_state(state)`, or `state_dict` and `load_state_dict`) is put back; anything else is copied deeply.
    NumPy's and Python's global generators, from which Python code may draw, are put back too.

    Raises:
        ValueError: of a generator, and of what cannot be copied: the batches would be lost.
    """
    drawn, drawn_by_python = np.random.get_state(), random.getstate()
    own, passes = (own_state(x) if is_stream(x) else None), passes_of(x)
    kept = own[0]() if own is not None else None
    try:
        yield x if own is not None or not is_stream(x) else _copied(x)
    finally:
        if own is not None:
            own[1](kept)
            note_passes(x, passes)
        np.random.set_state(drawn)
        random.setstate(drawn_by_python)


def _copied(x: Any) -> Any:
    kind = type(x).__name__
    if isinstance(x, tf.data.Dataset):
        if pipelines.nature_of(x).is_copyable:
            return pipelines.copied(x)
        warnings.warn(
            "x cannot be copied, so that a shuffle in it goes on from here: its next pass has another order", stacklevel=5
        )
        return x
    try:
        return copy.deepcopy(x)
    except Exception:  # of a generator, or of whatever holds one, or a lock
        line = (
            f"x is a {kind}, which cannot be copied: the batches read here would be lost to fit. Give arrays, a tf.data.Dataset"
        )
        raise ValueError(f"{line}, or data with a get_state() and a set_state(state)") from None


def split(given: Given) -> Given:
    """The same, with the share that is to be held out for validation as `validation_data`; counts are checked.

    Raises:
        TypeError, ValueError: a count is wrong, or there is nothing to hold out, or nothing left.
    """
    if given.shuffle is not None and not isinstance(given.shuffle, (bool, np.bool_)) and given.shuffle not in (0, 1):
        raise ValueError(
            f"shuffle must be True or False, not {given.shuffle!r}: for shuffled batches give a tf.data.Dataset that "
            "shuffles them"
        )
    for name in ("batch_size", "validation_batch_size", "validation_steps"):
        if getattr(given, name) is not None:
            checks.check_count(name, getattr(given, name), 1)
    if given.validation_freq is not None or given.validation_data is not None or given.validation_split:
        given = given._replace(validation_freq=frequency_of(given.validation_freq))
    return _split(given) if given.validation_split and given.validation_data is None else given


def prepared(model: keras.Model, given: Given, seed: int, steps_per_epoch: int | None = None, batches: int = 1) -> Source:
    """The training data as a source at its beginning, checked as far as that goes before the model is built for them.

    Args:
        model: compiled.
        given: what `split` returned.
        seed: of the order of arrays.
        steps_per_epoch: if it was given.
        batches: that a step takes.

    Raises:
        TypeError, ValueError: they cannot be trained on.
    """
    source = _source(model, given, seed, steps_per_epoch, batches)
    if source.arrays is not None:
        checks.check_shapes(model, source.arrays[0])
    else:
        checks.check_batched(model, source.batch_specs())
    checks.check_targets(model, source.batch_specs()[1])
    return source


def build_for(model: keras.Model, source: Source, size: int | None, is_eager: bool) -> None:
    """Builds a model, its losses, metrics and optimizer for the batches of a source; by a small real pass if it runs eagerly.

    Args:
        model: compiled.
        source: of the batches.
        size: examples that the model may be given at once; None for whole batches.
        is_eager: whether it runs eagerly.

    Raises:
        ValueError: it does not fit the batches, or there is nothing to train.
    """

    def first_batch() -> Any:
        batch = source.first_batch()
        return batch if size is None else cutting.take(batch, 0, size)

    build_model(model, source.batch_specs(), first_batch if is_eager else None)


def checked(model: keras.Model, given: Given, source: Source) -> Inputs:
    """All data, after what only a built model can tell: the range of labels, and whether arrays to validate on fit.

    Raises:
        TypeError, ValueError: they do not fit.
    """
    validation = None if given.validation_data is None else _validation(model, given)
    if source.arrays is not None and given.check_data:
        x, y, _ = source.arrays
        checks.check_labels(model, x, y)
    return Inputs(source, validation)


def check_held_out(model: keras.Model, x: Any, y: Any, sample_weight: Any, name: str) -> None:
    """Checks data that are to be evaluated later as thoroughly as those that are trained on.

    Args:
        model: built.
        x, y, sample_weight: arrays, or a data set as `x`, of which only the element spec is looked at.
        name: of the data, for messages.

    Raises:
        TypeError, ValueError: they cannot be evaluated.
    """
    _validation(model, Given(None, validation_data=(x, y, sample_weight) if y is not None else x), name)


def _source(model: keras.Model, given: Given, seed: int, steps_per_epoch: int | None = None, batches: int = 1) -> Source:
    if given.x is None:
        raise ValueError("x is missing: give arrays or a tf.data.Dataset")
    if given.class_weight is not None:
        given = given._replace(class_weight=by_label(given.class_weight))
    if is_stream(given.x):
        kind = type(given.x).__name__
        for name in ("y", "sample_weight"):
            if getattr(given, name) is not None:
                raise ValueError(f"{name} must not be given when x is a {kind}, whose batches hold everything")
        if given.batch_size is not None:
            warnings.warn(f"batch_size={given.batch_size} is ignored: x is a {kind}, which makes its own batches", stacklevel=4)
        are_labels, may_be_whole = functools.partial(checks.takes_labels, model), has_own_step(model)
        return StreamSource(given.x, given.class_weight, given.shuffle, are_labels, may_be_whole)
    if given.class_weight is not None and given.sample_weight is not None:
        raise ValueError("give class_weight or sample_weight, not both")
    x, y, sample_weight = _matched(model, _converted((given.x, given.y, given.sample_weight)))
    length = checks.check_lengths(x, y, sample_weight)
    if given.class_weight is not None:
        labels = [leaf for leaf in tf.nest.flatten(y) if leaf is not None]
        if len(labels) != 1:
            raise ValueError(f"class_weight needs one y, not {len(labels)}: for several outputs give sample_weight")
        sample_weight = class_weights(labels[0], given.class_weight, checks.takes_labels(model, len(labels[0].shape)))
    if given.check_data:
        checks.check_values(x, y, sample_weight)
    size = size_of_batches(length, given.batch_size, steps_per_epoch, batches)
    return ArraySource((x, y, sample_weight), size, bool(given.shuffle), seed)


def _validation(model: keras.Model, given: Given, name: str = "validation_data") -> Validation:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given.validation_data)
    converted = None
    if not is_stream(x):
        (x, y, sample_weight), converted = _checked_validation(model, (x, y, sample_weight), given.check_data, name)
    elif isinstance(x, tf.data.Dataset):
        try:
            checks.check_batched(model, unpack(x.element_spec))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return Validation((x, y, sample_weight), given, converted)


def _checked_validation(model: keras.Model, arrays: Arrays, has_values_checked: bool, called: str) -> tuple[Arrays, Arrays]:
    """Checks validation data as thoroughly as training data; returns them as Keras' `evaluate` takes them, and converted."""
    try:
        converted = _converted(arrays)
        x, y, sample_weight = _matched(model, converted)
        checks.check_targets(model, y)
        checks.check_lengths(x, y, sample_weight)
        checks.check_shapes(model, x)
        if has_values_checked:
            checks.check_values(x, y, sample_weight)
            checks.check_labels(model, x, y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{called}: {error}") from None
    are_as_given = all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in tf.nest.flatten(arrays) if leaf is not None)
    is_as_given = are_as_given and y is converted[1] and sample_weight is converted[2]
    return arrays if is_as_given else (x, y, sample_weight), (x, y, sample_weight)


def _converted(arrays: Arrays) -> Arrays:
    """Arrays in Keras' floatx, from whatever holds numbers; what is none is told by the argument's name."""
    results = []
    for name, value in zip(("x", "y", "sample_weight"), arrays, strict=True):
        try:
            results.append(as_arrays(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {error}") from None
    return results[0], results[1], results[2]


def _matched(model: keras.Model, arrays: Arrays) -> Arrays:
    """The same, targets and weights in one structure."""
    x, y, sample_weight = arrays
    outputs = None
    with suppress(AttributeError, ValueError):  # a subclassed model does not say
        outputs = model.output
    return x, *matched(y, sample_weight, outputs, getattr(model, "output_names", None) or ())


def frequency_of(given: Any) -> int | Collection[int]:
    """`validation_freq`: every so many epochs, or the numbers of the epochs after which.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if getattr(given, "shape", None) == ():
        given = given.item() if hasattr(given, "item") else given.numpy()
    if isinstance(given, Collection) and not isinstance(given, (str, bytes, Mapping)):
        return given
    checks.check_count("validation_freq", given, 1)
    return int(given)


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

    x, y, sample_weight = cutting.take(arrays, 0, cut)
    return given._replace(x=x, y=y, sample_weight=sample_weight, validation_data=cutting.take(arrays, cut, length - cut))
