"""What several replicas make of an effective batch is what one device makes of it."""

from unittest import mock

import pytest
import tensorflow as tf
from replicating import TOLERANCES, assert_same_training, distance, trained
from tables import EXACT_MODELS, STRATEGIES

from trainlab.distribution import division
from trainlab.distribution.towers import Towers

_QUICK = {
    ("mlp_with_penalties", "accumulate_3_heun", 2, "float64"),
    ("two_outputs", "sgd", 2, "float32"),
    ("lstm", "sgd", 2, "float64"),
    ("embedding", "accumulate_2_heavy_ball", 4, "float64"),
    ("transformer", "sam", 2, "float64"),
}
_ALL = [
    pytest.param(*case, marks=[] if case in _QUICK else pytest.mark.slow)
    for case in ((m, s, r, p) for m in EXACT_MODELS for s in STRATEGIES for r in (2, 4) for p in TOLERANCES)
]


@pytest.mark.parametrize(("model", "strategy", "replicas", "precision"), _ALL, indirect=["precision"])
def test_several_devices_are_one(model, strategy, replicas, precision):
    case, make = EXACT_MODELS[model], STRATEGIES[strategy].make
    one, several = (trained(case, make(), number) for number in (None, replicas))
    assert_same_training(one, several, TOLERANCES[precision])


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_denominators_of_one_shard_alone_would_be_seen(precision):
    case = EXACT_MODELS["two_outputs"]
    one = trained(case)
    own = Towers.share

    def local(towers, replica, parameters, totals):
        return own(towers, replica, parameters, tf.identity(towers.totals(replica)) * 2)

    with mock.patch.object(Towers, "share", local):
        several = trained(case, replicas=2)
    assert distance(one[0], several[0]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_a_gradient_that_is_not_added_would_be_seen(precision):
    case = EXACT_MODELS["mlp_with_penalties"]
    one = trained(case)
    with mock.patch.object(division.tf, "add_n", lambda tensors: tensors[0]):
        several = trained(case, replicas=2)
    assert distance(one[0], several[0]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(
    "trainer",
    [{"micro_batch_size": 2}, {"run_eagerly": True}, {"jit_compile": True}, {"jit_compile": True, "micro_batch_size": 3}],
    ids=lambda settings: "_".join(settings),
)
def test_settings_of_the_trainer(trainer, precision):
    case, make = EXACT_MODELS["mlp_with_penalties"], STRATEGIES["accumulate_2"].make
    one = trained(case, make(), num_examples=21)
    assert_same_training(one, trained(case, make(), 4, trainer=trainer, num_examples=21), TOLERANCES[precision])


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(("batch_size", "num_examples"), [(3, 7), (2, 5), (1, 3), (26, 26), (40, 9)])
def test_batches_of_few_examples(batch_size, num_examples, precision):
    case = EXACT_MODELS["two_outputs"]
    one, several = (
        trained(case, None, number, batch_size=batch_size, num_examples=num_examples, shuffle=False) for number in (None, 4)
    )
    assert_same_training(one, several, TOLERANCES[precision])
