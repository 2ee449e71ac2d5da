"""Several devices: every batch is cut into one shard a replica, and what replicas find is added up once an evaluation.

Of several processes, the workers of a cluster, the first is the chief: it decides, and the others follow.
"""

from trainlab.distribution.cluster import Cluster, cluster_of
from trainlab.distribution.division import Division
from trainlab.distribution.joining import join_workers
from trainlab.distribution.link import END, RUN, STATE, Link, Refused, StopAsked, WorkerLost
from trainlab.distribution.replicas import ONE, Replicas, replicas_of

__all__ = [
    "END",
    "ONE",
    "RUN",
    "STATE",
    "Cluster",
    "Division",
    "Link",
    "Refused",
    "Replicas",
    "StopAsked",
    "WorkerLost",
    "cluster_of",
    "join_workers",
    "replicas_of",
]
