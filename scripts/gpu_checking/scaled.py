"""mixed_float16: what holds under loss scaling, to the rounding of ten bits; updates that overflow; resuming to the last bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl
from gpu_checking.going_on import stopped_twice
from gpu_checking.laws import RATE, gradient, relative, trained, weights
from gpu_checking.models import Case, noisy, smooth
from gpu_checking.telling import guarded, tell, within

_HALF = 5e-3  # some roundings to float16, relative
_SINGLE = 3e-2  # the forward and the backward pass of a few layers in float16, against float32


def check(is_short: bool) -> None:
    """All of it; determinism, which cannot be switched off again, last."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for name, case in list(smooth(18).items())[: 1 if is_short else None]:
        with guarded(f"mixed_float16, {name}"):
            _laws(name, case)
        with guarded(f"mixed_float16, {name}, skips"):
            _skips(name, case)
    keras.config.set_dtype_policy("mixed_float16")
    for name in ("mlp",) if is_short else ("mlp", "cnn"):
        title = f"resume, mixed_float16, {name}, Accumulate(2, Heun)"
        with guarded(title):
            stopped_twice(title, noisy(64)[name], lambda: tl.Accumulate(2, tl.Heun()), False, _overflowing)


def _overflowing() -> keras.Optimizer:
    """Some updates overflow, at first and later."""
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**24, dynamic_growth_steps=3)


def _laws(name: str, case: Case) -> None:
    single = gradient(case, tl.SGD(), 18)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        ours, start = trained(case, tl.SGD(), 3, 6), weights(case.compiled(keras.optimizers.SGD(RATE)))
        theirs = case.compiled(keras.optimizers.SGD(RATE), jit_compile=False)
        theirs.fit(case.x, case.y, batch_size=6, shuffle=False, verbose=0)
        moves = [[b - a for a, b in zip(start, weights(model), strict=True)] for model in (ours, theirs)]
        is_equal = all(np.array_equal(a, b) for a, b in zip(*moves, strict=True))
        within(f"plain is Keras' fit, {name}", relative(*moves), _HALF, f"; {'the same' if is_equal else 'other'} bits")
        whole = _gradient(case, tl.SGD(), 18)
        within(f"the gradient is float32's, {name}", relative(whole, single), _SINGLE)
        heun = _gradient(case, tl.Heun(), 18)
        within(f"accumulation, {name}, Heun, 3 of 7", relative(_gradient(case, tl.Accumulate(3, tl.Heun()), 7), heun), _HALF)
        within(f"eager, {name}, Heun", relative(_gradient(case, tl.Heun(), 18, run_eagerly=True), heun), _HALF)
    finally:
        keras.config.set_dtype_policy("float32")


def _gradient(case: Case, strategy: tl.StepStrategy, batch_size: int, **settings: Any) -> list[np.ndarray]:
    """What the first update hands to the optimizer, kept by momentum."""
    inner = keras.optimizers.SGD(RATE, momentum=0.5)
    trained(case, strategy, 1, batch_size, keras.optimizers.LossScaleOptimizer(inner, initial_scale=256.0), **settings)
    return [v.numpy() / -RATE for v in inner.variables if "momentum" in v.path]


def _skips(name: str, case: Case) -> None:
    """An update whose gradients overflow leaves the weights, and halves the scale; one decision, as Keras makes it."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for strategy in (tl.SGD(), tl.Accumulate(3, tl.Heun())):
            start = weights(case.compiled(keras.optimizers.SGD(RATE)))
            for scale, is_skipped in ((2.0**40, True), (2.0**8, False)):
                optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=scale)
                model = trained(case, strategy, 1, 18 // strategy.batches, optimizer)
                is_left = all(map(np.array_equal, weights(model), start))
                now, iterations = float(optimizer.dynamic_scale), int(optimizer.iterations)
                is_ok = (is_left, iterations, now) == ((True, 0, scale / 2) if is_skipped else (False, 1, scale))
                what = "a real skip" if is_skipped else "control: no skip"
                tell(
                    f"{what}, {name}, {strategy!r}",
                    is_ok,
                    f"weights left: {is_left}, scale {scale:g} -> {now:g}, {iterations} made",
                )
        ours, theirs = _overflowing(), _overflowing()
        tl.Trainer(case.compiled(ours), jit_compile=False).fit(case.x, case.y, batch_size=3, epochs=3, shuffle=False, verbose=0)
        case.compiled(theirs, jit_compile=False).fit(case.x, case.y, batch_size=3, epochs=3, shuffle=False, verbose=0)
        seen = [(float(one.dynamic_scale), int(one.iterations)) for one in (ours, theirs)]
        tell(f"as many are skipped as by Keras' fit, {name}", seen[0] == seen[1] and seen[0][1] < 18, f"scale and updates {seen}")
    finally:
        keras.config.set_dtype_policy("float32")
