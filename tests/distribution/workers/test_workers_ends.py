"""Fits of workers that end otherwise than they were meant to: what each says, and that what comes at all of them loses nobody."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ending
import numpy as np
import pytest

HERE = Path(ending.__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from workers import start  # noqa: E402

ALIKE = {
    "synchronized": "ValueError: a layer asks in the middle of an evaluation",
    "nan_weights": "holds NaN before the first update",
    "scale": "NonFiniteError: the loss scale is 0 before the first update",
    "no_step": "TypeError: NoStep.step returned Evaluation; it must return Step(gradient, at=evaluation)",
    "find": "ValueError: find_learning_rate runs in one process",
    "eagerly_at_one": "about to train something else than the chief: run_eagerly is True, at the chief False",
    "eagerly_compiled_at_one": "about to train something else than the chief: run_eagerly is True, at the chief False",
    "explodes": "NonFiniteError: update 13 (number 5 of epoch 2): ",
    "explodes_by_updates": "NonFiniteError: update 13 (number 1 of epoch 5): ",
}
CHIEFS = {"missing": "FileNotFoundError: ", "callback": "KeyError: "}
SAME = ("resumed", "annotated", "complex_weights", "moved", "no_step_at_the_chief_first", "good")
TRAINED = ("find_at_chief", "eagerly", "eagerly_again", *SAME)


def begun_by_one(directory, jit_compile):
    """A run of one process, which says whether XLA compiles."""
    x, y = ending.data()
    ending.good(None, 0, directory, run=directory / "run", jit_compile=jit_compile)[0].fit(
        x, y, batch_size=ending.SIZE, steps=5, verbose=0
    )


def ended(directory, *cases):
    """How each of two workers says that each case ended."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, str(HERE / "ending.py"), str(directory), *cases]
    processes = start(2, command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


def alone(case, directory):
    """How one process says that a case ended."""
    return json.loads(json.dumps(ending.said(case, None, 0, directory)))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One fit after the other in the same two processes: whoever loses the other, or hangs, makes no later one."""
    directory = tmp_path_factory.mktemp("ends")
    begun_by_one(directory, False)
    return ended(directory, *ALIKE, *CHIEFS, *TRAINED)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALIKE)
def test_what_comes_at_all_of_them_all_say(case, found):
    first, second = (each[case] for each in found)
    assert first == second and ALIKE[case] in first[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["nan_weights", "scale", "no_step", "explodes", "explodes_by_updates"])
def test_it_is_the_line_of_one_device(case, found, tmp_path):
    assert found[1][case] == alone(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CHIEFS)
def test_what_ends_the_chief_alone_the_other_says_of_it(case, found):
    first, second = (each[case][0] for each in found)
    assert first.startswith(CHIEFS[case]) and second.startswith("ChiefEnded: worker 0 (localhost:") and second.endswith(first)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["eagerly", "eagerly_again", *SAME])
def test_they_train_on_after_all_that(case, found, tmp_path):
    """Also where the chief finds in a checkpoint what was to be found out, or alone has what an update might be made of changed:
    they had waited for one another for ever."""
    first, second = (each[case] for each in found)
    assert first == second and first[0] == "trained"
    if case.startswith("eagerly"):
        case, given = "good", {"epochs": 3} if case == "eagerly_again" else {}
    else:
        given = {}
    if case == "resumed":
        begun_by_one(tmp_path, False)
    if case == "no_step_at_the_chief_first":
        case = "good"
    trainer, described = getattr(ending, case)(None, 0, tmp_path)
    trainer.fit(**described | given, verbose=0)
    weights = ending.weights_of(trainer.model)
    assert trainer.iterations == first[1]
    np.testing.assert_allclose(first[2], weights, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_xla_compiles_is_the_chiefs_finding_too(tmp_path):
    begun_by_one(tmp_path, True)
    first, second = ended(tmp_path, "resumed", "good")
    assert first == second and [first[case][:2] for case in ("resumed", "good")] == [["trained", 10], ["trained", 16]]


@pytest.mark.slow
def test_a_rate_is_looked_for_by_one_process(found):
    assert ALIKE["find"] in found[0]["find_at_chief"][0] and found[1]["find_at_chief"][0] == "trained"


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, says",
    [
        ("no_step_at_one", "RuntimeError: out of patience"),
        ("label", "NonFiniteError: update 3 (number 3 of epoch 1): in its batch, y holds the label 3 in example 7"),
        ("label_unchecked", "NonFiniteError: update 3 (number 3 of epoch 1): in its batch, y holds the label 3 in example 7"),
    ],
)
def test_what_comes_at_one_all_name(case, says, tmp_path):
    first, second = (each[case] for each in ended(tmp_path, case))
    assert second[0].startswith(says) and first[1] == second[1]
    told, _, rest = first[0].partition("has left the training: ")
    assert told.startswith("WorkerLost: worker 1 (localhost:") and rest.startswith(second[0])
    if case != "no_step_at_one":
        assert second[0].partition("; the model is at")[0] == alone(case, tmp_path)[0].partition("; the model is at")[0]


@pytest.mark.slow
def test_what_one_alone_cannot_do_is_not_skipped_and_that_is_said(tmp_path):
    first, second = (each["label_skipped"] for each in ended(tmp_path, "label_skipped"))
    for line in (first[0], second[0]):
        assert 'on_nonfinite="skip" cannot leave out what fails at one worker alone' in line


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no_step_eagerly", "unknown_to_xla"])
def test_what_all_of_them_find_in_a_call_is_the_error_of_each(case, tmp_path):
    first, second = (each[case][0] for each in ended(tmp_path, case))
    error = {"no_step_eagerly": ALIKE["no_step"], "unknown_to_xla": "ValueError: jit_compile=True: XLA has no kernel"}[case]
    assert error in first and error in second


@pytest.mark.slow
@pytest.mark.parametrize("who, case", enumerate(["interrupted_chief", "interrupted"]))
def test_one_that_is_interrupted_while_it_waits_for_the_others_tells_them(who, case, tmp_path):
    """Nobody heard it, for ten minutes; and the other, once it came, waited for ever."""
    found = [each[case][0] for each in ended(tmp_path, case)]
    assert found[who] == "KeyboardInterrupt: "
    assert found[1 - who].startswith(f"WorkerLost: worker {who} (localhost:")
    assert "has left the training: KeyboardInterrupt; start all" in found[1 - who]


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["validates", "reads_again"])
def test_who_waits_for_its_own_data_alone_hears_that_another_is_lost(phase, tmp_path):
    """It went on for as long as it took."""
    case = f"left_while_the_chief_{phase}"
    if phase == "reads_again":
        trainer, given = ending.to_be_read_again(None, 0, tmp_path)
        trainer.fit(**given | {"epochs": 1}, verbose=0)
    first, second = (each[case] for each in ended(tmp_path, case))
    assert first[0].startswith("WorkerLost: worker 1 (localhost:") and first[1] == 8
    assert "has left the training: RuntimeError: out of order; start all" in first[0] and "out of order" in second[0]
