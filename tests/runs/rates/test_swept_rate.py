"""A learning rate is set whatever holds it, and is what it was afterwards."""

import keras
import numpy as np
import pytest

from trainlab.runs.rates import SweptRate

SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.5 ** keras.ops.cast(step, "float32")


def several(*rates):
    """A MultiOptimizer of SGDs of these rates, each with a variable of its own; built."""
    variables = [keras.Variable(1.0, name=f"v{i}") for i in range(len(rates))]
    inner = {v.path: SGD(rate) for v, rate in zip(variables, rates, strict=True)}
    optimizer = keras.optimizers.MultiOptimizer(lambda v: inner[v.path])
    optimizer.build(variables)
    return optimizer, list(inner.values())


@pytest.mark.parametrize(
    ("make", "now"),
    [
        (lambda: SGD(0.1), 0.1),
        (lambda: Adam(0.0), 0.0),
        (lambda: SGD(Halving()), 1.0),
        (lambda: SGD(keras.optimizers.schedules.PolynomialDecay(0.3, 10)), 0.3),
        (lambda: SGD(lambda: 0.2), 0.2),
        (lambda: keras.optimizers.LossScaleOptimizer(Adam(0.01)), 0.01),
        (lambda: keras.optimizers.LossScaleOptimizer(Adam(Halving())), 1.0),
    ],
)
def test_one_rate(make, now):
    optimizer = make()
    rate = SweptRate(optimizer)
    before = vars(getattr(optimizer, "inner_optimizer", optimizer))["_learning_rate"]
    assert rate.now == pytest.approx(now)
    assert not rate.are_several
    with rate:
        for value in (1e-7, 3.0):
            rate.set(value)
            assert float(optimizer.learning_rate) == pytest.approx(value)
    assert float(optimizer.learning_rate) == np.float32(now)
    assert vars(getattr(optimizer, "inner_optimizer", optimizer))["_learning_rate"] is before
    assert rate.is_replaced is not isinstance(before, keras.Variable)


def test_several_keep_their_ratios():
    optimizer, inner = several(0.1, 0.02, 0.0)
    with SweptRate(optimizer) as rate:
        assert rate.are_several
        rate.set(1.0)
        assert [float(one.learning_rate) for one in inner] == pytest.approx([1.0, 0.2, 0.0])
    assert [float(one.learning_rate) for one in inner] == [np.float32(r) for r in (0.1, 0.02, 0.0)]


def test_it_is_put_back_after_an_error():
    optimizer = SGD(Halving())
    with pytest.raises(RuntimeError), SweptRate(optimizer) as rate:
        rate.set(5.0)
        raise RuntimeError
    assert float(optimizer.learning_rate) == 1.0
