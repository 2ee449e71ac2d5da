"""Models with a `train_step` of their own: SGD() is Keras' `fit`; any strategy is a tape loop by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import flatten, parameters, relative
from own_step_cases import EXACT, OWN_STEPS
from replicating import mirrored
from small import assert_same, everything, regression
from tables import Sam

import trainlab as tl

NUM, SIZE = 14, 4  # batches of 4, 4, 4 and 2
RATE = 0.1
NAMES = list(OWN_STEPS)


def mostly_slow(quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in NAMES]


def relate(history, others, rtol=1e-6):
    assert history.keys() == others.keys()
    for name, values in others.items():
        np.testing.assert_allclose(history[name], values, rtol=rtol, atol=1e-6, err_msg=name)


def assert_close(model, other):
    pairs = zip(everything(model), everything(other), strict=True)
    assert max(np.max(np.abs(np.float64(a) - np.float64(b)), initial=0) for a, b in pairs) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_sgd_is_fit(name):
    case = OWN_STEPS[name]
    # Of rows that occur twice an adaptive optimizer makes something else under Keras: they are not added first.
    optimizer = keras.optimizers.SGD if name == "words_in_order" else keras.optimizers.Adam
    model, reference = case.compiled(optimizer(0.02)), case.compiled(optimizer(0.02))
    keras.utils.set_random_seed(5)  # of the global generator
    history = tl.Trainer(model).fit(case.dataset(NUM, SIZE), epochs=3, verbose=0).history
    keras.utils.set_random_seed(5)
    expected = reference.fit(case.dataset(NUM, SIZE), epochs=3, verbose=0).history
    assert_close(model, reference)
    relate(history, expected)


@pytest.mark.parametrize("name", ["vae", "byol", "persistent"])
def test_of_arrays_and_in_eager_mode_too(name):
    """`fit` cuts arrays itself: one array, or x and y."""
    case = OWN_STEPS[name]
    data = case.arrays(NUM)
    x, y = data if isinstance(data, tuple) else (data, None)
    model, reference = case.compiled(), case.compiled()
    fit = {"batch_size": SIZE, "epochs": 2, "shuffle": False, "verbose": 0}
    history = tl.Trainer(model, run_eagerly=True).fit(x, y, **fit).history
    expected = reference.fit(x, y, **fit).history
    assert_close(model, reference)
    relate(history, expected)


class Noting(keras.optimizers.SGD):
    """Takes note of what it is given, and leaves the weights to whoever asks."""

    noted = ()

    def apply(self, grads, trainable_variables=None):
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        self.noted = [(tf.convert_to_tensor(g), v) for g, v in zip(grads, variables, strict=True) if g is not None]


class ByHand:
    """Trains a model by its own step, run eagerly on its real variables, which are put back wherever need be."""

    def __init__(self, case):
        self.case, self.model = case, case.compiled(Noting(RATE), run_eagerly=True)
        built = tf.function(lambda data: self.model.train_step(data) and None, autograph=False)
        built.get_concrete_function(case.dataset(NUM, SIZE).element_spec)  # runs nothing

    def variables(self):
        model = self.model
        of_metrics = [v for metric in model.metrics for v in metric.variables]
        states = [v for layer in model.layers for v in tf.nest.flatten(getattr(layer, "states", None) or [])]  # nobody lists them
        return [*model.variables, *model.metrics_variables, *of_metrics, *states, *self.generator()]

    @staticmethod
    def generator():
        from keras.src.random.seed_generator import global_seed_generator

        return [global_seed_generator().state]

    def gradient(self, batches):
        """By variable, weighted by examples; every batch goes on from what the one before left, weights and `late` apart."""
        total, sizes = {}, [len(tf.nest.flatten(batch)[0]) for batch in batches]
        for batch, size in zip(batches, sizes, strict=True):
            kept = [(v, v.numpy()) for v in (*self.model.trainable_variables, *self.case.late(self.model))]
            tf.config.run_functions_eagerly(True)
            self.logs = self.model.train_step(batch)
            tf.config.run_functions_eagerly(False)
            for variable, value in kept:
                variable.assign(value)
            for gradient, variable in self.model.optimizer.noted:
                share = size / sum(sizes) * np.float64(gradient)
                total[id(variable)] = (variable, total.get(id(variable), (variable, 0.0))[1] + share)
        return total

    def update(self, batches, is_heun):
        before = {id(v): (v, v.numpy()) for v in self.variables()}
        start = {id(v): v.numpy() for v in (*self.variables(), self.model.optimizer.iterations)}
        direction = self.gradient(batches)
        logs, after = self.logs, [(v, v.numpy()) for v, _ in before.values()]
        if is_heun:
            self.put(before.values())
            self.move(direction, before)
            probe = self.gradient(batches)
            direction = {key: (v, (g + probe[key][1]) / 2) for key, (v, g) in direction.items()}
        self.put(after)
        self.move(direction, before)
        self.model.optimizer.iterations.assign_add(1)
        self.case.after(self.model, lambda v: start[id(v)])
        return {name: float(value) for name, value in flat(logs).items()}

    @staticmethod
    def put(values):
        for variable, value in values:
            variable.assign(value)

    @staticmethod
    def move(direction, before):
        for key, (variable, gradient) in direction.items():
            variable.assign((np.float64(before[key][1]) - RATE * gradient).astype(variable.dtype))


def flat(logs):
    return {k: v for key, value in logs.items() for k, v in (flat(value) if isinstance(value, dict) else {key: value}).items()}


STRATEGIES = {
    "heun": (tl.Heun, 1, True),
    "accumulate": (lambda: tl.Accumulate(2), 2, False),
    "accumulate_heun": (lambda: tl.Accumulate(3, tl.Heun()), 3, True),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NAMES)
def test_any_strategy_is_a_tape_loop_by_hand(name, strategy):
    case, (make, num_batches, is_heun) = OWN_STEPS[name], STRATEGIES[strategy]
    data = case.dataset(NUM, SIZE)
    model = case.compiled(keras.optimizers.SGD(RATE))
    keras.utils.set_random_seed(6)
    history = tl.Trainer(model, make()).fit(data, epochs=2, verbose=0).history

    reference = ByHand(case)
    keras.utils.set_random_seed(6)
    batches, expected = list(data), []
    for _ in range(2):
        reference.model.reset_metrics()
        for i in range(0, len(batches), num_batches):
            logs = reference.update(batches[i : i + num_batches], is_heun)
        expected.append(logs)
    for variable, other in zip(model.variables, reference.model.variables, strict=True):
        np.testing.assert_allclose(variable, other, rtol=1e-5, atol=5e-6, err_msg=variable.path)
    assert int(model.optimizer.iterations) == int(reference.model.optimizer.iterations)
    for name in history.keys() - {*case.late_logs, "step_error"}:
        np.testing.assert_allclose(history[name], [logs[name] for logs in expected], rtol=2e-5, atol=2e-6, err_msg=name)


def test_by_hand_can_fail():
    """Control: without the second evaluation of Heun, or with batches that all weigh alike, the way is another."""
    case = OWN_STEPS["byol"]
    ends = []
    for batches, is_heun in ([[0], [1], [2], [3]], False), ([[0], [1], [2], [3]], True), ([[0, 1], [2, 3]], False):
        by_hand, data = ByHand(case), list(case.dataset(NUM, SIZE))
        for group in batches:
            by_hand.update([data[i] for i in group], is_heun)
        ends.append(flatten(by_hand.model.variables))
    assert min(np.abs(a - b).max() for a, b in ((ends[0], ends[1]), (ends[0], ends[2]))) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [tl.Heun, lambda: tl.Accumulate(2, tl.Heun())], ids=["heun", "accumulate_heun"])
@pytest.mark.parametrize("name", mostly_slow(["diffusion", "averaged"]))
def test_a_resume_is_bitwise(name, strategy, tmp_path):
    case = OWN_STEPS[name]

    def train(run, seed, *steps):
        for n in steps:
            keras.utils.set_random_seed(seed)
            model = case.compiled(keras.optimizers.Adam(0.02), seed=seed)
            history = tl.Trainer(model, strategy(), run=run).fit(case.dataset(NUM, SIZE), steps=n, verbose=0).history
            seed += 1  # the model that goes on begins elsewhere
        return everything(model), history

    whole, expected = train(tmp_path / "whole", 1, 7)
    resumed, history = train(tmp_path / "resumed", 1, 3, 7)
    assert_same(resumed, whole)
    assert {k: v[-1] for k, v in history.items()} == {k: v[-1] for k, v in expected.items()}  # of the epoch that both ended


def moved(name, strategy, **kwargs):
    case = OWN_STEPS[name]
    model = case.compiled(keras.optimizers.SGD(RATE, momentum=0.5))
    trainer = tl.Trainer(model, strategy(), **kwargs)
    trainer.fit(case.dataset(NUM, SIZE), steps=0, verbose=0)
    start = parameters(model)
    history = trainer.fit(case.dataset(NUM, SIZE), epochs=2, verbose=0).history
    return flatten(model.variables), parameters(model) - start, history


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"jit_compile": True}, {"run_eagerly": True}], ids=["xla", "eager"])
@pytest.mark.parametrize("strategy", [tl.SGD, lambda: tl.Accumulate(2, tl.Heun()), Sam], ids=["sgd", "accumulate_heun", "sam"])
@pytest.mark.parametrize("name", [param for param in mostly_slow(["byol"]) if param.values[0] in EXACT])
def test_xla_and_eager_are_the_graph(name, strategy, how):
    everywhere, way, history = moved(name, strategy, jit_compile=False)
    others, other_way, other_history = moved(name, strategy, **how)
    assert relative(other_way, way) < 1e-5
    np.testing.assert_allclose(others, everywhere, rtol=1e-4, atol=1e-6)
    relate(other_history, history, rtol=1e-4)


class CallsSuper(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize("replicas", [None, 2])
def test_the_losses_of_several_outputs_are_means_over_examples(replicas):
    """Keras takes means over batches: it knows the size of none. Where full ones are known, the last must be so, too."""
    x, y = regression()
    keras.utils.set_random_seed(1)
    inputs = keras.Input([3])
    model = CallsSuper(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in "ab"])
    model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    trainer = tl.Trainer(model, distribute=mirrored(replicas), jit_compile=False)
    history = trainer.fit(x, [y, 2 * y], batch_size=8, shuffle=False, verbose=0).history
    for name, prediction, target in zip("ab", model.predict(x, verbose=0), (y, 2 * y), strict=True):
        np.testing.assert_allclose(history[f"{name}_loss"], [np.mean((prediction - target) ** 2)], rtol=1e-5)
