"""A run of several processes: each is given the same command; the first, the chief, does what a single one does."""

from __future__ import annotations

import os

import tensorflow as tf

from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.running.failing import show_warning
from trainlab.distribution import Cluster, cluster_of, join_workers


def place_of(config: Config) -> Cluster | None:
    """Where this process stands among the workers of a run; None where it is the only one.

    Args:
        config: Of the run; nothing is built yet.

    Raises:
        ValueError: There are to be workers and TF_CONFIG does not say which; or a setting does not go with them.
    """
    if config.distribute != "workers":
        return None
    given = os.environ.get("TF_CONFIG")
    if not given:
        raise ValueError(
            "run.distribute = 'workers': TF_CONFIG, which says who the workers are, is not set: put `python scripts/workers.py 2 "
            "--` before this command to start two on this machine; a cluster's launcher sets it on each of several machines"
        )
    cluster = cluster_of(given)
    if cluster is not None and config.micro_batch_size == "auto":
        raise ValueError(
            "run.micro_batch_size = 'auto': it is found out where a batch does not fit, which several workers cannot do "
            "together: give a number"
        )
    return cluster


def joined(config: Config) -> tf.distribute.Strategy | None:
    """Waits for the other workers of a run; to be called before anything of TensorFlow's is made.

    Returns:
        What a Trainer takes as `distribute`; None for a run without workers.

    Raises:
        TimeoutError: Some did not start.
    """
    return join_workers() if config.distribute == "workers" else None


def refuse_workers(config: Config, verb: str) -> None:
    """Refuses workers where one process does everything.

    Raises:
        ConfigError: The config has them.
    """
    if config.distribute == "workers":
        raise ConfigError(f"run.distribute = 'workers': {verb} is of one process: add --set 'run.distribute = None'")


def tell_alone(config: Config, done: str) -> None:
    """Warns where what several workers will do is `done` ("tried", say) by this process alone."""
    if config.distribute == "workers":
        show_warning(
            f"run.distribute = 'workers': {done} as one process alone does it: device, memory and time are not the workers'"
        )
