"""What several replicas make of an effective batch is what one device makes of it."""

from unittest import mock

import pytest
import tensorflow as tf
from replicating import TOLERANCES, assert_same_training, distance, trained
from tables import EXACT_MODELS, STRATEGIES

import trainlab as tl
from trainlab.distribution import division
from trainlab.distribution.towers import Towers
from trainlab.parameters import Rows

_QUICK = ("accumulate_2", "mlp_with_penalties")
_ALL = [
    pytest.param(*case, marks=[] if case[1::-1] == _QUICK else pytest.mark.slow)
    for i, m in enumerate(EXACT_MODELS)
    for j, s in enumerate(STRATEGIES)
    # With every strategy each model is there once; both numbers and precisions with every model and every strategy.
    for case in [(m, s, (2, 4)[(i + j) % 2], ("float32", "float64")[(i + j) % 4 > 1])]
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "strategy", "replicas", "precision"), _ALL, indirect=["precision"])
def test_several_devices_are_one(model, strategy, replicas, precision):
    case, make = EXACT_MODELS[model], STRATEGIES[strategy].make
    one, several = (trained(case, make(), number) for number in (None, replicas))
    assert_same_training(one, several, TOLERANCES[precision])


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(("batch_size", "num_examples"), [(3, 7), (2, 5), (1, 3), (26, 26), (40, 9)])
def test_batches_of_few_examples(batch_size, num_examples, precision):
    case = EXACT_MODELS["two_outputs"]
    one, several = (
        trained(case, None, number, batch_size=batch_size, num_examples=num_examples, shuffle=False) for number in (None, 4)
    )
    assert_same_training(one, several, TOLERANCES[precision])


class Seeing(tl.SGD):
    """Notes of what kind the leaves of the gradient are, as it sees them."""

    def __init__(self):
        self.kinds = set()

    def step(self, objective, state):
        step = super().step(objective, state)
        self.kinds.add(tuple(type(leaf) is Rows for leaf in step.gradient.leaves))
        return step


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4, None])
@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}, {"run_eagerly": True}, {"micro_batch_size": 4}], ids=str)
@pytest.mark.parametrize("batches", [1, 2])
def test_a_gradient_of_rows_stays_one(replicas, settings, batches):
    """Of the table alone, and of every evaluation: as many rows as are looked up, not as the table has."""
    strategy, case = Seeing(), EXACT_MODELS["embedding"]
    trained(case, tl.Accumulate(batches, strategy), replicas, trainer=settings, num_examples=26 * batches)
    assert strategy.kinds == {(True, False, False, False, False)}
