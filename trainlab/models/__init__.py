"""Models: small named ones, `factory(input_shape, number of outputs, **sizes)` gives an uncompiled Keras model of logits."""

from trainlab.models.convolutional import cnn
from trainlab.models.dense import logistic_regression, mlp

__all__ = ["cnn", "logistic_regression", "mlp"]
