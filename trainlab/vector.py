"""A point, or a direction, in the space of a model's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table whose other rows are zero: an embedding's gradient.

    A row may be named several times, as in `tf.IndexedSlices`: its value is then the sum. Sums, multiples and inner products
    with dense leaves do not mind; what squares or clips must ask for `unique` first.

    Attributes:
        values: `[k, ...]`, float.
        indices: `[k]`, int32 or int64, each in `[0, num_rows)`.
        num_rows: rows of the whole table.
    """

    values: tf.Tensor
    indices: tf.Tensor
    num_rows: int

    def unique(self) -> Rows:
        """The same with duplicates summed.

        Unused slots keep the shape static, as XLA needs: they name row 0 and hold zeros.
        """
        order = tf.argsort(self.indices, stable=True)
        rows = tf.gather(self.indices, order)
        is_new = tf.concat([tf.ones_like(rows[:1], tf.bool), rows[1:] != rows[:-1]], axis=0)
        slot = tf.cumsum(tf.cast(is_new, tf.int32)) - 1
        num_slots = tf.shape(self.indices)[0]
        summed = tf.math.unsorted_segment_sum(tf.gather(self.values, order), slot, num_slots)
        summed.set_shape(self.values.shape)
        # An empty slot's maximum is the lowest integer; any valid row will do there, its values being zero.
        named = tf.maximum(tf.math.unsorted_segment_max(rows, slot, num_slots), 0)
        named.set_shape(self.indices.shape)
        return Rows(summed, named, self.num_rows)

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def shape(self) -> tf.TensorShape:
        """The shape of the whole table."""
        return tf.TensorShape([self.num_rows]).concatenate(self.values.shape[1:])

    def to_dense(self) -> tf.Tensor:
        """The whole table, zeros included."""
        shape = tf.concat([[self.num_rows], tf.shape(self.values)[1:]], axis=0)
        dense = tf.scatter_nd(self.indices[:, None], self.values, tf.cast(shape, self.indices.dtype))
        dense.set_shape(self.shape)
        return dense

    def to_indexed_slices(self) -> tf.IndexedSlices:
        """The form that optimizers take."""
        return tf.IndexedSlices(self.values, self.indices, tf.constant(self.shape.as_list(), self.indices.dtype))

    def __tf_flatten__(self) -> tuple[tuple[int], tuple[tf.Tensor, tf.Tensor]]:
        return (self.num_rows,), (self.values, self.indices)

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[int], components: tuple[tf.Tensor, tf.Tensor]) -> Rows:
        return cls(*components, *metadata)


Leaf: TypeAlias = tf.Tensor | Rows


def dense(leaf: Leaf) -> tf.Tensor:
    """A leaf as one ordinary tensor."""
    return leaf.to_dense() if isinstance(leaf, Rows) else leaf


@dataclasses.dataclass(frozen=True, eq=False)
class Vector:
    """A point or a direction in parameter space: one leaf for each trainable variable, in the model's order.

    `+ - * /` take Vectors of the same model (element by element), numbers and scalar tensors. A scalar of any float dtype
    multiplies leaves of any dtype: the leaves keep theirs. Sums, differences and multiples of row-sparse leaves
    (embeddings' gradients) stay row-sparse. A Vector is a value: nothing changes it, and it passes through
    `tf.function`, `tf.cond` and `tf.while_loop` as it is.

    Example:
        >>> import tensorflow as tf
        >>> a = Vector([tf.constant([3.0, 0.0]), tf.constant(4.0)])
        >>> float(a.norm()), float((2 * a - a / 2).dot(a))
        (5.0, 37.5)

    Attributes:
        leaves: a tuple of tensors, or of `Rows` where only some rows are not zero.
    """

    leaves: tuple[Leaf, ...]

    # NumPy would otherwise take `np.float32(2) * vector` apart; this makes it ask `__rmul__`.
    __array_ufunc__ = None

    def __init__(self, leaves: Iterable[Any]):
        """Takes tensors, arrays or `Rows`, in the order of `model.trainable_variables`."""
        object.__setattr__(
            self,
            "leaves",
            tuple(leaf if isinstance(leaf, Rows) else tf.convert_to_tensor(leaf) for leaf in leaves),
        )

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
        return Vector([_negate(leaf) for leaf in self.leaves])

    def map(self, fn: Callable[[tf.Tensor], tf.Tensor]) -> Vector:
        """Applies `fn`, element by element, to every leaf: `gradient.map(tf.sign)`.

        Row-sparse leaves become dense first, since `fn(0)` need not be 0.
        """
        return Vector([fn(dense(leaf)) for leaf in self.leaves])

    def dot(self, other: Vector) -> tf.Tensor:
        """The inner product: a scalar, in the widest dtype of the leaves and at least float32.

        Raises:
            TypeError: `other` is not a Vector.
            ValueError: `other` belongs to another model.
        """
        if not isinstance(other, Vector):
            raise TypeError(f"Vector.dot takes a Vector, not {type(other).__name__}")
        self._check_same_space(other, "dot")
        dtype = tf.float64 if any(leaf.dtype == tf.float64 for leaf in self.leaves) else tf.float32
        products = [_dot(a, b, dtype) for a, b in zip(self.leaves, other.leaves, strict=True)]
        return tf.add_n(products) if products else tf.zeros([], dtype)

    def norm(self) -> tf.Tensor:
        """The Euclidean norm over all leaves: a scalar, as `dot`."""
        return tf.sqrt(self.dot(self))

    def _combine(self, other: Any, symbol: str, fn: Callable[[Leaf, Any], Leaf]) -> Any:
        if isinstance(other, Vector):
            self._check_same_space(other, symbol)
            return Vector([fn(a, b) for a, b in zip(self.leaves, other.leaves, strict=True)])
        scalars = [_as_scalar(other, leaf.dtype) for leaf in self.leaves]
        if any(scalar is None for scalar in scalars):
            if hasattr(other, "shape"):
                raise TypeError(
                    f"Vector {symbol} {type(other).__name__} of shape {tuple(other.shape)}: "
                    "the other side must be a number, a scalar tensor or a Vector"
                )
            return NotImplemented
        return Vector([fn(leaf, scalar) for leaf, scalar in zip(self.leaves, scalars, strict=True)])

    def _check_same_space(self, other: Vector, symbol: str) -> None:
        if len(self.leaves) != len(other.leaves):
            raise ValueError(
                f"Vector {symbol} Vector: {len(self.leaves)} leaves against {len(other.leaves)}; "
                "both must come from the same model"
            )
        for i, (a, b) in enumerate(zip(self.leaves, other.leaves, strict=True)):
            if not a.shape.is_compatible_with(b.shape):
                raise ValueError(
                    f"Vector {symbol} Vector: leaf {i} has shape {a.shape} against {b.shape}; both must come from the same model"
                )

    def __repr__(self) -> str:
        sizes = [leaf.shape.num_elements() for leaf in self.leaves]
        total = "?" if None in sizes else f"{sum(sizes):,}"
        return f"Vector({len(self.leaves)} leaves, {total} elements)"

    def __tf_flatten__(self) -> tuple[tuple[()], tuple[Leaf, ...]]:
        return (), self.leaves

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[()], components: tuple[Leaf, ...]) -> Vector:
        vector = object.__new__(cls)  # components may be TensorSpecs or placeholders here: no conversion
        object.__setattr__(vector, "leaves", tuple(components))
        return vector


def _as_scalar(value: Any, dtype: tf.DType) -> Any:
    """A number or a scalar tensor in `dtype`; None if `value` is neither."""
    if isinstance(value, (bool, str)) or value is None:
        return None
    if isinstance(value, (int, float, np.number)):
        return tf.constant(value, dtype)
    if isinstance(value, Rows) or len(getattr(value, "shape", (None,))) > 0:
        return None
    return tf.cast(value, dtype)


def _add(a: Leaf, b: Any) -> Leaf:
    if isinstance(a, Rows) and isinstance(b, Rows):
        indices = tf.concat([a.indices, tf.cast(b.indices, a.indices.dtype)], axis=0)
        return Rows(tf.concat([a.values, tf.cast(b.values, a.dtype)], axis=0), indices, a.num_rows)
    if isinstance(a, Rows):
        return _add(b, a) if b.shape.rank else a.to_dense() + b
    if isinstance(b, Rows):
        return tf.tensor_scatter_nd_add(a, b.indices[:, None], tf.cast(b.values, a.dtype))
    return a + b


def _negate(a: Leaf) -> Leaf:
    return dataclasses.replace(a, values=-a.values) if isinstance(a, Rows) else -a


def _subtract(a: Leaf, b: Any) -> Leaf:
    if isinstance(a, Rows) or isinstance(b, Rows):
        return _add(a, _negate(b))
    return a - b


def _multiply(a: Leaf, b: Any) -> Leaf:
    if isinstance(a, Rows):
        if isinstance(b, Rows):
            b = b.to_dense()
        factor = tf.gather(b, a.indices) if b.shape.rank else b
        return dataclasses.replace(a, values=a.values * factor)
    if isinstance(b, Rows):
        return _multiply(b, a)
    return a * b


def _divide(a: Leaf, b: Any) -> Leaf:
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
