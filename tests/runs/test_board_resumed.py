"""The steps of a TensorBoard go on over a resume as if nothing had been."""

import keras
import pytest
from boards import assert_alike, events
from resuming import Stopping, small
from small import regression

from trainlab.loop.programs import pace
from trainlab.objective import keras_internals

FIT = {"batch_size": 4, "verbose": 0, "validation_data": regression(8, seed=2)}
UPDATES = 10  # of an epoch


def board(directory, update_freq):
    return keras.callbacks.TensorBoard(str(directory), write_graph=False, update_freq=update_freq)


def longer(run, make):
    """Two epochs, and then two more."""
    for epochs in (2, 4):
        small(run).fit(*regression(4 * UPDATES), epochs=epochs, callbacks=[make()], **FIT)


def stopped(run, make):
    """Stopped in the third epoch, and gone on with."""
    first, stopping = make(), Stopping(3, hook="on_epoch_begin")
    with pytest.raises(KeyboardInterrupt):
        small(run).fit(*regression(4 * UPDATES), epochs=4, callbacks=[first, stopping], **FIT)
    first._close_writers()  # as the end of the process would
    trainer = small(run)
    trainer.fit(*regression(4 * UPDATES), epochs=4, callbacks=[make()], **FIT)
    assert 2 * UPDATES < trainer.resumed_at < 3 * UPDATES


@pytest.mark.slow
@pytest.mark.parametrize("update_freq", ["epoch", "batch", 4])
@pytest.mark.parametrize("resumed", [longer, stopped])
def test_events_are_those_of_a_run_that_was_never_stopped(resumed, update_freq, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "MAX_STEPS_PER_CALL", 4)  # so that an epoch is several calls
    whole = board(tmp_path / "whole logs", update_freq)
    small(tmp_path / "whole").fit(*regression(4 * UPDATES), epochs=4, callbacks=[whole], **FIT)
    resumed(tmp_path / "run", lambda: board(tmp_path / "logs", update_freq))
    ours, theirs = events(tmp_path / "logs"), events(tmp_path / "whole logs")
    assert_alike(ours, theirs)
    tag = "epoch_loss" if update_freq == "epoch" else "batch_loss"
    steps = [step for name, step, _ in theirs["train"] if name == tag]
    every = {"epoch": range(4), "batch": range(1, 4 * UPDATES + 1), 4: range(4, 4 * UPDATES + 1, 4)}
    assert steps == list(every[update_freq])


@pytest.mark.slow
def test_without_its_state_the_steps_would_begin_anew(tmp_path, monkeypatch):
    others = {kind: names for kind, names in keras_internals.CALLBACK_STATE.items() if kind is not keras.callbacks.TensorBoard}
    monkeypatch.setattr(keras_internals, "CALLBACK_STATE", others)
    longer(tmp_path / "run", lambda: board(tmp_path / "logs", 4))
    steps = [step for name, step, _ in events(tmp_path / "logs")["train"] if name == "batch_loss"]
    assert steps == 2 * list(range(4, 2 * UPDATES + 1, 4))


@pytest.mark.slow
def test_a_board_that_is_left_out_is_missed_by_nobody(tmp_path, recwarn):
    for callbacks in ([board(tmp_path / "logs", "epoch")], []):
        small(tmp_path / "run").fit(*regression(8), epochs=2 + (not callbacks), callbacks=callbacks, **FIT)
    assert not [warning for warning in recwarn if "TensorBoard" in str(warning.message)]
