"""Models of sequences: an LSTM, and a small transformer for text."""

from collections.abc import Sequence
from typing import Any

import keras

from trainlab.models.arguments import (
    checked_count,
    checked_counts,
    checked_flag,
    checked_rate,
    checked_sequence,
    num_values_of,
)


def lstm(
    input_shape: Any,
    num_outputs: int,
    units: Sequence[int] = (64,),
    embedding_size: int = 64,
    dropout: float = 0.0,
    bidirectional: bool = False,
    return_sequences: bool = False,
    num_values: int | None = None,
) -> keras.Model:
    """Layers of LSTM cells over a sequence of numbers, or of embedded words, of which 0 is padding.

    Args:
        input_shape: `(length, features)` of numbers, or `(length,)` of integers; the length may be None.
        num_outputs: Classes, labels or target columns.
        units: Of each layer, at least one.
        embedding_size: Length of the vector that stands for a word.
        dropout: Fraction of each layer's outputs that is dropped in training, in [0, 1).
        bidirectional: Whether each layer reads the sequence from both ends.
        return_sequences: Whether there are outputs for each position, as the task "sequence_labeling" needs them.
        num_values: How many words there are, padding among them; None for what the shape says (`trainlab.datasets.Integers`).

    Returns:
        An uncompiled model named "lstm", to `(batch, num_outputs)`, or `(batch, length, num_outputs)`, logits or numbers.

    Raises:
        ValueError: A size, a rate or a shape breaks its rule.

    Example:
        >>> lstm((40, 1), 10, units=(32,)).output_shape, lstm((40,), 5, num_values=100, return_sequences=True).output_shape
        ((None, 10), (None, 40, 5))
    """
    num_values = num_values_of(input_shape, num_values)
    shape = checked_sequence(input_shape, num_values, "lstm")
    num_outputs, dropout = checked_count("num_outputs", num_outputs), checked_rate("dropout", dropout)
    units = checked_counts("units", units, empty="for no layer use mlp")
    flags = checked_flag("bidirectional", bidirectional), checked_flag("return_sequences", return_sequences)
    inputs = x = keras.Input(shape, name="inputs", dtype=None if num_values is None else "int32")
    if num_values is not None:
        size = checked_count("embedding_size", embedding_size)
        x = keras.layers.Embedding(num_values, size, mask_zero=True, name="embedding")(x)
    for i, size in enumerate(units, start=1):
        layer = keras.layers.LSTM(size, return_sequences=flags[1] or i < len(units), name=f"lstm_{i}")
        x = (keras.layers.Bidirectional(layer, name=f"both_{i}") if flags[0] else layer)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    return keras.Model(inputs, keras.layers.Dense(num_outputs, name="logits")(x), name="lstm")


def text_transformer(
    input_shape: Any,
    num_outputs: int,
    num_layers: int = 2,
    num_heads: int = 4,
    embedding_size: int = 64,
    feed_forward_size: int = 128,
    dropout: float = 0.0,
    return_sequences: bool = False,
    num_values: int | None = None,
) -> keras.Model:
    """A small transformer encoder over words, of which 0 is padding, with learned positions (https://arxiv.org/abs/1706.03762).

    Each layer normalises before it attends, and before its two dense layers; padding is attended to by nobody, and left out of
    the mean over positions that the outputs are made of.

    Args:
        input_shape: `(length,)` of integers.
        num_outputs: Classes, labels or target columns.
        num_layers: Of attention and two dense layers each.
        num_heads: Of attention; they share `embedding_size` evenly.
        embedding_size: Length of the vectors of words and positions, a multiple of `num_heads`.
        feed_forward_size: Units between the two dense layers.
        dropout: Fraction of what each part adds that is dropped in training, in [0, 1).
        return_sequences: Whether there are outputs for each position, as the task "sequence_labeling" needs them.
        num_values: How many words there are, padding among them; None for what the shape says (`trainlab.datasets.Integers`).

    Returns:
        An uncompiled model named "text_transformer", to `(batch, num_outputs)`, or `(batch, length, num_outputs)`, logits or
        numbers.

    Raises:
        ValueError: A size, a rate or a shape breaks its rule.

    Example:
        >>> text_transformer((20,), 2, num_layers=1, num_values=1000).output_shape
        (None, 2)
    """
    num_values = num_values_of(input_shape, num_values)
    if num_values is None:
        raise ValueError(
            f"input_shape={input_shape!r}: text_transformer needs (length,) of integers: say how many, num_values=1000"
        )
    (length,) = checked_sequence(input_shape, num_values, "text_transformer")
    length = checked_count("input_shape[0]", length)  # there are as many positions
    sizes = {"num_layers": num_layers, "num_heads": num_heads, "embedding_size": embedding_size}
    num_outputs, dropout = checked_count("num_outputs", num_outputs), checked_rate("dropout", dropout)
    num_layers, num_heads, embedding_size = (checked_count(name, size) for name, size in sizes.items())
    feed_forward_size = checked_count("feed_forward_size", feed_forward_size)
    if embedding_size % num_heads:
        raise ValueError(f"embedding_size={embedding_size}: must be a multiple of num_heads={num_heads}, which share it")
    inputs = keras.Input((length,), name="inputs", dtype="int32")
    words = keras.layers.Embedding(num_values, embedding_size, mask_zero=True, name="words")(inputs)
    # 1, 2, ...; 0 for padding: Keras adds up what is masked only where all of it is.
    places = keras.ops.cumsum(keras.ops.ones_like(inputs), axis=1) * keras.ops.cast(keras.ops.not_equal(inputs, 0), "int32")
    positions = keras.layers.Embedding(length + 1, embedding_size, mask_zero=True, name="positions")(places)
    x = keras.layers.Add(name="embedding")([words, positions])
    for i in range(1, num_layers + 1):
        x = _block(x, i, num_heads, feed_forward_size, dropout)
    x = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    if not checked_flag("return_sequences", return_sequences):
        x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, keras.layers.Dense(num_outputs, name="logits")(x), name="text_transformer")


def _block(x: Any, i: int, num_heads: int, feed_forward_size: int, dropout: float) -> Any:
    layers, size = keras.layers, x.shape[-1]

    def added(x: Any, here: Any, name: str) -> Any:
        here = layers.Dropout(dropout, name=f"dropout_{name}_{i}")(here) if dropout else here
        return layers.Add(name=f"added_{name}_{i}")([x, here])

    here = layers.LayerNormalization(epsilon=1e-6, name=f"attention_norm_{i}")(x)
    here = layers.MultiHeadAttention(num_heads, size // num_heads, name=f"attention_{i}")(here, here)
    x = added(x, here, "attention")
    here = layers.LayerNormalization(epsilon=1e-6, name=f"dense_norm_{i}")(x)
    here = layers.Dense(feed_forward_size, activation="gelu", name=f"dense_wide_{i}")(here)
    return added(x, layers.Dense(size, name=f"dense_{i}")(here), "dense")
