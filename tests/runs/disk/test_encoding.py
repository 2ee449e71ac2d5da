import datetime
import json

import numpy as np
import pytest
import tensorflow as tf

from trainlab.runs.disk.encoding import decode, encode

VALUES = [
    None,
    True,
    -3,
    2**70,
    0.1,
    float("inf"),
    "text",
    [1, [2.5, None]],
    (1, ("a", [2])),
    {"a": 1, 2: (3,), None: {"b": []}},
    np.float32(0.1),
    np.int64(5),
    np.uint64(2**64 - 1),
    np.float16(0.1),
    np.float64(1 / 3),
    np.float32("-inf"),
    np.bool_(True),
    np.str_("text"),
    np.complex64(1 + 2j),
    datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC),
    datetime.datetime(2026, 2, 3, 4, 5),
    datetime.date(2026, 2, 3),
    datetime.time(4, 5),
    datetime.timedelta(days=-1, microseconds=3),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(value):
    arrays = {}
    back = decode(json.loads(json.dumps(encode(value, arrays, "x"))), arrays)
    assert back == value and type(back) is type(value)


def test_only_arrays_go_aside():
    arrays = {}
    encode({"a": [np.float32(0.1)] * 2500, "b": np.complex64(1)}, arrays, "logs")
    assert list(arrays) == ["logs.0"]


def test_something_may_stand_in_place_of_what_cannot_be_held():
    value = {"a": [object(), 1], "b": np.array([object()])}
    found = encode(value, {}, "logs", lambda value, name: f"{name}: {type(value).__name__}")
    assert decode(found, {}) == {"a": ["logs: object", 1], "b": "logs: ndarray"}


def test_arrays_go_aside_and_come_back():
    arrays = {}
    value = {
        "weights": [np.arange(3, dtype="float32"), np.ones((2, 2), tf.bfloat16.as_numpy_dtype)],
        "tensor": tf.constant([1, 2]),
    }
    encoded = encode(value, arrays, "stopping")
    assert sorted(arrays) == ["stopping.0", "stopping.1", "stopping.2"]
    back = decode(json.loads(json.dumps(encoded)), arrays)
    for a, b in zip(tf.nest.flatten(value), tf.nest.flatten(back), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)
        assert b.dtype == np.asarray(a).dtype


def test_nan_comes_back():
    assert np.isnan(decode(json.loads(json.dumps(encode(float("nan"), {}, "x"))), {}))


NOT_OF_TENSORFLOW = [np.datetime64("2026-01-02"), np.timedelta64(3, "D"), np.longdouble(0.1), np.clongdouble(1j)]
NOT_OF_TENSORFLOW += [np.array(value) for value in NOT_OF_TENSORFLOW] + [np.zeros(2, [("a", "f4")])]


@pytest.mark.parametrize("value", NOT_OF_TENSORFLOW, ids=repr)
def test_an_array_that_tensorflow_does_not_have_is_none_that_a_checkpoint_can_hold(value):
    with pytest.raises((TypeError, ValueError)):
        tf.convert_to_tensor(value)  # the control: it would end the thread that writes
    arrays = {}
    assert encode({"a": value}, arrays, "logs", lambda value, name: str(value)) == {"kind": "dict", "items": [["a", str(value)]]}
    with pytest.raises(TypeError, match="mine holds an? .*, which a checkpoint cannot"):
        encode(value, arrays, "mine")
    assert not arrays


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, lambda: 0, b"bytes", np.array([object()])], ids=["object", "set", "function", "bytes", "array"]
)
def test_what_a_checkpoint_cannot_hold_is_named(value):
    with pytest.raises(TypeError, match="mine holds an? .*, which a checkpoint cannot"):
        encode({"a": [value]}, {}, "mine")
