"""Several workers together are one device: weights and logs, for strategies, models and kinds of data; all workers to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import together
from tables import EXACT_MODELS, MODELS, STRATEGIES

HERE = Path(together.__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from workers import start  # noqa: E402

QUICK = [
    "embedding/accumulate_2_heavy_ball/stream",
    "two_outputs/sam/few",
]
FEW = ("sgd", "sam", "accumulate_2_heavy_ball")
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def run(tmp_path, names, number=2, precision="float32", expected=0):
    """Trains the cases with so many workers; returns what each has left."""
    environment = {**os.environ, "PRECISION": precision, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, str(HERE / "together.py"), str(tmp_path), *names]
    processes = start(number, command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = [process.communicate(timeout=1800)[0] for process in processes]
    assert [process.returncode for process in processes] == [expected] * number, "\n".join(text[-2000:] for text in said)
    return [np.load(tmp_path / f"{rank}.npz") for rank in range(number)]


def check(results, names, tolerance):
    for name in names:
        weights, history = together.train(name)
        logs = np.array(list(history.values()), np.float64)
        for kind, alone in (("weights", weights), ("history", logs)):
            found = [result[f"{name} {kind}"] for result in results]
            assert all(np.array_equal(found[0], other) for other in found), name
            assert np.linalg.norm(found[0] - alone) <= tolerance * np.linalg.norm(alone), (name, kind)


@pytest.mark.slow
def test_two_workers_are_one_device(tmp_path):
    check(run(tmp_path, QUICK), QUICK, TOLERANCE["float32"])


def names_of(model, precision):
    """Of the product of models and strategies a third, so that each strategy is there with several models."""
    shift = list(EXACT_MODELS).index(model)
    strategies = list(STRATEGIES)[-shift % 3 :: 3] if precision == "float64" else [FEW[shift % 3]]
    kinds = ["plain", "weighted", "few"]
    names = [f"{model}/{strategy}/{kinds[(i + shift) % 3]}" for i, strategy in enumerate(strategies)]
    return [*names, f"{model}/accumulate_3_heun/stream"]


def test_every_strategy_and_every_kind_of_data_is_there():
    names = [name.split("/") for model in EXACT_MODELS for name in names_of(model, "float64")]
    for strategy in STRATEGIES:
        assert len({model for model, other, _ in names if other == strategy}) >= len(EXACT_MODELS) // 3
    assert {kind for _, _, kind in names} == {"plain", "weighted", "few", "stream"}


@pytest.mark.slow
@pytest.mark.parametrize("precision, number", [("float64", 2), ("float32", 3)], indirect=["precision"])
@pytest.mark.parametrize("model", EXACT_MODELS)
def test_any_number_of_workers_is_one_device(model, precision, number, tmp_path):
    names = names_of(model, precision)
    check(run(tmp_path, names, number, precision), names, TOLERANCE[precision])


@pytest.mark.slow
def test_masks_and_statistics_are_the_same_at_all_workers_and_on_a_rerun(tmp_path):
    names = [f"{model}/{strategy}/plain" for model in MODELS.keys() - EXACT_MODELS.keys() for strategy in ("sgd", "heun")]
    (tmp_path / "again").mkdir()
    first, again = run(tmp_path, names), run(tmp_path / "again", names)
    for key in first[0].files:
        assert all(np.array_equal(first[0][key], other[key]) for other in (*first, *again)), key
