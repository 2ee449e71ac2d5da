"""Abalones as they were published, and MNIST-1D as its generator gives it."""

from importlib import resources

import numpy as np
import pytest

from trainlab.datasets import abalone, mnist_1d


def raw():
    with resources.files("trainlab.datasets").joinpath("abalone.npz").open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_abalones_are_those_that_were_published():
    arrays = raw()
    table = np.column_stack([arrays["measures"] / 2000, arrays["rings"]])
    published = {  # by abalone.names of the UCI repository
        "min": [0.075, 0.055, 0.000, 0.002, 0.001, 0.001, 0.002, 1],
        "max": [0.815, 0.650, 1.130, 2.826, 1.488, 0.760, 1.005, 29],
        "mean": [0.524, 0.408, 0.140, 0.829, 0.359, 0.181, 0.239, 9.934],
        "std": [0.120, 0.099, 0.042, 0.490, 0.222, 0.110, 0.139, 3.224],
    }
    for name, values in published.items():
        np.testing.assert_allclose(getattr(table, name)(axis=0), values, atol=0.00051, err_msg=name)
    assert np.bincount(arrays["sexes"]).tolist() == [1307, 1342, 1528]  # F, I, M
    assert np.bincount(arrays["rings"])[[1, 2, 3, 29]].tolist() == [1, 1, 15, 1]
    assert table[0].tolist() == [0.455, 0.365, 0.095, 0.514, 0.2245, 0.101, 0.15, 15]


def test_abalones_are_split_and_standardised():
    data, arrays = abalone(test_fraction=0.3, seed=5), raw()
    assert (len(data.train[1]), len(data.test[1])) == (2924, 1253)
    assert sorted([*data.train[1], *data.test[1]]) == sorted(arrays["rings"])
    np.testing.assert_allclose(data.train[0]["numbers"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train[0]["numbers"].std(0), 1, rtol=1e-5)
    assert set(data.train[0]["sex"]) == {1, 2, 3}
    np.testing.assert_array_equal(data.train[1], abalone(test_fraction=0.3, seed=5).train[1])
    assert (data.train[1] != abalone(test_fraction=0.3, seed=6).train[1]).any()


def test_abalones_are_small_and_have_their_source_beside_them():
    folder = resources.files("trainlab.datasets")
    assert len(folder.joinpath("abalone.npz").read_bytes()) < 200_000
    text = folder.joinpath("abalone.txt").read_text(encoding="utf-8")
    assert "10.24432/C55C7W" in text and "CC BY 4.0" in text


def test_mnist_1d_is_the_published_data():
    data = mnist_1d()
    (x, y), (x_test, y_test) = data.train, data.test
    assert (x.shape, x_test.shape, data.num_outputs, data.task) == ((4000, 40, 1), (1000, 40, 1), 10, "classification")
    # Read off mnist1d_data.pkl of https://github.com/greydanus/mnist1d; all of it agrees to 2.4e-7.
    np.testing.assert_allclose(x[0, :5, 0], [-0.33200567, -0.47191037, -0.77869708, -1.00974083, -0.88235257], atol=1e-6)
    np.testing.assert_allclose(x_test[-1, -3:, 0], [0.65987565, 0.87773435, 1.19315184], atol=1e-6)
    assert y[:12].tolist() == [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9] and y_test[-5:].tolist() == [2, 5, 9, 6, 4]
    assert x.sum(dtype="float64") == pytest.approx(-51.78746787, abs=1e-3)
    assert x_test.sum(dtype="float64") == pytest.approx(51.78746787, abs=1e-3)


def test_mnist_1d_takes_other_sizes_and_seeds():
    x, y = mnist_1d(num_examples=100, test_fraction=0.3, length=20, seed=1).train
    assert x.shape == (70, 20, 1) and np.bincount(y, minlength=10).max() <= 10
    assert (mnist_1d(100, seed=1).train[1] != mnist_1d(100, seed=2).train[1]).any()
    state = np.random.get_state()[1].copy()
    mnist_1d(100)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # nobody else's numbers are drawn


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_examples": 9}, "^num_examples=9: must be an integer >= 10"),
        ({"length": 1}, "^length=1: must be an integer >= 2"),
        ({"test_fraction": 0}, "^test_fraction=0: "),
        ({"seed": -1}, "^seed=-1: "),
    ],
)
def test_mnist_1d_refuses_what_breaks_its_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        mnist_1d(**arguments)
