"""What is added up and shared among processes, by dtype: bits are bits, and numbers are numbers."""

import numpy as np
import pytest
import tensorflow as tf

from trainlab.distribution.workers import Collectives
from trainlab.distribution.workers import collectives as shared

VALUES = {
    tf.bool: [True, False],
    tf.int8: [-128, 127],
    tf.uint8: [0, 255],
    tf.int16: [-(2**15), 2**15 - 1],
    tf.uint16: [0, 2**16 - 1],
    tf.int32: [-(2**31), 2**31 - 1],
    tf.uint32: [0, 2**32 - 1],
    tf.int64: [-(2**63), 2**63 - 1],
    tf.uint64: [0, 2**64 - 1],
    tf.float16: [1 / 3, -0.0],
    tf.bfloat16: [1 / 3, -0.0],
    tf.float32: [1 / 3, -0.0],
    tf.float64: [1 / 3, -0.0],
    tf.complex64: [1 / 3 - 2.5j, complex(-0.0, np.inf)],
    tf.complex128: [1 / 3 - 2.5j, complex(-0.0, np.inf)],
}


class Alone(Collectives):
    """Of so many processes that all give the same."""

    def _reduce(self, vector, merge):
        assert vector.dtype in (tf.int32, tf.int64) or vector.dtype.is_floating  # what the operation adds
        return vector * self.size


def bits(value):
    return value.numpy().tobytes()


@pytest.mark.parametrize("dtype", VALUES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [[2], [2, 1], []])
def test_a_variable_is_shared_to_the_last_bit(dtype, shape):
    value = tf.reshape(tf.constant(VALUES[dtype] if shape else VALUES[dtype][0], dtype), shape)
    carried = shared._carried(value)
    assert carried.dtype in (tf.int32, tf.int64)
    found = shared._uncarried(carried + tf.zeros_like(carried), dtype)
    assert found.dtype == dtype and found.shape == value.shape and bits(found) == bits(value)


def test_what_is_no_number_is_not_shared():
    with pytest.raises(TypeError, match="^a variable of dtype string cannot be shared among workers"):
        shared._carried(tf.constant("a"))


@pytest.mark.parametrize("dtype", [tf.bool, tf.uint8, tf.int32, tf.float16, tf.float64, tf.complex64, tf.complex128])
def test_a_sum_is_that_of_the_numbers(dtype):
    numbers = [[0.5 - 2j, 3, 4j]] if dtype.is_complex else [[0, 3, 5]]
    value = tf.cast(tf.constant(numbers), dtype)
    scalar = value[0, 1]
    found = Alone(2, 0, 8).sum([value, tf.constant(7.0), scalar])
    expected = [value if dtype == tf.bool else value * 2, tf.constant(14.0), scalar if dtype == tf.bool else scalar * 2]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)
