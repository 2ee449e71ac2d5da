"""The lock that a killed run leaves beside a cache file of tf.data."""

import contextlib
import gc
import re
import weakref

import pytest
import tensorflow as tf
from drawing import passes
from small import compiled, regression
from tensorflow.python.data.ops.iterator_ops import OwnedIterator

from trainlab import Trainer
from trainlab.data.stream_source import StreamSource

BEGUN = {"passes": 1, "batches": 1, "is_open": True}


def stream(data):
    return StreamSource(data, None, True)


@pytest.mark.parametrize("read", ["block", "first_batch", "restore"])
def test_the_lock_of_a_killed_run_is_one_line(read, tmp_path):
    lock = tmp_path / "cache_0.lockfile"
    lock.write_text("Created at: 1")
    data = tf.data.Dataset.range(8).cache(str(tmp_path / "cache")).batch(2)
    source = stream(data)
    arguments = {"block": (1, 1), "restore": (BEGUN, {})}.get(read, ())
    try:
        getattr(source, read)(*arguments)
    except FileExistsError as error:  # which holds the iterator, and with that goes the file
        line = str(error)
    assert re.fullmatch(r"x: '.*/cache_0\.lockfile' says that its cache is being written, .* delete that file, .*", line)
    source.close()
    lock.unlink(missing_ok=True)
    assert passes(stream(data), 1) == [[[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]]


@pytest.mark.parametrize("read", ["block", "first_batch", "restore"])
def test_an_error_leaves_no_iterator_behind(read, tmp_path, monkeypatch):
    """It would delete, whenever Python collects it, the file that somebody else writes by then."""
    made, init = weakref.WeakSet(), OwnedIterator.__init__
    monkeypatch.setattr(OwnedIterator, "__init__", lambda self, *args, **kwargs: made.add(self) or init(self, *args, **kwargs))
    (tmp_path / "cache_0.lockfile").write_text("Created at: 1")
    source = stream(tf.data.Dataset.range(8).cache(str(tmp_path / "cache")).batch(2))
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(FileExistsError):
            getattr(source, read)(*{"block": (1, 1), "restore": (BEGUN, {})}.get(read, ()))
        source.close()
        assert len(made) == 0
    finally:
        gc.enable()


def test_through_fit(tmp_path):
    (tmp_path / "cache_0.lockfile").write_text("Created at: 1")
    data = tf.data.Dataset.from_tensor_slices(regression(8)).cache(str(tmp_path / "cache")).batch(2)
    with pytest.raises(FileExistsError, match="lockfile"):
        Trainer(compiled()).fit(data, verbose=0)


def test_other_errors_stay_what_they_are():
    def fail(i):
        raise tf.errors.AlreadyExistsError(None, None, "something else")

    data = tf.data.Dataset.range(2).map(lambda i: tf.ensure_shape(tf.numpy_function(fail, [i], tf.int64), [])).batch(1)
    with pytest.raises(tf.errors.OpError, match="something else"):
        stream(data).block(1, 1)
