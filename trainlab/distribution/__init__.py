"""Several devices: every batch is cut into one shard a replica, and what replicas find is added up once an evaluation."""

from trainlab.distribution.division import Division
from trainlab.distribution.replicas import ONE, Replicas, replicas_of

__all__ = ["ONE", "Division", "Replicas", "replicas_of"]
