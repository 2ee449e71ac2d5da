"""Models: small named ones, `factory(input_shape, number of outputs, **sizes)` gives an uncompiled Keras model of logits."""

from trainlab.models.convolutional import cnn
from trainlab.models.dense import logistic_regression, mlp
from trainlab.models.games import BilinearGame, Gan, GradientReversal
from trainlab.models.sequences import lstm, text_transformer
from trainlab.models.tables import tabular

__all__ = [
    "BilinearGame",
    "Gan",
    "GradientReversal",
    "cnn",
    "logistic_regression",
    "lstm",
    "mlp",
    "tabular",
    "text_transformer",
]
