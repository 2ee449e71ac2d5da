"""What the numbers of a traced graph are of a batch: rows, sums or means over its examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

UNARY = frozenset(
    """Abs Acos Acosh Asin Asinh Atan Atanh BitCast Cast Ceil CheckNumerics ClipByValue Cos Cosh Digamma Elu EnsureShape Erf Erfc
    Exp Expm1 Floor Identity Inv IsFinite IsInf IsNan LeakyRelu Lgamma Log Log1p LogicalNot Neg OnesLike PreventGradient
    Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square StopGradient Tan Tanh
    ZerosLike""".split()
)
BINARY = frozenset(
    """Add AddN AddV2 Atan2 BiasAdd Div DivNoNan Equal FloorDiv FloorMod Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr
    Maximum Minimum Mod Mul MulNoNan NotEqual Pow RealDiv Select SelectV2 SquaredDifference Sub Xdivy Xlog1py Xlogy""".split()
)
LINEAR = frozenset("AddN Add AddV2 BiasAdd Sub Neg Identity Cast StopGradient Reshape Squeeze ExpandDims Mean Sum".split())
REDUCTIONS = frozenset("All Any Max Mean Min Prod Sum".split())
BY_ROW = frozenset("LogSoftmax Softmax SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits".split())
# These go along an axis, which one of their inputs says; along the last one; over all.
_ALONG_AN_AXIS = {**dict.fromkeys([*REDUCTIONS, "Cumsum", "Cumprod", "CumulativeLogsumexp", "ReverseV2"], 1), "Roll": 2}
_ALONG_THE_LAST = frozenset("LogSoftmax Softmax TopK TopKV2".split())
_OVER_ALL = frozenset("FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 L2Loss RandomShuffle".split())
# What a tensor is of a batch: nothing of it; a row for each example, of that example alone; the sum or the mean of such rows over
# the examples, or what is linear in it; their number, times a constant; a shape.
CONSTANT, ROWS, SUM, MEAN, NUMBER, SHAPE = "constant", "rows", "sum", "mean", "number", "shape"
_MOST_OPERATIONS = 300


def is_mean_over_examples(function: Callable[..., Any], batch: Sequence[tf.Tensor]) -> bool:
    """Whether a function returns a mean over the examples of a batch: see `made_of_examples`.

    Then such means of several batches, weighted by their examples, are the mean of all.
    """
    return made_of_examples(function, batch) == MEAN


def made_of_examples(function: Callable[..., Any], batch: Sequence[tf.Tensor]) -> str | None:
    """What a function makes of the examples of a batch, as far as its operations show.

    Args:
        function: of `batch`; it is traced, once more than it is run, for batches of any size, and leaves nothing behind.
        batch: `[examples, ...]` each.

    Returns:
        "rows", if each example has values of its own (also where nothing speaks against it, or it cannot be traced); "mean" or
        "sum", if all have one together, or what is linear in it; None where it is something else, or where that cannot be told:
        a size that is not known, an operation that is not looked into.
    """
    found: list[str | None] = []

    def traced(*tensors: tf.Tensor) -> tf.Tensor:
        made = tf.convert_to_tensor(function(*tensors))
        kind = Kinds(tensors).of(made)
        if kind is None and made.shape.rank and made.shape[0] is None and not _mixes_examples(made, tensors):
            kind = ROWS
        found.append(MEAN if kind == CONSTANT else kind)
        return tf.zeros([])

    try:
        specs = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in batch]
        with keras.StatelessScope():
            tf.function(traced, autograph=False).get_concrete_function(*specs)
    except Exception:  # a user's function may raise anything, and a warning is not worth failing for
        return ROWS
    return found[-1] if found and found[-1] in (ROWS, MEAN, SUM) else None


def _mixes_examples(made: tf.Tensor, batch: Sequence[tf.Tensor]) -> bool:
    """Whether rows are seen to be made of several examples each; of all that the graph was given only the first axis is open."""
    if not all(tensor.shape[1:].is_fully_defined() for tensor in batch):
        return False
    shapes = [output.shape for operation in made.graph.get_operations() for output in operation.outputs]
    if any(None in shape[1:].as_list() for shape in shapes if shape.rank):  # a second axis as long as there are examples
        return True
    pending, seen = [made], {id(tensor) for tensor in batch}
    while pending:
        found = pending.pop()
        if id(found) not in seen and found.op.type not in ("Shape", "ShapeN", "Size"):  # which are of their number only
            seen.add(id(found))
            rows = found.op.inputs[0] if len(found.op.inputs) else None
            if rows is not None and rows.shape.rank and rows.shape[0] is None and goes_along_examples(found.op):
                return True
            pending += found.op.inputs
    return False


def goes_along_examples(operation: Any) -> bool:
    """Whether an operation on rows makes something of several of them, or of some: of one axis it goes along that of the rows."""
    kind, inputs = operation.type, list(operation.inputs)
    if kind in _OVER_ALL:
        return True
    if kind in _ALONG_THE_LAST:
        return inputs[0].shape.rank == 1
    if kind == "StridedSlice":
        return _cuts(operation, inputs)
    if kind in _ALONG_AN_AXIS:
        axes = tf.get_static_value(inputs[_ALONG_AN_AXIS[kind]])
        return axes is not None and 0 in {int(axis) % inputs[0].shape.rank for axis in axes.reshape(-1)}
    return False


def _cuts(operation: Any, inputs: list[tf.Tensor]) -> bool:
    """Whether a slice takes some of the examples."""
    if operation.get_attr("new_axis_mask") & 1:
        return False
    whole = operation.get_attr("begin_mask") & operation.get_attr("end_mask") | operation.get_attr("ellipsis_mask")
    strides = tf.get_static_value(inputs[3])
    return not whole & 1 or (strides is not None and int(strides[0]) != 1)


class Kinds:
    """What tensors are of a batch; None where that cannot be told."""

    def __init__(self, batch: Sequence[tf.Tensor]):
        self._known: dict[int, str | None] = {id(tensor): ROWS for tensor in batch if tensor.shape.rank}
        self._kept = [*batch]  # so that no other tensor gets the identity of one
        self._most = _MOST_OPERATIONS

    def of(self, tensor: tf.Tensor) -> str | None:
        """What a tensor of the graph is; see the constants above."""
        if id(tensor) not in self._known:
            if len(self._known) > self._most:
                return None
            self._kept.append(tensor)
            self._known[id(tensor)] = None  # while it is looked at
            self._known[id(tensor)] = self._found(tensor.op, tensor)
        return self._known[id(tensor)]

    def _found(self, operation: Any, tensor: tf.Tensor) -> str | None:
        kind, inputs = operation.type, list(operation.inputs)
        if kind in ("Const", "ReadVariableOp"):
            return CONSTANT
        kinds = [self.of(each) for each in inputs]
        if None in kinds or not kinds:
            return None
        if set(kinds) == {CONSTANT}:
            return CONSTANT if not operation.outputs[0].dtype == tf.resource else None
        if kind in ("Size", "Shape") or (ROWS not in kinds and (SHAPE in kinds or NUMBER in kinds)):
            return _number(operation, inputs, kinds, tensor)
        if ROWS in kinds:
            return self._of_rows(operation, inputs, kinds, tensor)
        return _of_sums(operation, kinds)

    @staticmethod
    def _of_rows(operation: Any, inputs: list[tf.Tensor], kinds: list[str | None], tensor: tf.Tensor) -> str | None:
        """Of an operation on rows, and on nothing else but constants."""
        rank, kind = tensor.shape.rank, operation.type
        is_reshape = kind == "Reshape" and kinds == [ROWS, SHAPE]
        if (set(kinds) - {ROWS, CONSTANT} and not is_reshape) or inputs[0].shape.rank is None:
            return None
        if kind in UNARY or kind in BINARY:
            for each, its in zip(inputs, kinds, strict=True):
                has = each.shape.rank
                if has is None or (has != rank if its == ROWS else has > rank or (has == rank and each.shape[0] != 1 and rank)):
                    return None
            return ROWS
        if kind in REDUCTIONS and kinds == [ROWS, CONSTANT]:
            return _reduced(operation, inputs)
        if kind in BY_ROW:
            least = 2 if kind.endswith("Softmax") else 1  # of a vector it is one over the examples
            ranks = [each.shape.rank or 0 for each in inputs]
            return ROWS if set(kinds) == {ROWS} and min(ranks) >= least else None
        return ROWS if _keeps_rows(operation, inputs, kinds) else None


def _reduced(operation: Any, inputs: list[tf.Tensor]) -> str | None:
    axes, shape = tf.get_static_value(inputs[1]), inputs[0].shape
    if axes is None:
        return None
    reduced = {int(axis) % shape.rank for axis in axes.reshape(-1)}
    if 0 not in reduced:
        return ROWS
    if any(shape[axis] is None for axis in reduced - {0}):  # another number of them in each batch
        return None
    return {"Mean": MEAN, "Sum": SUM}.get(operation.type)


def _keeps_rows(operation: Any, inputs: list[tf.Tensor], kinds: list[str | None]) -> bool:
    """Whether an operation that moves numbers about leaves those of an example in its row, or in rows of its own."""
    kind, rank = operation.type, inputs[0].shape.rank
    if kind == "Squeeze":
        axes = operation.get_attr("squeeze_dims")
        return bool(axes) and all(axis % rank for axis in axes)
    if kind == "OneHot":
        return kinds[0] == ROWS and ROWS not in kinds[1:] and operation.get_attr("axis") == -1
    if kind == "MatMul":
        return kinds == [ROWS, CONSTANT] and not operation.get_attr("transpose_a")
    if kind == "Pack":
        return set(kinds) == {ROWS} and operation.get_attr("axis") % (rank + 1) != 0
    if kind == "ConcatV2":
        axis = tf.get_static_value(inputs[-1])
        return set(kinds[:-1]) == {ROWS} and axis is not None and int(axis) % rank != 0
    if kind == "GatherV2":
        return kinds == [CONSTANT, ROWS, CONSTANT] and tf.get_static_value(inputs[2]) == 0
    if kind == "Einsum":
        operands, _, result = operation.get_attr("equation").decode().partition("->")
        first = result[:1]
        return first.isalpha() and all(
            letters[:1] == first and letters.count(first) == 1 if its == ROWS else first not in letters
            for letters, its in zip(operands.split(","), kinds, strict=True)
        )
    if kind == "Reshape":
        shape, inner = _entries(inputs[1]), inputs[0].shape[1:].num_elements()
        if not shape or inner is None or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
            return False
        rest = math.prod(shape[1:])
        return shape[0] == "n" or (shape[0] == -1 and inner % rest == 0)
    if kinds[0] != ROWS or len(inputs) < 2 or (how := tf.get_static_value(inputs[1])) is None:
        return False
    if kind == "ExpandDims":
        return int(how) % (rank + 1) != 0
    if kind in ("ArgMax", "ArgMin"):
        return int(how) % rank != 0
    if kind == "Transpose":
        return int(how[0]) == 0
    if kind == "StridedSlice":
        is_whole = (
            operation.get_attr("begin_mask") & operation.get_attr("end_mask") & 1 or operation.get_attr("ellipsis_mask") & 1
        )
        drops = (operation.get_attr("shrink_axis_mask") | operation.get_attr("new_axis_mask")) & 1
        strides = tf.get_static_value(inputs[3])
        fits = not operation.get_attr("ellipsis_mask") or len(how) <= rank
        return bool(is_whole) and not drops and strides is not None and int(strides[0]) == 1 and fits
    return False


def _entries(tensor: tf.Tensor) -> list[Any] | None:
    """The numbers in a shape, or the one in a scalar: "n" for that of the examples, None for one that is not known."""
    if (static := tf.get_static_value(tensor)) is not None:
        return [int(number) for number in static.reshape(-1)]
    kind, inputs = tensor.op.type, list(tensor.op.inputs)
    if kind == "Shape":
        return ["n" if inputs[0].shape[0] is None else inputs[0].shape[0], *inputs[0].shape[1:]]
    if kind in ("Cast", "Identity"):
        return _entries(inputs[0])
    if kind in ("Slice", "StridedSlice"):
        return _sliced(tensor.op, inputs)
    if kind in ("Add", "AddV2", "Sub"):  # where TensorFlow counts axes
        a, b = map(_integer, inputs)
        return None if a is None or b is None else [a - b if kind == "Sub" else a + b]
    parts = [_entries(each) for each in (inputs[:-1] if kind == "ConcatV2" else inputs if kind == "Pack" else [])]
    return [entry for part in parts for entry in part or [None]] or None


def _integer(tensor: tf.Tensor) -> int | None:
    """The number that a tensor holds, if it is one and known."""
    entries = _entries(tensor)
    return entries[0] if entries and len(entries) == 1 and isinstance(entries[0], int) else None


def _sliced(operation: Any, inputs: list[tf.Tensor]) -> list[Any] | None:
    """The same of a part of a shape."""
    entries, (begin, end, *strides) = _entries(inputs[0]), map(_integer, inputs[1:])
    if entries is None or begin is None or end is None or None in strides:
        return None
    if operation.type == "Slice":
        return entries[begin : begin + end] if end >= 0 else entries[begin:]
    if operation.get_attr("ellipsis_mask") or operation.get_attr("new_axis_mask"):
        return None
    if operation.get_attr("shrink_axis_mask"):
        return [entries[begin]]
    return entries[
        None if operation.get_attr("begin_mask") else begin : None if operation.get_attr("end_mask") else end : strides[0]
    ]


def _number(operation: Any, inputs: list[tf.Tensor], kinds: list[str | None], tensor: tf.Tensor) -> str | None:
    """Of an operation on the shape of rows, or on what is their number."""
    kind = operation.type
    if kind == "Size":
        return NUMBER if kinds == [ROWS] and inputs[0].shape[1:].is_fully_defined() else None
    if kind in ("Shape", "Slice", "StridedSlice", "ConcatV2", "Pack") and (entries := _entries(tensor)):
        return SHAPE if tensor.shape.rank else {"n": NUMBER, None: None}.get(entries[0], CONSTANT)
    if kind in ("Cast", "Identity"):
        return kinds[0]
    if kind == "Prod" and kinds[0] == SHAPE and (entries := _entries(inputs[0])):
        others = [entry for entry in entries if entry != "n"]
        return NUMBER if len(others) == len(entries) - 1 and None not in others else None
    if kind == "Mul" and sorted(map(str, kinds)) == [CONSTANT, NUMBER]:
        return NUMBER
    return MEAN if kind in ("RealDiv", "DivNoNan") and kinds == [SUM, NUMBER] else None


def _of_sums(operation: Any, kinds: list[str | None]) -> str | None:
    """Of an operation on sums or means over the examples: what is linear in them stays what it is."""
    (which, *others) = {kind for kind in kinds if kind != CONSTANT}
    if others:
        return None
    if operation.type in ("Mul", "RealDiv", "Div", "DivNoNan"):
        is_scaled = kinds.count(CONSTANT) == 1 and (operation.type == "Mul" or kinds[1] == CONSTANT)
        return which if is_scaled else None
    if operation.type not in LINEAR:
        return None
    is_with_constant = operation.type in ("AddN", "Add", "AddV2", "BiasAdd", "Sub") and CONSTANT in kinds
    return None if which == SUM and is_with_constant else which
