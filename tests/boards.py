"""What a TensorBoard, or any other callback, has left behind: in files, and in itself."""

import pathlib
import re

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

_TIMED = re.compile("steps_per_second|_time$")  # what depends on the clock
_HANDLES = {"_model", "_writers", "_summary_module", "_prev_summary_state", "params", "csv_file", "writer", "epoch_logs"}


def events(directory):
    """`[(tag, step, value)]` by the folder below a directory, in the order that they were written; what is timed has no value."""
    found = {}
    paths = pathlib.Path(directory).rglob("*tfevents*")
    for path in sorted(paths, key=lambda path: (path.parent, [int(n) for n in re.findall(r"\.(\d+)(?=\.)", path.name)])):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                content = tf.make_ndarray(value.tensor)
                is_plain = content.dtype != object and not _TIMED.search(value.tag)
                here = found.setdefault(str(path.parent.relative_to(directory)), [])
                here.append((value.tag, event.step, content.tolist() if is_plain else None))
    return found


def files(directory):
    """The names of all files below a directory, without what a clock or a process puts into them."""
    names = (str(path.relative_to(directory)) for path in pathlib.Path(directory).rglob("*") if path.is_file())
    return sorted(re.sub(r"\d{4}(_\d\d){5}|tfevents\..*", "TIME", name) for name in names)


def state(callback):
    """What a callback holds, as plain values: numbers and text, for others their kind."""
    return {name: _plain(v) for name, v in vars(callback).items() if name not in _HANDLES and not _TIMED.search(name)}


def _plain(value):
    if tf.is_tensor(value) or isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value).tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def assert_alike(one, other, rtol=1e-5):
    """Two nests of plain values are equal, numbers but for rounding."""
    assert type(one) is type(other) or {type(one), type(other)} <= {int, float}, (one, other)
    if isinstance(one, dict):
        assert set(one) == set(other), set(one) ^ set(other)
        for key in one:
            assert_alike(one[key], other[key], rtol)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), (one, other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b, rtol)
    elif isinstance(one, float):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-6)
    else:
        assert one == other
