import functools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawing import flat, rest_of_pass, take, updates
from small import assert_same, classifier, compiled, dense_model, everything, labelled, regression, weights

from trainlab import Accumulate, Trainer
from trainlab.data import array_source, device
from trainlab.data import order as order_module
from trainlab.data.array_source import ArraySource
from trainlab.data.blocks import ArrayLayout

KINDS = ["resident", "streamed"]


@pytest.fixture
def kind(request, monkeypatch):
    """Whether arrays fit on the device."""
    if request.param == "streamed":
        monkeypatch.setattr(array_source, "RESIDENT_SHARE", 0.0)
    return request.param


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
        assert isinstance(source.layout(1), ArrayLayout) is (kind == "resident")
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

    @pytest.mark.slow
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
            monkeypatch.setattr(array_source, "RESIDENT_SHARE", share)
            model = compiled()
            trainer = Trainer(model, Accumulate(2))
            history = trainer.fit(arrays, y, batch_size=4, epochs=2, verbose=0)
            results.append(weights(model) + history.history["loss"])
        for streamed, resident in zip(*results, strict=True):
            np.testing.assert_allclose(streamed, resident, rtol=1e-5)

    @pytest.mark.parametrize(("num_examples", "batch_size", "batches"), [(2500, 7, 1), (2500, 100, 3), (5, 2, 4)])
    @pytest.mark.parametrize("max_updates", [1, 50, 10**6])
    def test_what_is_prepared_for_the_next_block_changes_none(self, num_examples, batch_size, batches, max_updates, monkeypatch):
        source, other = (ArraySource((np.arange(num_examples), None, None), batch_size, True, 3) for _ in range(2))
        threads, look_up = set(), order_module._compiled()

        def recording(asked):
            threads.add(threading.current_thread())
            return look_up(asked)

        monkeypatch.setattr(order_module, "_compiled", lambda: recording)
        for _ in range(2):
            while (block := source.block(max_updates, batches)) is not None:
                source.read_ahead(block, max_updates, batches)
                again = other.block(max_updates, batches)
                assert (block.num_updates, block.size, block.layout) == (again.num_updates, again.size, again.layout)
                (_, found, at), (_, expected, begin) = block.tensors, again.tensors
                np.testing.assert_array_equal(found[int(at) :][: block.size], expected[int(begin) :][: block.size])
                for each in (source, other):
                    each.advance(block)
            for each in (source, other):
                each.next_pass()
        source.close()
        assert len(threads) == 2

    def test_what_somebody_else_left_no_room_for_is_streamed(self, monkeypatch):
        put, words = device.put, "Failed copying input tensor: Dst tensor is not initialized."

        def full(leaf, is_full=True):
            if is_full and len(leaf.shape) == 1:  # the second of them
                raise tf.errors.InternalError(None, None, words)
            return put(leaf)

        ends = []
        for is_full in (False, True):
            monkeypatch.setattr(device, "put", functools.partial(full, is_full=is_full))
            source = ArraySource((np.arange(22.0), np.arange(22), None), 4, True, 3)
            assert source.is_streamed is is_full
            model = classifier()
            Trainer(model, jit_compile=False, seed=3).fit(*labelled(), batch_size=4, epochs=2, verbose=0)
            ends.append(everything(model))
        assert_same(*ends)
        words = "the device was lost"
        with pytest.raises(tf.errors.InternalError, match="lost"):
            ArraySource((np.arange(22.0), None, None), 4, True, 3)

    def test_a_fit_leaves_no_thread_behind(self):
        def names():
            return {thread.name for thread in threading.enumerate() if thread.name.startswith("trainlab order")}

        during, (x, y) = [], regression()
        seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: during.append(names()))
        stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch == 2 and 1 / 0)
        Trainer(compiled()).fit(x, y, batch_size=4, epochs=2, callbacks=[seen], verbose=0)
        assert during[-1] and not names()
        with pytest.raises(ZeroDivisionError):
            Trainer(compiled()).fit(x, y, batch_size=4, epochs=9, callbacks=[seen, stop], verbose=0)
        assert not names()

    @pytest.mark.parametrize("kind", KINDS, indirect=True)
    @pytest.mark.parametrize("dtype", [None, object])
    @pytest.mark.parametrize("texts", [["größe", "a", "", "日本"], [b"\xff\x01", b"a", b"", b"\x00b"]], ids=["str", "bytes"])
    def test_strings(self, texts, dtype, kind):
        source = ArraySource((np.array(texts, dtype), None, None), 4, False, 0)
        expected = [text.encode() if isinstance(text, str) else text for text in texts]
        assert list(take(source, 1)[0][0][0].numpy()) == expected

    def test_strings_beside_ragged_rows(self):
        source = ArraySource((np.array(["größe", "a"]), tf.ragged.constant([[1.0], [2.0, 3.0]]), None), 2, False, 0)
        assert list(take(source, 1)[0][0][0].numpy()) == ["größe".encode(), b"a"]
