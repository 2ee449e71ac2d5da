"""Trainings on one device and on several, compared."""

import keras
import numpy as np
import tensorflow as tf
from small import weights

import trainlab as tl

TOLERANCES = {"float64": 1e-12, "float32": 1e-6}


def mirrored(num_replicas):
    """A strategy over so many of the logical CPU devices; None for one device, without any."""
    return None if num_replicas is None else tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(num_replicas)])


def hard_optimizer():
    """Momentum, clipping by the norm of the whole gradient, averaged weights that are taken over, a schedule, decay."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.8)
    settings = {"momentum": 0.5, "weight_decay": 1e-3}
    return keras.optimizers.SGD(
        schedule, global_clipnorm=0.3, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3, **settings
    )


def trained(case, strategy=None, replicas=None, weigh=True, optimizer=None, trainer=None, num_examples=26, **fit):
    """A model of the table, trained on ragged batches; and its history."""
    model = case.compiled(hard_optimizer() if optimizer is None else optimizer)
    settings = {"jit_compile": False, **(trainer or {})}
    x, y = case.arrays(num_examples)
    sample_weight = case.weights(num_examples) if weigh else None
    trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), **settings)
    fit = {"batch_size": 6, "epochs": 2, "sample_weight": sample_weight, "verbose": 0, **fit}
    return model, trainer.fit(x, y, **fit).history


def distance(model, other):
    """Of all weights of two models, relative to their norm."""
    a, b = (np.concatenate([w.ravel() for w in weights(each)]) for each in (model, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def assert_logs_close(history, other, tolerance, single=()):
    """Logs are equal, but for rounding; those in `single`, which are kept in float32 whatever the precision, to its."""
    assert history.keys() == other.keys()
    for name in history:
        tolerance_of = max(tolerance, 2e-6) if name in single else tolerance
        np.testing.assert_allclose(
            np.array(history[name], float), np.array(other[name], float), rtol=tolerance_of, atol=tolerance_of
        )


def assert_same_training(one, several, tolerance):
    """Models and histories of two trainings are equal, but for rounding."""
    assert distance(one[0], several[0]) <= tolerance
    metrics = {name.removeprefix("val_") for name in one[0].get_metrics_result()}
    steps = [name for name in one[1] if name.removeprefix("val_") not in metrics]  # what a strategy logs, or loss scaling
    assert_logs_close(one[1], several[1], tolerance if keras.config.floatx() == "float64" else max(tolerance, 2e-6), steps)
