"""Models for tables and for sequences: shapes, masks, sizes that come with the data, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainlab import Heun, Trainer
from trainlab.datasets import Integers
from trainlab.models import lstm, mlp, tabular, text_transformer

COLUMNS = {"numbers": (2,), "town": Integers((), 5), "tags": Integers((3,), 7)}
NUMBERS = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
TOWNS = np.array([0, 1, 2, 3, 4, 1], "int32")
TAGS = np.arange(18, dtype="int32").reshape(6, 3) % 7
WORDS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 9, 1]], "int32")


def test_tabular_is_an_mlp_on_looked_up_rows():
    model = tabular(COLUMNS, 3, hidden_sizes=(4,), embedding_size=2, activation="tanh")
    town, tags = (model.get_layer(f"embedding_{name}").embeddings.numpy() for name in ("town", "tags"))
    assert (town.shape, tags.shape, model.name) == ((5, 2), (7, 2), "tabular")
    x = np.concatenate([NUMBERS, town[TOWNS], tags[TAGS].reshape(6, 6)], axis=1)
    (w1, b1), (w2, b2) = (model.get_layer(name).get_weights() for name in ("hidden_1", "logits"))
    found = model({"numbers": NUMBERS, "town": TOWNS, "tags": TAGS}).numpy()
    np.testing.assert_allclose(found, np.tanh(x @ w1 + b1) @ w2 + b2, atol=1e-6)


def test_without_categories_it_is_an_mlp():
    given = keras.utils.set_random_seed(0), tabular((4, 2), 3, dropout=0.5, l2=0.1)
    other = keras.utils.set_random_seed(0), mlp((4, 2), 3, dropout=0.5, l2=0.1)
    x = np.ones((2, 4, 2), "float32")
    np.testing.assert_array_equal(given[1](x), other[1](x))
    assert len(given[1].losses) == len(other[1].losses) == 3


@pytest.mark.parametrize("num_values, size", [(2, 2), (5, 4), (100, 21), (10**6, 50)])
def test_the_default_size_of_an_embedding(num_values, size):
    assert tabular({"a": Integers((), num_values)}, 1).get_layer("embedding_a").output_dim == size


@pytest.mark.parametrize(
    "name", ["two words", "home.dest", "Größe", "a-b", "x(1)", "a/b", "columns", "hidden_1", "logits", "a_b"]
)
@pytest.mark.filterwarnings("error:When providing")
def test_columns_may_be_called_anything(name):
    models = [tabular({"numbers": (2,), called: Integers((), 5), "a b": Integers((), 7)}, 1) for called in (name, "plain")]
    models[0].set_weights(models[1].get_weights())
    inputs = [{"numbers": NUMBERS, called: TOWNS, "a b": TOWNS + 2} for called in (name, "plain")]
    logits = [tf.function(model)(x).numpy() for model, x in zip(models, inputs, strict=True)]  # in a graph names are stricter
    np.testing.assert_array_equal(*logits)


SEQUENCES = {
    "lstm": (lstm, {"units": (4, 3)}),
    "both ways": (lstm, {"units": (4,), "bidirectional": True, "dropout": 0.1}),
    "transformer": (text_transformer, {"num_layers": 2, "num_heads": 2, "embedding_size": 4, "feed_forward_size": 5}),
    "transformer with dropout": (text_transformer, {"num_layers": 1, "dropout": 0.2}),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_padding_changes_nothing(case):
    factory, sizes = SEQUENCES[case]
    model = factory(Integers((5,), 10), 3, **sizes)
    x = WORDS[:1]
    logits = model(x).numpy()
    assert logits.shape == (1, 3)
    longer = factory(Integers((8,), 10), 3, **sizes)
    pairs = zip(model.get_weights(), longer.get_weights(), strict=True)
    weights = [w if w.shape == v.shape else np.concatenate([w, v[len(w) :]]) for w, v in pairs]
    longer.set_weights(weights)
    np.testing.assert_allclose(longer(np.pad(x, [(0, 0), (0, 3)])).numpy(), logits, atol=1e-6)
    changed = x.copy()
    changed[0, 3] = 1
    assert np.abs(model(changed).numpy() - logits).max() > 1e-5  # the control: what is no padding counts


def test_positions_count():
    model = text_transformer((5,), 3, num_layers=1, num_values=10)
    assert np.abs(model(WORDS[2:]).numpy() - model(WORDS[2:, ::-1]).numpy()).max() > 1e-5


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_saved_model_is_read_again(case, tmp_path):
    factory, sizes = SEQUENCES[case]
    model = factory((5,), 3, num_values=10, return_sequences=True, **sizes)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(WORDS), again(WORDS))
    assert again(WORDS).shape == (3, 5, 3)


@pytest.mark.parametrize("factory", [lstm, text_transformer, tabular])
def test_building_twice_gives_the_same_names(factory):
    first, second = (factory(Integers((5,), 10), 3) for _ in range(2))
    assert [v.path for v in first.trainable_variables] == [v.path for v in second.trainable_variables]


def test_an_lstm_reads_numbers():
    model = lstm((40, 2), 10, units=(8,))
    assert model.count_params() == 4 * 8 * (2 + 8 + 1) + 8 * 10 + 10
    assert lstm((None, 2), 10)(np.ones((3, 7, 2), "float32")).shape == (3, 10)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: lstm((40,), 10), r"^input_shape=\(40,\): lstm needs \(length, features\) .* num_values=1000$"),
        (lambda: lstm((40, 2, 3), 10), r"^input_shape=\(40, 2, 3\): lstm needs"),
        (lambda: lstm(40, 10), "^input_shape=40: lstm needs"),
        (lambda: lstm((40, 2), 10, units=()), "^units=.*at least one layer"),
        (lambda: lstm((40, 2), 10, bidirectional=1), "^bidirectional=1: must be True or False"),
        (lambda: text_transformer((5,), 2), "^input_shape=.* needs .* num_values=1000$"),
        (lambda: text_transformer((None,), 2, num_values=9), r"^input_shape\[0\]=None: must be a positive integer"),
        (lambda: text_transformer((5,), 2, num_heads=3, num_values=9), "^embedding_size=64: must be a multiple of num_heads=3"),
        (lambda: text_transformer((5,), 2, num_values=0), "^num_values=0: must be a positive integer"),
        (lambda: text_transformer((5,), 2, dropout=1.0, num_values=9), "^dropout=1.0: "),
        (lambda: tabular({"a": ()}, 2), r"^input_shape\['a'\]=\(\): say how many categories"),
        (lambda: tabular({"a": (2,)}, 2, num_values={"b": 3}), "^num_values: there is no input 'b'; there are a"),
        (lambda: tabular({"a": ()}, 2, num_values={"a": 0}), r"^num_values\['a'\]=0: must be a positive integer"),
        (lambda: tabular({"a": (2,)}, 0), "^num_outputs=0: "),
    ],
)
def test_what_cannot_be_built_is_said(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build, x, y",
    [
        (lambda: tabular(COLUMNS, 3), {"numbers": NUMBERS, "town": TOWNS, "tags": TAGS}, TOWNS % 3),
        (lambda: lstm((5,), 3, units=(4,), num_values=10), WORDS, TOWNS[:3] % 3),
        (
            lambda: text_transformer((5,), 3, num_layers=1, embedding_size=4, num_values=10, return_sequences=True),
            WORDS,
            WORDS % 3,
        ),
    ],
)
def test_they_train(build, x, y):
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = Trainer(model, Heun(), seed=0, jit_compile=False).fit(x, y, batch_size=3, epochs=30, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
