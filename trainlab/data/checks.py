"""Checks of array data before the first step: what compiled code would hide or report from deep inside."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data.kinds import first_place
from trainlab.objective import has_own_step, keras_internals


def check_lengths(x: Any, y: Any, sample_weight: Any) -> int:
    """Checks that all arrays hold the same number of examples, and some; returns it.

    Raises:
        ValueError: they do not, or hold none.
    """
    sizes = [(name, int(leaf.shape[0])) for name, leaf in _named(("x", x), ("y", y), ("sample_weight", sample_weight))]
    if not sizes:
        raise ValueError("x is empty: give at least one array")
    first, length = sizes[0]
    for name, size in sizes:
        if size != length:
            raise ValueError(f"{first} has {length} examples but {name} has {size}: they must be the same number")
    if length == 0:
        raise ValueError(f"{first} has 0 examples: give at least one")
    return length


def check_values(x: Any, y: Any, sample_weight: Any) -> None:
    """Checks that no number is NaN or infinite.

    Raises:
        ValueError: one is; the line names the array and the first place.
    """
    found = find_non_finite(x, y, sample_weight)
    if found is not None:
        raise ValueError(f"{found}: clean the data, or say check_data=False where the loss or the model masks such values")


def find_non_finite(x: Any, y: Any, sample_weight: Any) -> str | None:
    """The first array that holds NaN or infinity, and the first place in it, in words; None if there is none."""
    for name, leaf in _named(("x", x), ("y", y), ("sample_weight", sample_weight)):
        bad = _first_non_finite(leaf)
        if bad is not None:
            return f"{name} holds {bad[1]} in example {bad[0]}"
    return None


def check_shapes(model: keras.Model, x: Any) -> None:
    """Checks x against a functional model's inputs.

    Raises:
        ValueError: a shape does not fit.
    """
    inputs = None if has_own_step(model) else getattr(model, "inputs", None)
    # In the order of the model's inputs, which is that of the sorted keys of dictionaries.
    paths = [(path, leaf) for path, leaf in keras.tree.flatten_with_path(x) if leaf is not None]
    leaves = [("x" + "".join(f"[{key!r}]" for key in path), leaf) for path, leaf in paths]
    if not inputs or len(inputs) != len(leaves):
        return  # another structure: Keras knows more about those than we do
    if isinstance(x, dict):
        by_name = {tensor.name: tensor for tensor in inputs}
        if set(by_name) != set(x):
            return
        pairs = [(f"x[{key!r}]", value, by_name[key]) for key, value in x.items()]
    else:
        pairs = [(name, leaf, tensor) for (name, leaf), tensor in zip(leaves, inputs, strict=True)]
    for name, leaf, tensor in pairs:
        want, got = tuple(tensor.shape[1:]), tuple(leaf.shape[1:])
        is_same_rank = len(want) == len(got)  # Keras adds or drops a trailing axis of size 1 by itself
        if (is_same_rank and any(None not in (w, g) and w != g for w, g in zip(want, got, strict=True))) or (
            not is_same_rank and not (abs(len(want) - len(got)) == 1 and 1 in ((want or (1,))[-1], (got or (1,))[-1]))
        ):
            raise ValueError(
                f"{name} has examples of shape {got} but the model's input {tensor.name!r} takes {want}: reshape the data"
            )


def check_batched(model: keras.Model, specs: Any) -> None:
    """Checks that the elements of a data set are batches, as far as their shapes tell.

    Args:
        model: compiled.
        specs: `(x, y, ...)` of an element.

    Raises:
        ValueError: each is a single example.
    """
    leaves = [leaf for leaf in tf.nest.flatten(specs) if isinstance(leaf, tf.TensorSpec) and leaf.shape.rank is not None]
    first = tf.nest.flatten(specs[0])[:1]
    inputs = [tuple(tensor.shape[1:]) for tensor in (getattr(model, "inputs", None) or [])[:1]]
    # One number an example is taken as it is by an input of one: then a batch of one looks the same.
    is_an_example = bool(leaves) and bool(first) and leaves[0] is first[0] and inputs == [tuple(leaves[0].shape)] != [(1,)]
    numbers = [leaf.shape.rank == 0 for leaf in leaves]
    # A step or a loss of the user's may take a number for the whole batch beside its examples.
    is_free = has_own_step(model) or type(model).compute_loss is not keras.Model.compute_loss
    if is_an_example or (bool(numbers) and (all if is_free else any)(numbers)):
        shapes = tf.nest.map_structure(lambda spec: None if spec is None else tuple(spec.shape), tuple(specs[:2]))
        raise ValueError(
            f"an element of the data set holds x {shapes[0]} and y {shapes[1] if len(shapes) > 1 else None}, one example and no "
            "batch of them: did you forget .batch(32)?"
        )


def check_targets(model: keras.Model, y: Any) -> None:
    """Checks that there is a y, or its spec, if the compiled loss needs one.

    Raises:
        ValueError: there is none.
    """
    has_own_loss = type(model).compute_loss is not keras.Model.compute_loss or has_own_step(model)
    if y is None and keras_internals.compile_loss(model) is not None and not has_own_loss:
        raise ValueError("y is missing: the model's loss needs targets")


def check_labels(model: keras.Model, x: Any, y: Any) -> None:
    """Checks integer labels against the number of classes, for Keras' own sparse categorical losses.

    What a loss or a `compute_loss` of the user's makes of labels nobody knows.

    Args:
        model: built, its losses too.
        x: arrays; only their shapes and dtypes are read.
        y: labels.

    Raises:
        ValueError: a label is out of range; the line names the first.
    """
    sparse = [entry for entry in keras_internals.flat_losses(model) if _is_sparse(entry.loss)]
    # These may make something else of y first.
    is_own = type(model).compute_loss is not keras.Model.compute_loss or has_own_step(model)
    if not sparse or is_own:
        return
    outputs = _outputs(model, x)
    y, places = _packed(model, y)
    names = list(getattr(model, "output_names", []))
    for entry in sparse:
        leaf, output = _at(entry.path, y, names), _at(entry.path, outputs, names)
        if leaf is None or output is None or output.shape[-1] is None:
            continue
        name = "y" + "".join(f"[{places.get(key, key)!r}]" for key in entry.path)
        num_classes = int(output.shape[-1])
        if tf.as_dtype(leaf.dtype) == tf.string:
            raise ValueError(f"{name} holds strings: map them to labels from 0 to {num_classes - 1}")
        bad = first_place(leaf, functools.partial(_is_no_label, num_classes=num_classes, ignored=_ignored_class(entry.loss)))
        if bad is not None:
            raise ValueError(
                f"{name} holds the label {bad[1]} in example {bad[0]}: labels must be whole numbers "
                f"from 0 to {num_classes - 1}, the model's output having {num_classes} classes"
            )


def takes_labels(model: keras.Model, rank: int | None = None) -> bool:
    """Whether a compiled model's only loss takes integer labels, however it is spelled; the model need not be built.

    Args:
        model: compiled.
        rank: of y; "crossentropy" means labels where y has fewer axes than the model's output.
    """
    losses = tf.nest.flatten(keras_internals.compile_arguments(model).get("loss"))
    if len(losses) != 1:
        return False
    loss = losses[0]
    if loss in ("crossentropy", "ce"):
        outputs = getattr(model, "outputs", None) or [None]
        return rank is not None and outputs[0] is not None and rank < len(outputs[0].shape)
    if isinstance(loss, (str, dict)):
        with suppress(Exception):  # a name that Keras does not know is told when the model is built
            loss = keras.losses.get(loss)
    return loss in _SPARSE_FUNCTIONS or isinstance(loss, _SPARSE_LOSSES)


def check_count(name: str, value: Any, minimum: int) -> None:
    """Checks that an argument is a whole number of at least `minimum`.

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value}")


def _outputs(model: keras.Model, x: Any) -> Any:
    """The model's outputs, symbolically; None where that cannot be told."""
    if getattr(model, "outputs", None):
        return model.outputs if len(model.outputs) > 1 else model.outputs[0]
    symbolic = tf.nest.map_structure(lambda leaf: keras.KerasTensor(leaf.shape, tf.as_dtype(leaf.dtype).name), x)
    try:
        return model.compute_output_spec(symbolic)
    except Exception:  # users' code may raise anything, and a check must not fail a model that trains
        return None


_SPARSE_LOSSES = tuple(
    getattr(keras.losses, name)
    for name in ("SparseCategoricalCrossentropy", "SparseCategoricalFocalCrossentropy")  # the second from Keras 3.16 on
    if hasattr(keras.losses, name)
)


_SPARSE_FUNCTIONS = (keras.losses.sparse_categorical_crossentropy,)


def _is_sparse(loss: Any) -> bool:
    """Whether a compiled loss is one of Keras' own, all that it calls being Keras' too."""
    if any(_is_users(getattr(type(loss), name, None)) for name in ("call", "__call__")):
        return False
    function = getattr(loss, "fn", None)  # a loss given by name or as a function is wrapped
    return function in _SPARSE_FUNCTIONS or (isinstance(loss, _SPARSE_LOSSES) and (function is None or not _is_users(function)))


def _is_users(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").split(".")[0] != "keras"


def _ignored_class(loss: Any) -> int | None:
    """The label that a loss leaves out: its arguments, its configuration or an attribute says, by the version of Keras."""
    with suppress(Exception):  # a class of the user's need not have a configuration
        config = {**loss.get_config(), **keras_internals.loss_arguments(loss)}
        if config.get("ignore_class") is not None:
            return config["ignore_class"]
    return getattr(loss, "ignore_class", None)


def _is_no_label(values: np.ndarray, num_classes: int, ignored: int | None) -> np.ndarray:
    is_bad = (values < 0) | (values >= num_classes) | (values != np.floor(values))
    return is_bad if ignored is None else is_bad & (values != ignored)


def _packed(model: keras.Model, y: Any) -> tuple[Any, dict[Any, int]]:
    """Targets for some outputs only, in a list, in the places of those that have a loss, as Keras packs them.

    Returns:
        The targets, and by the new place of each the one that it was given at; none where they are as they were.
    """
    loss = keras_internals.compile_arguments(model).get("loss")
    if isinstance(y, dict) or not isinstance(loss, (list, tuple)):
        return y, {}
    targets, places = keras.tree.flatten(y), [i for i, each in enumerate(loss) if each is not None]
    if len(places) == len(loss) or len(targets) != len(places):
        return y, {}
    given = dict(zip(places, targets, strict=True))
    return [given.get(i) for i in range(len(loss))], {place: i for i, place in enumerate(places)}


def _at(path: Sequence[Any], structure: Any, names: list[str]) -> Any:
    """The leaf at a compiled loss's path, None if there is none; a list of outputs may be addressed by their names."""
    try:
        for key in path:
            if isinstance(structure, (list, tuple)) and isinstance(key, str):
                key = names.index(key)
            elif isinstance(structure, dict) and isinstance(key, int):
                key = names[key]
            structure = structure[key]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return structure if hasattr(structure, "shape") else None


def _named(*structures: tuple[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arrays in some structures, each with a name that a user would write."""
    for name, structure in structures:
        if isinstance(structure, dict):
            yield from _named(*((f"{name}[{key!r}]", value) for key, value in structure.items()))
        elif isinstance(structure, (list, tuple)):
            yield from _named(*((f"{name}[{i}]", value) for i, value in enumerate(structure)))
        elif structure is not None:
            yield name, structure


def _first_non_finite(leaf: Any) -> tuple[int, str] | None:
    """The first example that holds NaN or infinity, and which."""
    if isinstance(leaf, tf.Tensor) and (not leaf.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(leaf)))):
        return None  # found out where it is
    if not tf.as_dtype(leaf.dtype).is_floating:
        return None
    bad = first_place(leaf, lambda values: ~np.isfinite(values))
    return None if bad is None else (bad[0], "NaN" if np.isnan(bad[1]) else "an infinite number")
