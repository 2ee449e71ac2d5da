"""Replicas: on how many devices, and which, an update is evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from trainlab.distribution.workers import Collectives, Link, cluster_behind, heed_signals, link_of


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Devices that evaluate an update together.

    Attributes:
        devices: of this process, by name.
        number: of replicas in all.
        first: the number of this process' first, from 0.
        link: with other processes; None for one process.
    """

    devices: tuple[str, ...] = ("",)
    number: int = 1
    first: int = 0
    link: Link | None = None

    def check(self, micro_batch_size: Any) -> Replicas:
        """Itself, where it goes with the other settings of a Trainer.

        Raises:
            ValueError: it does not.
        """
        if self.link is not None and micro_batch_size == "auto":
            raise ValueError(
                'micro_batch_size="auto" is found out where a batch does not fit, which several workers cannot do together: '
                "give a number"
            )
        return self

    @property
    def are_several(self) -> bool:
        """Whether there is anything to divide, or one device that is not the usual one."""
        return self.number > 1 or self.devices != ("",)

    @property
    def is_follower(self) -> bool:
        """Whether another process decides."""
        return self.link is not None and not self.link.is_chief

    @property
    def collectives(self) -> Collectives | None:
        """What sums over processes; None for one process."""
        return None if self.link is None else self.link.collectives

    def local(self) -> Iterator[tuple[int, str]]:
        """The number and the device of each replica of this process."""
        return enumerate(self.devices, self.first)

    def reading(self) -> AbstractContextManager[Any]:
        """Opens the device where data and variables are, whichever evaluate."""
        return tf.device(_home())

    def __str__(self) -> str:
        devices = ", ".join(map(_short, self.devices))
        if self.link is None:
            return f"{self.number} replicas: {devices}"
        return f"{self.number} replicas: {devices} at each of {self.link.cluster.size} workers"


ONE = Replicas()


def replicas_of(distribute: Any) -> Replicas:
    """The replicas that the argument `distribute` of a Trainer means.

    Args:
        distribute: a `tf.distribute.MirroredStrategy`, or "mirrored" for all devices of this machine; what `join_workers`
          returned, or a `tf.distribute.MultiWorkerMirroredStrategy`; None for one device.

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if distribute is None:
        return ONE
    if distribute == "mirrored":
        distribute = tf.distribute.MirroredStrategy()
    if isinstance(distribute, tf.distribute.MultiWorkerMirroredStrategy):
        return _of_workers(distribute)
    if not isinstance(distribute, tf.distribute.MirroredStrategy):
        name = repr(distribute) if isinstance(distribute, str) else type(distribute).__name__
        raise ValueError(
            f'distribute must be a tf.distribute.MirroredStrategy or "mirrored", or what tl.join_workers() returned, not {name}'
        )
    devices = tuple(distribute.extended.worker_devices)
    _check(devices)
    return ONE if [_short(device) for device in devices] == [_home()] else Replicas(devices, len(devices))


def _home() -> str:
    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


def _check(devices: Sequence[str]) -> None:
    there = [_short(device.name) for device in tf.config.list_logical_devices()]
    for device in devices:
        if _short(device) not in there:
            raise ValueError(f"distribute names the device {_short(device)}, which is not there: there are {', '.join(there)}")


def _of_workers(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> Replicas:
    devices = tuple(strategy.extended.worker_devices)
    cluster = cluster_behind(strategy)
    if (1 if cluster is None else cluster.size) * len(devices) != strategy.num_replicas_in_sync:  # each would train by itself
        raise ValueError(
            f"distribute is a MultiWorkerMirroredStrategy of {strategy.num_replicas_in_sync} replicas, {len(devices)} of them "
            "here, whose workers TF_CONFIG does not name: give what tl.join_workers() returned"
        )
    if cluster is None:
        return Replicas(devices, len(devices))
    heed_signals()
    return Replicas(devices, len(devices) * cluster.size, len(devices) * cluster.rank, link_of(cluster))


def _short(device: str) -> str:
    return ":".join(device.split(":")[-2:])
