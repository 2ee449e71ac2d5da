"""A run's directory on disk: checkpoints that are whole or not there, one writer, nobody else's files touched."""

from trainlab.runs.disk.checkpoint import Checkpoints, Loaded, peek, read
from trainlab.runs.disk.compiled import Compiled
from trainlab.runs.disk.encoding import decode, encode, refuse
from trainlab.runs.disk.files import write_atomically
from trainlab.runs.disk.lock import Lock

__all__ = ["Checkpoints", "Compiled", "Loaded", "Lock", "decode", "encode", "peek", "read", "refuse", "write_atomically"]
