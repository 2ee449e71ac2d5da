"""All strategies at equal cost, ten seeds, on the digits and on MNIST-1D, by `tl.compare`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
from keras import layers

import trainlab as tl
from reproducing.section import Section
from trainlab.datasets import digits, mnist_1d

RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
STRATEGIES: dict[str, tl.StepStrategy] = {
    "Heun()": tl.Heun(),
    'RungeKutta("kutta_3")': tl.RungeKutta("kutta_3"),
    'RungeKutta("kutta_4")': tl.RungeKutta("kutta_4"),
    "AdaptiveStep(tolerance=0.1)": tl.AdaptiveStep(tolerance=0.1),
    "Sam()": tl.Sam(),
    "Asam()": tl.Asam(),
    "Extragradient()": tl.Extragradient(),
    "OptimisticGradient()": tl.OptimisticGradient(),
    "Lookahead()": tl.Lookahead(),
    "Noise()": tl.Noise(),
    "Accumulate(2)": tl.Accumulate(2),
}
# Data, and how many passes over them the plain step makes.
PROBLEMS = {"the digits": (digits, 10), "MNIST-1D": (mnist_1d, 20)}
_SHORT = ("Heun()", "Sam()")


def run(section: Section, directory: Path) -> bool:
    """The part; False where there is nothing to run it with."""
    del directory  # it draws nothing
    compare = getattr(tl, "compare", None)
    if compare is None:
        print("not run: this trainlab has no tl.compare", flush=True)
        return False
    rates, seeds = (RATES[1:2], 2) if section.is_short else (RATES, 10)
    section.say(
        f"An MLP with one hidden layer of 64, batch 32, plain SGD takes what a step returns; {len(rates)} rates for everybody, "
        f"the best by validation, {seeds} paired seeds, as many evaluations of a batch's gradient for each. Every strategy of c "
        "evaluations is also held against the plain step with a rate c times smaller and c times as many updates. The verdict is "
        "that of `tl.compare`, on the test loss."
    )
    for name, (make, epochs) in list(PROBLEMS.items())[: 1 if section.is_short else None]:
        data = make().split_off(0.2)
        with tempfile.TemporaryDirectory() as runs:
            result = compare(
                _model_of(data.input_shape),
                {key: STRATEGIES[key] for key in (_SHORT if section.is_short else STRATEGIES)},
                *data.train,
                directory=runs,
                learning_rates=rates,
                validation_data=data.validation,
                test_data=data.test,
                loss=data.default_loss(),
                seeds=seeds,
                epochs=1 if section.is_short else epochs,
                batch_size=32,
                verbose=0,
            )
        columns, rows = result.columns
        section.say(f"**On {name}:**")
        section.table(columns, rows)
        section.say("\n".join(f"- {note}" for note in result.notes))
        section.numbers[name] = {"table": result.table, "verdicts": result.verdicts}
    return True


def _model_of(shape: Any) -> Any:
    def make() -> keras.Model:
        return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])

    return make
