"""Who trains: trainlab, Keras' `fit`, and loops written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import keras
import tensorflow as tf

import trainlab as tl
from benchmarking.workloads import Workload
from trainlab.loop.loop import Loop
from trainlab.loop.nonfinite import Watch

Run = Callable[[], int]  # trains, and returns on how many batches; everything is built, traced, compiled and chosen before


class _StopAfterOneEpoch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def ours(
    workload: Workload, strategy: tl.StepStrategy, jit_compile: Any = "auto", optimizer: Any = None, **settings: Any
) -> tuple[Run, str]:
    """trainlab, and what it chose; a run goes over the data as often as others do, whatever an update takes of them."""
    given = workload.given()
    trainer = tl.Trainer(workload.compiled(optimizer), strategy, jit_compile=jit_compile, **settings)
    # A long run, as far as the choice of XLA can know.
    trainer.fit(**given, epochs=10**6, verbose=0, callbacks=[_StopAfterOneEpoch()])

    def run() -> int:
        trainer.fit(**given, epochs=workload.epochs, verbose=0)
        return workload.updates * workload.epochs

    return run, "XLA" if trainer.jit_compile else "no XLA"


@contextmanager
def _unguarded() -> Iterator[None]:
    with (
        mock.patch.object(Watch, "is_surely_finite", lambda self: tf.constant(True)),
        mock.patch.object(Loop, "transaction", lambda self: nullcontext()),
    ):
        yield


def ours_unguarded(workload: Workload, jit_compile: bool, **settings: Any) -> Run:
    """Trainlab's plain step without a look at whether all is finite, and with no way back: nobody can have that but here."""
    with _unguarded():
        run, _ = ours(workload, tl.SGD(), jit_compile, **settings)

    def unguarded() -> int:
        with _unguarded():
            return run()

    return unguarded


def keras_fit(workload: Workload, steps_per_execution: int = 1, jit_compile: Any = "auto", accumulate: int | None = None) -> Run:
    """`keras.Model.fit`; with its defaults unless told otherwise."""
    given = workload.given()
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulate)
    model = workload.compiled(optimizer, steps_per_execution=steps_per_execution, jit_compile=jit_compile)

    def run() -> int:
        model.fit(**given, epochs=workload.epochs, verbose=0)
        return workload.updates * workload.epochs

    return run


def by_hand(workload: Workload, step: Callable[[keras.Model, Any, Any], None], steps_a_call: int, jit_compile: bool) -> Run:
    """A `tf.function` loop over a well-made `tf.data` pipeline, or over the workload's own."""
    x, y = workload.arrays()
    model = built(workload, x, y)
    data = iter(workload.dataset(x, y).repeat() if workload.is_stream else _well_made(workload, x, y))
    one = tf.function(lambda a, b: step(model, a, b), jit_compile=jit_compile, autograph=False)

    @tf.function(autograph=False)
    def steps(iterator: Any) -> None:
        def body(i: tf.Tensor) -> list[tf.Tensor]:
            one(*next(iterator))
            return [i + 1]

        tf.while_loop(lambda i: i < steps_a_call, body, [tf.constant(0)], parallel_iterations=1)

    def run() -> int:
        for _ in range(workload.epochs):
            for metric in model.metrics:
                metric.reset_state()
            for _ in range(workload.updates // steps_a_call):
                steps(data)
            float(model.get_metrics_result()["loss"])
        return workload.updates // steps_a_call * steps_a_call * workload.epochs

    return run


def _well_made(workload: Workload, x: Any, y: Any) -> tf.data.Dataset:
    """Indices shuffled epoch by epoch, batches gathered, prefetched."""
    x, y = tf.constant(x), tf.constant(y)
    epochs = tf.data.Dataset.from_tensors(tf.range(len(x))).repeat().map(tf.random.shuffle)
    batches = epochs.flat_map(lambda i: tf.data.Dataset.from_tensor_slices(tf.reshape(i, [-1, workload.batch_size])))
    return batches.map(lambda i: (tf.gather(x, i), tf.gather(y, i))).prefetch(tf.data.AUTOTUNE)


def limit(workload: Workload, step: Callable[[keras.Model, Any, Any], None], jit_compile: bool) -> Run:
    """One fixed batch in a compiled loop that does nothing else, no data and no metrics: a bare step's arithmetic."""
    x, y = workload.arrays()
    model = built(workload, x, y)
    x, y = tf.constant(x[: workload.batch_size]), tf.constant(y[: workload.batch_size])

    def body(i: tf.Tensor) -> list[tf.Tensor]:
        step(model, x, y)
        return [i + 1]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def steps(number: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda i: i < number, body, [tf.constant(0)], parallel_iterations=1)[0]

    return lambda: int(steps(tf.constant(workload.updates * workload.epochs)))


def bare_step(model: keras.Model, x: Any, y: Any) -> None:
    """A plain step and nothing else."""
    values = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    model.optimizer.apply(_bare_gradient(model, values, x, y), model.trainable_variables)


def bare_heun_step(model: keras.Model, x: Any, y: Any) -> None:
    """Heun and nothing else: no variable is assigned but by the optimizer."""
    values = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    rate = tf.convert_to_tensor(model.optimizer.learning_rate)
    here = _bare_gradient(model, values, x, y)
    ahead = _bare_gradient(model, [_euler(value, rate, g) for value, g in zip(values, here, strict=True)], x, y)
    model.optimizer.apply([_mean(a, b) for a, b in zip(here, ahead, strict=True)], model.trainable_variables)


def _bare_gradient(model: keras.Model, values: list[tf.Tensor], x: Any, y: Any) -> list[Any]:
    swapped = zip(model.trainable_variables, values, strict=True)
    with tf.GradientTape() as tape, keras.StatelessScope(state_mapping=swapped):
        tape.watch(values)
        loss = model.compute_loss(x, y, model(x, training=True))
    return tape.gradient(loss, values)


def plain_step(model: keras.Model, x: Any, y: Any) -> None:
    """The step that everybody writes."""
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred)
    model.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    _update_metrics(model, x, y, y_pred, loss)


def heun_step(model: keras.Model, x: Any, y: Any) -> None:
    """Heun by assigning the probe point to the variables and putting the old values back; row-sparse where Keras is."""
    variables = [v.value for v in model.trainable_variables]
    rate = model.optimizer.learning_rate

    def evaluate() -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred)
        return y_pred, loss, tape.gradient(loss, variables)

    y_pred, loss, here = evaluate()
    before = [None if isinstance(g, tf.IndexedSlices) else v.read_value() for v, g in zip(variables, here, strict=True)]
    for variable, gradient in zip(variables, here, strict=True):
        if isinstance(gradient, tf.IndexedSlices):
            variable.scatter_sub(tf.IndexedSlices(rate * gradient.values, gradient.indices))
        else:
            variable.assign_sub(rate * gradient)
    _, _, ahead = evaluate()
    means = []
    for variable, value, a, b in zip(variables, before, here, ahead, strict=True):
        if value is None:
            variable.scatter_add(tf.IndexedSlices(rate * a.values, a.indices))
        else:
            variable.assign(value)
        means.append(_mean(a, b))
    model.optimizer.apply(means, model.trainable_variables)
    _update_metrics(model, x, y, y_pred, loss)


def _euler(value: tf.Tensor, rate: tf.Tensor, gradient: Any) -> tf.Tensor:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.tensor_scatter_nd_sub(value, gradient.indices[:, None], rate * gradient.values)
    return value - rate * gradient


def _mean(a: Any, b: Any) -> Any:
    if isinstance(a, tf.IndexedSlices):
        return tf.IndexedSlices(tf.concat([a.values, b.values], 0) / 2, tf.concat([a.indices, b.indices], 0), a.dense_shape)
    return (a + b) / 2


def _update_metrics(model: keras.Model, x: Any, y: Any, y_pred: Any, loss: Any) -> None:
    model._loss_tracker.update_state(loss, sample_weight=tf.shape(y)[0])
    model.compute_metrics(x, y, y_pred)


def built(workload: Workload, x: Any, y: Any) -> keras.Model:
    """The workload's compiled model with all of its variables, for a loop by hand."""
    model = workload.compiled()
    model._symbolic_build(data_batch=(x[: workload.batch_size], y[: workload.batch_size]))
    model.optimizer.build(model.trainable_variables)
    return model
