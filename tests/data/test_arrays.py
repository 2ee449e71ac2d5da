import gc
import json
import random
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import regression

from trainlab.data import arrays
from trainlab.data.arrays import Feed, SameData, as_arrays, is_stream
from trainlab.data.kinds import as_json, from_json


class TestConversion:
    @pytest.mark.parametrize("floatx", ["float32", "float64"])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_floats_become_floatx(self, floatx, dtype):
        before = keras.config.floatx()
        keras.config.set_floatx(floatx)
        try:
            assert as_arrays(np.ones([2, 2], dtype)).dtype == floatx
            assert as_arrays(tf.ones([2, 2], dtype)).dtype == floatx
        finally:
            keras.config.set_floatx(before)

    @pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "bool"])
    def test_whole_numbers_stay(self, dtype):
        assert as_arrays(np.ones([2], dtype)).dtype == dtype
        assert as_arrays(tf.ones([2], dtype)).dtype == dtype

    def test_what_is_not_copied(self):
        x = np.ones([2, 2], "float32")
        assert as_arrays(x) is x or as_arrays(x).base is x

    def test_strings(self):
        assert as_arrays(np.array(["a", "bc"])).dtype.kind == "U"
        texts = np.array(["a", "b" * 10**6] + ["c"] * 10**5, object)  # of one width it would take 400 GB
        assert as_arrays(texts) is texts
        assert as_arrays(np.array([b"\x01\x00", b"\x01"], object)).tolist() == [b"\x01\x00", b"\x01"]
        with pytest.raises(TypeError, match="dtype object .* convert it with astype"):
            as_arrays(np.array(["a", 1.0], object))

    def test_variables_and_nests(self):
        nest = {"a": tf.Variable([1.0, 2.0]), "b": (keras.Variable([1.0, 2.0]), None)}
        converted = as_arrays(nest)
        assert not isinstance(converted["a"], tf.Variable)
        assert not isinstance(converted["b"][0], keras.Variable)
        assert converted["b"][1] is None
        assert as_arrays(None) is None

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.array([{}, {}]), "dtype object"),
            (np.array([1j, "a"], object), "dtype object"),
            (np.float32(3.0), "single value"),
            ([1.0, 2.0], r"np\.array"),
        ],
        ids=["objects", "complex beside text", "scalar", "list"],
    )
    def test_what_is_no_array(self, value, message):
        with pytest.raises(TypeError, match=message) as error:
            as_arrays(value)
        assert "\n" not in str(error.value)

    def test_what_is_a_stream(self):
        x, y = regression(4)
        assert is_stream(tf.data.Dataset.from_tensors((x, y)))
        assert is_stream(keras.utils.PyDataset())
        assert is_stream(iter([(x, y)]))
        for value in (x, tf.constant(x), [x, x], {"a": x}, None):
            assert not is_stream(value)

    @pytest.mark.parametrize("module", ["torch.utils.data.dataloader", "grain._src.python.data_loader"])
    def test_a_loader_of_a_class_of_ones_own_is_a_stream(self, module):
        theirs = type("DataLoader", (), {"__module__": module, "__iter__": lambda self: iter([])})
        assert is_stream(theirs()) and is_stream(type("Mine", (theirs,), {})())
        assert not is_stream(type("Tensor", (), {"__module__": "torch", "shape": (2,)})())
        assert not is_stream(type("Mine", (), {"__iter__": lambda self: iter([])})())


class TestSameData:
    def test_is_about_the_very_arrays(self):
        x, y = regression()
        same = SameData((x, y))
        assert same.matches((x, y))
        assert same.matches((x, y))
        assert not same.matches((x.copy(), y))
        assert not same.matches((y, x))
        assert not same.matches((x, None))
        assert not same.matches((x, y, y))

    def test_keeps_nothing_alive(self):
        x, y = regression()
        same, y_id = SameData((x, y)), id(y)
        del y
        assert not same.matches((x, np.ones(3)))
        assert y_id
        assert same._references[1]() is None

    def test_tensors(self):
        x = tf.ones([3])
        assert SameData((x, None)).matches((x, None))
        assert not SameData((x, None)).matches((tf.ones([3]), None))


class TestPasses:
    @pytest.mark.slow
    def test_are_counted_of_the_very_data_as_long_as_they_live(self):
        one, other = keras.utils.PyDataset(), keras.utils.PyDataset()
        arrays.note_pass(one)
        arrays.note_cut(one)
        arrays.note_pass(one)
        assert (arrays.passes_of(one), arrays.passes_of(other)) == (arrays.Passes(2, True), arrays.Passes())
        alive = weakref.ref(one)
        del one
        gc.collect()
        assert alive() is None

    def test_what_cannot_be_watched(self):
        data = iter([1])
        arrays.note_pass(data)
        assert arrays.passes_of(data) == arrays.Passes()


class TestFeed:
    def test_what_was_read_and_not_used_comes_again(self):
        feed = Feed(i for i in range(6))
        assert list(feed.first()) == [0, 1]
        ahead = feed()
        assert [next(ahead) for _ in range(4)] == [0, 1, 2, 3]
        feed.use(3)
        assert (feed.num_used, list(feed())) == (3, [3, 4, 5])
        assert list(feed.first()) == [0, 1]
        feed.use(3)
        assert list(feed()) == []

    def test_a_pass_that_nobody_is_interested_in_any_more_ends(self):
        feed = Feed(i for i in range(6))
        old, new = feed(), feed()
        assert (next(old), next(new), next(new)) == (0, 0, 1)
        feed.use(2)
        assert list(old) == [] and list(new) == [2, 3, 4, 5]

    def test_keeps_neither_the_generator_nor_its_batches_alive(self):
        batch = np.ones(3)
        alive = weakref.ref(batch)
        generator = (batch for batch in [batch])
        list(Feed(generator)())
        del batch, generator
        gc.collect()
        assert alive() is None


class TestOwnStates:
    @pytest.mark.parametrize(
        "state",
        [
            random.Random(3).getstate(),
            np.random.RandomState(3).get_state(),
            np.random.default_rng(3).bit_generator.state,
            {"a": [1, (2.5, None)], 3: b"\x00\xff", "b": {"c": np.float32(0.1), "d": np.zeros([0, 2], "int8")}},
            [float("inf"), True, "text", np.bool_(True)],
        ],
        ids=["random", "numpy", "generator", "nested", "list"],
    )
    def test_come_back_as_they_were(self, state):
        again = from_json(json.loads(json.dumps(as_json(state))))
        np.testing.assert_equal(again, state)
        assert repr(again) == repr(state)

    @pytest.mark.parametrize("state", [object(), {"a": {1, 2}}, [np.array([{}])], tf.ones([2])])
    def test_others_are_refused(self, state):
        with pytest.raises(TypeError, match="which a checkpoint of data cannot hold"):
            as_json(state)

    def test_are_those_of_pytorch_or_grain(self):
        class Half:
            def get_state(self):
                return 1

        assert arrays.own_state(Half()) is None and arrays.own_state(np.ones(3)) is None


@pytest.mark.parametrize("dtype", [">i2", ">u2", ">i4", ">f4", ">U2"])
def test_foreign_byte_order_is_made_this_machines(dtype):
    given = np.array([1, 2, 300]).astype(dtype)
    found = arrays.as_arrays(given)
    assert found.dtype.isnative and not given.dtype.isnative and found.tolist() == given.tolist()
