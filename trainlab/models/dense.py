"""Models of dense layers: the multilayer perceptron and logistic regression."""

from collections.abc import Callable, Sequence

import keras

from trainlab.models.arguments import (
    checked_activation,
    checked_count,
    checked_counts,
    checked_penalty,
    checked_rate,
    checked_shape,
    flat,
    l2_penalty,
)


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
    shape, num_classes = checked_shape(input_shape), checked_count("num_classes", num_classes)
    hidden_sizes = checked_counts("hidden_sizes", hidden_sizes, empty="for no hidden layer use logistic_regression")
    dropout, l2, activation = checked_rate("dropout", dropout), checked_penalty("l2", l2), checked_activation(activation)
    inputs = keras.Input(shape, name="inputs")
    x = flat(inputs)
    for i, size in enumerate(hidden_sizes, start=1):
        x = keras.layers.Dense(size, activation=activation, kernel_regularizer=l2_penalty(l2), name=f"hidden_{i}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    logits = keras.layers.Dense(num_classes, kernel_regularizer=l2_penalty(l2), name="logits")(x)
    return keras.Model(inputs, logits, name="mlp")


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
    shape, num_classes, l2 = checked_shape(input_shape), checked_count("num_classes", num_classes), checked_penalty("l2", l2)
    inputs = keras.Input(shape, name="inputs")
    logits = keras.layers.Dense(num_classes, kernel_regularizer=l2_penalty(l2), name="logits")(flat(inputs))
    return keras.Model(inputs, logits, name="logistic_regression")
