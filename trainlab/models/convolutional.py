"""A small convolutional network for images."""

from collections.abc import Sequence

import keras

from trainlab.models.arguments import checked_count, checked_counts, checked_rate, checked_shape, flat


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
    shape, num_classes = checked_shape(input_shape), checked_count("num_classes", num_classes)
    filters = checked_counts("filters", filters, empty="for no convolution use mlp")
    dense_size, dropout = checked_count("dense_size", dense_size), checked_rate("dropout", dropout)
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
    x = keras.layers.Dense(dense_size, activation="relu", name="dense")(flat(x))
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(x), name="cnn")


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
