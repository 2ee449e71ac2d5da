"""Replicas: on how many devices, and which, an update is evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from trainlab.distribution.collectives import Collectives


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Devices that evaluate an update together.

    Attributes:
        devices: of this process, by name.
        number: of replicas in all.
        first: the number of this process' first, from 0.
        collectives: what sums over processes; None for one process.
    """

    devices: tuple[str, ...] = ("",)
    number: int = 1
    first: int = 0
    collectives: Collectives | None = None

    @property
    def are_several(self) -> bool:
        """Whether there is anything to divide."""
        return self.number > 1

    def local(self) -> Iterator[tuple[int, str]]:
        """The number and the device of each replica of this process."""
        return enumerate(self.devices, self.first)

    def reading(self) -> AbstractContextManager[Any]:
        """Opens the device where data and variables are."""
        return tf.device(self.devices[0])

    def __str__(self) -> str:
        return f"{self.number} replicas: {', '.join(map(_short, self.devices))}"


ONE = Replicas()


def replicas_of(distribute: Any) -> Replicas:
    """The replicas that the argument `distribute` of a Trainer means.

    Args:
        distribute: a `tf.distribute.MirroredStrategy`, or "mirrored" for all devices; None for one device.

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if distribute is None:
        return ONE
    if distribute == "mirrored":
        distribute = tf.distribute.MirroredStrategy()
    if not isinstance(distribute, tf.distribute.MirroredStrategy):
        name = repr(distribute) if isinstance(distribute, str) else type(distribute).__name__
        raise ValueError(f'distribute must be a tf.distribute.MirroredStrategy or "mirrored", not {name}')
    return Replicas(tuple(distribute.extended.worker_devices), int(distribute.num_replicas_in_sync))


def _short(device: str) -> str:
    return ":".join(device.split(":")[-2:])
