"""Small named models: `factory(input_shape, num_classes, **sizes)` returns an uncompiled Keras model.

Every model maps a batch of examples `(batch, *input_shape)` to *logits* `(batch, num_classes)`: train it with
a loss that says `from_logits=True`. Layers carry fixed names, so that building a model twice names its
weights alike: Keras counts its default names up, and a checkpoint by names would not match.
"""

import math
import operator
from collections.abc import Callable, Sequence

import keras


def mlp(
    input_shape: Sequence[int],
    num_classes: int,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str | Callable = "relu",
    dropout: float = 0.0,
    l2: float = 0.0,
) -> keras.Model:
    """A multilayer perceptron: flatten, then a dense layer and dropout per hidden size, then logits.

    Args:
        input_shape: Shape of one example, without the batch axis.
        num_classes: Number of logits.
        hidden_sizes: Units of each hidden layer, at least one layer.
        activation: A Keras activation, by name or as a function.
        dropout: Fraction of each hidden layer's outputs that is dropped in training, in [0, 1).
        l2: The loss gains `l2 * sum(kernel**2)` for every kernel (biases are free).

    Returns:
        An uncompiled model named "mlp", `(batch, *input_shape)` to logits `(batch, num_classes)` in
        `keras.config.floatx()`.

    Raises:
        ValueError: A size, a rate or the activation breaks its rule.

    Example:
        >>> mlp((8, 8, 1), 10, hidden_sizes=(32,)).output_shape
        (None, 10)
    """
    shape, num_classes = _shape(input_shape), _count("num_classes", num_classes)
    hidden_sizes = _counts("hidden_sizes", hidden_sizes, empty="for no hidden layer use logistic_regression")
    dropout, l2, activation = _rate("dropout", dropout), _penalty("l2", l2), _activation(activation)
    inputs = keras.Input(shape, name="inputs")
    x = _flat(inputs)
    for i, size in enumerate(hidden_sizes, start=1):
        x = keras.layers.Dense(size, activation=activation, kernel_regularizer=_l2(l2), name=f"hidden_{i}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    logits = keras.layers.Dense(num_classes, kernel_regularizer=_l2(l2), name="logits")(x)
    return keras.Model(inputs, logits, name="mlp")


def cnn(
    input_shape: Sequence[int],
    num_classes: int,
    filters: Sequence[int] = (16, 32),
    dense_size: int = 64,
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> keras.Model:
    """A small convolutional network: 3x3 convolutions with relu and 2x2 max pooling, a dense layer, logits.

    Args:
        input_shape: `(height, width, channels)` of one image; each entry of `filters` halves both sides.
        num_classes: Number of logits.
        filters: Channels of each convolution, at least one.
        dense_size: Units of the dense layer between the convolutions and the logits.
        dropout: Fraction of the dense layer's outputs that is dropped in training, in [0, 1).
        batch_norm: Whether batch normalization stands between each convolution and its relu.

    Returns:
        An uncompiled model named "cnn", `(batch, *input_shape)` to logits `(batch, num_classes)` in
        `keras.config.floatx()`.

    Raises:
        ValueError: A size or rate breaks its rule, or the image cannot be halved `len(filters)` times.

    Example:
        >>> cnn((28, 28, 1), 10, filters=(8,), batch_norm=True).output_shape
        (None, 10)
    """
    shape, num_classes = _shape(input_shape), _count("num_classes", num_classes)
    filters = _counts("filters", filters, empty="for no convolution use mlp")
    dense_size, dropout = _count("dense_size", dense_size), _rate("dropout", dropout)
    if not isinstance(batch_norm, bool):
        raise ValueError(f"batch_norm={batch_norm!r}: must be True or False")
    _check_image(shape, len(filters))
    inputs = x = keras.Input(shape, name="inputs")
    for i, channels in enumerate(filters, start=1):
        # Batch normalization subtracts the mean, and with it any bias that came before.
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=not batch_norm, name=f"conv_{i}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"batch_norm_{i}")(x)
        x = keras.layers.ReLU(name=f"relu_{i}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{i}")(x)
    x = keras.layers.Dense(dense_size, activation="relu", name="dense")(_flat(x))
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(x), name="cnn")


def logistic_regression(input_shape: Sequence[int], num_classes: int, l2: float = 0.0) -> keras.Model:
    """Multinomial logistic regression: flatten and one dense layer, a convex problem under cross entropy.

    Args:
        input_shape: Shape of one example, without the batch axis.
        num_classes: Number of logits.
        l2: The loss gains `l2 * sum(kernel**2)` (the bias is free).

    Returns:
        An uncompiled model named "logistic_regression", `(batch, *input_shape)` to logits
        `(batch, num_classes)` in `keras.config.floatx()`.

    Raises:
        ValueError: A size or the penalty breaks its rule.

    Example:
        >>> logistic_regression((64,), 10).count_params()
        650
    """
    shape, num_classes, l2 = _shape(input_shape), _count("num_classes", num_classes), _penalty("l2", l2)
    inputs = keras.Input(shape, name="inputs")
    logits = keras.layers.Dense(num_classes, kernel_regularizer=_l2(l2), name="logits")(_flat(inputs))
    return keras.Model(inputs, logits, name="logistic_regression")


def _flat(x):
    return x if len(x.shape) == 2 else keras.layers.Flatten(name="flatten")(x)


def _l2(l2: float):
    # No regularizer rather than a zero one, which still costs an operation and an entry in `model.losses`.
    return keras.regularizers.L2(l2) if l2 else None


def _count(name: str, value) -> int:
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}={value!r}: must be a positive integer, for example {name}=10")
    return count


def _counts(name: str, values, empty: str) -> tuple[int, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ValueError(f"{name}={values!r}: must be a sequence of positive integers, for example {name}=(64,)")
    if not values:
        raise ValueError(f"{name}={values!r}: must name at least one layer; {empty}")
    return tuple(_count(f"{name}[{i}]", value) for i, value in enumerate(values))


def _shape(values) -> tuple[int, ...]:
    return _counts("input_shape", values, empty="write the shape of one example, for example (28, 28, 1)")


def _number(value) -> float:
    if isinstance(value, (bool, str, bytes)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _rate(name: str, value) -> float:
    rate = _number(value)
    if not 0 <= rate < 1:  # also refuses NaN
        raise ValueError(f"{name}={value!r}: must be a number in [0, 1); use {name}=0.0 for none")
    return rate


def _penalty(name: str, value) -> float:
    penalty = _number(value)
    if not 0 <= penalty < math.inf:
        raise ValueError(f"{name}={value!r}: must be a finite number >= 0; use {name}=0.0 for none")
    return penalty


def _activation(value):
    try:
        return keras.activations.get(value)
    except (TypeError, ValueError):
        raise ValueError(
            f'activation={value!r}: must be a Keras activation or a function, for example activation="relu"'
        ) from None


def _check_image(shape: tuple[int, ...], num_halvings: int) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"input_shape={shape}: cnn needs (height, width, channels); give gray images a channel axis, x[..., None], or use mlp"
        )
    if min(shape[:2]) < 2**num_halvings:
        raise ValueError(
            f"filters: {num_halvings} entries halve the image {num_halvings} times and need height and width "
            f">= {2**num_halvings}, but input_shape={shape}; use fewer entries"
        )
