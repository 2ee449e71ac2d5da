"""`trainlab find-lr`: the learning rate to begin with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.running.failing import Failure, attempted
from trainlab.cli.running.parts import unpacked
from trainlab.cli.running.setup import check_config, seed, set_up
from trainlab.cli.running.summary import summary
from trainlab.cli.running.workers import refuse_workers
from trainlab.data import device


def find_lr(
    files: Sequence[str], bindings: Sequence[str], how: Mapping[str, Any], output: Path | None, debug: bool
) -> Failure | None:
    """Prints a learning rate to begin with, and why; keeps nothing but the curve, where it is asked for.

    Args:
        files, bindings: The config, as `reading.load` takes it.
        how: `smallest`, `largest` and `num_updates`, as `Trainer.find_learning_rate` takes them.
        output: Where the curve goes, a picture or JSON; None for nowhere.
        debug: Whether what goes wrong is raised.
    """
    read: list[Config] = []

    def work() -> None:
        device.grow_memory()
        config = reading.load(files, bindings)
        read.append(config)
        refuse_workers(config, "find-lr")
        seed(config)
        setup = set_up(config, None)
        check_config(setup)
        print(summary(setup), flush=True)
        data, settings = setup.settings.data, setup.settings
        x, y, sample_weight = unpacked(data.train)
        size = settings.batch_size if data.is_arrays else None
        rates = setup.trainer.find_learning_rate(x, y, batch_size=size, sample_weight=sample_weight, **how)
        print(f"why       {rates.why}")
        print(f"rate      {rates.suggestion:.3g}")
        if output is not None:
            _write(rates, output)
            print(f"curve     {output}")

    return attempted(work, lambda: read[0] if read else None, lambda: "nothing is saved", debug)


def _write(rates: Any, output: Path) -> None:
    if output.suffix.lower() == ".png":
        rates.plot(output)
        return
    import json

    curve = {name: [_number(value) for value in getattr(rates, name)] for name in ("learning_rates", "losses", "smoothed")}
    output.write_text(json.dumps({"suggestion": _number(rates.suggestion), "why": rates.why, **curve}) + "\n", encoding="utf-8")


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON holds no NaN, and no infinity
