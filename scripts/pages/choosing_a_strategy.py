"""Measures what `choosing_a_strategy.md` says: python scripts/pages/choosing_a_strategy.py [--seeds 5]. It takes some minutes.

Digits: every strategy gets as many evaluations of as many examples, at its own best learning rate of a grid, over several seeds.
A quadratic: as many evaluations, at the best rate; and how far from the exact gradient flow, where that is what is wanted.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import trainlab as tl
from trainlab.datasets import digits

RATES = [0.1, 0.2, 0.4, 0.8, 1.2, 1.6]
EPOCHS = 12  # of plain SGD; a strategy of two evaluations gets half


# A strategy, and the batch size with which its update takes 32 examples.
CASES = {
    "SGD()": (tl.SGD, 32),
    "Heun()": (tl.Heun, 32),
    "Accumulate(4)": (lambda: tl.Accumulate(4), 8),
    "Accumulate(4, Heun())": (lambda: tl.Accumulate(4, tl.Heun()), 8),
    "Sam()": (tl.Sam, 32),
}


def make_model():
    """An MLP on 8x8 images."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input([8, 8, 1]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"], jit_compile=False)
    return model


def start(model, seed):
    """Puts a model at the weights that a seed draws."""
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        limit = np.sqrt(6 / sum(v.shape)) if len(v.shape) == 2 else 0.0
        v.assign(rng.uniform(-limit, limit, v.shape))


def trained(trainer, batch_size, rate, seed):
    """Training loss and test accuracy."""
    (x, y), test = digits().train, digits().test
    order = np.random.default_rng(seed).permutation(len(x))
    start(trainer.model, seed)
    trainer.model.optimizer.learning_rate = rate
    epochs = EPOCHS // trainer.strategy.evaluations
    trainer.fit(x[order], y[order], batch_size=batch_size, epochs=epochs, verbose=0)
    return trainer.evaluate(x, y, verbose=0)[0], trainer.evaluate(*test, verbose=0)[1]


def on_digits(seeds):
    """Trains and prints the table."""
    print(f"| strategy | evaluations of a batch of 32 | best rate | training loss | test accuracy |\n|{'---|' * 5}")
    for name, (make, batch_size) in CASES.items():
        trainer = tl.Trainer(make_model(), make())
        trained(trainer, batch_size, 0.1, 0)  # traces
        found = {}
        for rate in RATES:
            found[rate] = np.array([trained(trainer, batch_size, rate, seed) for seed in range(seeds)])
        best = min(found, key=lambda rate: found[rate][:, 0].mean())
        (loss, accuracy), (d_loss, d_accuracy) = found[best].mean(axis=0), found[best].std(axis=0, ddof=1)
        spread = f"{loss:.3f} ± {d_loss:.3f} | {accuracy:.3f} ± {d_accuracy:.3f}"
        print(f"| `{name}` | {EPOCHS * 45} | {best} | {spread} |", flush=True)


def factor(strategy, u):
    """What a step of rate h makes of the component of curvature c, where u = h c."""
    return 1 - u if strategy == "SGD()" else 1 - u + u * u / 2


def on_a_quadratic():
    """Exactly, without a model: half of the sum of curvatures times squared weights, from 1, after 200 evaluations."""
    print(f"\n| curvatures | `SGD()`: loss | `Heun()`: loss | their rates, times the largest curvature |\n|{'---|' * 4}")
    for condition in (1, 3, 10, 100):
        curvatures = np.geomspace(1 / condition, 1, 5)
        row, rates = [], np.arange(1, 401) / 200
        for strategy, steps in (("SGD()", 200), ("Heun()", 100)):
            # By logarithms: many small losses are 0 in double precision.
            with np.errstate(divide="ignore"):
                factors = np.log(np.abs(factor(strategy, rates[:, None] * curvatures)))
            losses = np.logaddexp.reduce(np.log(curvatures / 2) + 2 * steps * factors, axis=1)
            row.append((np.exp(min(losses)), rates[int(np.argmin(losses))]))
        (plain, h_plain), (heun, h_heun) = row
        print(f"| 1 : {condition} | {plain:.2g} | {heun:.2g} | {h_plain:.2f}, {h_heun:.2f} |")
    print(f"\n| evaluations up to time 1 | `SGD()`: error | `Heun()`: error |\n|{'---|' * 3}")
    curvatures = np.geomspace(0.1, 1, 5)
    for evaluations in (4, 8, 16, 64, 256):
        exact = np.exp(-curvatures)
        plain = np.linalg.norm(factor("SGD()", curvatures / evaluations) ** evaluations - exact)
        heun = np.linalg.norm(factor("Heun()", 2 * curvatures / evaluations) ** (evaluations // 2) - exact)
        print(f"| {evaluations} | {plain:.2g} | {heun:.2g} |")


def main():
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", default="digits,quadratic")
    options = parser.parse_args()
    if "digits" in options.parts:
        on_digits(options.seeds)
    if "quadratic" in options.parts:
        on_a_quadratic()


if __name__ == "__main__":
    main()
