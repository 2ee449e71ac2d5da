import functools

import keras
import pytest

from trainlab.runs.plain import plain


def absolute(scale, y, p):
    return scale * keras.ops.mean(keras.ops.abs(y - p))


def weighted(weight):
    return lambda y, p: weight * keras.ops.mean(keras.ops.square(y - p))


class Scaled(keras.Loss):
    def __init__(self, scale):
        super().__init__(name="scaled")  # or Keras would count
        self.scale = scale

    def call(self, y, p):
        return self.scale * (y - p)


@pytest.mark.parametrize(
    "make", [weighted, Scaled, lambda scale: functools.partial(absolute, scale)], ids=["closure", "class", "partial"]
)
def test_losses_differ_by_what_they_hold(make):
    a, b, other = (plain(make(scale)) for scale in (2.0, 2.0, 3.0))
    if make is not Scaled:  # which would have to say so in get_config
        assert a != other
    assert a == b
