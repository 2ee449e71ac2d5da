"""The tables are complete: what trainlab exports is tested."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tables import MODELS, STRATEGIES, Sam

import trainlab as tl


def missing(namespace, cases):
    """Names of the strategies in `namespace` that no case uses, nested ones included."""
    used = set()
    for case in cases.values():
        strategy = case.make()
        while strategy is not None:
            used.add(type(strategy))
            strategy = getattr(strategy, "inner", None)
    exported = {name: value for name, value in namespace.items() if isinstance(value, type)}
    return {
        name
        for name, value in exported.items()
        if issubclass(value, tl.StepStrategy) and value is not tl.StepStrategy and value not in used
    }


def test_every_exported_strategy_is_in_the_table():
    exported = {name: getattr(tl, name) for name in tl.__all__}
    assert not missing(exported, STRATEGIES)
    assert missing({"SGD": tl.SGD, "Heun": tl.Heun, "Sam": Sam}, {"sgd": STRATEGIES["sgd"]}) == {"Heun", "Sam"}


def test_every_strategy_of_the_package_is_exported():
    found, queue = set(), [tl.StepStrategy]
    while queue:
        queue += (new := queue.pop().__subclasses__())
        found.update(cls.__name__ for cls in new if cls.__module__.startswith("trainlab"))
    assert found == {name for name in found if name in tl.__all__}
    assert found >= {"SGD", "Heun", "Accumulate"}


@pytest.mark.parametrize("case", STRATEGIES.values(), ids=STRATEGIES)
def test_a_strategy_says_what_it_takes(case):
    strategy = case.make()
    assert (strategy.batches, strategy.evaluations) == (case.batches, case.evaluations)


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)
def test_a_seed_gives_the_same_model_and_another_seed_another(case):
    same = [case.compiled(seed=seed) for seed in (1, 1, 2)]
    for model in same:
        model(case.arrays(2)[0])
    first, second, other = (model.get_weights() for model in same)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_what_the_models_are_here_for():
    def has(case, kind):
        return any(isinstance(layer, kind) for layer in case.make().layers)

    layers = keras.layers
    for name, kinds in {
        "cnn": [layers.Conv2D, layers.BatchNormalization, layers.Dropout],
        "lstm": [layers.LSTM, layers.Masking],
        "transformer": [layers.MultiHeadAttention, layers.LayerNormalization],
        "embedding": [layers.Embedding],
    }.items():
        assert all(has(MODELS[name], kind) for kind in kinds), name
    assert len(MODELS["mlp_with_penalties"].compiled().losses) == 2  # an L2 of a kernel and one of a bias
    ids = MODELS["embedding"].arrays(2)[0]
    assert len(np.unique(ids)) < ids.size  # rows named more than once
    outputs = MODELS["two_outputs"].make()(MODELS["two_outputs"].arrays(4)[0])
    masks = [outputs[name]._keras_mask for name in ("left_out", "right_out")]
    assert 0 < int(tf.reduce_sum(tf.cast(masks[0], tf.int32))) < masks[0].shape.num_elements()
    assert masks[0].shape != masks[1].shape
