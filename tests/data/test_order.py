import collections
import itertools
import math
import threading

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data.order import Order, Window, shuffled


@tf.function
def _orders(seeds, epochs, num_examples):
    def order_of(seed_and_epoch):
        seed, epoch = tf.unstack(seed_and_epoch)
        return shuffled(seed, epoch, tf.range(num_examples), num_examples)

    return tf.map_fn(order_of, tf.stack([seeds, epochs], axis=1))


def orders(num_examples, epochs, seeds=0):
    """Those of some epochs; `seeds` is one number, or one for each."""
    epochs = tf.constant(epochs, tf.int64)
    seeds = tf.broadcast_to(tf.constant(seeds, tf.int64), epochs.shape)
    return _orders(seeds, epochs, tf.constant(num_examples, tf.int64)).numpy()


def order(num_examples, epoch=0, seed=0):
    return orders(num_examples, [epoch], seed)[0]


class TestOrder:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 9, 31, 32, 33, 100, 255, 256, 257, 1000, 4099])
    def test_is_a_permutation(self, size):
        for epoch in range(3):
            np.testing.assert_array_equal(np.sort(order(size, epoch)), np.arange(size))

    def test_differs_by_seed_and_epoch_and_repeats(self):
        found = {(seed, epoch): tuple(order(50, epoch, seed)) for seed in range(5) for epoch in range(5)}
        assert len(set(found.values())) == 25
        assert tuple(order(50, 3, 2)) == found[2, 3]
        assert sorted(found[0, 0]) == list(range(50)) != list(found[0, 0])

    @pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
    def test_large_seeds_and_epochs(self, seed):
        assert len({tuple(order(20, epoch, seed)) for epoch in (0, 1, 10**6, 2**40)}) == 4

    @pytest.mark.parametrize("chunk", [1, 7, 64, 100])
    def test_does_not_depend_on_how_positions_are_asked_for(self, chunk):
        size, epoch = tf.constant(100, tf.int64), tf.constant(4, tf.int64)
        parts = [
            shuffled(9, epoch, tf.range(start, min(start + chunk, 100), dtype=tf.int64), size) for start in range(0, 100, chunk)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), order(100, 4, 9))
        backwards = shuffled(9, epoch, tf.range(99, -1, -1, dtype=tf.int64), size)
        np.testing.assert_array_equal(backwards[::-1], order(100, 4, 9))


NUM_EPOCHS = 400
# Each statistic below is standard normal for truly random orders: 5 is exceeded by chance once in a million times, and the
# largest of up to 1000 of them stays under 5.5 as surely.
LIMITS = {"mean position": 5.5, "rising neighbours": 5, "falling neighbours": 5, "fixed points": 5, "next epoch": 5}


def statistics(found):
    """How far some orders `[epochs, n]` are from random ones, each number in its standard deviations."""
    epochs, size = found.shape
    positions = np.argsort(found, axis=1)
    mean_position = (positions.mean(axis=0) - (size - 1) / 2) / math.sqrt((size**2 - 1) / 12 / epochs)
    steps = np.diff(found, axis=1)
    # In a random order each of the n - 1 pairs (i, i + 1) is adjacent with probability 1/n; such counts are near Poisson.
    expected = epochs * (size - 1) / size
    return {
        "mean position": np.abs(mean_position).max(),
        "rising neighbours": abs((steps == 1).sum() - expected) / math.sqrt(expected),
        "falling neighbours": abs((steps == -1).sum() - expected) / math.sqrt(expected),
        "fixed points": abs((found == np.arange(size)).sum() - epochs) / math.sqrt(epochs),
        "next epoch": abs(np.corrcoef(positions[:-1].ravel(), positions[1:].ravel())[0, 1]) * math.sqrt(epochs * size),
    }


def far_from_random(found):
    return {name: value for name, value in statistics(np.array(found)).items() if not value < LIMITS[name]}


@pytest.mark.parametrize("size", [10, 64, 200, 1000])
def test_order_looks_random(size):
    numbers = range(NUM_EPOCHS)
    assert far_from_random(orders(size, numbers)) == {}
    assert far_from_random(orders(size, [3] * NUM_EPOCHS, seeds=numbers)) == {}  # one epoch under many seeds
    assert far_from_random(orders(size, numbers, seeds=numbers[::-1])) == {}  # one more epoch, one seed less
    # The yardstick accepts NumPy's shuffles, and not the doubtful ones: rotations, a window of 8, one order in four kept.
    rng = np.random.default_rng(size)
    assert far_from_random([rng.permutation(size) for _ in range(NUM_EPOCHS)]) == {}
    assert far_from_random([np.roll(np.arange(size), rng.integers(size)) for _ in range(NUM_EPOCHS)])
    assert far_from_random([np.argsort(np.arange(size) + rng.uniform(0, 8, size)) for _ in range(NUM_EPOCHS)])
    assert far_from_random(np.repeat([rng.permutation(size) for _ in range(NUM_EPOCHS // 4)], 4, axis=0))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_order_of_a_few_examples_is_as_likely(size):
    num_epochs = 1200
    counts = collections.Counter(map(tuple, orders(size, range(num_epochs))))
    permutations = list(itertools.permutations(range(size)))
    expected = num_epochs / len(permutations)
    chi_squared = sum((counts[p] - expected) ** 2 / expected for p in permutations)
    degrees = len(permutations) - 1
    assert chi_squared < degrees + 5 * math.sqrt(2 * degrees)


class TestWindows:
    SIZE = 5000

    def expected(self, epoch, start, size):
        positions = tf.range(start, start + size, dtype=tf.int64)
        return shuffled(9, tf.constant(epoch, tf.int64), positions, tf.constant(self.SIZE, tf.int64)).numpy()

    @pytest.fixture
    def order(self, monkeypatch):
        order = Order(9, self.SIZE)
        self.looked_up, look_up = [], order._look_up

        def recording(window):
            self.looked_up.append((window, threading.current_thread() is threading.main_thread()))
            return look_up(window)

        monkeypatch.setattr(order, "_look_up", recording)
        yield order
        order.close()

    def check(self, order, *asked):
        examples, at = order.find(Window(*asked))
        np.testing.assert_array_equal(examples[at : at + asked[-1]], self.expected(*asked))

    @pytest.mark.parametrize("ahead", [None, (2, 40, 32), (2, 41, 3000), (2, 0, 5000), (1, 40, 32), (3, 0, 5000), (2, 60, 100)])
    @pytest.mark.parametrize("asked", [(2, 40, 32), (2, 40, 1500), (2, 4990, 10), (2, 0, 5000), (3, 0, 1)])
    def test_what_is_found_is_the_order_whatever_was_prepared(self, order, ahead, asked):
        if ahead is not None:
            order.prepare(Window(*ahead))
        self.check(order, *asked)
        self.check(order, 2, 4000, 7)
        self.check(order, *asked)

    def test_a_pass_is_looked_up_once_and_in_the_thread(self, order):
        for epoch in range(3):
            for start in range(0, self.SIZE, 250):
                self.check(order, epoch, start, 250)
                order.prepare(Window(epoch, start + 250, 250) if start + 250 < self.SIZE else Window(epoch + 1, 0, 250))
        order.close()  # waits for what nobody asks for any more
        first, *others = [was_main for _, was_main in self.looked_up]
        assert first and not any(others)
        assert len(others) == 15  # five windows a pass: of 1,024 examples and more
        assert all(window.size in (1000, 1024) for window, _ in self.looked_up)

    def test_without_a_thread_each_is_looked_up_when_it_is_asked_for(self, order):  # the control
        self.check(order, 0, 0, 250)
        self.check(order, 1, 0, 250)
        assert [was_main for _, was_main in self.looked_up] == [True, True]

    def test_what_fails_in_the_thread_is_raised_once(self, order, monkeypatch):
        look_up = order._look_up
        monkeypatch.setattr(order, "_look_up", lambda window: 1 / 0)
        order.prepare(Window(1, 0, 10))
        monkeypatch.setattr(order, "_look_up", look_up)
        with pytest.raises(ZeroDivisionError):
            order.find(Window(1, 0, 10))
        self.check(order, 1, 0, 10)

    def test_closing_ends_the_thread(self, order):
        def names():
            return [thread.name for thread in threading.enumerate() if thread.name.startswith("trainlab order")]

        order.prepare(Window(1, 0, 10))
        assert len(names()) == 1
        order.close()
        assert names() == []
        order.prepare(Window(2, 0, 10))
        self.check(order, 2, 0, 10)
