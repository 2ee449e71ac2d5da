"""What the chief says when another worker was sent a signal, and what it says of one that is lost at the very end."""

import re
import signal
import warnings
from types import SimpleNamespace

import keras
import pytest
from resuming import small
from small import compiled, regression

from trainlab.distribution import StopAsked, WorkerLost
from trainlab.runs import workers

X, Y = regression(40)


class Told(keras.callbacks.Callback):
    """Another worker's signal, known at the beginning of an update; with or without the chief's hearing of it."""

    def __init__(self, keeper, at, hears=True):
        super().__init__()
        self.keeper, self.at, self.hears = keeper, at, hears

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.at:
            if self.hears:
                self.keeper.hear(signal.SIGTERM)
            raise StopAsked(signal.SIGTERM)

    def get_state(self):
        return None

    def set_state(self, state):
        pass


@pytest.mark.parametrize("save_steps", [1, 2, 3, 100])
def test_it_says_where_it_is_saved_though_it_was_saved_before(save_steps, tmp_path, capsys):
    trainer = small(tmp_path, save_steps=save_steps, save_seconds=None)
    with pytest.raises(SystemExit, match="143"):
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[Told(trainer._keeper, 4)])
    said = re.findall(r"stopped by a signal at update 4: saved in (\S+);", capsys.readouterr().out)
    assert said == [str(trainer.last_checkpoint)] and trainer.last_checkpoint.name.endswith("step-4")


def test_of_what_nobody_was_sent_nothing_is_said(tmp_path, capsys):
    """Control."""
    trainer = small(tmp_path, save_steps=1, save_seconds=None)
    with pytest.raises(StopAsked):
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[Told(trainer._keeper, 4, hears=False)])
    assert "stopped by" not in capsys.readouterr().out


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_worker_that_is_lost_when_all_is_done_is_a_warning(is_lost):
    """Nothing that is left to do would say it."""
    model = compiled()
    model.history = keras.callbacks.History()
    model.history.history, model.history.epoch = {"loss": [0.5]}, [0]
    ended = []
    lost = WorkerLost("worker 1 (b:1) was lost") if is_lost else None
    link = SimpleNamespace(lost=lost, end=lambda message, variables: ended.append(message))
    loop = SimpleNamespace(prepare=lambda source: None, link=None, update=SimpleNamespace(variables={}))
    keeper = SimpleNamespace(hear=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with workers.led(link, loop, None, model, keeper):
            pass
    assert [str(w.message) for w in caught] == is_lost * [
        "training is complete here, but not at all workers: worker 1 (b:1) was lost"
    ]
    assert b'"loss": [0.5]' in ended[0] and loop.link is None
