"""What a program of several workers calls first."""

from __future__ import annotations

import os
import weakref

import tensorflow as tf

from trainlab.distribution.workers.cluster import Cluster, cluster_of, described_by, join, no_workers
from trainlab.distribution.workers.link import link_of
from trainlab.distribution.workers.signs import Signs
from trainlab.parameters import tensorflow_internals

_LEAST_HEARTBEATS = 10.0  # TensorFlow's own
_joined: weakref.WeakKeyDictionary[tf.distribute.Strategy, Cluster] = weakref.WeakKeyDictionary()


def join_workers(seconds: float = 300.0, answer_seconds: float = 60.0) -> tf.distribute.Strategy:
    """Joins the workers that TF_CONFIG names: call it first of all, before a model, a tensor or a data set is made.

    `tf.distribute.MultiWorkerMirroredStrategy()` by itself waits for ever for a worker that never starts, and says nothing;
    this waits so many seconds for all to start, and names those that are missing.

    Args:
        seconds: how long to wait for all to start.
        answer_seconds: how long a worker, the chief too, may give no sign of life, its process stopped or its machine gone, or
          wait for its own data to train on, once training has begun: then it is lost, and all end. What lasts is no sign of
          hanging: tracing, an update, and what the chief does between two (callbacks, validation, checkpoints) are waited for
          however long they take, and so is a `tf.py_function` that hangs. To each `fit` all have 600 s to come.

    Returns:
        What `Trainer(..., distribute=...)` takes; of one worker alone, which has nobody to wait for, all devices of this machine.

    Raises:
        ValueError: TF_CONFIG is missing or names no workers.
        RuntimeError: TensorFlow has run something in this process already.
        TimeoutError: some did not start.
        OSError: this worker's own address cannot be used, or another process has joined as this worker.
        ConnectionError: one ended while the workers joined. Where TensorFlow then waits for it without an end, which no exception
          can leave, this process is killed after the same line.

    Example:
        >>> import os
        >>> os.environ.pop("TF_CONFIG", None) and None
        >>> try:
        ...     join_workers()
        ... except ValueError as error:
        ...     print(str(error)[:38])
        TF_CONFIG names no workers to join. TF
    """
    cluster = described_by(os.environ.get("TF_CONFIG"))
    if cluster is None:
        raise no_workers()
    for name, value in (("seconds", seconds), ("answer_seconds", answer_seconds)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
    if cluster.size == 1:
        return tf.distribute.MirroredStrategy()
    if tensorflow_internals.has_started():
        raise RuntimeError(
            "TensorFlow has run something in this process already: call join_workers() once and first of all, before a model, a "
            "tensor or a data set is made"
        )
    tensorflow_internals.expect_heartbeats(max(float(answer_seconds), _LEAST_HEARTBEATS))
    strategy, connections = join(cluster, seconds)
    link_of(cluster, Signs(cluster.rank, connections, float(answer_seconds)))
    _joined[strategy] = cluster
    return strategy


def cluster_behind(strategy: tf.distribute.Strategy) -> Cluster | None:
    """The cluster that was joined for a strategy, or else that TF_CONFIG describes; None where there is none.

    Raises:
        ValueError: TF_CONFIG cannot be read.
    """
    return _joined.get(strategy) or cluster_of(os.environ.get("TF_CONFIG"))
