"""The table of models with a `train_step` of their own: those of own_steps.py, and steps that differ in one thing each."""

# ruff: noqa: B905  tutorials write zip without strict

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from own_steps import Byol, Diffusion, Distiller, Masked, Means, SimClr, SimSiam, Vae, dense, mlp

LOGITS = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)


class CallsSuper(keras.Model):
    """Keras' own step, and logs beside it, in a dictionary and as a number; noise, BatchNorm, penalties."""

    def __init__(self):
        super().__init__()
        self.hidden = dense(6, "tanh", kernel_regularizer="l2", activity_regularizer="l2")
        self.norm, self.dropout, self.out = layers.BatchNormalization(momentum=0.6), layers.Dropout(0.3, seed=8), dense(3)

    def call(self, x, training=False):
        x = self.dropout(self.norm(self.hidden(x), training=training), training=training)
        self.add_loss(0.01 * ops.mean(ops.square(x)))
        return self.out(x)

    def train_step(self, data):
        logs = super().train_step(data)
        return logs | {"twice": {"the_loss": 2 * logs["loss"]}, "answer": 42.0}


class Clipping(keras.Model):
    """Clips by the global norm itself, takes weights, adds `self.losses`, and reports the norm; a tape that watches by hand."""

    def __init__(self):
        super().__init__()
        self.body = mlp(4, 6, 3, kernel_regularizer="l2")

    def call(self, x):
        return self.body(x)

    def train_step(self, data):
        x, y, sample_weight = data
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self.trainable_variables])
            loss = LOGITS()(y, self(x, training=True), sample_weight) + sum(self.losses)
        gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
        gradients, norm = tf.clip_by_global_norm(gradients, 0.3)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self._loss_tracker.update_state(loss, sample_weight=tf.reduce_sum(sample_weight))
        return {"loss": self._loss_tracker.result(), "norm": norm}


class TwoLosses(Means):
    """Reconstructs and classifies in one tape, of dictionaries; `apply` by an optimizer that is built and given no variables."""

    means = ("loss", "reconstruction", "classification")

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.classifier = mlp(4, 5, 3), mlp(3, 5, 4), mlp(3, 3)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            code = self.encoder(x["image"] * x["scale"])
            reconstruction = ops.mean(ops.square(self.decoder(code) - x["image"]))
            classification = LOGITS()(y["label"], self.classifier(code))
            loss = reconstruction + classification
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
        return self.report(loss, reconstruction, classification)


class Persistent(keras.Model):
    """Two losses for two parts from one persistent tape, applied once; a loss that differentiates with respect to its input."""

    def __init__(self):
        super().__init__()
        self.left, self.right = mlp(4, 4, 1), mlp(4, 3, 1)

    def train_step(self, x):
        with tf.GradientTape(persistent=True) as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                score = self.left(x)
            slope = ops.sqrt(ops.sum(ops.square(inner.gradient(score, x)), axis=1))
            left_loss = ops.mean(ops.square(slope - 1)) + 0.1 * ops.mean(ops.square(score))
            right_loss = ops.mean(ops.square(self.right(x) - ops.stop_gradient(score)))
        gradients = tape.gradient(left_loss, self.left.trainable_variables)
        gradients += tape.gradient(right_loss, self.right.trainable_variables)
        del tape
        self.optimizer.apply(gradients, self.left.trainable_variables + self.right.trainable_variables)
        return {"loss": left_loss + right_loss, "left": left_loss}


class MixUp(keras.Model):
    """Mixes each example with another; compiled loss and metrics; decorated with `tf.function`, as old tutorials do."""

    def __init__(self):
        super().__init__()
        self.seeds, self.body = keras.random.SeedGenerator(9), mlp(4, 5, 2)

    def call(self, x):
        return self.body(x)

    @tf.function
    def train_step(self, data):
        x, y = data
        share = keras.random.beta((ops.shape(x)[0], 1), 0.4, 0.4, seed=self.seeds)
        x, y = (share * z + (1 - share) * ops.flip(z, axis=0) for z in (x, y))
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        for metric in self.metrics:
            metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


class Consistency(Means):
    """keras.io/examples/vision/consistency_training: a teacher, not trained, sees clean examples and the student noisy ones."""

    means = ("loss", "distillation_loss")

    def __init__(self):
        super().__init__()
        self.student, self.teacher = mlp(4, 5, 3), mlp(4, 5, 3)
        self.teacher.trainable = False

    def train_step(self, data):
        noisy_ds, clean_ds = data
        noisy_images, _ = noisy_ds
        clean_images, y = clean_ds
        teacher_predictions = self.teacher(clean_images, training=False)
        with tf.GradientTape() as tape:
            student_predictions = self.student(noisy_images, training=True)
            student_loss = LOGITS()(y, student_predictions)
            distillation_loss = keras.losses.KLDivergence()(
                ops.nn.softmax(teacher_predictions / 10, axis=-1), ops.nn.softmax(student_predictions / 10, axis=-1)
            )
            total_loss = (student_loss + distillation_loss) / 2
        gradients = tape.gradient(total_loss, self.student.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.student.trainable_variables))
        return self.report(student_loss, distillation_loss)


class WordsInOrder(Means):
    """An Embedding, whose gradient is row-sparse, and an LSTM that goes on from batch to batch; a metric that is a dictionary."""

    def __init__(self):
        super().__init__()
        self.table, self.lstm = layers.Embedding(7, 3, embeddings_initializer="normal"), layers.LSTM(4, stateful=True)
        self.out, self.f1 = dense(3), Counts(name="counts")

    @property
    def metrics(self):
        return [*self.trackers, self.f1]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self.out(self.lstm(self.table(x), training=True))
            loss = LOGITS()(y, y_pred)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        self.f1.update_state(y, y_pred)
        return self.report(loss) | self.f1.result()


class Counts(keras.metrics.Metric):
    """How many were right, and of how many: a dictionary."""

    def __init__(self, name):
        super().__init__(name=name)
        self.right, self.all = (self.add_weight(name=name, initializer="zeros") for name in ("right", "all"))

    def update_state(self, y, y_pred, sample_weight=None):
        self.right.assign_add(ops.sum(ops.cast(ops.equal(ops.argmax(y_pred, axis=-1), ops.cast(y, "int64")), "float32")))
        self.all.assign_add(ops.cast(ops.shape(y)[0], "float32"))

    def result(self):
        return {"num_right": self.right.value, "num_all": self.all.value}


class Averaged(keras.Model):
    """A shadow of the weights whose decay depends on the optimizer's count; logs of the rate, the count before, and after."""

    def __init__(self):
        super().__init__()
        self.body, self.shadow = mlp(4, 4, 1), mlp(4, 4, 1)
        self.shadow.trainable = False

    def train_step(self, data):
        x, y = data
        count = ops.cast(self.optimizer.iterations, "float32")
        decay = ops.minimum(0.9, (1 + count) / (4 + count))
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self.body(x) - y))
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.body.trainable_variables), self.body.trainable_variables))
        for ours, theirs in zip(self.body.weights, self.shadow.weights, strict=True):
            theirs.assign(decay * theirs + (1 - decay) * ours)
        rate = ops.convert_to_tensor(self.optimizer.learning_rate)
        later = ops.mean(ops.square(self.body(x) - y))
        return {"loss": loss, "later": later, "before": count, "count": self.optimizer.iterations + 0, "rate": rate}


@dataclasses.dataclass(frozen=True)
class OwnStep:
    """A model with a step of its own.

    Attributes:
      make: builds it, uncompiled.
      data: `(rng, n) -> x` or `(x, y)` or `(x, y, sample_weight)`, NumPy: what a data set of it hands to the step.
      compile: makes the arguments of `compile` besides the optimizer.
      after: what the step does with the weights once they are new, by hand: `(model, start)` assigns; `start` gives a
        variable's value before the update.
      late: the variables that it assigns then.
      late_logs: the logs that it computes then.
      is_random: whether it draws: XLA draws others.
      needs_full: whether every batch must be of one size.
    """

    make: Callable[[], keras.Model]
    data: Callable[[np.random.Generator, int], Any]
    compile: Callable[[], dict[str, Any]] = dict
    after: Callable[[Any, Callable[[Any], Any]], None] = lambda model, start: None
    late: Callable[[Any], list[Any]] = lambda model: []
    late_logs: tuple[str, ...] = ()
    is_random: bool = False
    needs_full: bool = False

    def compiled(self, optimizer=None, seed=1, **kwargs):
        """The model, compiled; the same weights for the same seed. The optimizer is SGD(0.1) by default."""
        keras.utils.set_random_seed(seed)
        model = self.make()
        optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
        model.compile(optimizer=optimizer, **{"jit_compile": False, **self.compile(), **kwargs})
        return model

    def arrays(self, n, seed=3):
        """`n` examples."""
        return self.data(np.random.default_rng(seed), n)

    def dataset(self, n, batch_size):
        """The same as a data set of batches."""
        return tf.data.Dataset.from_tensor_slices(self.arrays(n)).batch(batch_size, drop_remainder=self.needs_full)


def _x(width):
    return lambda rng, n: rng.normal(size=(n, width)).astype("float32")


def _two(rng, n):
    return _x(5)(rng, n), _x(5)(rng, n)


def _labelled(rng, n):
    return _x(4)(rng, n), rng.integers(3, size=n)


def _targets(rng, n):
    return _x(4)(rng, n), _x(2)(rng, n)


def _follow(ours, theirs, keep):
    def after(model, start):
        for weight, shadow in zip(ours(model), theirs(model), strict=True):
            decay = keep(start(model.optimizer.iterations)) if callable(keep) else keep
            shadow.assign(decay * start(shadow) + (1 - decay) * weight.numpy())

    return {"after": after, "late": theirs}


DISTILLING = {"metrics": ["accuracy"], "distillation_loss_fn": keras.losses.KLDivergence()}
DIFFUSING = {"loss": keras.losses.mean_absolute_error}

OWN_STEPS = {
    "vae": OwnStep(Vae, _x(6), is_random=True),
    "diffusion": OwnStep(
        Diffusion,
        _x(4),
        lambda: DIFFUSING,
        **_follow(lambda m: m.network.trainable_weights, lambda m: m.ema_network.trainable_weights, 0.9),
        is_random=True,
    ),
    "masked": OwnStep(
        Masked,
        lambda rng, n: rng.normal(size=(n, 12)).astype("float32"),
        lambda: {"loss": keras.losses.MeanSquaredError(), "metrics": ["mae"]},
        is_random=True,
    ),
    "distiller_frozen": OwnStep(lambda: Distiller(True), _labelled, lambda: DISTILLING | {"student_loss_fn": LOGITS()}),
    "distiller": OwnStep(lambda: Distiller(False), _labelled, lambda: DISTILLING | {"student_loss_fn": LOGITS()}),
    "simclr": OwnStep(SimClr, lambda rng, n: (_x(5)(rng, n), (_x(5)(rng, n), rng.integers(3, size=n))), is_random=True),
    "simsiam": OwnStep(SimSiam, _two),
    "byol": OwnStep(
        Byol,
        _two,
        **_follow(lambda m: m.online.weights, lambda m: m.target.weights, 0.8),
        late_logs=("distance",),
    ),
    "calls_super": OwnStep(CallsSuper, _labelled, lambda: {"loss": LOGITS(), "metrics": ["accuracy"]}, is_random=True),
    "clipping": OwnStep(Clipping, lambda rng, n: (*_labelled(rng, n), rng.uniform(0.2, 2, n).astype("float32"))),
    "two_losses": OwnStep(
        TwoLosses,
        lambda rng, n: (
            {"image": _x(4)(rng, n), "scale": rng.uniform(0.5, 2, (n, 1)).astype("float32")},
            {"label": rng.integers(3, size=n)},
        ),
    ),
    "persistent": OwnStep(Persistent, _x(4)),
    "mixup": OwnStep(MixUp, _targets, lambda: {"loss": "mse", "metrics": ["mae"]}, is_random=True),
    "consistency": OwnStep(Consistency, lambda rng, n: (_labelled(rng, n), _labelled(rng, n))),
    "words_in_order": OwnStep(
        WordsInOrder, lambda rng, n: (rng.integers(7, size=(n, 5)), rng.integers(3, size=n)), needs_full=True
    ),
    "averaged": OwnStep(
        Averaged,
        lambda rng, n: (_x(4)(rng, n), _x(1)(rng, n)),
        **_follow(lambda m: m.body.weights, lambda m: m.shadow.weights, lambda i: min(0.9, (1 + i) / (4 + i))),
        late_logs=("later", "count"),
    ),
}
EXACT = [name for name, case in OWN_STEPS.items() if not case.is_random]
