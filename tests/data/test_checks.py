import keras
import numpy as np
import pytest
import tensorflow as tf
from by_keras import as_keras, fitted
from small import classifier, compiled, dense_model

from trainlab import NonFiniteError, Trainer
from trainlab.data import checks


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


class TestLengths:
    @pytest.mark.parametrize(
        "arrays",
        [
            (np.ones([4, 2]), np.ones([4]), None),
            ([np.ones([4, 2]), tf.ones([4])], {"a": np.ones([4, 1])}, np.ones(4)),
            (np.ones([4]), None, None),
        ],
    )
    def test_equal_ones_are_returned(self, arrays):
        assert checks.check_lengths(*arrays) == 4

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ((np.ones([4]), np.ones([5]), None), "x has 4 examples but y has 5: they must be the same number"),
            ((np.ones([4]), np.ones([4]), np.ones([3])), "x has 4 examples but sample_weight has 3"),
            (([np.ones([4]), np.ones([2])], None, None), r"x\[0\] has 4 examples but x\[1\] has 2"),
            (({"a": np.ones([4])}, {"b": [np.ones([2])]}, None), r"x\['a'\] has 4 examples but y\['b'\]\[0\] has 2"),
            ((np.ones([0, 3]), np.ones([0]), None), "x has 0 examples: give at least one"),
            ((None, None, None), "x is empty: give at least one array"),
            (([], None, None), "x is empty"),
        ],
    )
    def test_others_are_named(self, arrays, message):
        with pytest.raises(ValueError, match=message) as error:
            checks.check_lengths(*arrays)
        one_line(error)


class TestValues:
    @pytest.mark.parametrize("make", [np.array, tf.constant], ids=["numpy", "tensor"])
    @pytest.mark.parametrize(
        ("value", "word"), [(np.nan, "NaN"), (np.inf, "an infinite number"), (-np.inf, "an infinite number")]
    )
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_the_first_bad_number_is_named(self, make, value, word, dtype):
        array = np.zeros([5, 3], dtype)
        array[3, 1] = value
        with pytest.raises(ValueError, match=f"^y\\['b'\\] holds {word} in example 3: clean the data") as error:
            checks.check_values(np.zeros([5]), {"a": make(np.zeros([5])), "b": make(array)}, None)
        one_line(error)
        with pytest.raises(ValueError, match=f"^sample_weight holds {word} in example 3"):
            checks.check_values(np.zeros([5]), None, make(array))

    @pytest.mark.parametrize(
        "array", [np.zeros([4]), np.array([1, 2]), np.array([True]), np.array(["NaN"]), tf.constant(["inf"])]
    )
    def test_good_numbers_and_strings_pass(self, array):
        checks.check_values(array, [array], None)

    def test_extreme_numbers_pass(self):
        checks.check_values(np.array([np.finfo("float32").max, np.finfo("float32").tiny, -0.0], "float32"), None, None)


def functional(*shapes, names=None):
    inputs = [keras.Input(shape, name=names and names[i]) for i, shape in enumerate(shapes)]
    flat = [keras.layers.Flatten()(x) if len(x.shape) > 2 else x for x in inputs]
    joined = keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
    model_inputs = dict(zip(names, inputs, strict=True)) if names else inputs if len(inputs) > 1 else inputs[0]
    return keras.Model(model_inputs, keras.layers.Dense(1)(joined))


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "x"),
        [((3,), np.ones([2, 3])), ((8, 8, 1), np.ones([2, 8, 8, 1])), ((8, 8, 1), np.ones([2, 8, 8])), ((1,), np.ones([2]))],
        ids=lambda value: str(getattr(value, "shape", value)),
    )
    def test_what_fits_passes(self, shape, x):
        model = functional(shape)
        checks.check_shapes(model, x)
        assert model(x).shape == (2, 1)  # and Keras thinks so too

    @pytest.mark.parametrize(
        ("shape", "x"),
        [((3,), np.ones([2, 4])), ((8, 8, 1), np.ones([2, 64])), ((8, 8, 3), np.ones([2, 8, 8])), ((3,), np.ones([2, 3, 3]))],
        ids=lambda value: str(getattr(value, "shape", value)),
    )
    def test_what_does_not_is_named(self, shape, x):
        with pytest.raises(ValueError) as error:
            checks.check_shapes(functional(shape), x)
        message = one_line(error)
        assert message.startswith(f"x has examples of shape {x.shape[1:]} but the model's input")
        assert message.endswith(f"takes {shape}: reshape the data")

    def test_several_inputs(self):
        model = functional((3,), (2,))
        checks.check_shapes(model, [np.ones([5, 3]), np.ones([5, 2])])
        with pytest.raises(ValueError, match=r"^x\[1\] has examples of shape \(3,\).*takes \(2,\)"):
            checks.check_shapes(model, [np.ones([5, 3]), np.ones([5, 3])])

    def test_inputs_by_name(self):
        model = functional((3,), (2,), names=["wide", "narrow"])
        checks.check_shapes(model, {"narrow": np.ones([5, 2]), "wide": np.ones([5, 3])})
        with pytest.raises(ValueError, match=r"^x\['narrow'\] has examples of shape \(3,\) but the model's input 'narrow'"):
            checks.check_shapes(model, {"narrow": np.ones([5, 3]), "wide": np.ones([5, 3])})

    def test_open_axes_and_unbuilt_models_take_anything(self):
        inputs = keras.Input((None, 4))
        checks.check_shapes(keras.Model(inputs, keras.layers.LSTM(2)(inputs)), np.ones([2, 7, 4]))
        checks.check_shapes(keras.Sequential([keras.layers.Dense(1)]), np.ones([2, 7, 4]))


def built(model, x, y):
    model._symbolic_build(data_batch=(x, y, None))
    return model


class TestLabels:
    X = np.zeros([5, 3], "float32")

    @pytest.mark.parametrize(
        "y",
        [[0, 1, 2, 3, 0], [[0], [1], [2], [3], [0]], [0.0, 1.0, 2.0, 3.0, 3.0]],
        ids=["labels", "column", "whole floats"],
    )
    def test_classes_of_the_model_pass(self, y):
        y = np.array(y)
        checks.check_labels(built(classifier(), self.X, y), self.X, y)

    @pytest.mark.parametrize("label", [4, -1, 100, 1.5, np.nan], ids=str)
    @pytest.mark.parametrize("is_column", [False, True], ids=["flat", "column"])
    def test_others_are_named(self, label, is_column):
        y = np.array([0, 1, label, 99, 3])
        y = y[:, None] if is_column else y
        with pytest.raises(ValueError, match=f"^y holds the label {label}(\\.0)? in example 2: labels must be whole") as error:
            checks.check_labels(built(classifier(), self.X, y), self.X, y)
        assert one_line(error).endswith("from 0 to 3, the model's output having 4 classes")

    def test_a_loss_given_by_name_or_function_is_checked_too(self):
        y = np.array([0, 1, 4, 0, 0])
        for loss in ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy):
            model = compiled(dense_model(lambda: keras.layers.Dense(4, activation="softmax")), loss=loss)
            with pytest.raises(ValueError, match="label 4 in example 2"):
                checks.check_labels(built(model, self.X, y), self.X, y)

    @pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy", lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1)])
    def test_other_losses_take_any_target(self, loss):
        y = np.full([5, 4], -7.5)
        checks.check_labels(built(compiled(dense_model(lambda: keras.layers.Dense(4)), loss=loss), self.X, y), self.X, y)

    @pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "SparseCategoricalFocalCrossentropy"])
    def test_an_ignored_class_passes_and_no_other(self, name):
        if not hasattr(keras.losses, name):
            pytest.skip("it came with Keras 3.16")
        loss = getattr(keras.losses, name)(from_logits=True, ignore_class=-1)
        y = np.array([0, -1, 2, 3, 0])
        model = built(compiled(dense_model(lambda: keras.layers.Dense(4)), loss=loss), self.X, y)
        checks.check_labels(model, self.X, y)
        with pytest.raises(ValueError, match="label -2"):
            checks.check_labels(model, self.X, np.array([0, -2, 2, 3, 0]))

    def test_a_subclassed_model(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(4)

            def call(self, x):
                return self.dense(x)

        y = np.array([0, 1, 2, 3, 4])
        model = compiled(Net(), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model._symbolic_build(data_batch=(self.X, y, None))
        with pytest.raises(ValueError, match="label 4 in example 4"):
            checks.check_labels(model, self.X, y)

    @pytest.mark.parametrize("as_dict", [False, True], ids=["list", "dict"])
    def test_each_output_has_its_own_classes(self, as_dict):
        inputs = keras.Input([3])
        outputs = {
            "small": keras.layers.Dense(2, name="small")(inputs),
            "number": keras.layers.Dense(1, name="number")(inputs),
            "large": keras.layers.Dense(9, name="large")(inputs),
        }
        sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        losses = {"small": sparse, "number": "mse", "large": sparse}
        y = {"large": np.array([8] * 5), "number": np.full([5, 1], -3.0), "small": np.array([1] * 5)}
        if not as_dict:
            outputs, losses, y = (list(v.values()) for v in (outputs, losses, {name: y[name] for name in outputs}))
        model = built(compiled(keras.Model(inputs, outputs), loss=losses), self.X, y)
        checks.check_labels(model, self.X, y)
        bad = {**y, "small": np.array([0, 0, 0, 2, 0])} if as_dict else [np.array([0, 0, 0, 2, 0]), *y[1:]]
        place = r"y\['small'\]" if as_dict else r"y\[0\]"
        with pytest.raises(ValueError, match=f"^{place} holds the label 2 in example 3: .*from 0 to 1"):
            checks.check_labels(model, self.X, bad)

    def test_labels_of_tokens(self):
        inputs = keras.Input([3])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = compiled(keras.Model(inputs, keras.layers.Embedding(5, 4)(inputs)), loss=loss)
        y = np.zeros([5, 3], "int64")
        checks.check_labels(built(model, self.X, y), self.X, y)
        y[3, 1] = 4
        with pytest.raises(ValueError, match="^y holds the label 4 in example 3"):
            checks.check_labels(model, self.X, y)


class TestCount:
    @pytest.mark.parametrize("value", [1, 2, 10**9, np.int32(1), np.int64(7)])
    def test_whole_numbers_pass(self, value):
        checks.check_count("epochs", value, 1)

    @pytest.mark.parametrize("value", [1.0, "1", None, True, np.float32(2), [1]])
    def test_other_things_are_named(self, value):
        with pytest.raises(TypeError, match="^epochs must be a whole number, not ") as error:
            checks.check_count("epochs", value, 0)
        assert one_line(error).endswith(repr(value))

    def test_too_small_ones_are_named(self):
        with pytest.raises(ValueError, match="^epochs must be at least 0, not -1$"):
            checks.check_count("epochs", -1, 0)


class TestBatched:
    X, Y = np.ones([6, 3], "float32"), np.ones([6, 1], "float32")

    def line(self, data, model=None, **validation):
        with pytest.raises(ValueError) as error:
            Trainer(model or compiled()).fit(data, verbose=0, **validation)
        return one_line(error)

    def slices(self, *arrays):
        return tf.data.Dataset.from_tensor_slices(arrays)

    def test_elements_that_are_examples(self):
        asked = "one example and no batch of them: did you forget .batch(32)?"
        assert self.line(self.slices(self.X, self.Y)) == f"an element of the data set holds x (3,) and y (1,), {asked}"
        assert asked in self.line(self.slices(self.X, self.Y[:, 0]))  # numbers cannot be batches
        nested = keras.Model({"a": (a := keras.Input([3], name="a"))}, keras.layers.Dense(1)(a))
        assert asked in self.line(self.slices({"a": self.X}, self.Y), compiled(nested))

        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(1)

            def call(self, x):
                return self.dense(x)

        assert asked in self.line(self.slices(self.X, self.Y[:, 0]), compiled(Own()))  # its inputs say nothing

    def test_in_validation(self):
        good = self.slices(self.X, self.Y).batch(2)
        line = self.line(good, validation_data=self.slices(self.X, self.Y))
        assert line.startswith("validation_data: an element of the data set holds x (3,) and y (1,), one example and no batch")

    def test_batches_pass(self):
        model = compiled(keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]))
        for data in (
            self.slices(self.X[:, :1], self.Y).batch(1),
            self.slices(self.X[:, 0], self.Y).batch(1, drop_remainder=True),
        ):
            checks.check_batched(model, data.element_spec)  # a batch of one number looks as one example would
        several = self.slices(self.X, self.Y).batch(2, drop_remainder=True)
        Trainer(compiled()).fit(several, validation_data=several, verbose=0)


class Moved(keras.losses.SparseCategoricalCrossentropy):
    """Labels from 100 on; -1 for none."""

    def call(self, y_true, y_pred):
        return super().call(keras.ops.where(y_true >= 100, y_true - 100, y_true), y_pred)


class MovedOutside(keras.losses.SparseCategoricalCrossentropy):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true % 100, y_pred, sample_weight)


class MovedByItsFunction(keras.losses.SparseCategoricalCrossentropy):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        own = self.fn
        self.fn = lambda y_true, y_pred, **kwargs: own(y_true % 100, y_pred, **kwargs)


class Ignoring(keras.losses.SparseCategoricalCrossentropy):
    """Its configuration does not say what it ignores."""

    def __init__(self, from_logits=True):
        super().__init__(from_logits=from_logits, ignore_class=101)

    def get_config(self):
        return {"name": self.name}


class MovedByTheModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y % 100, y_pred, sample_weight)


class Plain(keras.losses.SparseCategoricalCrossentropy):
    """A subclass that leaves labels alone."""

    def get_config(self):
        return super().get_config()


class TestLabelsThatALossMaps:
    X = TestLabels.X
    Y = np.array([0, 101, 2, 3, 0])

    def fits(self, loss, model=None):
        model = compiled(dense_model(lambda: keras.layers.Dense(4)) if model is None else model, loss=loss)
        checks.check_labels(built(model, self.X, self.Y), self.X, self.Y)
        return True

    @pytest.mark.parametrize("loss", [Moved, MovedOutside, MovedByItsFunction, Ignoring], ids=lambda loss: loss.__name__)
    def test_are_its_own_business(self, loss):
        assert self.fits(loss(from_logits=True))

    def test_so_are_those_of_a_model_with_a_loss_of_its_own(self):
        assert self.fits(keras.losses.SparseCategoricalCrossentropy(from_logits=True), MovedByTheModel())

    @pytest.mark.parametrize("loss", [Plain(from_logits=True), Plain(from_logits=True, ignore_class=-1)])
    def test_a_subclass_that_changes_nothing_of_that_is_judged(self, loss):
        with pytest.raises(ValueError, match="^y holds the label 101 in example 1"):
            self.fits(loss)

    @pytest.mark.parametrize("loss", [Moved, Ignoring], ids=lambda loss: loss.__name__)
    def test_they_train_as_in_keras(self, loss):
        make = lambda: compiled(dense_model(lambda: keras.layers.Dense(4)), loss=loss(from_logits=True))  # noqa: E731
        as_keras(make, {"x": np.eye(5, 3, dtype="float32"), "y": self.Y})


def masked(y_true, y_pred):
    """The mean of what is there."""
    is_there = tf.math.is_finite(y_true)
    return keras.ops.mean(keras.ops.square(tf.where(is_there, y_true - y_pred, 0.0)), axis=-1)


class TestCheckData:
    """`check_data=False`: values are the user's business."""

    X, Y = np.eye(5, 3, dtype="float32"), np.arange(5, dtype="float32")[:, None]

    @staticmethod
    def spoilt(array, value=np.nan):
        return np.where(np.arange(5)[:, None] == 3, value, array).astype("float32")

    @pytest.mark.slow
    def test_a_loss_that_masks(self):
        fit = {"x": self.X, "y": self.spoilt(self.Y), "validation_data": (self.X, self.spoilt(self.Y))}
        make = lambda: compiled(loss=masked)  # noqa: E731
        with pytest.raises(ValueError, match="^y holds NaN in example 3: clean the data, or say check_data=False"):
            fitted(make, fit)
        as_keras(make, {**fit, "check_data": False}, like=fit)

    @pytest.mark.slow
    def test_in_validation_alone(self):
        fit = {"x": self.X, "y": self.Y, "validation_data": (self.X, self.spoilt(self.Y))}
        with pytest.raises(ValueError, match="^validation_data: y holds NaN in example 3: clean the data, or say check_data"):
            fitted(lambda: compiled(loss=masked), fit)
        as_keras(lambda: compiled(loss=masked), {**fit, "check_data": False}, like=fit)

    def test_a_model_that_masks(self):
        class Filling(keras.layers.Layer):
            def call(self, x):
                return tf.where(tf.math.is_finite(x), x, 0.0)

        make = lambda: compiled(dense_model(Filling, lambda: keras.layers.Dense(1)))  # noqa: E731
        fit = {"x": self.spoilt(self.X, np.inf), "y": self.Y}
        as_keras(make, {**fit, "check_data": False}, like=fit)

    def test_shapes_are_checked_all_the_same(self):
        with pytest.raises(ValueError, match="^x has examples of shape"):
            fitted(compiled, {"x": self.X[:, :2], "y": self.Y, "check_data": False})

    def test_values_that_nobody_masks_are_named_when_they_spoil_an_update(self):
        with pytest.raises(NonFiniteError, match="y holds NaN in example"):
            fitted(compiled, {"x": self.X, "y": self.spoilt(self.Y), "check_data": False})
