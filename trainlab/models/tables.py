"""A multilayer perceptron for the columns of a table, of which categories are embedded."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from trainlab.models.arguments import (
    checked_activation,
    checked_count,
    checked_counts,
    checked_penalty,
    checked_rate,
    l2_penalty,
    num_values_of,
)


def tabular(
    input_shape: Any,
    num_outputs: int,
    hidden_sizes: Sequence[int] = (64, 64),
    embedding_size: int | None = None,
    activation: str | Callable = "relu",
    dropout: float = 0.0,
    l2: float = 0.0,
    num_values: Mapping[str, int] | None = None,
) -> keras.Model:
    """A multilayer perceptron on numbers and embedded categories, side by side.

    Args:
        input_shape: By the names of the inputs the shape of an example of each, as `Data.input_shape` has it: integers say how
            many categories there are (`trainlab.datasets.Integers`), all others are numbers. Or one shape of numbers.
        num_outputs: Classes, labels or target columns.
        hidden_sizes: Units of each hidden layer, at least one layer.
        embedding_size: Length of the vector that stands for a category; None for 1.6 times the number of categories to the power
            of 0.56, at most 50 (C. Guo and F. Berkhahn, "Entity Embeddings of Categorical Variables",
            https://arxiv.org/abs/1604.06737, by fastai's rule).
        activation: A Keras activation, by name or as a function.
        dropout: Fraction of each hidden layer's outputs that is dropped in training, in [0, 1).
        l2: The loss gains `l2 * sum(kernel**2)` for every kernel of a dense layer.
        num_values: By the names of inputs how many categories there are, where their shapes do not say.

    Returns:
        An uncompiled model named "tabular", of a dictionary of inputs, or one, to `(batch, num_outputs)` logits or numbers.

    Raises:
        ValueError: A size, a rate or the activation breaks its rule.

    Example:
        >>> model = tabular({"numbers": (3,), "town": ()}, 1, num_values={"town": 5})
        >>> model.get_layer("embedding_town").input_dim, model.get_layer("embedding_town").output_dim, model.output_shape
        (5, 4, (None, 1))
    """
    num_outputs = checked_count("num_outputs", num_outputs)
    hidden_sizes = checked_counts("hidden_sizes", hidden_sizes, empty="for no hidden layer use logistic_regression")
    dropout, l2, activation = checked_rate("dropout", dropout), checked_penalty("l2", l2), checked_activation(activation)
    shapes = dict(input_shape) if isinstance(input_shape, Mapping) else {"inputs": input_shape}
    if unknown := [name for name in num_values or () if name not in shapes]:
        raise ValueError(f"num_values: there is no input {unknown[0]!r}; there are {', '.join(shapes)}")
    inputs, columns, names = {}, [], _Names(shapes)
    for name, shape in shapes.items():
        number = num_values_of(shape, (num_values or {}).get(name), f"num_values[{name!r}]")
        of_input = names.of_inputs[name]
        inputs[name] = keras.Input(_shape(name, shape, number), name=of_input, dtype=None if number is None else "int32")
        columns.append(_column(names, name, inputs[name], number, embedding_size))
    x = columns[0] if len(columns) == 1 else keras.layers.Concatenate(name=names.free("columns"))(columns)
    for i, size in enumerate(hidden_sizes, start=1):
        penalty = l2_penalty(l2)
        x = keras.layers.Dense(size, activation=activation, kernel_regularizer=penalty, name=names.free(f"hidden_{i}"))(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=names.free(f"dropout_{i}"))(x)
    logits = keras.layers.Dense(num_outputs, kernel_regularizer=l2_penalty(l2), name=names.free("logits"))(x)
    with warnings.catch_warnings():  # of inputs that are not called as their columns: they are found by their place
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        return keras.Model(inputs if isinstance(input_shape, Mapping) else inputs["inputs"], logits, name="tabular")


class _Names:
    """Names for the layers of a model whose inputs are called as the columns of a file: anything.

    Args:
        columns: Their names.

    Attributes:
        of_inputs: By the column the name of its input: the same, but that Keras takes no slash.
    """

    def __init__(self, columns: Iterable[str]):
        self._taken: set[str] = {name for name in columns if "/" not in name}
        self.of_inputs = {name: self._unlike(name.replace("/", "_")) if "/" in name else name for name in columns}

    def free(self, name: str) -> str:
        """A name that TensorFlow takes for a scope, and no other layer has."""
        return self._unlike(re.sub(r"[^A-Za-z0-9_.-]", "_", name))

    def _unlike(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _shape(name: str, shape: Any, num_values: int | None) -> tuple[int, ...]:
    where = f"input_shape[{name!r}]"
    if shape == () and num_values is None:
        raise ValueError(
            f"{where}=(): say how many categories there are, num_values={{{name!r}: 10}}, or give numbers as columns"
        )
    return () if shape == () else checked_counts(where, shape, empty="write the shape of one example, for example (3,)")


def _column(names: _Names, name: str, x: Any, num_values: int | None, embedding_size: int | None) -> Any:
    if num_values is not None:
        default = min(50, max(1, round(1.6 * num_values**0.56)))
        size = default if embedding_size is None else checked_count("embedding_size", embedding_size)
        x = keras.layers.Embedding(num_values, size, name=names.free(f"embedding_{name}"))(x)
    return x if len(x.shape) == 2 else keras.layers.Flatten(name=names.free(f"flatten_{name}"))(x)
