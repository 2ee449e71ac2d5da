"""Runs: epochs and callbacks on the host, and a run kept safe in its directory."""

from trainlab.runs import manifest, rates, workers
from trainlab.runs.disk import boards, compiled, sealed
from trainlab.runs.disk.files import move, write_atomically
from trainlab.runs.disk.lock import InUse, Lock
from trainlab.runs.epochs import Fit, Keeper, find_out, fit_of, history_of
from trainlab.runs.evaluating import Validator, evaluate_alone, predict_alone
from trainlab.runs.keeping import RunKeeper
from trainlab.runs.listeners.describing import Described, describe_loop
from trainlab.runs.listeners.listing import callback_list, is_terminal, verbosity
from trainlab.runs.manifest import OVERRIDABLE, OtherRun
from trainlab.runs.resuming import RESUME, Asked, Found
from trainlab.runs.run import Run, refuse_unknown
from trainlab.runs.signals import Signals
from trainlab.runs.workers import ChiefEnded

__all__ = [
    "OVERRIDABLE",
    "RESUME",
    "Asked",
    "ChiefEnded",
    "Described",
    "Fit",
    "Found",
    "InUse",
    "Keeper",
    "Lock",
    "OtherRun",
    "Run",
    "RunKeeper",
    "Signals",
    "Validator",
    "callback_list",
    "boards",
    "compiled",
    "describe_loop",
    "evaluate_alone",
    "find_out",
    "fit_of",
    "history_of",
    "manifest",
    "move",
    "predict_alone",
    "rates",
    "refuse_unknown",
    "sealed",
    "is_terminal",
    "verbosity",
    "workers",
    "write_atomically",
]
