"""Class weights and weights of some outputs, against weights written out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_keras import as_keras, assert_equal, fitted, seeded
from small import classifier, labelled

from trainlab import Accumulate, Trainer
from trainlab.data.kinds import class_weights, matched, weighing

N, T = 12, 4
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 5)).astype("float32"), RNG.normal(size=(N, 1)).astype("float32")
W = np.linspace(1, 2, N)
TOKENS, LABELS = RNG.normal(size=(N, T, 5)).astype("float32"), RNG.integers(0, 3, (N, T))
WEIGHT = {0: 0.5, 1: 2.0}  # and 1 for the third class


class TestClassWeights:
    WEIGHT = {0: 2.0, 2: 0.5}

    @pytest.mark.parametrize(
        "labels",
        [
            np.array([0, 1, 2, 0]),
            np.array([[0], [1], [2], [0]]),
            np.array([0.0, 1.0, 2.0, 0.0]),
            np.eye(3)[[0, 1, 2, 0]],
            tf.constant([0, 1, 2, 0]),
        ],
        ids=["labels", "column", "floats", "one-hot", "tensor"],
    )
    def test_one_weight_an_example(self, labels):
        np.testing.assert_array_equal(class_weights(labels, self.WEIGHT), [2.0, 1.0, 0.5, 2.0])

    def test_equal_keras(self):
        x, y = labelled(20)
        as_keras(classifier, {"x": x, "y": y, "class_weight": {0: 3.0, 1: 0.5, 2: 1.0, 3: 2.0}})

    @pytest.mark.parametrize("shape", [(N, T), (N, T, 1)], ids=["[n, T]", "[n, T, 1]"])
    def test_labels_of_every_element(self, shape):
        expected = np.where(LABELS == 0, 0.5, np.where(LABELS == 1, 2.0, 1.0))
        np.testing.assert_array_equal(class_weights(LABELS.reshape(shape), WEIGHT, are_labels=True), expected)

    def test_images_of_labels(self):
        labels = RNG.integers(0, 3, (2, 5, 7))
        assert class_weights(labels, WEIGHT, are_labels=True).shape == (2, 5, 7)
        np.testing.assert_array_equal(class_weights(np.eye(3)[labels], WEIGHT), class_weights(labels, WEIGHT, True))

    def test_rows_that_are_not_one_hot_are_told_and_count_as_in_keras(self):
        rows = np.array([[0, 1, 0], [1, 1, 0]])
        with pytest.warns(UserWarning, match=r"^class_weight: y is no one-hot row in example 1 \(\[1, 1, 0\]\)"):
            np.testing.assert_array_equal(class_weights(rows, WEIGHT), [2.0, 0.5])

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_one_hot_rows_and_smoothed_ones_are_not(self, smoothing, recwarn):
        rows = np.eye(3)[[0, 1, 2]] * (1 - smoothing) + smoothing / 3
        np.testing.assert_array_equal(class_weights(rows, WEIGHT), [0.5, 2.0, 1.0])
        assert not recwarn.list


def tagger(**kwargs):
    inputs = keras.Input([T, 5])
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


SPARSE = seeded(tagger, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
ONE_HOT = seeded(tagger, keras.losses.CategoricalCrossentropy(from_logits=True))
SPARSE_NAME = "sparse_categorical_crossentropy"
EXPECTED = {"x": TOKENS, "y": LABELS, "sample_weight": class_weights(LABELS, WEIGHT, True)}


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


class TestTargetsWithMoreAxes:
    """A label for each token weighs by itself, however it is written: Keras, given the weights themselves, is right."""

    CASES = {
        "[n, T]": (SPARSE, lambda: {"x": TOKENS, "y": LABELS}),
        "[n, T, 1]": (SPARSE, lambda: {"x": TOKENS, "y": LABELS[..., None]}),
        "[n, T, classes]": (ONE_HOT, lambda: {"x": TOKENS, "y": np.eye(3, dtype="float32")[LABELS]}),
        "a data set of [n, T]": (SPARSE, lambda: {"x": batches(TOKENS, LABELS), "batch_size": None}),
        "a data set of [n, T, 1]": (SPARSE, lambda: {"x": batches(TOKENS, LABELS[..., None]), "batch_size": None}),
        "a data set of [n, T, classes]": (
            ONE_HOT,
            lambda: {"x": batches(TOKENS, np.eye(3, dtype="float32")[LABELS]), "batch_size": None},
        ),
    }

    @pytest.fixture(scope="class")
    def expected(self):
        return fitted(SPARSE, EXPECTED, use_keras=True)

    @pytest.mark.parametrize("name", CASES)
    def test_equals_weights_written_out(self, name, expected):
        make, fit = self.CASES[name]
        assert_equal(fitted(make, lambda: {**fit(), "class_weight": WEIGHT}), expected)

    def test_without_them_it_ends_elsewhere(self):
        with pytest.raises(AssertionError):
            assert_equal(fitted(SPARSE, {"x": TOKENS, "y": LABELS}), fitted(SPARSE, EXPECTED))

    def test_accumulated_over_batches_of_tokens(self):
        fit = {"x": TOKENS, "y": LABELS, "class_weight": WEIGHT, "batch_size": 3}
        assert_equal(fitted(SPARSE, fit, strategy=Accumulate(2)), fitted(SPARSE, {**EXPECTED, "batch_size": 6}, use_keras=True))


class TestWhatClassWeightIs:
    WEIGHTS = [1.0, 5.0, 2.0]

    @pytest.mark.parametrize("is_stream", [False, True], ids=["arrays", "stream"])
    @pytest.mark.parametrize("kind", [float, np.int64, np.float32], ids=lambda kind: kind.__name__)
    def test_labels_may_be_numbers_of_any_type(self, kind, is_stream):
        class_weight = {kind(label): np.float32(weight) for label, weight in enumerate(self.WEIGHTS)}
        like = {"x": X, "y": LABELS[:, 0], "sample_weight": np.array(self.WEIGHTS)[LABELS[:, 0]]}
        fit = {"x": batches(X, LABELS[:, 0]), "batch_size": None} if is_stream else {"x": X, "y": LABELS[:, 0]}
        make = seeded(lambda: keras.Sequential([keras.Input([5]), keras.layers.Dense(3, "softmax")]), SPARSE_NAME)
        assert_equal(fitted(make, {**fit, "class_weight": class_weight}), fitted(make, {**like, "batch_size": 4}, use_keras=True))

    @pytest.mark.parametrize("is_stream", [False, True], ids=["arrays", "stream"])
    @pytest.mark.parametrize(
        ("class_weight", "line"),
        [
            (np.array([1.0, 5.0]), "class_weight must be a dictionary of weights by label, not ndarray: write dict.enumerate"),
            ([1.0, 5.0], "class_weight must be a dictionary of weights by label, not list: write dict.enumerate"),
            ({"0": 1.0, "1": 5.0}, "class_weight is for the label '0', where labels are whole numbers: write dict.enumerate"),
            ({0.5: 1.0}, "class_weight is for the label 0.5, where labels are whole numbers"),
            ({0: 1.0, 1: np.nan}, "class_weight: nan for the label 1 must be a finite number"),
            ({0: "1"}, "class_weight: '1' for the label 0 must be a finite number"),
        ],
        ids=["an array", "a list", "text", "a fraction", "NaN", "a weight as text"],
    )
    def test_mistakes_are_one_line(self, class_weight, line, is_stream):
        data = (batches(X, Y),) if is_stream else (X, Y)
        with pytest.raises((TypeError, ValueError), match=f"^{line}") as error:
            Trainer(classifier()).fit(*data, class_weight=class_weight, verbose=0)
        assert "\n" not in str(error.value)


class TestWeighing:
    """In a stream: the same weights, batch by batch."""

    @pytest.mark.parametrize(
        ("y", "are_labels"),
        [
            (LABELS[:, 0], False),
            (LABELS[:, :1], False),
            (LABELS[:, 0].astype("float32"), False),
            (np.eye(3)[LABELS[:, 0]], False),
            (LABELS, True),
            (LABELS[..., None], True),
        ],
        ids=["labels", "column", "floats", "one-hot", "of tokens", "of tokens, with an axis"],
    )
    @pytest.mark.parametrize("class_weight", [WEIGHT, {2: 3.0}, {0: 1.0, 1: 2.0, 2: 4.0, 7: 9.0}], ids=str)
    def test_equals_that_of_arrays(self, y, are_labels, class_weight):
        data = batches(X, y).map(weighing(class_weight, lambda rank: are_labels))
        found = np.concatenate([weights.numpy() for _, _, weights in data])
        np.testing.assert_array_equal(found, class_weights(y, class_weight, are_labels))

    @pytest.mark.parametrize("is_one_hot", [True, False])
    def test_of_a_last_axis_that_is_not_known(self, is_one_hot):
        y = np.eye(3)[LABELS[:, 0]] if is_one_hot else LABELS[:, :1].astype("float64")
        data = batches(X, y).map(lambda x, y: (x, tf.ensure_shape(tf.numpy_function(lambda a: a, [y], tf.float64), [None, None])))
        found = np.concatenate([weights.numpy() for _, _, weights in data.map(weighing(WEIGHT, lambda rank: False))])
        np.testing.assert_array_equal(found, class_weights(LABELS[:, 0], WEIGHT))

    def test_a_generator_too(self):
        x, y = labelled()
        weight = {0: 3.0, 1: 0.5}
        give = lambda: {"x": ((x[i : i + 4], y[i : i + 4]) for i in range(0, 20, 4)), "batch_size": None, "epochs": 1}  # noqa: E731
        ours = fitted(classifier, lambda: {**give(), "class_weight": weight})
        like = {"x": x, "y": y, "sample_weight": class_weights(y, weight), "epochs": 1}
        assert_equal(ours, fitted(classifier, like, use_keras=True))

    @pytest.mark.parametrize(
        ("element", "line"),
        [
            ((X, Y, W), "class_weight and weights in the batches of x: leave one of them out"),
            ((X, {"a": Y}), "class_weight needs batches with one dense y: for several outputs give weights in the batches"),
        ],
        ids=["weights", "several"],
    )
    def test_what_it_cannot_weigh(self, element, line):
        with pytest.raises(ValueError, match=f"^{line}$"):
            Trainer(classifier()).fit(batches(*element), class_weight=WEIGHT, verbose=0)


def two_outputs(kind, **compiling):
    def build():
        inputs = keras.Input([5])
        a, b = keras.layers.Dense(1, name="a")(inputs), keras.layers.Dense(1, name="b")(inputs)
        return keras.Model(inputs, {"dict": {"b": b, "a": a}, "list": [a, b], "tuple": (a, b)}[kind])

    return seeded(build, {"a": "mse", "b": "mae"}, weighted_metrics={"a": "mae", "b": "mse"}, **compiling)


TARGETS = {"dict": {"a": Y, "b": 2 * Y}, "list": [Y, 2 * Y], "tuple": (Y, 2 * Y)}
# Some weights, and the same written out for both outputs.
SOME = {
    "one by name": ({"a": W}, (W, np.ones(N))),
    "the other by name": ({"b": W}, (np.ones(N), W)),
    "both by name": ({"b": W, "a": 2 * W}, (2 * W, W)),
    "a list": ([W, None], (W, np.ones(N))),
    "a tuple": ((None, W), (np.ones(N), W)),
}


class TestSomeOutputs:
    """Weights by name or in order, for all outputs or some, whatever the targets and the outputs are written in."""

    @pytest.mark.parametrize("targets", TARGETS)
    @pytest.mark.parametrize("outputs", TARGETS)
    @pytest.mark.parametrize("some", SOME)
    def test_are_put_into_the_structure_of_the_outputs(self, some, outputs, targets):
        weight, (a, b) = SOME[some]
        like = {"dict": {"b": 0, "a": 0}, "list": [0, 0], "tuple": (0, 0)}[outputs]
        y, found = matched(TARGETS[targets], weight, like, ["a", "b"])
        for structure in (y, found):
            assert isinstance(structure, dict) == (outputs == "dict") and len(structure) == 2
        assert type(y) is type(found)  # or Keras' evaluate would not take them
        first, second = ("a", "b") if outputs == "dict" else (0, 1)
        assert y[first] is Y and np.array_equal(y[second], 2 * Y)
        for value, expected in ((found[first], a), (found[second], b)):
            np.testing.assert_array_equal(np.ones(N) if value is None else value, expected)

    @pytest.mark.parametrize("run_eagerly", [pytest.param(False, marks=pytest.mark.slow), True], ids=["compiled", "eager"])
    @pytest.mark.parametrize("outputs", ["dict", pytest.param("list", marks=pytest.mark.slow)])
    def test_train_as_weights_written_out_for_all(self, outputs, run_eagerly):
        make, y = two_outputs(outputs, run_eagerly=run_eagerly), TARGETS[outputs]
        whole = {"a": W, "b": np.ones(N)} if outputs == "dict" else [W, np.ones(N)]
        like = {"x": X, "y": y, "sample_weight": whole, "validation_data": (X, y, whole)}
        as_keras(make, {"x": X, "y": (Y, 2 * Y), "sample_weight": {"a": W}, "validation_data": (X, y, {"a": W})}, like=like)

    @pytest.mark.slow
    def test_in_a_data_set(self):
        make = two_outputs("dict")
        fit = lambda: {"x": batches(X, TARGETS["dict"], {"a": W}), "batch_size": None}  # noqa: E731
        as_keras(make, fit, like={"x": X, "y": TARGETS["dict"], "sample_weight": {"a": W, "b": np.ones(N)}})

    @pytest.mark.slow
    def test_held_out(self):
        make = two_outputs("list")
        like = {"x": X, "y": TARGETS["list"], "sample_weight": [W, np.ones(N)], "validation_split": 1 / 3}
        as_keras(make, {**like, "sample_weight": {"a": W}}, like=like)

    def test_of_the_only_output(self):
        make = seeded(lambda: keras.Sequential([keras.Input([5]), keras.layers.Dense(1, name="out")]))
        as_keras(make, {"x": X, "y": Y, "sample_weight": {"out": W}}, like={"x": X, "y": Y, "sample_weight": W})

    def test_what_stays_as_it_is(self):
        for y, weight in (({"a": 0, "b": 0}, {"a": 1, "b": 2}), ([0, 0], [1, 2]), (0, 1), ([0, 0], 1), (0, None)):
            assert matched(y, weight) == (y, weight)
            assert matched(y, weight)[1] is weight

    @pytest.mark.parametrize(
        ("y", "weight", "names", "line"),
        [
            ({"a": 0, "b": 0}, {"c": 1}, (), "sample_weight is for 'c', which is none of the outputs: 'a', 'b'"),
            ([0, 0], {"c": 1}, ("a", "b"), "sample_weight is for 'c', which is none of the outputs: 'a', 'b'"),
            (0, {"c": 1}, ("a",), "sample_weight is for 'c', which is none of the outputs: 'a'"),
            ([0, 0], {"a": 1}, (), "sample_weight is a dict, but y is a list: give sample_weight as a list too, .*"),
            ([0, 0], [1], (), "sample_weight has 1 entries for 2 targets: give None for no weights"),
            ({"a": 0, "b": 0}, [1], (), "sample_weight has 1 entries for 2 targets: give None for no weights"),
        ],
    )
    def test_mistakes(self, y, weight, names, line):
        with pytest.raises(ValueError, match=f"^{line}$"):
            matched(y, weight, output_names=names)

    @pytest.mark.parametrize("weight", [{"A": W}, {"a": W, "B": W}], ids=["the one", "one of two"])
    @pytest.mark.parametrize("called", ["fit", "fit on a generator", "evaluate", "validation_data"])
    def test_mistakes_in_batches(self, called, weight):
        """Before anything is trained, as in arrays: a weight under a name that is no output's would weigh nothing."""
        trainer, y = Trainer(two_outputs("dict")()), TARGETS["dict"]
        before, data = trainer.model.get_weights(), batches(X, y, weight)
        call = {
            "fit": lambda: trainer.fit(data, verbose=0),
            "fit on a generator": lambda: trainer.fit((batch for batch in data), verbose=0),
            "evaluate": lambda: trainer.evaluate(data, verbose=0),
            "validation_data": lambda: trainer.fit(batches(X, y), validation_data=data, verbose=0),
        }[called]
        name, prefix = next(name for name in weight if name != "a"), "validation_data: " * (called == "validation_data")
        with pytest.raises(ValueError, match=f"^{prefix}sample_weight is for '{name}', which is none of the outputs: 'a', 'b'$"):
            call()
        assert all(map(np.array_equal, trainer.model.get_weights(), before))
