"""A point, or a direction, in the space of a model's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from trainlab.parameters.rows import Rows
from trainlab.parameters.table import Table

Leaf: TypeAlias = tf.Tensor | Rows


def dense(leaf: Leaf | Table) -> tf.Tensor:
    """A leaf as one ordinary tensor."""
    return leaf.to_dense() if isinstance(leaf, (Rows, Table)) else leaf


@dataclasses.dataclass(frozen=True, eq=False)
class Vector:
    """A point or a direction in parameter space: one leaf for each trainable variable, in the model's order.

    `+ - * /` take Vectors of the same model (element by element), numbers and scalar tensors; `*` and `/` also Vectors of one
    scalar a leaf, such as learning rates of its own for each variable. A scalar of any float dtype
    multiplies leaves of any dtype, those of two bytes in float32: the leaves keep theirs. Sums, differences and multiples of
    row-sparse leaves (embeddings' gradients) stay row-sparse. A Vector is a value: nothing changes it, and it passes through
    `tf.function`, `tf.cond` and `tf.while_loop` as it is.

    Example:
        >>> import tensorflow as tf
        >>> a = Vector([tf.constant([3.0, 0.0]), tf.constant(4.0)])
        >>> float(a.norm()), float((2 * a - a / 2).dot(a))
        (5.0, 37.5)

    Attributes:
        parts: the leaves, but that a `Table` stands for one that nobody has asked for as a whole.
    """

    parts: tuple[Leaf | Table, ...]

    # NumPy would otherwise take `np.float32(2) * vector` apart; this makes it ask `__rmul__`.
    __array_ufunc__ = None

    def __init__(self, leaves: Iterable[Any]):
        """Takes tensors, arrays or `Rows`, in the order of `model.trainable_variables`."""
        object.__setattr__(
            self,
            "parts",
            tuple(leaf if isinstance(leaf, (Rows, Table)) else tf.convert_to_tensor(leaf) for leaf in leaves),
        )

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """A tuple of tensors, or of `Rows` where only some rows are not zero."""
        return tuple(dense(part) if isinstance(part, Table) else part for part in self.parts)

    def __add__(self, other: Any) -> Vector:
        return self._combine(other, "+", _add)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Vector:
        return self._combine(other, "-", _subtract)

    def __rsub__(self, other: Any) -> Vector:
        return (-self) + other

    def __mul__(self, other: Any) -> Vector:
        return self._combine(other, "*", _multiply)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Vector:
        return self._combine(other, "/", _divide)

    def __rtruediv__(self, other: Any) -> Vector:
        return self._combine(other, "/", lambda leaf, scalar: scalar / dense(leaf))

    def __neg__(self) -> Vector:
        return Vector([_negate(part) for part in self.parts])

    def map(self, fn: Callable[[tf.Tensor], tf.Tensor]) -> Vector:
        """Applies `fn`, element by element, to every leaf: `gradient.map(tf.sign)`.

        Row-sparse leaves become dense first, since `fn(0)` need not be 0.
        """
        return Vector([fn(dense(part)) for part in self.parts])

    def dot(self, other: Vector) -> tf.Tensor:
        """The inner product: a scalar, in the widest dtype of the leaves and at least float32.

        Raises:
            TypeError: `other` is not a Vector.
            ValueError: `other` belongs to another model.
        """
        if not isinstance(other, Vector):
            raise TypeError(f"Vector.dot takes a Vector, not {type(other).__name__}")
        self._check_same_space(other, "dot")
        dtype = tf.float64 if any(part.dtype == tf.float64 for part in self.parts) else tf.float32
        products = [_dot(a, b, dtype) for a, b in zip(self.leaves, other.leaves, strict=True)]
        return tf.add_n(products) if products else tf.zeros([], dtype)

    def norm(self) -> tf.Tensor:
        """The Euclidean norm over all leaves: a scalar, as `dot`."""
        return tf.sqrt(self.dot(self))

    def _combine(self, other: Any, symbol: str, fn: Callable[[Leaf, Any], Leaf]) -> Any:
        if isinstance(other, Vector):
            self._check_same_space(other, symbol, takes_scalars=symbol in ("*", "/"))
            return Vector([fn(a, b) for a, b in zip(self.parts, other.parts, strict=True)])
        is_factor = symbol in ("*", "/")  # of which float16 holds neither the large nor the small ones
        scalars = [_as_scalar(other, tf.float32 if is_factor and part.dtype.size < 4 else part.dtype) for part in self.parts]
        if any(scalar is None for scalar in scalars):
            if hasattr(other, "shape"):
                raise TypeError(
                    f"Vector {symbol} {type(other).__name__} of shape {tuple(other.shape)}: "
                    "the other side must be a number, a scalar tensor or a Vector"
                )
            return NotImplemented
        return Vector([_in_dtype_of(scalar, part, fn) for part, scalar in zip(self.parts, scalars, strict=True)])

    def _check_same_space(self, other: Vector, symbol: str, takes_scalars: bool = False) -> None:
        if len(self.parts) != len(other.parts):
            raise ValueError(
                f"Vector {symbol} Vector: {len(self.parts)} leaves against {len(other.parts)}; both must come from the same model"
            )
        for i, (a, b) in enumerate(zip(self.parts, other.parts, strict=True)):
            if not a.shape.is_compatible_with(b.shape) and not (takes_scalars and 0 in (a.shape.rank, b.shape.rank)):
                raise ValueError(
                    f"Vector {symbol} Vector: leaf {i} has shape {a.shape} against {b.shape}; both must come from the same model"
                )

    def __repr__(self) -> str:
        sizes = [part.shape.num_elements() for part in self.parts]
        total = "?" if None in sizes else f"{sum(sizes):,}"
        return f"Vector({len(self.parts)} leaves, {total} elements)"

    def __tf_flatten__(self) -> tuple[tuple[()], tuple[Leaf, ...]]:
        return (), self.leaves

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[()], components: tuple[Leaf, ...]) -> Vector:
        vector = object.__new__(cls)  # components may be TensorSpecs or placeholders here: no conversion
        object.__setattr__(vector, "parts", tuple(components))
        return vector


def ask_beforehand(function: Callable[[Vector], Any], point: Vector) -> None:
    """Has what a function will ask for of a point's tables, as a whole, read now, before their variables change.

    Args:
        function: of such a point; it is traced for that, and nothing else of it is left.
        point: what it may close over, itself or what was made of it.
    """

    def asking(*leaves: tf.Tensor) -> None:
        tf.nest.flatten(function(Vector(leaves)))  # a Vector among what it returns is asked for its leaves

    if any(isinstance(part, Table) and not part.is_read for part in point.parts):
        specs = [tf.TensorSpec(part.shape, part.dtype) for part in point.parts]
        tf.function(asking, autograph=False).get_concrete_function(*specs)


def _as_scalar(value: Any, dtype: tf.DType) -> Any:
    """A number or a scalar tensor in `dtype`; None if `value` is neither."""
    if isinstance(value, (bool, str)) or value is None:
        return None
    if isinstance(value, (int, float, np.number)):
        return tf.constant(value, dtype)
    if isinstance(value, Rows) or len(getattr(value, "shape", (None,))) > 0:
        return None
    return tf.cast(value, dtype)


def _in_dtype_of(scalar: tf.Tensor, leaf: Leaf | Table, fn: Callable[[Any, Any], Any]) -> Any:
    """`fn(leaf, scalar)` calculated in the scalar's dtype; the leaf keeps its own."""
    if scalar.dtype == leaf.dtype:
        return fn(leaf, scalar)
    return _cast(fn(_cast(leaf, scalar.dtype), scalar), leaf.dtype)


def _cast(leaf: Leaf | Table, dtype: tf.DType) -> Leaf:
    if isinstance(leaf, Rows):
        return dataclasses.replace(leaf, values=tf.cast(leaf.values, dtype))
    return tf.cast(dense(leaf), dtype)


def _add(a: Leaf | Table, b: Any) -> Leaf | Table:
    if isinstance(b, Rows) and not isinstance(a, Rows):
        a, b = b, a
    if isinstance(a, Rows) and isinstance(b, (Rows, Table)):
        return b.plus(a) if isinstance(b, Table) else a.plus(b)
    if isinstance(a, Rows) and b.shape.rank:
        return tf.tensor_scatter_nd_add(b, a.indices[:, None], tf.cast(a.values, b.dtype))
    return dense(a) + dense(b)


def _negate(a: Leaf | Table) -> Leaf:
    return dataclasses.replace(a, values=-a.values) if isinstance(a, Rows) else -dense(a)


def _subtract(a: Leaf | Table, b: Any) -> Leaf | Table:
    if isinstance(a, Rows) or isinstance(b, Rows):
        return _add(a, _negate(b))
    return dense(a) - dense(b)


def _multiply(a: Leaf | Table, b: Any) -> Leaf:
    if isinstance(b, Rows) and not isinstance(a, Rows):
        a, b = b, a
    if isinstance(a, Rows):
        b = dense(b)
        factor = tf.gather(b, a.indices) if b.shape.rank else b
        return dataclasses.replace(a, values=a.values * factor)
    return dense(a) * dense(b)


def _divide(a: Leaf | Table, b: Any) -> Leaf:
    if isinstance(a, Rows) and not isinstance(b, Rows) and b.shape.rank == 0:
        return dataclasses.replace(a, values=a.values / b)
    # Not row by row: 0/0 is NaN, and a row left out would hide it.
    return dense(a) / dense(b)


def _dot(a: Leaf, b: Leaf, dtype: tf.DType) -> tf.Tensor:
    if isinstance(b, Rows) and not isinstance(a, Rows):
        a, b = b, a
    if isinstance(a, Rows):
        if a is b:
            values = tf.cast(a.unique().values, dtype)
            return tf.reduce_sum(values * values)
        b = tf.gather(dense(b), a.indices)
        a = a.values
    return tf.reduce_sum(tf.cast(a, dtype) * tf.cast(b, dtype))
