"""Sources of every kind are put at every place where they can stand, in the process that has read the same data before too."""

import random

import numpy as np
import pytest
import tensorflow as tf
from drawing import assert_goes_on_everywhere, everywhere, numbers, passes, rest_of_pass, saved, take
from moving import SIZE, Augmented, Endless, Grainlike, Plain, Reordered, Torchlike, batches

from trainlab.data import array_source
from trainlab.data.array_source import ArraySource
from trainlab.data.stream_source import StreamSource


def stream(data, shuffle=True):
    return StreamSource(data, None, shuffle)


def fresh(kind, shuffle=True, **settings):
    """A source of new data, in another process that has the same seed."""
    random.seed(5)
    return stream(kind(**settings), shuffle)


class TestInAnotherProcess:
    @pytest.mark.parametrize("share", [0.25, 0.0], ids=["resident", "streamed"])
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("num_batches", [1, 2])
    def test_arrays(self, share, shuffle, num_batches, monkeypatch):
        monkeypatch.setattr(array_source, "RESIDENT_SHARE", share)
        x = np.arange(10)
        assert assert_goes_on_everywhere(lambda: ArraySource((x, None, None), 3, shuffle, 5), 3, num_batches) == {None}

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [0, 1, 2])
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("kind", [Plain, Reordered])
    def test_py_datasets(self, kind, shuffle, workers):
        [why] = assert_goes_on_everywhere(lambda: fresh(kind, shuffle, workers=workers), 3, every=2)
        assert "from_generator" in why

    @pytest.mark.slow
    def test_py_dataset_in_several_processes(self):
        assert_goes_on_everywhere(lambda: fresh(Plain, workers=2, use_multiprocessing=True), 2, every=4)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_py_dataset_without_an_end(self, workers):
        source = fresh(Endless, workers=workers)
        assert source.is_endless
        whole = [numbers(take(source, 1)) for _ in range(9)]
        source.close()
        for used in (1, 4, 7):
            again = fresh(Endless, workers=workers)
            again.restore({"passes": 1, "batches": used, "is_open": True}, {})
            assert [numbers(take(again, 1)) for _ in range(9 - used)] == whole[used:]
            again.close()

    @pytest.mark.slow
    def test_py_dataset_that_draws_for_every_batch(self):
        assert_goes_on_everywhere(lambda: fresh(Augmented), 3, every=2)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [Torchlike, Grainlike])
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_data_that_keep_account_of_their_state_need_not_be_read_again(self, kind, shuffle):
        assert assert_goes_on_everywhere(lambda: fresh(kind, shuffle), 3) == {None}
        places, _ = everywhere(stream(kind(), shuffle), 3)
        data = kind()
        stream(data, shuffle).restore(*places[-2][2][:2])
        assert (data.begun, data.ended) == (1, 0)

    @pytest.mark.slow
    def test_generators(self):
        [why] = assert_goes_on_everywhere(lambda: stream(batches()), 1)
        assert "from_generator" in why
        assert_goes_on_everywhere(lambda: stream(batches()), 1, batches=5)

    @pytest.mark.slow
    def test_the_hooks_of_a_pass_are_called_as_often_as_they_were(self):
        places, _ = everywhere(stream(Plain()), 3)
        for number, used, (state, _, _) in places[1:]:
            data = Plain()
            stream(data).restore(state, {})
            is_between = used == 0
            assert (data.begun, data.ended) == (number + (not is_between), number), (number, used)

    def test_an_order_does_not_depend_on_what_else_draws_random_numbers(self):
        def disturbed(source):
            for _ in range(3):
                random.random()
                yield numbers(rest_of_pass(source, 9))
                source.next_pass()

        random.seed(1)
        quiet = stream(Plain())
        want = [sum(p, []) for p in passes(quiet, 3)]
        random.seed(1)
        random.getrandbits(63), random.seed(1)
        assert list(disturbed(stream_with_root(quiet))) == want
        assert len({str(p) for p in want}) == 3
        assert [sorted(sum(p, [])) for p in want] == [list(range(SIZE))] * 3


def stream_with_root(source):
    """Another one whose order is that of this one."""
    state, _, _ = saved(source)
    again = stream(Plain())
    again.restore({**state, "passes": 1, "batches": 0, "is_open": True, "last_batch": None}, {})
    return again


def in_the_same_process(data, shuffle, stop, last=3):
    """What a run reads that stops after `stop` updates and goes on with the very same data, and what is saved there."""
    first = stream(data, shuffle)
    first.is_to_be_saved = True
    for _ in range(stop):
        while not take(first, 1):
            first.next_pass()
    state, serialized, _ = saved(first)
    first.close()
    again = stream(data, shuffle)
    again.restore(state, serialized)
    return passes(again, last - state["passes"] + 1), state


def rest(whole, state):
    """What comes after this state."""
    return [whole[state["passes"] - 1][state["batches"] :], *whole[state["passes"] :]]


class TestInTheSameProcess:
    @pytest.mark.parametrize("stop", [1, 3, 5, 8, 12])
    @pytest.mark.parametrize("kind", [Plain, Torchlike, Grainlike])
    def test_py_datasets_that_can_go_on_exactly_do_so_without_a_word(self, kind, stop, recwarn):
        got, state = in_the_same_process(kind(), False, stop)
        assert got == rest(passes(stream(kind(), False), 3), state)
        assert not list(recwarn)

    @pytest.mark.parametrize("stop", [1, 5, 8])
    def test_keras_own_order_is_restored(self, stop, recwarn):
        random.seed(7)
        whole = passes(stream(Plain()), 3)
        random.seed(7)
        got, state = in_the_same_process(Plain(), True, stop)
        assert got == rest(whole, state)
        assert not list(recwarn)

    @pytest.mark.parametrize("kind", [Reordered, Augmented])
    @pytest.mark.parametrize("stop", [2, 8])
    def test_what_has_moved_on_is_said(self, kind, stop):
        with pytest.warns(UserWarning, match="gives other batches than before: it was read before in this process") as warned:
            in_the_same_process(kind(), False, stop)
        assert len(warned) == 1 and "\n" not in str(warned[0].message)

    @pytest.mark.parametrize("stop", [1, 4, 7, 10])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: tf.data.Dataset.range(8).shuffle(4, seed=1).batch(2),
            lambda: tf.data.Dataset.range(8).shuffle(4, seed=1).shuffle(3, seed=2).batch(2),
            lambda: tf.data.Dataset.range(4).shuffle(4, seed=1).repeat(2).batch(2),
            lambda: tf.data.Dataset.range(8).map(lambda i: tf.random.uniform([], seed=3)).batch(2),
            lambda: tf.data.Dataset.range(8).shuffle(4, seed=1).cache().batch(2),
            lambda: (
                tf.data.Dataset.from_generator(lambda: iter(range(8)), output_signature=tf.TensorSpec([], tf.int64))
                .shuffle(4, seed=2)
                .batch(2)
            ),
        ],
        ids=["shuffle", "shuffle twice", "repeat a shuffle", "tf.random", "cache a shuffle", "from_generator"],
    )
    def test_pipelines_begin_anew(self, make, stop, recwarn):
        got, state = in_the_same_process(make(), False, stop)
        assert got == rest(passes(stream(make()), 3), state)
        assert not list(recwarn)

    def test_a_pipeline_that_reads_what_has_moved_on(self):
        numbered = iter(range(1000))
        data = tf.data.Dataset.from_generator(
            lambda: (next(numbered) for _ in range(8)), output_signature=tf.TensorSpec([], tf.int64)
        )
        with pytest.warns(UserWarning, match="gives other batches than before: it was read before in this process"):
            in_the_same_process(data.batch(2), False, 3)
        generator = tf.random.Generator.from_seed(1)
        with pytest.warns(UserWarning, match="gives other batches than before: it was read before in this process"):
            in_the_same_process(tf.data.Dataset.range(8).map(lambda _: generator.uniform([])).batch(2), False, 3)

    def test_a_state_that_no_checkpoint_holds(self):
        class Odd(Augmented):
            def get_state(self):
                return {"random": self.random}

            def set_state(self, state):
                raise AssertionError

        source = stream(Odd())
        source.is_to_be_saved = True
        take(source, 1)
        assert "its own state holds a Generator" in saved(source)[2]

    @pytest.mark.parametrize("stop", [1, 2, 5, 12])
    def test_a_generator_goes_on_where_training_stands(self, stop, recwarn):
        data = batches()
        got, _ = in_the_same_process(data, True, stop, last=1)
        assert got == [[[[i, i]] for i in range(stop, 12)]]
        assert not list(recwarn)

    def test_a_generator_that_was_read_past_a_checkpoint_is_refused(self):
        data = batches()
        first = stream(data)
        take(first, 2)
        state, _, _ = saved(first)
        take(first, 2)
        first.close()
        line = (
            "x is a generator that this process has trained on up to batch 4, and the checkpoint stands at batch 2: it cannot be"
        )
        with pytest.raises(ValueError, match=line) as error:
            stream(data).restore(state, {})
        assert "\n" not in str(error.value)

    def test_fits_one_after_the_other_lose_no_batch_of_a_generator(self):
        data, found = batches(), []
        for _ in range(4):
            source = stream(data)
            found += numbers(take(source, 3))
            source.close()
        assert found == [[i, i] for i in range(12)]

    def test_a_generator_has_one_pass(self):
        assert [len(p) for p in passes(stream(batches()), 3)] == [12, 0, 0]

    def test_a_generator_that_somebody_else_reads_keeps_nothing(self):
        data = batches(200)
        read = [int(x[0][0]) for x in stream(data).dataset]
        assert read == list(range(200))


@pytest.mark.parametrize("leaves_its_order_open", [True, False])
def test_where_an_order_is_open_a_saved_place_does_not_keep_it(leaves_its_order_open, recwarn):
    def make():
        rows = tf.data.Dataset.range(8).map(lambda i: i, num_parallel_calls=2, deterministic=not leaves_its_order_open)
        return stream(rows.batch(2))

    source = make()
    source.is_to_be_saved = True
    take(source, 1)
    state, serialized, why = saved(source)
    assert why is None
    source.close()
    again = make()
    again.restore(state, serialized)
    again.close()
    said = [str(one.message) for one in recwarn if "it leaves its order open by deterministic=False" in str(one.message)]
    assert len(said) == leaves_its_order_open
