"""What `trainlab.testing.check_strategy` looks at, of every strategy there is; two logical devices are its replicas."""

from __future__ import annotations

import time

import tensorflow as tf

import trainlab as tl
from gpu_checking.device import two_devices
from gpu_checking.models import Sam
from gpu_checking.telling import guarded, tell
from trainlab.testing import check_strategy

_STRATEGIES = {
    "SGD": tl.SGD,
    "Heun": tl.Heun,
    "Accumulate of Heun": lambda: tl.Accumulate(2, tl.Heun()),
    "RungeKutta": tl.RungeKutta,
    "AdaptiveStep": tl.AdaptiveStep,
    "Sam": tl.Sam,
    "Asam": tl.Asam,
    "Extragradient": tl.Extragradient,
    "OptimisticGradient": tl.OptimisticGradient,
    "Lookahead of Heun": lambda: tl.Lookahead(inner=tl.Heun()),
    "Noise": tl.Noise,
    "a user's own": Sam,
}


def check(is_short: bool) -> None:
    """All of them."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    two_devices()
    for name, make in list(_STRATEGIES.items())[: 1 if is_short else None]:
        with guarded(f"check_strategy, {name}"):
            started = time.monotonic()
            report = check_strategy(make())
            lines = "; ".join(" ".join(line.split()) for line in str(report).splitlines()[1:])
            tell(f"check_strategy, {name}", bool(report), f"{lines}; {time.monotonic() - started:.1f} s")
