"""What `fit` was given, checked and turned into a source; each mistake is one line that names the argument."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab import checks, cutting
from trainlab.arrays import as_arrays, class_weights, is_stream
from trainlab.data import ArraySource, StreamSource

Arrays = tuple[Any, Any, Any]  # x, y, sample_weight


def unpack(data: Any) -> Arrays:
    """`x`, `(x, y)` or `(x, y, sample_weight)` as three."""
    return keras.utils.unpack_x_y_sample_weight(data)


def source_of(
    x: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Mapping[int, float] | None,
    batch_size: int | None,
    shuffle: bool,
    seed: int,
) -> ArraySource | StreamSource:
    """The data as a source, at its beginning.

    Raises:
        TypeError, ValueError: they cannot be trained on.
    """
    if x is None:
        raise ValueError("x is missing: give arrays or a tf.data.Dataset")
    if is_stream(x):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("batch_size", batch_size)):
            if value is not None:
                raise ValueError(f"{name} must not be given when x is a {type(x).__name__}, whose batches hold everything")
        return StreamSource(x, class_weight, shuffle)
    if class_weight is not None and sample_weight is not None:
        raise ValueError("give class_weight or sample_weight, not both")
    arrays = converted((x, y, sample_weight))
    checks.check_lengths(*arrays)
    if class_weight is not None:
        labels = [leaf for leaf in tf.nest.flatten(arrays[1]) if leaf is not None]
        if len(labels) != 1:
            raise ValueError(f"class_weight needs one y, not {len(labels)}: for several outputs give sample_weight")
        arrays = (arrays[0], arrays[1], class_weights(labels[0], class_weight))
    checks.check_values(*arrays)
    return ArraySource(arrays, 32 if batch_size is None else batch_size, bool(shuffle), seed)


def validation_of(data: Any) -> Arrays:
    """Validation data, to be read again after every epoch, as x, y, sample_weight."""
    x, y, sample_weight = unpack(data)
    if hasattr(x, "__next__"):  # looked into once, or each reading would lose what the look took
        return StreamSource(x, None, False).dataset, None, None
    return x, y, sample_weight


def build(model: keras.Model, source: ArraySource | StreamSource, run_eagerly: bool, max_examples: int | None = None) -> None:
    """Builds the model, its losses, metrics and optimizer, as Keras' `fit` does.

    Args:
        model: compiled.
        source: what it will be trained on.
        run_eagerly: whether by a real pass.
        max_examples: examples of that pass, at most; None is a batch.

    Raises:
        ValueError: they do not fit the data.
    """
    specs = source.batch_specs()
    if isinstance(source, ArraySource):
        checks.check_shapes(model, source.given[0])
    _check_targets(model, specs[1])
    try:
        if run_eagerly:
            _build_eagerly(model, source, max_examples)
        is_built = all(layer.built for layer in model._flatten_layers())
        model._symbolic_build(data_batch=specs if is_built else tf.nest.map_structure(_any_size, specs))
    except (ValueError, TypeError, RuntimeError) as error:
        # Keras' messages run over several lines, the last of which list the arguments, and may be coloured.
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("Arguments received by")[0]
        shapes = tf.nest.map_structure(lambda spec: None if spec is None else tuple(spec.shape), specs[:2])
        raise ValueError(
            f"model, losses or metrics do not fit batches of x {shapes[0]} and y {shapes[1]}: {' '.join(text.split())}"
        ) from error


def _any_size(spec: Any) -> Any:
    """The same for batches of any size: a model must not keep the size of those that it was first trained on."""
    return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) if isinstance(spec, tf.TensorSpec) and spec.shape.rank else spec


def _build_eagerly(model: keras.Model, source: ArraySource | StreamSource, max_examples: int | None) -> None:
    """Builds by one real pass: a model that is run eagerly may look at the numbers, and so cannot be built symbolically."""
    parts = (model._compile_loss, model._compile_metrics)
    if all(layer.built for layer in model._flatten_layers()) and all(part is None or part.built for part in parts):
        return
    batch = source.first_batch()
    x, y, _ = batch if max_examples is None else cutting.take(batch, 0, max_examples)
    with keras.StatelessScope():  # what the pass leaves behind (states, seeds) is dropped with it
        y_pred = model(x)
        for part in parts:
            if part is not None and not part.built:
                part.build(y, y_pred)


def _check_targets(model: keras.Model, y: Any) -> None:
    has_own_loss = type(model).compute_loss is not keras.Model.compute_loss
    if y is None and model._compile_loss is not None and not has_own_loss:
        raise ValueError("y is missing: the model's loss needs targets")


def check_against(model: keras.Model, arrays: Arrays) -> None:
    """Checks arrays against a built model: the shapes of x, the range of labels.

    Raises:
        ValueError: they do not fit.
    """
    checks.check_shapes(model, arrays[0])
    checks.check_labels(model, arrays[0], arrays[1])


def check_validation(model: keras.Model, data: Any) -> None:
    """Checks validation data as thoroughly as training data; a stream's only when they come.

    Raises:
        TypeError, ValueError: they do not fit; the line begins with `validation_data`.
    """
    if is_stream(data) or is_stream(unpack(data)[0]):
        return
    try:
        arrays = converted(unpack(data))
        _check_targets(model, arrays[1])
        checks.check_lengths(*arrays)
        checks.check_values(*arrays)
        check_against(model, arrays)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation_data: {error}") from None


def converted(arrays: Arrays) -> Arrays:
    """Arrays in Keras' floatx, from whatever holds numbers.

    Raises:
        TypeError: something is no array; the line begins with the argument's name.
    """
    results = []
    for name, value in zip(("x", "y", "sample_weight"), arrays, strict=True):
        try:
            results.append(as_arrays(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {error}") from None
    return results[0], results[1], results[2]


def split(arrays: Arrays, share: float) -> tuple[Arrays, Arrays]:
    """Holds out the last `share` of the arrays, as Keras does.

    Raises:
        ValueError: there is nothing to hold out, or nothing left.
    """
    if is_stream(arrays[0]):
        raise ValueError("validation_split needs arrays: for a data set give validation_data")
    if not 0 < share < 1:
        raise ValueError(f"validation_split must be between 0 and 1, not {share}")
    arrays = converted(arrays)
    length = checks.check_lengths(*arrays)
    cut = int(np.floor(length * (1 - share)))
    if cut in (0, length):
        raise ValueError(f"validation_split={share} of {length} examples leaves nothing on one side")

    def part(selection: slice) -> Arrays:
        return tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[selection], arrays)

    return part(slice(None, cut)), part(slice(cut, None))
