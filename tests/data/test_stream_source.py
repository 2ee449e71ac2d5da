import gc
import time
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawing import flat, rest_of_pass, take, updates
from small import assert_same, compiled, labelled, regression, weights

from trainlab import Trainer
from trainlab.data import stream as streams
from trainlab.data.stream_source import StreamSource


class TestStreamSource:
    def test_shapes_and_ends(self):
        x, y = regression(10)
        source = StreamSource(tf.data.Dataset.from_tensor_slices((x, y)).batch(4), None, True)
        assert source.batch_specs() == (tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]), None)
        assert source.updates_per_pass(1) == 3
        assert source.updates_per_pass(2) == 2
        assert [len(flat(take(source, 1, 2))) / 2 for _ in range(3)] == [2, 1, 0]
        assert source.at_end
        source.next_pass()
        np.testing.assert_array_equal(take(source, 1)[0][0][0], x[:4])
        assert not source.at_end

    def test_a_block_is_there_until_its_updates_are_committed(self):
        source = StreamSource(tf.data.Dataset.range(5).batch(1), None, True)
        assert [int(leaf[0]) for leaf in flat(updates(source.block(1, 2)))] == [0, 1]
        assert [int(leaf[0]) for leaf in flat(take(source, 1, 2))] == [0, 1]
        assert [int(leaf[0]) for leaf in flat(updates(source.block(9, 2)))] == [2, 3]
        assert [int(leaf[0]) for leaf in flat(rest_of_pass(source, 9, 2))] == [2, 3, 4]

    def test_ragged_and_sparse_batches_and_those_of_many_shapes(self):
        ragged = tf.ragged.constant([[1.0], [2.0, 3.0], [4.0], [5.0, 6.0, 7.0]])
        made = tf.data.Dataset.from_tensor_slices({"ragged": ragged, "sparse": tf.sparse.eye(4)}).batch(2)
        for got, want in zip(rest_of_pass(StreamSource(made, None, True), 3), made, strict=True):
            x = got[0][0]
            np.testing.assert_array_equal(x["ragged"].to_tensor(), want["ragged"].to_tensor())
            np.testing.assert_array_equal(tf.sparse.to_dense(x["sparse"]), tf.sparse.to_dense(want["sparse"]))

    def test_large_batches_are_not_taken_many_at_a_time(self, monkeypatch):
        monkeypatch.setattr(streams, "_MAX_BLOCK_BYTES", 3 * 8)
        for drop_remainder in (False, True):
            source = StreamSource(tf.data.Dataset.range(20).batch(1, drop_remainder=drop_remainder), None, True)
            assert [len(take(source, n)) for n in (1, 10, 10)] == [1, 3, 3]
            source.next_pass()
            assert len(take(source, 10)) == 3

    def test_finite_unknown_and_endless(self):
        finite = tf.data.Dataset.range(8).map(lambda i: (tf.ones([1]), tf.ones([1]))).batch(2)
        unknown = finite.filter(lambda *_: True)
        for data, size, is_endless in [(finite, 4, False), (unknown, None, False), (finite.repeat(), None, True)]:
            source = StreamSource(data, None, True)
            assert (source.updates_per_pass(1), source.is_endless) == (size, is_endless)

    def test_class_weights_become_sample_weights(self):
        x, y = labelled(6)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
        source = StreamSource(data, {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}, True)
        sample_weight = np.concatenate([batch[2] for [batch] in take(source, 2)])
        np.testing.assert_array_equal(sample_weight, y + 1)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y, self.batch_size, self.epochs_ended = x, y, batch_size, 0

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.x[part], self.y[part]

    def on_epoch_end(self):
        self.epochs_ended += 1


@pytest.mark.slow
def test_the_same_batches_train_the_same_whatever_hands_them_out():
    x, y = regression(22)

    def batches():
        for i in range(0, 22, 5):
            yield x[i : i + 5], y[i : i + 5]

    kinds = {
        "arrays": ((x, y), {"batch_size": 5, "shuffle": False}),
        "tensors": ((tf.constant(x), tf.constant(y)), {"batch_size": 5, "shuffle": False}),
        "tf.data": ((tf.data.Dataset.from_tensor_slices((x, y)).batch(5),), {}),
        "PyDataset": ((Batches(x, y, 5),), {"shuffle": False}),
        "generator": ((batches(),), {}),
    }
    results = {}
    for name, (data, kwargs) in kinds.items():
        model = compiled()
        history = Trainer(model).fit(*data, verbose=0, **kwargs)
        results[name] = weights(model), history.history["loss"]
        assert model.optimizer.iterations == 5
    for result, losses in results.values():
        assert_same(result, results["arrays"][0])
        assert losses == pytest.approx(results["arrays"][1])


def test_a_py_dataset_with_workers_is_seen_once_an_epoch_and_hears_of_its_end():
    x, y = regression(20)
    data = Batches(x, y, 5, workers=2, use_multiprocessing=False)
    model = compiled()
    Trainer(model).fit(data, epochs=3, verbose=0)
    assert model.optimizer.iterations == 12
    assert data.epochs_ended == 3


def test_nobody_reads_a_generator_any_more_when_fit_returns():
    def batches():
        while True:
            time.sleep(0.005)
            yield regression(4)

    generator, trainer = batches(), Trainer(compiled(), jit_compile=False)
    for _ in range(4):
        trainer.fit(generator, steps=3, verbose=0)
        next(generator)


def test_data_are_let_go_after_a_fit():
    trainer = Trainer(compiled(), jit_compile=False)
    alive = []
    for size in (64, 65, 66):  # last batches of other sizes are traced anew, and traces stay
        x, y = regression(size)
        alive.append(weakref.ref(x))
        trainer.fit(x, y, batch_size=8, verbose=0)
        del x, y
    gc.collect()
    assert all(array() is None for array in alive)


def test_a_pass_that_is_cut_short_is_gone_when_fit_returns(tmp_path):
    x, y = regression(400)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).cache(str(tmp_path / "cache"))  # one writer at a time
    trainer = Trainer(compiled(), jit_compile=False)
    for _ in range(3):
        trainer.fit(data, steps=3, verbose=0)
    trainer.fit(data, epochs=3, verbose=0)
    assert trainer.iterations == 9 + 300
