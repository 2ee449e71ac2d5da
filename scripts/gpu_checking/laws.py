"""The equalities that must hold, on a handful of models and strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl
from gpu_checking.models import STRATEGIES, Case, noisy, smooth
from gpu_checking.telling import guarded, tell, within

RATE = 0.125  # a power of two: what it multiplies is rounded no further


def check(precision: str, tensor_float_32: bool, names: Sequence[str], is_short: bool) -> None:
    """Those of a step's arithmetic, of the models named, in "float32" or "float64"; under TensorFloat-32 to ten bits."""
    exact = _in_precision(precision, tensor_float_32)
    cases = smooth(18)
    for name in names[: 1 if is_short else None]:
        case = cases[name]
        with guarded(f"plain is plain, {name}"):
            _plain(name, case, exact)
        for strategy in STRATEGIES:
            with guarded(f"accumulation, {name}, {strategy}"):
                _accumulation(name, case, strategy, exact)
        with guarded(f"compiled is eager, {name}"):
            _compiled(name, case, 20 * exact)
    if precision == "float64" and "mlp" in names:
        with guarded("Heun is Heun"):
            _heun()


def check_rest(precision: str, tensor_float_32: bool, is_short: bool) -> None:
    """One function a step, under dropout and BatchNorm; one update; evaluations; values that are not finite; data."""
    exact = _in_precision(precision, tensor_float_32)
    cases = smooth(18)
    for name, case in list(noisy(16).items())[: 1 if is_short else None]:
        with guarded(f"one function a step, {name}"):
            _one_function(name, case, exact)
    with guarded("one update a step"):
        _one_update(cases["lstm"], exact)
    with guarded("padding"):
        _padding(exact)
    with guarded("evaluations are counted"):
        _evaluations(cases["mlp"])
    with guarded("non-finite values"):
        _nonfinite(cases["mlp"])
    with guarded("data on the device"):
        _kinds_of_data(exact)


def _in_precision(precision: str, tensor_float_32: bool) -> float:
    """Makes it so; returns what counts as equal."""
    tf.config.experimental.enable_tensor_float_32_execution(tensor_float_32)
    keras.config.set_floatx(precision)
    return 2e-2 if tensor_float_32 else {"float32": 1e-6, "float64": 1e-13}[precision]


def relative(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The norm of the difference over that of `b`."""
    flat = [np.concatenate([np.ravel(np.asarray(v, "float64")) for v in values]) for values in (a, b)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))


def trained(
    case: Case, strategy: tl.StepStrategy, steps: int, batch_size: int, optimizer: Any = None, **settings: Any
) -> keras.Model:
    """A new model after so many updates, in the order of the data."""
    model = case.compiled(optimizer or keras.optimizers.SGD(RATE))
    trainer = tl.Trainer(model, strategy, **{"jit_compile": False} | settings)
    trainer.fit(case.x, case.y, batch_size=batch_size, steps=steps, shuffle=False, verbose=0)
    return model


def weights(model: keras.Model) -> list[np.ndarray]:
    """All trainable ones."""
    return [v.numpy() for v in model.trainable_variables]


def gradient(case: Case, strategy: tl.StepStrategy, batch_size: int, **settings: Any) -> list[np.ndarray]:
    """What the first update hands to the optimizer, kept by momentum: no weight rounds it."""
    optimizer = keras.optimizers.SGD(RATE, momentum=0.5)
    trained(case, strategy, 1, batch_size, optimizer, **settings)
    return [v.numpy() / -RATE for v in optimizer.variables if "momentum" in v.path]


def _plain(name: str, case: Case, exact: float) -> None:
    ours = trained(case, tl.SGD(), 3, 6)
    by_hand = case.compiled(keras.optimizers.SGD(RATE))
    start = weights(by_hand)

    @tf.function
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = by_hand.compute_loss(x, y, by_hand(x, training=True))
        variables = by_hand.trainable_variables
        by_hand.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    for i in range(3):
        rows = slice(6 * i, 6 * i + 6)
        step(tf.constant(case.x[rows]), tf.constant(case.y[rows]))
    moves = [[b - a for a, b in zip(start, weights(model), strict=True)] for model in (ours, by_hand)]
    is_equal = all(np.array_equal(a, b) for a, b in zip(*moves, strict=True))
    within(f"plain is a tape loop, {name}", relative(*moves), 20 * exact, f"; {'the same' if is_equal else 'other'} bits")
    theirs = case.compiled(keras.optimizers.SGD(RATE), jit_compile=False)
    theirs.fit(case.x, case.y, batch_size=6, shuffle=False, verbose=0)
    moved = [b - a for a, b in zip(start, weights(theirs), strict=True)]
    within(f"plain is Keras' fit, {name}", relative(moves[0], moved), 20 * exact)


def _accumulation(name: str, case: Case, strategy: str, exact: float) -> None:
    whole = gradient(case, STRATEGIES[strategy](), 18)
    for batches, size in ((2, 9), (3, 7)):
        parts = gradient(case, tl.Accumulate(batches, STRATEGIES[strategy]()), size)
        within(f"accumulation, {name}, {strategy}, {batches} of {size}", relative(parts, whole), exact)
    pieces = gradient(case, STRATEGIES[strategy](), 18, micro_batch_size=7)
    within(f"pieces of 7, {name}, {strategy}", relative(pieces, whole), exact)


def _compiled(name: str, case: Case, exact: float) -> None:
    for strategy in ("SGD", "Heun"):
        eager = gradient(case, STRATEGIES[strategy](), 6, run_eagerly=True)
        for jit in _modes(case):
            compiled = gradient(case, STRATEGIES[strategy](), 6, jit_compile=jit)
            what = "XLA" if jit else "graph"
            within(f"{what} is eager, {name}, {strategy}", relative(compiled, eager), exact)
    if True not in _modes(case):
        return
    both = gradient(case, tl.Accumulate(3, tl.Heun()), 6, jit_compile=True)
    apart = gradient(case, tl.Accumulate(3, tl.Heun()), 6)
    within(f"XLA is graph, {name}, Accumulate(3, Heun())", relative(both, apart), exact)


def _modes(case: Case) -> tuple[bool, ...]:
    """Without XLA and with it, which has no kernel for cuDNN's LSTM."""
    return (False, True) if all(getattr(layer, "supports_jit", True) for layer in case.layers()) else (False,)


class _Quadratic(keras.Model):
    def __init__(self, matrix: np.ndarray):
        super().__init__()
        self.matrix = matrix
        self.w = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x: Any) -> Any:
        return self.w + 0.0 * x

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        return 0.5 * keras.ops.mean(keras.ops.sum(y_pred * keras.ops.matmul(y_pred, self.matrix), axis=-1))


def _heun() -> None:
    root = np.array([[2, 1, 0, 0], [1, 3, 1, 0], [0, 1, 2, 1], [0, 0, 1, 4]]) / 4
    for strategy, order in ((tl.SGD(), 1), (tl.Heun(), 2)):
        model = _Quadratic(root)
        model.compile(keras.optimizers.SGD(RATE))
        tl.Trainer(model, strategy, jit_compile=False).fit(np.zeros([1, 4]), batch_size=1, epochs=8, verbose=0)
        step = np.eye(4) - RATE * root + (order == 2) * RATE**2 / 2 * root @ root
        expected = np.linalg.matrix_power(step, 8) @ np.ones(4)
        within(f"closed form, {type(strategy).__name__}", relative([model.w.numpy()], [expected]), 1e-14)


class _Twice(tl.StepStrategy):
    evaluations = 2

    def step(self, objective: Any, state: tl.State) -> tl.Step:
        here, again = objective(state.parameters), objective(state.parameters)
        difference = (here.gradient - again.gradient).norm() / here.gradient.norm()
        return tl.Step(here.gradient, at=here, logs={"difference": difference, "loss_difference": here.loss - again.loss})


def _one_function(name: str, case: Case, exact: float) -> None:
    for jit in _modes(case):
        model = case.compiled(keras.optimizers.SGD(0.0))
        trainer = tl.Trainer(model, _Twice(), jit_compile=jit)
        logs = [trainer.fit(case.x, case.y, batch_size=16, shuffle=False, verbose=0).history for _ in range(2)]
        what = f"one function a step, {name}{', XLA' if jit else ''}"
        within(what, abs(logs[0]["difference"][0]), exact, f"; loss {logs[0]['loss_difference'][0]:.2g}")
        tell(
            f"{what}, control: the next step draws other masks", logs[0]["loss"] != logs[1]["loss"], [log["loss"] for log in logs]
        )
    states = []
    for strategy in (tl.SGD(), tl.Heun()):
        model = trained(case, strategy, 1, 16)
        states.append([v.numpy() for v in model.non_trainable_variables])
    seeds = [[v for v in state if v.dtype.kind != "f"] for state in states]
    tell(f"Heun leaves the seeds of one evaluation, {name}", all(map(np.array_equal, *seeds)), f"{len(seeds[0])} seeds")
    statistics = [[v for v in state if v.dtype.kind == "f"] for state in states]
    if statistics[0]:
        within(f"Heun leaves the statistics of one evaluation, {name}", relative(*statistics), exact)


def _one_update(case: Case, exact: float) -> None:
    model = trained(case, tl.Accumulate(2, tl.Heun()), 3, 3)
    tell("iterations count updates", int(model.optimizer.iterations.numpy()) == 3, int(model.optimizer.iterations.numpy()))
    duplicated = case._replace(x=np.ones_like(case.x))
    before = duplicated.compiled(keras.optimizers.SGD(1.0))
    after = trained(duplicated, tl.SGD(), 1, 18, keras.optimizers.SGD(1.0, global_clipnorm=1e-3))
    moved = relative(weights(after), weights(before)) * np.linalg.norm(np.concatenate([w.ravel() for w in weights(before)]))
    within("clipping sees duplicate rows summed", abs(moved / 1e-3 - 1), max(1e-3, exact), f"; moved {moved:.6f}")


def _padding(exact: float) -> None:
    """A label for each of 1 to 9 tokens: what cuDNN leaves as the memory was must reach no weight."""
    lengths = np.array([2, 9, 3, 1, 5, 2, 4])
    valid = np.arange(9) < lengths[:, None]
    ids = (np.random.default_rng(0).integers(1, 50, size=valid.shape) * valid).astype("int32")
    case = Case(lambda: [keras.layers.Embedding(50, 4, mask_zero=True), _tagger(), keras.layers.Dense(3)], ids, ids % 3)
    found = gradient(case, tl.SGD(), 7)
    tell("padding has no gradient", not found[0][0].any(), f"{np.abs(found[0][0]).max():.2g}")
    within("padding, in batches of 2", relative(gradient(case, tl.Accumulate(4), 2), found), exact)
    unmasked = case._replace(layers=lambda: [keras.layers.Embedding(50, 4), _tagger(), keras.layers.Dense(3)])
    tell("control: without a mask it has one", bool(gradient(unmasked, tl.SGD(), 7)[0][0].any()), "")


def _tagger() -> keras.Layer:
    rnn = keras.layers.LSTM(4, return_sequences=True)
    rnn.supports_masking = True  # it hands the mask on to the loss: by default until Keras 3.16
    return rnn


class _Counted(tl.StepStrategy):
    def __init__(self, inner: tl.StepStrategy):
        self.inner, self.evaluations, self.batches, self.calls = inner, inner.evaluations, inner.batches, 0

    def step(self, objective: Any, state: tl.State) -> tl.Step:
        def counted(parameters: Any) -> Any:
            self.calls += 1
            return objective(parameters)

        return self.inner.step(counted, state)


def _evaluations(case: Case) -> None:
    for inner, expected in ((tl.SGD(), 1), (tl.Heun(), 2), (tl.Accumulate(3, tl.Heun()), 2)):
        counted = _Counted(inner)
        trained(case, counted, 2, 3, run_eagerly=True, jit_compile=None)
        tell(f"evaluations of {inner!r}", counted.calls == 2 * expected, counted.calls)


def _nonfinite(case: Case) -> None:
    x = np.tile(case.x, [20, *[1] * (case.x.ndim - 1)])
    y = np.tile(case.y, 20)
    broken = x.copy()
    broken[200] = np.nan
    model, sound = (case.compiled(keras.optimizers.SGD(RATE)) for _ in range(2))
    tl.Trainer(sound, jit_compile=False).fit(x, y, batch_size=8, steps=25, shuffle=False, verbose=0)
    try:
        data = tf.data.Dataset.from_tensor_slices((broken, y)).batch(8)
        tl.Trainer(model, jit_compile=False).fit(data, verbose=0)
        tell("a NaN in streamed data is named", False, "nothing was raised")
    except tl.NonFiniteError as error:
        tell("a NaN in streamed data is named", "26" in str(error) or "25" in str(error), str(error)[:300])
        within("and all before it is kept", relative(weights(model), weights(sound)), 1e-6)
    labels = y.copy()
    labels[100] = 7
    model = case.compiled(keras.optimizers.SGD(RATE))
    try:
        tl.Trainer(model).fit(x, labels, batch_size=8, verbose=0)
        tell("a label out of range is refused", False, "nothing was raised")
    except ValueError as error:
        tell("a label out of range is refused", "7" in str(error), str(error)[:200])
    try:
        data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(8)
        tl.Trainer(case.compiled(keras.optimizers.SGD(RATE)), jit_compile=False).fit(data, verbose=0)
        tell("a label out of range in streamed data", False, "nothing was raised")
    except Exception as error:  # a GPU gives NaN, a CPU an error
        tell("a label out of range in streamed data", True, f"{type(error).__name__}: {str(error)[:300]}")


def _kinds_of_data(exact: float) -> None:
    n = 96
    pixels = np.random.default_rng(0).integers(256, size=(n, 12, 12, 3)).astype("uint8")
    labels = np.random.default_rng(1).integers(3, size=n)
    for kind in ("uint8", "int8", "int16", "int32", "int64", "float16", "float64"):
        with guarded(f"{kind} on the device"):
            x = (pixels // 2).astype(kind)
            losses = []
            for given in (
                {"x": x, "y": labels, "batch_size": 16},
                {"x": tf.data.Dataset.from_tensor_slices((x, labels)).batch(16)},
            ):
                keras.utils.set_random_seed(0)
                layers = [keras.layers.Rescaling(1 / 128), keras.layers.Flatten(), keras.layers.Dense(3)]
                model = keras.Sequential([keras.Input([12, 12, 3], dtype=kind), *layers])
                model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
                history = tl.Trainer(model, tl.Accumulate(2), jit_compile=False).fit(**given, shuffle=False, epochs=2, verbose=0)
                losses.append([np.asarray(history.history["loss"])])
            within(f"{kind} on the device is {kind} from a data set", relative(*losses), max(20 * exact, 1e-6))
