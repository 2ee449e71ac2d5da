"""Runs: epochs and callbacks on the host, and a run kept safe in its directory."""

from trainlab.runs import manifest
from trainlab.runs.checkpoint import write_atomically
from trainlab.runs.epochs import Epochs, Fit, Keeper, callback_list, verbosity
from trainlab.runs.keeping import RunKeeper
from trainlab.runs.lock import Lock
from trainlab.runs.manifest import OVERRIDABLE, OtherRun
from trainlab.runs.resuming import RESUME, Asked, Found
from trainlab.runs.run import Run

__all__ = [
    "OVERRIDABLE",
    "RESUME",
    "Asked",
    "Epochs",
    "Fit",
    "Found",
    "Keeper",
    "Lock",
    "OtherRun",
    "Run",
    "RunKeeper",
    "callback_list",
    "manifest",
    "verbosity",
    "write_atomically",
]
