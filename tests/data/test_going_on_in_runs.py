"""Data that were read before: by the fits before, by the same call, by an older version."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawing import numbers, passes, saved, take
from moving import Augmented, Plain, Reordered, Torchlike, batches
from resuming import Stopping
from small import assert_same, compiled, everything, regression

import trainlab as tl
from trainlab.data.stream_source import StreamSource


def stream(data, shuffle=True):
    return StreamSource(data, None, shuffle)


class TestSeveralFits:
    """A source has the passes of one fit; those of fits before it count too."""

    @pytest.mark.parametrize("in_another_process", [True, False])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: tf.data.Dataset.range(8).shuffle(4, seed=1).shuffle(3, seed=2).batch(2),
            lambda: tf.data.Dataset.range(4).shuffle(4, seed=1).repeat(2).batch(2),
            Reordered,
            Augmented,
            Torchlike,
            batches,
        ],
        ids=["shuffle twice", "repeat a shuffle", "Reordered", "Augmented", "Torchlike", "generator"],
    )
    def test_the_second_goes_on_after_the_first(self, make, in_another_process, recwarn):
        def read(data, last):
            source = stream(data, False)
            source.is_to_be_saved = True
            found = passes(source, last) if make is not batches else [[numbers(take(source, 1)) for _ in range(2 * last)]]
            source.close()
            return found

        whole_data, data = make(), make()
        whole = [read(whole_data, 2), read(whole_data, 2)][1]
        read(data, 2)
        second = stream(data, False)
        second.is_to_be_saved = True
        begun = [numbers(take(second, 1)) for _ in range(3)]
        assert begun == whole[0][:3]
        state, serialized, _ = saved(second)
        second.close()
        if in_another_process:
            data = make()
            stream(data, False)  # the first fit looks at its batches, and finds that it is over
        again = stream(data, False)
        if make in (Reordered, Augmented) and not in_another_process:
            with pytest.warns(UserWarning, match="it was read before in this process"):
                again.restore(state, serialized)
            return
        again.restore(state, serialized)
        if make is batches:
            assert numbers(take(again, 1)) == whole[0][3]
        else:
            assert passes(again, 2) == [whole[0][3:], whole[1]]
        assert not list(recwarn)


class TestRuns:
    """The same through `fit`, as in a notebook."""

    @pytest.mark.parametrize("kind", ["generator", "PyDataset", "shuffled twice"])
    def test_a_fit_that_was_interrupted_goes_on_in_the_same_process(self, kind, tmp_path):
        x, y = regression(48)

        def data():
            if kind == "generator":
                return ((x[i : i + 4], y[i : i + 4]) for _ in range(3) for i in range(0, 48, 4))
            if kind == "shuffled twice":
                return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(9, seed=2).shuffle(5, seed=1).batch(4)
            return InOrder(x, y)

        settings = {"epochs": 3, "verbose": 0} | ({"steps_per_epoch": 12} if kind == "generator" else {})
        random.seed(5)
        whole = compiled()
        history = tl.Trainer(whole).fit(data(), **settings).history
        random.seed(5)
        model, given = compiled(), data()
        trainer = tl.Trainer(model, run=tl.Run(tmp_path / "run", save_seconds=None))
        with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="cannot be saved where it stands"):
            trainer.fit(given, callbacks=[Stopping(17)], **settings)
        with pytest.warns(UserWarning) as warned:
            again = trainer.fit(given, **settings).history
        assert not any("other batches" in str(w.message) for w in warned)
        assert again == history
        assert_same(everything(model), everything(whole))

    @pytest.mark.slow
    @pytest.mark.parametrize("is_finished", [False, True], ids=["stopped", "of the fit before"])
    def test_data_that_look_at_the_model_see_the_one_that_was_trained(self, is_finished, tmp_path):
        x, y = regression(48)

        def trained(directory, epochs, then=0):
            model = compiled()
            trainer, data = tl.Trainer(model, run=directory and tl.Run(directory, save_seconds=None)), Mined(model, x, y)
            trainer.fit(data, shuffle=False, epochs=epochs, verbose=0)
            if then:
                trainer.fit(data, shuffle=False, epochs=then, verbose=0)
            return everything(model), data.orders

        whole, orders = trained(None, 1, 2) if is_finished else trained(None, 3)
        assert len({tuple(order) for order in orders}) > 1
        trained(tmp_path, 1)
        again, found = trained(tmp_path, 1, 2) if is_finished else trained(tmp_path, 3)
        assert found == orders
        assert_same(again, whole)


class TestKilledEarly:
    """A fit that had no checkpoint yet begins anew, after those that are finished, which are not made again."""

    @pytest.mark.slow
    @pytest.mark.parametrize("makes_data_anew", [False, True], ids=["same data", "new data"])
    @pytest.mark.parametrize("kind", ["PyDataset", "own random numbers", "shuffled twice"])
    def test_the_second_fit_begins_as_it_would_have(self, kind, makes_data_anew, tmp_path):
        x, y = regression(24)

        def made():
            if kind == "shuffled twice":
                return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(9, seed=2).shuffle(5, seed=1).batch(4)
            return InOrder(x, y) if kind == "PyDataset" else Growing(x, y)

        def trained(directory, num_fits):
            random.seed(5)
            model, data = compiled(), made()
            trainer = tl.Trainer(model, run=directory and tl.Run(directory, save_seconds=None))
            for _ in range(num_fits):
                trainer.fit(made() if makes_data_anew else data, epochs=2, verbose=0)
            return everything(model)

        whole = trained(None, 2)
        trained(tmp_path, 1)
        assert_same(trained(tmp_path, 2), whole)
        assert_same(trained(tmp_path, 2), whole)  # now neither is made


class InOrder(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 4

    def __getitem__(self, index):
        return self.x[4 * index : 4 * index + 4], self.y[4 * index : 4 * index + 4]


class Growing(InOrder):
    """Each pass is of more than the one before it."""

    def on_epoch_end(self):
        self.y = self.y * 1.5


class Mined(InOrder):
    """After each pass the batches come by their losses."""

    def __init__(self, model, x, y):
        super().__init__(x, y)
        self.model, self.order, self.orders = model, list(range(len(self))), []

    def __getitem__(self, index):
        return super().__getitem__(self.order[index])

    def on_epoch_end(self):
        errors = np.abs(self.model.predict(self.x, verbose=0) - self.y).reshape(len(self), -1).mean(1)
        self.order = np.argsort(-errors).tolist()
        self.orders.append(self.order)


def state(batches_used):
    """As version 0.1 wrote it."""
    return {"passes": 1, "batches": batches_used, "is_open": True}


class TestOlderCheckpoints:
    def test_their_states_are_restored(self):
        want = passes(stream(tf.data.Dataset.range(8).batch(2)), 2)
        for make in (lambda: tf.data.Dataset.range(8).batch(2), lambda: Eight()):
            source = stream(make(), False)
            source.restore(state(2), {})
            assert passes(source, 2) == [want[0][2:], want[1]]
        source = stream(batches())
        source.restore(state(2), {})
        assert passes(source, 1) == [[[[i, i]] for i in range(2, 12)]]

    def test_an_order_that_they_did_not_keep_is_named(self):
        with pytest.warns(UserWarning, match="of an older version, which did not keep the order of its batches"):
            stream(Plain()).restore(state(2), {})


class Eight(Plain):
    def __len__(self):
        return 4
