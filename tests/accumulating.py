"""What an effective batch of several batches must equal."""

import numpy as np
import pytest
import tensorflow as tf
from by_hand import loss_and_gradients, relative
from evaluating import evaluate, gradient_of
from tables import cut

# Of the gradient's norm. bfloat16 rounds each batch's gradient to 8 bits.
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "mixed_bfloat16": 0.02}
float64 = pytest.mark.parametrize("precision", ["float64"], indirect=True)


def mean_of_means(model, data):
    """Control: what averages of averages give."""
    totals = [loss_and_gradients(model, batch)[1] for batch in data]
    return [tf.add_n(column) / len(data) for column in zip(*totals, strict=True)]


def check_law(model, data, precision, tolerance=None, compiled=False, whole=None):
    """Compares an effective batch of several batches with one of all their examples; returns both evaluations."""
    concatenated = [whole] if whole else cut(merge(data), [sum(len(first_of(batch)) for batch in data)])
    parts, whole = evaluate(model, data, compiled), evaluate(model, concatenated)
    tolerance = TOLERANCE[precision] if tolerance is None else tolerance
    error = relative(gradient_of(parts), gradient_of(whole))
    assert error < tolerance
    assert float(parts.loss) == pytest.approx(float(whole.loss), rel=tolerance)
    return parts, whole


def merge(data):
    """The batches' examples, one after the other."""
    return tf.nest.map_structure(lambda *leaves: None if leaves[0] is None else np.concatenate(leaves), *data)


def first_of(batch):
    return tf.nest.flatten(batch[0])[0]


def data_of(case, sizes, weighted):
    n = sum(sizes)
    return cut((*case.arrays(n), case.weights(n) if weighted else None), sizes)
