"""Two replicas on two logical devices of one, which are what one device is: laws, resuming, another number of them."""

from __future__ import annotations

import tempfile
import warnings

import keras
import tensorflow as tf

import trainlab as tl
from gpu_checking.device import two_devices
from gpu_checking.going_on import stopped_twice
from gpu_checking.laws import gradient, relative, weights
from gpu_checking.models import Case, Sam, noisy, smooth
from gpu_checking.telling import guarded, tell, within

_EXACT = 1e-6


def check(is_short: bool) -> None:
    """All of it; determinism, which cannot be switched off again, last."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    two = _two()
    strategies = {"SGD": (tl.SGD, 18), "Heun": (tl.Heun, 18), "Accumulate(3, Sam)": (lambda: tl.Accumulate(3, Sam()), 7)}
    for name, case in list(smooth(18).items())[: 1 if is_short else None]:
        for what, (strategy, size) in strategies.items():
            title = f"two replicas are one device, {name}, {what}"
            with guarded(title):
                one = gradient(case, strategy(), size)
                within(title, relative(gradient(case, strategy(), size, distribute=two), one), _EXACT)
    case = smooth(18)["mlp"]
    with guarded("control: half of the examples"):
        half = case._replace(x=case.x[:9], y=case.y[:9])
        far = relative(gradient(half, tl.SGD(), 9), gradient(case, tl.SGD(), 18))
        tell("control: half of the examples would be seen", far > 1e-2, f"{far:.2g}")
    with guarded("two replicas, then one"):
        _elastic(case, two)
    title = "resume, two replicas, Accumulate(2, Heun)"
    with guarded(title):
        noisy_case = noisy(64)["mlp" if is_short else "cnn"]
        stopped_twice(title, noisy_case, lambda: tl.Accumulate(2, tl.Heun()), False, distribute=two)


def _two() -> tf.distribute.Strategy:
    names = two_devices()
    strategy = tf.distribute.MirroredStrategy(names)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    said = tl.Trainer(model, loss="mse", optimizer="sgd", distribute=strategy).device
    tell("two logical devices", said == f"2 replicas: {', '.join(names)}", said)
    return strategy


def _elastic(case: Case, two: tf.distribute.Strategy) -> None:
    """7 updates on two, 8 more on one; and all on one."""

    def train(folder: str, *parts: tuple[int, tf.distribute.Strategy | None]) -> keras.Model:
        for steps, distribute in parts:
            model = case.compiled(keras.optimizers.Adam(0.01, global_clipnorm=0.5))
            trainer = tl.Trainer(model, tl.Heun(), run=folder, jit_compile=False, distribute=distribute)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the number of replicas is another
                trainer.fit(case.x, case.y, batch_size=5, steps=steps, verbose=0)
        return model

    with tempfile.TemporaryDirectory() as folder:
        parts, whole = train(f"{folder}/a", (7, two), (15, None)), train(f"{folder}/b", (15, None))
    within("two replicas, then one, are one", relative(weights(parts), weights(whole)), 20 * _EXACT)
