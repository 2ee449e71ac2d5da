"""What a worker does: `python -m gpu_checking.working [--short] PATH` trains some models and writes `PATH-<rank>.npz`."""

from __future__ import annotations

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl


def main() -> None:
    """Alone, or as one of those that TF_CONFIG names."""
    together = tl.join_workers() if "TF_CONFIG" in os.environ else None
    tf.config.experimental.enable_tensor_float_32_execution(False)
    from gpu_checking.models import smooth

    strategies = {"SGD": tl.SGD, "Heun": tl.Heun, "Accumulate(2, Heun)": lambda: tl.Accumulate(2, tl.Heun())}
    found: dict[str, np.ndarray] = {}
    for model_name, case in [(name, smooth(18)[name]) for name in ("mlp", "lstm")[: 1 if "--short" in sys.argv else None]]:
        for strategy_name, strategy in strategies.items():
            model = case.compiled(keras.optimizers.SGD(0.05, momentum=0.5, global_clipnorm=1.0))
            trainer = tl.Trainer(model, strategy(), jit_compile=False, distribute=together)
            trainer.fit(case.x, case.y, batch_size=7, epochs=3, verbose=0)
            found |= {f"{model_name}, {strategy_name}/{i:02}": v.numpy() for i, v in enumerate(model.variables)}
            found["device"] = np.asarray(trainer.device)
    rank = 0 if together is None else together.cluster_resolver.task_id
    np.savez(f"{sys.argv[-1]}-{rank}.npz", **found)


if __name__ == "__main__":
    main()
