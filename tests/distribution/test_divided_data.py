"""Whatever hands over batches: whole ones, cut on the way to the devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicating import assert_same_training, mirrored
from small import classifier, compiled, labelled, regression

import trainlab as tl

X, Y = regression(26)


def fit(make, replicas, x, y=None, strategy=None, fit=None, **settings):
    keras.utils.set_random_seed(1)
    model = make()
    trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), **{"jit_compile": False, **settings})
    given = {"verbose": 0, "epochs": 2} | ({} if y is None else {"batch_size": 6})
    return model, trainer.fit(x, y, **{**given, **(fit or {})}).history


def same(make, data, replicas=4, **settings):
    """Trains on one device and on several; `data` makes what `fit` takes."""
    one, several = (fit(make, number, *data(), **settings) for number in (None, replicas))
    assert_same_training(one, several, 2e-6)


def mlp():
    hidden = keras.layers.Dense(3, "tanh", kernel_regularizer="l2", activity_regularizer="l2")
    return compiled(keras.Sequential([keras.Input([3]), hidden, keras.layers.Dense(1)]), metrics=["mae"])


def ragged_stream():
    sizes = (5, 1, 7, 2, 11)
    ends = np.cumsum(sizes)
    weights = np.linspace(0.2, 3, 26).astype("float32")
    batches = lambda: ((X[e - n : e], Y[e - n : e], weights[e - n : e]) for e, n in zip(ends, sizes, strict=True))  # noqa: E731
    shapes = [None, 3], [None, 1], [None]
    return (tf.data.Dataset.from_generator(batches, output_signature=tuple(tf.TensorSpec(s) for s in shapes)),)


class Pieces(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[5 * index : 5 * index + 5], Y[5 * index : 5 * index + 5]


def generator():
    for _ in range(2):
        for start in range(0, 26, 5):
            yield X[start : start + 5], Y[start : start + 5]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 2}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Accumulate(3, tl.Heun())], ids=repr)
def test_streams_of_batches_of_any_size(strategy, settings):
    same(mlp, ragged_stream, strategy=strategy, **settings)


@pytest.mark.parametrize(
    "data",
    [
        lambda: (tf.data.Dataset.from_tensor_slices((X, Y)).batch(6, drop_remainder=True),),
        lambda: (tf.data.Dataset.from_tensor_slices((X, Y)).batch(6),),
        lambda: (Pieces(),),
        lambda: (Pieces(workers=2),),
    ],
    ids=["known", "open", "PyDataset", "threads"],
)
@pytest.mark.slow
def test_streams(data):
    same(mlp, data, strategy=tl.Accumulate(2))


@pytest.mark.slow
def test_a_generator():
    same(mlp, lambda: (generator(),), fit={"steps_per_epoch": 6})


@pytest.mark.slow
def test_sparse_arrays():
    x = tf.sparse.from_dense(np.where(X > 0, X, 0))
    make = lambda: compiled(keras.Sequential([keras.Input([3], sparse=True), keras.layers.Dense(1)]))  # noqa: E731
    same(make, lambda: (x, Y))
    same(make, lambda: (x, Y), strategy=tl.Accumulate(2))


class Summed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(tf.reduce_sum(x, axis=1, keepdims=True))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Accumulate(2)], ids=repr)
def test_ragged_arrays(strategy):
    x = tf.ragged.constant([[float(v) for v in X[i, : 1 + i % 3]] for i in range(26)])
    same(lambda: compiled(Summed()), lambda: (x, Y), strategy=strategy)


@pytest.mark.slow
def test_weights_of_classes_and_validation():
    x, y = labelled(26)
    classes = {0: 1.0, 1: 2.0, 2: 0.5, 3: 3.0}
    same(lambda: classifier(metrics=["accuracy"]), lambda: (x, y), fit={"class_weight": classes, "validation_split": 0.3})


@pytest.mark.slow
def test_arrays_streamed_in_an_order(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", X.shape)
    x[:] = X
    same(mlp, lambda: (x, Y))


def test_data_are_gathered_on_the_first_device_and_only_a_part_of_them():
    """What is cut are the rows' numbers: no operation has the examples of a whole batch."""
    x, y = regression(24)
    trainer = tl.Trainer(compiled(), distribute=mirrored(2), jit_compile=False)
    trainer.fit(x, y, batch_size=8, verbose=0)
    shapes = [shape for program in trainer._loops.made.loop._functions.values() for shape in _gathered(program.graph)]
    assert shapes and all(shape[0] in (4, 24, None) for shape in shapes)


def _gathered(graph):
    for operation in graph.get_operations():
        if operation.type.startswith(("Gather", "ResourceGather")):
            yield operation.outputs[0].shape
        for attribute in operation.node_def.attr.values():
            for function in (attribute.func, *attribute.list.func):
                if function.name and hasattr(graph._get_function(function.name), "graph"):
                    yield from _gathered(graph._get_function(function.name).graph)


class TwoSets(keras.Model):
    """Trained on two sets at once, as contrastive learning does on images with and without labels."""

    def __init__(self):
        super().__init__()
        self.net = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])

    def train_step(self, data):
        a, b = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(self.net(a) ** 2) + (keras.ops.mean(self.net(b) ** 2) if b.shape.rank else b)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def zipped(sizes, drop_remainder):
    sets = [tf.data.Dataset.from_tensor_slices(X[: 2 * n]).batch(n, drop_remainder=drop_remainder) for n in sizes]
    return (tf.data.Dataset.zip(tuple(sets)),)


def two_sets():
    model = TwoSets()
    model.compile(keras.optimizers.SGD(0.1))
    return model


@pytest.mark.slow
def test_tensors_of_different_first_axes_are_not_cut_by_the_first():
    """Of the larger set examples would be left out, of the smaller one a shard be empty."""
    same(two_sets, lambda: zipped((6, 6), False), 2)  # control
    with pytest.raises(ValueError, match="^distribute needs .* first axes have 4 and 12: write distribute=None$"):
        fit(two_sets, 2, *zipped((4, 12), True))
    for sizes in ((4, 12), (12, 4)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="distribute_needs_first_axes_of_one_size"):
            fit(two_sets, 2, *zipped(sizes, False))


@pytest.mark.slow
def test_a_number_for_the_whole_batch_is_not_cut():
    batches = tf.data.Dataset.zip((tf.data.Dataset.from_tensor_slices(X[:8]).batch(4), tf.data.Dataset.range(2)))
    batches = batches.map(lambda a, n: (a, tf.cast(n, "float32")))
    fit(two_sets, None, batches)  # control
    with pytest.raises(ValueError, match="^distribute needs .* one is a scalar: write distribute=None$"):
        fit(two_sets, 2, batches)
