"""The names of a model's operations: Keras counts them up from model to model."""

from __future__ import annotations

import re

import keras

from trainlab.objective import keras_internals


def first_names(model: keras.Layer) -> dict[str, str]:
    """What the operations of a model that are no layers (`x + y`, a mask) would be called in a process that builds it first.

    Example:
        >>> x = keras.Input([2])
        >>> made = [keras.Model(x, keras.ops.exp(keras.ops.exp(x))) for _ in range(2)]
        >>> set(first_names(made[0]).values()) == set(first_names(made[1]).values()) == {"exp", "exp_1"}
        True
    """
    numbers: dict[str, list[int]] = {}
    found = {}
    for layer in keras_internals.layers_of(model):
        for operation in getattr(layer, "operations", ()):
            if not isinstance(operation, keras.Layer):
                match = re.fullmatch(r"(.*?)_(\d+)", operation.name)
                found[operation.name] = (match[1], int(match[2])) if match else (operation.name, 0)
    for stem, number in found.values():
        numbers.setdefault(stem, []).append(number)
    ranks = {name: (stem, sorted(numbers[stem]).index(number)) for name, (stem, number) in found.items()}
    return {name: f"{stem}_{rank}" if rank else stem for name, (stem, rank) in ranks.items()}
