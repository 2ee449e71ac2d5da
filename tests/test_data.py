import gc
import os
import time
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, labelled, regression, weights

from trainlab import Accumulate, Trainer
from trainlab import data as sources
from trainlab import stream as streams
from trainlab.data import ArraySource, StreamSource

KINDS = ["resident", "streamed"]


@pytest.fixture
def kind(request, monkeypatch):
    """Whether arrays fit on the device."""
    if request.param == "streamed":
        monkeypatch.setattr(sources, "RESIDENT_SHARE", 0.0)
    return request.param


def updates(block):
    """The batches of each update of a block."""
    found = []

    def step(parts):
        found.append([part.fetch(tf.constant(i)) for part in parts for i in range(part.num_batches)])

    assert int(block.layout.program(step, None)(*block.arguments)) == block.num_updates == len(found)
    return found


def take(source, max_updates, batches=1):
    """The same of a source's next block, used up."""
    block = source.block(max_updates, batches)
    if block is None:
        return []
    source.advance(block)
    return updates(block)


def flat(found):
    """All tensors of some updates."""
    return [leaf for leaf in tf.nest.flatten(found) if leaf is not None]


def rest_of_pass(source, max_updates, batches=1):
    found = []
    while got := take(source, max_updates, batches):
        found += got
    return found


class TestArraySource:
    def test_specs_positions_and_passes(self):
        x, y = regression(10)
        source = ArraySource((x, y, None), 4, True, 0)
        assert (source.num_examples, source.at_end, source.is_endless) == (10, False, False)
        assert [source.updates_per_pass(n) for n in (1, 2, 3, 4)] == [3, 2, 1, 1]
        assert source.batch_specs() == (tf.TensorSpec([4, 3]), tf.TensorSpec([4, 1]), None)
        source.position = 10
        assert source.at_end
        source.next_pass()
        assert (source.epoch, source.position, source.at_end) == (1, 0, False)

    def test_nests_keep_their_structure(self):
        x, y = regression(6)
        source = ArraySource(({"a": x, "b": [y, y]}, None, y), 2, False, 0)
        packed = take(source, 1)[0][0]
        tf.nest.assert_same_structure(packed, ({"a": 0, "b": [0, 0]}, None, 0))
        np.testing.assert_array_equal(packed[0]["b"][1], y[:2])
        tf.nest.assert_same_structure(source.first_batch(), packed)

    def test_a_batch_larger_than_the_data(self):
        x, y = regression(3)
        assert ArraySource((x, y, None), 32, True, 0).batch_specs()[0].shape == (3, 3)

    @pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 64])
    @pytest.mark.parametrize("num_batches", [1, 3])
    def test_every_example_is_seen_once_an_epoch(self, batch_size, num_batches):
        # The gradient of sum(w * x) is the sum of a batch's one-hot examples: each weight counts how often its example came.
        x = np.eye(10, dtype="float32")
        model = dense_model(lambda: keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"), num_features=10)
        compiled(model, keras.optimizers.SGD(1.0), loss=keras.losses.MeanAbsoluteError("sum"))
        trainer = Trainer(model, Accumulate(num_batches))
        target = np.full((10, 1), 1e6, "float32")
        for epoch in range(1, 4):
            trainer.fit(x, target, batch_size=batch_size, verbose=0)
            np.testing.assert_array_equal(model.get_weights()[0], np.full((10, 1), epoch))

    @pytest.mark.parametrize("kind", KINDS, indirect=True)
    def test_a_block_is_there_until_its_updates_are_committed(self, kind):
        source = ArraySource((np.arange(20), None, None), 3, True, 0)
        assert source.is_resident is (kind == "resident")
        first = [updates(source.block(2, 2)) for _ in range(3)]
        assert source.position == 0
        for again in first[1:]:
            assert_same(flat(again), flat(first[0]))
        source.advance(source.block(2, 2))
        assert source.position == 12
        assert sorted(np.concatenate(flat(rest_of_pass(source, 2, 2) + first[0]))) == list(range(20))
        assert source.at_end and source.block(1, 2) is None

    @pytest.mark.parametrize("kind", KINDS, indirect=True)
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_an_order_is_that_of_seed_and_epoch_alone(self, kind, shuffle):
        x = np.arange(23)
        orders = []
        for max_updates, batch_size, batches in [(1, 4, 1), (7, 1, 2), (3, 4, 3), (100, 5, 1)]:
            source = ArraySource((x, None, None), batch_size, shuffle, 3)
            source.next_pass()
            orders.append(np.concatenate(flat(rest_of_pass(source, max_updates, batches))))
        resident = ArraySource((x, None, None), 23, shuffle, 3)
        resident.epoch = 1
        orders.append(np.concatenate(flat(take(resident, 1))))
        for order in orders[1:]:
            np.testing.assert_array_equal(order, orders[0])
        assert (list(orders[0]) == list(x)) is not shuffle
        assert sorted(orders[0]) == list(x)
        resident.next_pass()  # control
        assert (list(take(resident, 1)[0][0][0].numpy()) == list(orders[0])) is not shuffle

    @pytest.mark.parametrize("kind", ["streamed"], indirect=True)
    def test_goes_on_wherever_it_is_put(self, kind):
        source = ArraySource((np.arange(20), None, None), 3, True, 0)
        whole = flat(rest_of_pass(source, 2))
        source.epoch, source.position = 0, 9
        assert_same(flat(rest_of_pass(source, 5)), whole[3:])

    @pytest.mark.parametrize("kind", ["streamed"], indirect=True)
    @pytest.mark.parametrize("make", [np.asarray, tf.constant, "memmap"])
    def test_arrays_too_large_for_the_device_train_the_same(self, kind, make, monkeypatch, tmp_path):
        x, y = regression(46)
        if make == "memmap":
            np.save(tmp_path / "x.npy", x)
            given = np.load(tmp_path / "x.npy", mmap_mode="r")
        else:
            given = make(x)
        results = []
        for share, arrays in [(0.0, given), (0.25, x)]:
            monkeypatch.setattr(sources, "RESIDENT_SHARE", share)
            model = compiled()
            trainer = Trainer(model, Accumulate(2))
            history = trainer.fit(arrays, y, batch_size=4, epochs=2, verbose=0)
            results.append(weights(model) + history.history["loss"])
        for streamed, resident in zip(*results, strict=True):
            np.testing.assert_allclose(streamed, resident, rtol=1e-5)

    def test_strings(self):
        source = ArraySource((np.array(["a", "bc"]), None, None), 2, False, 0)
        assert list(take(source, 1)[0][0][0].numpy()) == [b"a", b"bc"]


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


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="the memory of a CPU")
@pytest.mark.parametrize(("limit", "is_less"), [("4096\n", True), ("max\n", False), (str(2**62), False), (None, False)])
def test_a_containers_limit_counts(limit, is_less, tmp_path, monkeypatch):
    path = tmp_path / "memory.max"
    if limit is not None:
        path.write_text(limit)
    monkeypatch.setattr(sources, "_CONTAINER_LIMIT", path)
    assert (sources.device_memory() == 4096) is is_less
    assert sources.device_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
