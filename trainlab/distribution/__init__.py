"""Several devices, of one process or more: every batch is cut into shards, and what replicas find is added up."""

from trainlab.distribution.character import check_divisible
from trainlab.distribution.division import divided
from trainlab.distribution.lockstep import NotForXla
from trainlab.distribution.replicas import ONE, Replicas, replicas_of
from trainlab.distribution.workers import (
    END,
    FOUND,
    RUN,
    STATE,
    SYNC,
    Cluster,
    Link,
    Refused,
    StopAsked,
    WorkerLost,
    cluster_of,
    join_workers,
)

__all__ = [
    "END",
    "FOUND",
    "ONE",
    "RUN",
    "STATE",
    "SYNC",
    "Cluster",
    "Link",
    "NotForXla",
    "Refused",
    "Replicas",
    "StopAsked",
    "WorkerLost",
    "check_divisible",
    "cluster_of",
    "divided",
    "join_workers",
    "replicas_of",
]
