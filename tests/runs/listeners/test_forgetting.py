"""Functions that remember are told from those that only read."""

import bisect
import functools
import json
import logging
import math
import random
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import compiled

from trainlab.runs.listeners.forgetting import remembers, remembers_in_methods

RATES, TABLE, SEEN, CALLS = [0.1, 0.01], {0: 0.1, 5: 0.01}, [], 0
LOG = logging.getLogger(__name__)


class Mine:
    num = 0

    def __init__(self):
        self.value = 1

    def bump(self):
        self.value += 1

    def rate(self):
        return 0.1 * self.value

    def __call__(self, epoch, logs=None):
        self.bump()

    @classmethod
    def count(cls):
        cls.num += 1


class Pure(Mine):
    def __call__(self, epoch, logs=None):
        return self.rate() * epoch


def add_to(values, epoch, logs=None):
    values.append(epoch)


def pick(values, epoch):
    return values[min(epoch, 1)]


def counts_calls(epoch, rate):
    global CALLS
    CALLS += 1
    return rate


def default_list(epoch, rate, seen=[]):  # noqa: B006
    seen.append(epoch)
    return rate


def class_attribute(epoch, logs):
    Mine.num += 1


def builds_its_own(epoch):
    out, table = [], {}
    for rate in RATES:
        out.append(rate * epoch)
        table[rate] = epoch
        table[rate] += 1
    return out[0] + table[RATES[0]]


def cases():
    table, values, array, mine, model = {"a": {}}, [0.1], np.zeros(3), Mine(), compiled()
    numbers, generator, variable = iter([1, 2]), np.random.default_rng(0), keras.Variable(0.0)
    seeds, drawn, rows = keras.random.SeedGenerator(0), tf.random.Generator.from_seed(0), tf.data.Dataset.range(8)
    reshuffled, once = rows.shuffle(8, seed=1), rows.shuffle(8, seed=1, reshuffle_each_iteration=False)
    noisy = rows.map(lambda i: i + drawn.uniform([], 0, 9, tf.int64))
    calls = 0

    def rebinds(epoch):
        nonlocal calls
        calls += 1
        return calls

    def inner(epoch, logs):
        def deep():
            table[epoch] = 1

        deep()

    def element(epoch, logs):
        table[epoch * 2 + len(values)] = epoch

    def element_in_place(epoch, logs):
        table["a"][epoch] += 1

    def removes(epoch, logs):
        del table[epoch]

    def attribute(epoch, logs):
        mine.value = epoch

    def attribute_in_place(epoch, logs):
        mine.value += epoch

    def array_element(epoch, logs):
        array[0] = epoch

    def logs_only(epoch, logs):
        logs["rate"] = table.get(epoch, values[0])

    def stops(epoch, logs):
        model.stop_training = epoch > 3
        model.optimizer.learning_rate = 0.1

    yes = {
        "rebinds": rebinds,
        "global": counts_calls,
        "default": default_list,
        "class attribute": class_attribute,
        "class method": lambda epoch, logs: Mine.count(),
        "list": lambda epoch, logs: values.append(epoch),
        "global list": lambda epoch, logs: SEEN.append(epoch),
        "dict": lambda epoch, logs: table.update({epoch: 1}),
        "inner": inner,
        "element": element,
        "element in place": element_in_place,
        "removes": removes,
        "attribute": attribute,
        "attribute in place": attribute_in_place,
        "array": array_element,
        "setattr": lambda epoch, logs: setattr(mine, "value", epoch),
        "method": lambda epoch, logs: mine.bump(),
        "bound": mine.bump,
        "instance": mine,
        "helper": lambda epoch, logs: add_to(values, epoch),
        "partial": functools.partial(add_to, values),
        "iterator": lambda epoch: next(numbers),
        "generator": lambda epoch: generator.normal(),
        "variable": lambda epoch, logs: variable.assign(epoch),
        "random": lambda epoch: random.random(),
        "np.random": lambda epoch: np.random.rand(),
        "keras.random": lambda epoch: float(keras.random.uniform([])),
        "SeedGenerator": lambda epoch: float(keras.random.uniform([], seed=seeds)),
        "tf.random": lambda epoch: float(tf.random.uniform([])),
        "tf.random.Generator": lambda epoch: drawn.normal([]),
        "tf.random's own generator": lambda epoch: tf.random.get_global_generator().normal([]),
        "shuffled data": lambda epoch, logs: model.evaluate(reshuffled),
        "data with noise": lambda epoch, logs: model.evaluate(noisy.batch(2)),
        "rows of shuffled data": lambda epoch, logs: [row for row in reshuffled],
    }
    no = {
        "constant": lambda epoch: 0.1,
        "of the rate": lambda epoch, rate: rate * math.exp(-0.1),
        "list": lambda epoch: RATES[min(epoch // 10, 1)],
        "table": lambda epoch: max(rate for first, rate in TABLE.items() if first <= epoch),
        "closed over": lambda epoch: table.get(epoch, values[0]),
        "array": lambda epoch: float(array[epoch]),
        "np.interp": lambda epoch: np.interp(epoch, values, values),
        "np.append": lambda epoch: np.append(array, epoch)[0],
        "bisect": lambda epoch: bisect.bisect(values, epoch),
        "its own list": builds_its_own,
        "logs": logs_only,
        "model": stops,
        "print": lambda epoch, logs: print(epoch, json.dumps(logs)),
        "logging": lambda epoch, logs: LOG.info("%s", epoch),
        "seeded": lambda epoch: np.random.default_rng(epoch).normal() + random.Random(epoch).random(),
        "helper": lambda epoch: pick(values, epoch),
        "partial": functools.partial(pick, values),
        "method": lambda epoch: mine.rate(),
        "bound": mine.rate,
        "instance": Pure(),
        "schedule": keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9),
        "cache": functools.lru_cache(lambda epoch: 0.1 * epoch),
        "builtin": print,
        "keras.random, seeded": lambda epoch: float(keras.random.uniform([], seed=epoch)),
        "tf.random, stateless": lambda epoch: tf.random.stateless_uniform([], [1, epoch]),
        "data": lambda epoch, logs: model.evaluate(rows.batch(2)),
        "data in one order": lambda epoch, logs: model.evaluate(once),
    }
    return [*((name, f, True) for name, f in yes.items()), *((name, f, False) for name, f in no.items())]


@pytest.mark.parametrize("name, function, expected", [pytest.param(*case, id=f"{case[0]}-{case[2]}") for case in cases()])
def test_who_remembers(name, function, expected):
    assert remembers(function) is expected


class InAnAttribute(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.losses = []


class InItsClass(keras.callbacks.Callback):
    num = 0

    def on_epoch_end(self, epoch, logs=None):
        type(self).num += 1


class InItsClassByName(keras.callbacks.Callback):
    num = 0

    def on_epoch_end(self, epoch, logs=None):
        InItsClassByName.num += 1


class InAListOfItsClass(keras.callbacks.Callback):
    seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)


class InAMethod(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.bump()

    def bump(self):
        self.num = getattr(self, "num", 0) + 1


class InAGlobal(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        SEEN.append(epoch)


class MoreThanItsParent(keras.callbacks.EarlyStopping):
    def on_epoch_end(self, epoch, logs=None):
        self.mine = epoch
        super().on_epoch_end(epoch, logs)


class AsItsParent(keras.callbacks.EarlyStopping):
    def on_epoch_end(self, epoch, logs=None):
        logs = dict(logs or {})
        logs["score"] = 1
        self.wait = 0
        super().on_epoch_end(epoch, logs)


class OnlyActs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch > RATES[0]
        self.model.optimizer.learning_rate = 0.1
        logs["rate"] = 1


FORGETFUL = [InAnAttribute, InItsClass, InItsClassByName, InAListOfItsClass, InAMethod, InAGlobal, MoreThanItsParent]


@pytest.mark.parametrize("kind", FORGETFUL)
def test_a_callback_whose_hooks_remember(kind):
    assert remembers_in_methods(kind(), ("wait",))


@pytest.mark.parametrize("kind", [OnlyActs, AsItsParent, keras.callbacks.Callback, keras.callbacks.EarlyStopping])
def test_a_callback_whose_hooks_only_act(kind):
    assert not remembers_in_methods(kind(), ("wait",))


@pytest.mark.parametrize("name", ["stdout", "stderr", "__stderr__"])
def test_what_prints_to_the_process_own_streams_does_not_remember(name, tmp_path):
    stream = getattr(sys, name)
    assert not remembers(lambda epoch, logs: print(epoch, file=getattr_of(sys, name)))
    assert not remembers(lambda epoch, logs: print(epoch, file=stream))
    with open(tmp_path / "a", "w") as file:
        assert remembers(lambda epoch, logs: print(epoch, file=file))  # a control


def test_printing_to_a_stream_of_sys_by_its_name_does_not_remember(monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # and not pytest's
    assert not remembers(lambda epoch, logs: print(epoch, file=sys.stderr))


def getattr_of(module, name):
    return getattr(module, name)
