"""`Trainer.find_learning_rate` leaves nothing behind: every bit is what it was, and so is the next `fit`."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from own_steps import Vae
from small import assert_same, classifier, compiled, dense_model, differ, everything, labelled, regression, weights
from sweeping import FEW, state
from tables import MODELS, PLAIN_STRATEGIES, STRATEGIES

import trainlab as tl

X, Y = regression()
QUICK = ("sgd", "heavy_ball", "accumulate_3_heun")  # what differs most; the others take as long


def _several():
    one, two = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)
    return keras.optimizers.MultiOptimizer(lambda v: one if "kernel" in v.path else two)


class TestWhatItLeaves:
    @pytest.mark.parametrize(
        "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES]
    )
    def test_every_strategy(self, name):
        case = MODELS["cnn"]  # BatchNorm, dropout with a seed, metrics

        def trained(sweeps):
            optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3, weight_decay=0.01)
            trainer = tl.Trainer(case.compiled(optimizer), STRATEGIES[name].make())
            x, y = case.arrays(10)
            trainer.fit(x, y, batch_size=2, steps=3, verbose=0)
            if sweeps:
                before, traces = state(trainer), trainer.num_traces
                rates = trainer.find_learning_rate(x, y, batch_size=2, **FEW)
                assert len(rates.losses) == 7
                assert len(set(rates.losses)) == 7
                assert_same(state(trainer), before)
                assert trainer.num_traces <= traces + 1  # the smaller update at the end of a pass
            history = trainer.fit(x, y, batch_size=2, epochs=2, verbose=0)
            return state(trainer), history.history, trainer.num_traces

        (swept, history, traces), (plain, plain_history, plain_traces) = trained(True), trained(False)
        assert_same(swept, plain)
        assert history == plain_history
        assert traces == plain_traces

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [name for name in MODELS if name != "cnn"])
    def test_every_model(self, name):
        case = MODELS[name]

        def trained(sweeps):
            trainer = tl.Trainer(case.compiled(), tl.Heun())
            x, y = case.arrays(8)
            if sweeps:
                trainer.find_learning_rate(x, y, batch_size=4, sample_weight=case.weights(8), **FEW)
            trainer.fit(x, y, batch_size=4, epochs=2, sample_weight=case.weights(8), verbose=0)
            return state(trainer), trainer.num_traces

        (swept, traces), (plain, plain_traces) = trained(True), trained(False)
        assert_same(swept, plain)
        assert traces == plain_traces

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "make",
        [
            lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 20)),
            lambda: keras.optimizers.Adam(keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.0, 0.1])),
            lambda: keras.optimizers.SGD(lambda: 0.05),
            _several,
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**30, dynamic_growth_steps=2),
            lambda: keras.optimizers.Lion(0.001, global_clipnorm=0.1),
        ],
        ids=["schedule", "schedule from 0", "function", "several", "loss scale", "lion"],
    )
    @pytest.mark.parametrize("begins", [False, True], ids=["fresh", "trained"])
    def test_every_optimizer(self, make, begins):
        def trained(sweeps):
            trainer = tl.Trainer(compiled(dense_model(lambda: keras.layers.Dense(1)), make(), metrics=["mae"]), tl.Heun())
            if begins:
                trainer.fit(X, Y, batch_size=4, steps=7, verbose=0)
            if sweeps:
                trainer.find_learning_rate(X, Y, batch_size=4, **FEW)
            trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0)
            return state(trainer), trainer.num_traces

        (swept, traces), (plain, plain_traces) = trained(True), trained(False)
        assert_same(swept, plain)
        assert traces == plain_traces

    @pytest.mark.slow
    def test_layers_that_draw_from_the_shared_generator(self):
        class Noisy(keras.layers.Layer):
            def call(self, x):
                return x + keras.random.normal(keras.ops.shape(x))

        def trained(sweeps):
            trainer = tl.Trainer(compiled(dense_model(Noisy, lambda: keras.layers.Dense(1))), tl.Heun())
            if sweeps:
                trainer.find_learning_rate(X, Y, **FEW)
            trainer.fit(X, Y, batch_size=4, verbose=0)
            return state(trainer)

        assert_same(trained(True), trained(False))

    @pytest.mark.slow
    def test_a_train_step_of_ones_own(self):
        def trained(sweeps):
            keras.utils.set_random_seed(0)
            model = Vae()
            model.compile(optimizer=keras.optimizers.Adam(0.01))
            trainer = tl.Trainer(model, tl.Accumulate(2, tl.Heun()))
            x = np.random.default_rng(0).normal(size=[12, 6]).astype("float32")
            if sweeps:
                rates = trainer.find_learning_rate(x, batch_size=4, **FEW)
                assert len(set(rates.losses)) == 7
            trainer.fit(x, batch_size=4, epochs=2, verbose=0)
            return state(trainer), trainer.num_traces

        (swept, traces), (plain, plain_traces) = trained(True), trained(False)
        assert_same(swept, plain)
        assert traces == plain_traces

    @pytest.mark.slow
    def test_a_model_that_is_not_built_gets_the_same_weights(self):
        def trained(sweeps):
            keras.utils.set_random_seed(0)
            model = compiled(keras.Sequential([keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)]))
            trainer = tl.Trainer(model)
            if sweeps:
                trainer.find_learning_rate(X, Y, **FEW)
            trainer.fit(X, Y, verbose=0)
            return state(trainer)

        assert_same(trained(True), trained(False))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings",
        [{"jit_compile": True}, {"micro_batch_size": 2}, {"on_nonfinite": "skip"}, {"steps_per_execution": 3}],
        ids=lambda settings: next(iter(settings)),
    )
    def test_every_setting(self, settings):
        def trained(sweeps):
            layers = [lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1)]
            trainer = tl.Trainer(compiled(dense_model(*layers), metrics=["mae"]), tl.Heun(), **settings)
            trainer.fit(X, Y, batch_size=4, verbose=0)
            if sweeps:
                assert trainer.find_learning_rate(X, Y, batch_size=4, largest=1e4).diverged_at is not None
            trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0)
            return everything(trainer.model), trainer.num_traces, trainer.on_nonfinite

        (swept, *rest), (plain, *others) = trained(True), trained(False)
        assert_same(swept, plain)
        assert rest == others

    @pytest.mark.slow
    def test_eagerly(self):
        def trained(sweeps):
            model = compiled(dense_model(lambda: keras.layers.Dropout(0.5), lambda: keras.layers.Dense(1)), metrics=["mae"])
            trainer = tl.Trainer(model, PLAIN_STRATEGIES["heavy_ball"].make(), run_eagerly=True)
            if sweeps:
                trainer.find_learning_rate(X, Y, **FEW)
            trainer.fit(X, Y, verbose=0)
            return everything(trainer.model)

        assert_same(trained(True), trained(False))

    @pytest.mark.parametrize("largest", [1e8, 1e-2], ids=["diverges", "ends"])
    def test_a_sweep_that_ends_so_or_so(self, largest):
        trainer = tl.Trainer(compiled(metrics=["mae"]), PLAIN_STRATEGIES["heavy_ball"].make())
        trainer.fit(X, Y, batch_size=4, verbose=0)
        before = state(trainer)
        rates = trainer.find_learning_rate(X, Y, batch_size=4, largest=largest)
        assert (rates.diverged_at is not None) == (largest == 1e8)
        assert_same(state(trainer), before)

    def test_a_sweep_that_is_interrupted(self, monkeypatch):
        trainer = tl.Trainer(compiled(metrics=["mae"]), PLAIN_STRATEGIES["heavy_ball"].make())
        trainer.fit(X, Y, batch_size=4, verbose=0)
        before, calls = state(trainer), iter([None] * 5)
        monkeypatch.setattr("trainlab.runs.reset.Reset.__call__", lambda self: next(calls))
        with pytest.raises(StopIteration):
            trainer.find_learning_rate(X, Y, batch_size=4)
        assert_same(state(trainer), before)

    def test_a_sweep_does_change_what_is_not_put_back(self):
        """The control: the updates are real ones."""
        trainer = tl.Trainer(compiled())
        seen = []
        assign = trainer.model.layers[0].kernel.assign
        before = weights(trainer.model)
        trainer.model.layers[0].kernel.assign = lambda value: (seen.append(np.array(value)), assign(value))[1]
        rates = trainer.find_learning_rate(X, Y, **FEW)
        assert not np.allclose(rates.losses, rates.losses[0])
        assert not differ(weights(trainer.model), before)

    def test_a_run_on_disk(self, tmp_path):
        trainer = tl.Trainer(compiled(), run=tmp_path / "a")
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0)
        before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
        trainer.find_learning_rate(X, Y, batch_size=4, **FEW)
        assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
        again = tl.Trainer(compiled(), run=tmp_path / "b")
        again.find_learning_rate(X, Y, batch_size=4, **FEW)
        assert not (tmp_path / "b").exists()
        history = trainer.fit(X, Y, batch_size=4, epochs=3, verbose=0, resume="must")
        assert len(history.history["loss"]) == 3


class Shuffled(keras.utils.PyDataset):
    """Batches whose order it changes itself, in place, after each pass."""

    def __init__(self):
        super().__init__()
        self.rng, self.order = np.random.default_rng(0), np.arange(5)

    def __len__(self):
        return 5

    def __getitem__(self, i):
        at = slice(4 * self.order[i], 4 * self.order[i] + 4)
        return X[at] + np.random.normal() * 0.01, Y[at]  # noqa: NPY002

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


class Locked(Shuffled):
    """Holds what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def _dataset(**kwargs):
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20, **kwargs).batch(4)


class TestData:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "make",
        [
            lambda: _dataset(seed=1),
            lambda: _dataset(),
            lambda: _dataset(seed=1).repeat(),
            lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).cache().shuffle(5, seed=2),
            Shuffled,
        ],
        ids=["shuffled", "unseeded", "endless", "cached", "PyDataset"],
    )
    def test_the_order_of_the_next_fit(self, make):
        def trained(sweeps):
            keras.utils.set_random_seed(0)
            data, trainer = make(), tl.Trainer(compiled())
            np.random.seed(0)  # noqa: NPY002
            if sweeps:
                rates = trainer.find_learning_rate(data, smallest=1e-3, largest=0.5, num_updates=12)  # more than a pass
                assert len(set(rates.losses)) == 12
            trainer.fit(data, epochs=2, steps_per_epoch=5, verbose=0)
            return everything(trainer.model)

        assert_same(trained(True), trained(False))

    def test_data_with_a_state_of_their_own(self):
        class Own(Shuffled):
            __deepcopy__ = None

            def get_state(self):
                return {"rng": str(self.rng.bit_generator.state["state"]["state"]), "order": self.order.tolist()}

            def set_state(self, state):
                value = self.rng.bit_generator.state
                value["state"]["state"] = int(state["rng"])
                self.rng.bit_generator.state = value
                self.order = np.asarray(state["order"])

        data, trainer = Own(), tl.Trainer(compiled())
        trainer.fit(data, epochs=2, verbose=0)
        before = data.get_state()
        trainer.find_learning_rate(data, **FEW)
        assert data.get_state() == before

    @pytest.mark.parametrize("make", [lambda: ((X, Y) for _ in range(9)), lambda: Locked()], ids=["generator", "with a lock"])
    def test_what_would_be_lost_is_refused(self, make):
        with pytest.raises(
            ValueError, match="cannot be copied: the batches read here would be lost to fit. Give arrays"
        ) as caught:
            tl.Trainer(compiled()).find_learning_rate(make())
        assert "\n" not in str(caught.value)

    def test_few_data_go_round(self):
        rates = tl.Trainer(compiled(), tl.Accumulate(2)).find_learning_rate(X[:6], Y[:6], batch_size=4, **FEW)
        assert len(rates.losses) == 7

    def test_the_place_in_arrays(self):
        def trained(sweeps):
            trainer = tl.Trainer(compiled())
            trainer.fit(X, Y, batch_size=4, steps=3, verbose=0)
            if sweeps:
                trainer.find_learning_rate(X, Y, batch_size=4, **FEW)
                trainer.find_learning_rate(X[:8], Y[:8], batch_size=4, **FEW)
            trainer.fit(X, Y, batch_size=4, steps=4, verbose=0)
            return everything(trainer.model)

        assert_same(trained(True), trained(False))

    def test_weights_by_class_count(self):
        x, y = labelled()
        trainer = tl.Trainer(classifier())
        plain = trainer.find_learning_rate(x, y, **FEW)
        weighted = trainer.find_learning_rate(x, y, class_weight={0: 2.0, 1: 2.0, 2: 2.0, 3: 2.0}, **FEW)
        np.testing.assert_allclose(weighted.losses[0], 2 * plain.losses[0], rtol=1e-5)
