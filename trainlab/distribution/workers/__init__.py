"""Several processes, one a machine or more: how they join, what they compute together, who says what comes next."""

from trainlab.distribution.workers.cluster import Cluster, cluster_of, heed_signals
from trainlab.distribution.workers.collectives import Collectives
from trainlab.distribution.workers.errors import Refused, StopAsked, WorkerLost
from trainlab.distribution.workers.joining import cluster_behind, join_workers
from trainlab.distribution.workers.link import END, FOUND, RUN, STATE, SYNC, Link, link_of

__all__ = [
    "END",
    "FOUND",
    "RUN",
    "STATE",
    "SYNC",
    "Cluster",
    "Collectives",
    "Link",
    "Refused",
    "StopAsked",
    "WorkerLost",
    "cluster_behind",
    "cluster_of",
    "heed_signals",
    "join_workers",
    "link_of",
]
