"""`check_strategy` passes what is right, and catches what is wrong by the check that is meant for it."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainlab as tl
from trainlab.testing import Report, Result, check_strategy, report, strategies
from trainlab.testing.strategies import CHECKS

OURS = {
    "sgd": tl.SGD,
    "heun": tl.Heun,
    "accumulate": lambda: tl.Accumulate(2, tl.Heun()),
    "runge_kutta": lambda: tl.RungeKutta("bogacki_shampine"),
    "adaptive_step": lambda: tl.AdaptiveStep("heun", 0.1),
    "sam": tl.Sam,
    "asam": tl.Asam,
    "extragradient": tl.Extragradient,
    "optimistic_gradient": tl.OptimisticGradient,
    "lookahead": lambda: tl.Lookahead(2, 0.5, tl.Sam(0.05)),
    "noise": lambda: tl.Noise(1e-3),
    "all": lambda: tl.Accumulate(2, tl.Lookahead(2, 0.5, tl.Noise(1e-3, tl.OptimisticGradient()))),
}


QUICK = ("heun",)


@pytest.mark.parametrize("make", [pytest.param(OURS[n], id=n, marks=() if n in QUICK else pytest.mark.slow) for n in OURS])
def test_ours_hold(make):
    found = check_strategy(make())
    print(found)
    assert found
    unlooked = {result.name for result in found.results if result.holds is None}
    assert unlooked <= {"xla", "replicas"} and len(found.results) == len(CHECKS)


class Plain(tl.StepStrategy):
    """Right; what is wrong is derived from it."""

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(self.changed(here.gradient, state), at=here)

    def changed(self, gradient, state):
        return gradient


class Assigning(Plain):
    def __init__(self):
        self.count = tf.Variable(0.0)

    def changed(self, gradient, state):
        self.count.assign_add(1.0)
        return gradient

    def __deepcopy__(self, memo):
        return type(self)()

    def __repr__(self):
        return "Assigning()"


HIDDEN = tf.Variable(0.0, name="hidden")


class AssigningElsewhere(Plain):
    def changed(self, gradient, state):
        HIDDEN.assign_add(1.0)
        return gradient


class Unseeded(Plain):
    def changed(self, gradient, state):
        return gradient * tf.random.normal([])


class DrawnByNumpy(Plain):
    def changed(self, gradient, state):
        return gradient * np.random.default_rng().uniform()


class Remembering(Plain):
    def __init__(self):
        self.calls = 0

    def changed(self, gradient, state):
        self.calls += 1
        return gradient


class Lying(Plain):
    evaluations = 2


class ForgettingBatches(Plain):
    """Wraps one that takes 4 batches, and says nothing of it: three are never asked for."""

    def __init__(self):
        self.inner = tl.Accumulate(4)

    def step(self, objective, state):
        return self.inner.step(objective, state)


class Stale(Plain):
    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient, at=tl.Evaluation(here.loss, here.gradient))


class Misshapen(Plain):
    def init(self, parameters):
        return {"last": parameters * 0.0}

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient, at=here, memory={"last": here.gradient.norm()})


class CutOff(Plain):
    def init(self, parameters):
        return {"last": 0}

    def step(self, objective, state):
        step = super().step(objective, state)
        return step._replace(memory={"last": step.at.loss})


class Anchored(Plain):
    """Right: its memory stays as it is."""

    def init(self, parameters):
        return {"anchor": parameters * 1.0}

    def changed(self, gradient, state):
        return gradient + 0.1 * (state.parameters - state.memory["anchor"])


class Trailing(Anchored):
    """Right: its memory changes in `then` alone."""

    def step(self, objective, state):
        step = super().step(objective, state)
        return step._replace(then=self.then_of(state))

    def then_of(self, state):
        return lambda fast: (0.5 * (fast + state.memory["anchor"]), {"anchor": fast})


class UnseededThen(Trailing):
    def then_of(self, state):
        return lambda fast: (fast * tf.random.normal([]), {})


class MisshapenThen(Trailing):
    def then_of(self, state):
        return lambda fast: (fast, {"anchor": fast.norm()})


class OtherKeysThen(Trailing):
    def then_of(self, state):
        return lambda fast: (fast, {"anker": fast})


class OnlyAPoint(Trailing):
    def then_of(self, state):
        return lambda fast: fast


class OneRateThen(Trailing):
    def then_of(self, state):
        return lambda fast: (fast - fast * tf.sqrt(state.learning_rate), {})


@pytest.mark.parametrize("make", [Anchored, Trailing])
def test_a_memory_need_not_be_returned(make):
    found = check_strategy(make(), checks=["pure", "memory", "kinds", "compiled"])
    print(found)
    assert found


class OtherKeys(Plain):
    def init(self, parameters):
        return {"last": parameters * 0.0}

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient, at=here, memory={"first": here.gradient})


class InFloat32(Plain):
    def changed(self, gradient, state):
        return gradient.map(lambda leaf: tf.cast(leaf, tf.float32))


class OneRate(Plain):
    def changed(self, gradient, state):
        return gradient * tf.sqrt(state.learning_rate)


class Writing(Plain):
    """Does of an embedding's rows what only tensors take."""

    def changed(self, gradient, state):
        return tl.Vector([leaf * 2.0 if isinstance(leaf, tf.Tensor) else leaf for leaf in gradient.leaves])


class Unkept(Plain):
    def __init__(self, rate=0.1):
        self._rate = rate


class OtherWhenMadeAgain(Plain):
    def __init__(self, scale=1.0):
        self.scale = scale * 2

    def changed(self, gradient, state):
        return gradient * self.scale


class Branching(Plain):
    def changed(self, gradient, state):
        if bool(gradient.norm() > 1.0):
            return gradient / gradient.norm()
        return gradient


class DeafEagerly(Plain):
    """What a debugger sees is not what trains."""

    def changed(self, gradient, state):
        return gradient if tf.executing_eagerly() else gradient * 1.5


class NoStep(tl.StepStrategy):
    pass


class OnlyAGradient(Plain):
    def step(self, objective, state):
        return objective(state.parameters).gradient


class Still(Plain):
    def changed(self, gradient, state):
        return gradient * 0.0


WRONG = [
    (Assigning, "pure", "changes self.count"), (AssigningElsewhere, "pure", "assigns the variable hidden"),
    (Unseeded, "pure", "noise comes from state.seed"), (DrawnByNumpy, "pure", "noise comes from state.seed"),
    (Remembering, "pure", "changes self.calls"), (Branching, "pure", "cannot be traced"),
    (DeafEagerly, "pure", "another step than run eagerly"),
    (NoStep, "pure", "must define step"), (OnlyAGradient, "pure", "returns a Vector"),
    (Lying, "evaluations", "evaluations = 2, but a step makes 1"),
    (ForgettingBatches, "evaluations", "delegate it, or data are left out"),
    (Stale, "at", "is none that the objective returned"),
    (Misshapen, "memory", "init shapes [(2, 3), (2,)], a step returns [()]"),
    (CutOff, "memory", "memory['last']: init makes it of whole numbers, a step returns fractions"),
    (OtherKeys, "memory", "init shapes ['last'], a step returns ['first']"),
    (UnseededThen, "pure", "noise comes from state.seed"),
    (MisshapenThen, "memory", "memory['anchor']: init shapes [(2, 3), (2,)], then returns [()]"),
    (OtherKeysThen, "memory", "init shapes ['anchor'], then returns ['anker']"),
    (OnlyAPoint, "pure", "then returns a Vector; it returns a Vector and a dictionary"), (OneRateThen, "kinds", ""),
    (InFloat32, "kinds", "comes out as float32"), (OneRate, "kinds", ""), (Writing, "kinds", "row-sparse"),
    (Unkept, "serialises", "self.rate is not set"), (OtherWhenMadeAgain, "serialises", "made again from its configuration"),
    (DeafEagerly, "compiled", "compiled it is not what it is eagerly: "), (Branching, "compiled", "it raises"),
    (Still, "accumulation", "it trains nothing"),
]  # fmt: skip


@pytest.mark.parametrize("wrong, check, line", WRONG, ids=[f"{wrong.__name__}-{check}" for wrong, check, _ in WRONG])
def test_what_is_wrong_is_caught(wrong, check, line):
    found = check_strategy(wrong(), checks=[check])
    print(found)
    assert not found
    assert line in found.failures[0].line and "\n" not in found.failures[0].line
    with pytest.raises(AssertionError, match="FAILS"):
        found.raise_if_any_fails()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", None])
def test_whatever_dtype_layers_were_made_in(policy):
    """Keras keeps the default policy of a process' first layer: the checks are in float64 beside it, and leave it."""
    keras.utils.clear_session(free_memory=False)  # no policy yet
    if policy is not None:
        keras.config.set_dtype_policy(policy)
        keras.layers.Dense(1)
    try:
        assert check_strategy(tl.SGD(), checks=["accumulation"])
        assert keras.config.floatx() == "float32"
        layer = keras.layers.Dense(1)
        assert layer.dtype_policy.name == (policy or "float32")
    finally:
        keras.config.set_dtype_policy("float32")


def test_arguments():
    with pytest.raises(TypeError, match=r"write Heun\(\)"):
        check_strategy(tl.Heun)
    with pytest.raises(ValueError, match="no check 'pur'; it has pure"):
        check_strategy(tl.Heun(), checks=["pur"])
    assert not Report("x", [Result("a", False, "b")]) and Report("x", [Result("a", None)])


def test_docstring_examples():
    for module in (report, strategies):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0
