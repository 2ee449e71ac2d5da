"""The small perceptron under JAX: `python jax_scan.py BATCH,EXAMPLES,EPOCHS ...`; prints a list of seconds an update.

Adam, sparse cross entropy of logits, mean loss and accuracy of each epoch, which is shuffled anew, the data on the device: one
compiled call an epoch, and its metrics are read. Medians of three runs of so many epochs, compiled before. Knows nothing of
TensorFlow.
"""

import functools
import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

_SIZES = (64, 64, 64, 10)
_OPTIMIZER = optax.adam(1e-3, eps=1e-7)


def _begin(key: Any) -> Any:
    keys = jax.random.split(key, len(_SIZES) - 1)
    glorot = jax.nn.initializers.glorot_uniform()
    weights = [(glorot(k, (a, b)), jnp.zeros(b)) for k, a, b in zip(keys, _SIZES[:-1], _SIZES[1:], strict=True)]
    return weights, _OPTIMIZER.init(weights)


def _loss(weights: Any, x: Any, y: Any) -> tuple[Any, Any]:
    *hidden, (kernel, bias) = weights
    for w, b in hidden:
        x = jax.nn.relu(x @ w + b)
    logits = x @ kernel + bias
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), (losses.sum(), (logits.argmax(-1) == y).sum())


@functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
def _epoch(state: Any, key: Any, x: Any, y: Any, batch_size: int) -> tuple[Any, Any]:
    def step(carry: Any, rows: Any) -> tuple[Any, None]:
        (weights, memory), (loss, hits) = carry
        gradient, (losses, right) = jax.grad(_loss, has_aux=True)(weights, x[rows], y[rows])
        change, memory = _OPTIMIZER.update(gradient, memory, weights)
        return ((optax.apply_updates(weights, change), memory), (loss + losses, hits + right)), None

    order = jax.random.permutation(key, len(x)).reshape(-1, batch_size)
    (state, (loss, hits)), _ = jax.lax.scan(step, (state, (0.0, 0)), order)
    return state, (loss / len(x), hits / len(x))


def _seconds_an_update(batch_size: int, examples: int, epochs: int) -> float:
    key = jax.random.key(0)
    x, y = jax.random.normal(key, (examples, _SIZES[0])), jax.random.randint(key, (examples,), 0, _SIZES[-1])
    state, found = _begin(key), []
    for i in range(4):
        started = time.perf_counter()
        for j in range(epochs):
            state, metrics = _epoch(state, jax.random.fold_in(key, i * epochs + j), x, y, batch_size)
            _ = [float(metric) for metric in metrics]
        found.append((time.perf_counter() - started) / (epochs * examples // batch_size))
    return statistics.median(found[1:])


if __name__ == "__main__":
    print(json.dumps([_seconds_an_update(*map(int, case.split(","))) for case in sys.argv[1:]]))
