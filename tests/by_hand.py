"""Reference training, written as one would by hand: a tape, and assign-and-restore where another point is needed."""

import keras
import numpy as np
import tensorflow as tf
from tables import take


def flatten(tensors):
    """Tensors as one flat float64 vector."""
    return np.concatenate([np.asarray(tf.cast(tf.convert_to_tensor(t), tf.float64)).ravel() for t in tensors])


def parameters(model):
    """The trainable weights as one flat float64 vector."""
    return flatten(v.value for v in model.trainable_variables)


def assign(model, point):
    """Sets the trainable weights from a flat vector."""
    start = 0
    for variable in model.trainable_variables:
        size = int(np.prod(variable.shape))
        variable.assign(np.reshape(point[start : start + size], variable.shape).astype(variable.dtype))
        start += size


def summed(gradients, variables):
    """Gradients, row-sparse ones written out with duplicate rows summed."""
    return [
        tf.math.unsorted_segment_sum(g.values, g.indices, v.shape[0]) if isinstance(g, tf.IndexedSlices) else g
        for g, v in zip(gradients, variables, strict=True)
    ]


def loss_and_gradients(model, batch, sum_duplicates=True):
    """What a bare tape gives on one batch; also updates metrics, and what the forward pass updates."""
    x, y, sample_weight = batch
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    model._loss_tracker.update_state(loss, sample_weight=tf.shape(tf.nest.flatten(x)[0])[0])
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    return loss, summed(gradients, model.trainable_variables) if sum_duplicates else gradients


def plain_step(model):
    """The step of any tutorial: tape, gradients, apply; duplicate rows are summed for optimizers that would square each."""
    sum_duplicates = not isinstance(model.optimizer, keras.optimizers.SGD)

    def step(batch):
        _, gradients = loss_and_gradients(model, batch, sum_duplicates)
        model.optimizer.apply(gradients, model.trainable_variables)

    return step


class Gradient:
    """The gradient of a model on some batches, as a function of a flat point; every call starts from the same state.

    Batches after the first start from what the one before left; each weighs as many examples as it holds.
    """

    def __init__(self, model, batches):
        self._model = model
        self._batches = batches
        self._variables = [*model.trainable_variables, *model.non_trainable_variables, *model.metrics_variables]
        self.after = None  # the state that the first call left

    def __call__(self, point):
        before = [v.numpy() for v in self._variables]
        assign(self._model, point)
        sizes = [len(tf.nest.flatten(x)[0]) for x, _, _ in self._batches]
        total = 0.0
        for batch, size in zip(self._batches, sizes, strict=True):
            total = total + size / sum(sizes) * flatten(loss_and_gradients(self._model, batch)[1])
        if self.after is None:
            self.after = [v.numpy() for v in self._variables]
        for variable, value in zip(self._variables, before, strict=True):
            variable.assign(value)
        return total

    def keep(self):
        """Keeps the state that the first call left, but not the parameters."""
        num = len(self._model.trainable_variables)
        for variable, value in zip(self._variables[num:], self.after[num:], strict=True):
            variable.assign(value)


def train(model, case, updates, learning_rate):
    """Plain SGD with a `StrategyCase`'s direction.

    Args:
      model: compiled.
      case: the strategy.
      updates: a list of batches for each update.
      learning_rate: the step size.
    """
    velocity = 0.0
    for batches in updates:
        gradient, w = Gradient(model, batches), parameters(model)
        direction, velocity = case.by_hand(gradient, w, learning_rate, velocity)
        gradient.keep()
        assign(model, w - learning_rate * direction)


def groups(data, batch_size, num_batches, whole=False):
    """Batches `(x, y, sample_weight)` of `batch_size`, `num_batches` to an update; as one, if `whole`."""
    n = len(tf.nest.flatten(data[0])[0])
    size = batch_size * num_batches
    step = size if whole else batch_size
    return [
        [take(data, slice(i, min(i + step, start + size, n))) for i in range(start, min(start + size, n), step)]
        for start in range(0, n, size)
    ]


def relative(a, b, of=None):
    """The distance of two vectors, or lists of arrays, relative to the norm of a third: of the second by default."""
    a, b, of = (flatten(v) if isinstance(v, (list, tuple)) else v for v in (a, b, b if of is None else of))
    return float(np.linalg.norm(a - b) / np.linalg.norm(of))
