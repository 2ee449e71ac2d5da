"""Kills training runs with SIGKILL at random instants, and looks whether each ends as if nothing had happened.

`python scripts/kill_and_resume.py` trains once undisturbed; then again and again, each run killed once or more and started
again until it is done. All must end with the same bits: variables, optimizer, History, metrics.jsonl, test metrics. None may
lose more than one interval between checkpoints, besides the checkpoint that was being written. As the control, runs that
never resume must show that the kills cost them their work. `--signal TERM` and `--signal INT` ask instead of killing: then
nothing may be lost, and the status must be 143 or 130.

`--data KIND`, or `--data all`, kills training scripts instead, whose data are of that kind. They must end with the same bits
too; data that cannot go on as they were (shuffled by another seed in each process, noise that nobody can draw again) must be
named in a warning at the resume, with the reason. As the control, data that are not put where training stands must make a
difference.

`--workers N` kills one of N workers instead: the others must end within 30 seconds, with a line that says which was lost, and
all of them, started again, with the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from killing import command, data, workers
from killing.sources import KINDS
from killing.trial import SIGNALS


def main() -> int:
    """Runs what the flags ask for; the status is 0 if every run ended as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="runs that are killed (100; of each kind of data 20)")
    parser.add_argument("--controls", type=int, help="runs that never resume (3; of each kind of data 1)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of a run of the command (40)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    parser.add_argument("--signal", choices=list(SIGNALS), default="KILL", help="what runs of the command are sent (KILL)")
    parser.add_argument(
        "--data", nargs="+", choices=["all", *KINDS], default=[], metavar="KIND", help=f"all, or of {', '.join(KINDS)}"
    )
    parser.add_argument("--workers", type=int, help="how many workers train together, of which one is killed")
    options = parser.parse_args()
    runs, controls = (20, 1) if options.data or options.workers else (100, 3)
    runs = runs if options.runs is None else options.runs
    controls = controls if options.controls is None else options.controls
    rng = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        if options.workers:
            failures = workers.kill_runs(root, options.workers, runs, rng)
        elif options.data:
            names = list(KINDS) if "all" in options.data else options.data
            failures = data.kill_runs(root, names, runs, controls, rng)
        else:
            failures = command.stop_runs(root, runs, controls, options.epochs, options.signal, rng)
        return int(failures > 0)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
