"""`trainlab show`: what happens in a run, and in which order."""

from pathlib import Path

from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.running.failing import Failure, attempted
from trainlab.cli.running.run_directory import RunDirectory
from trainlab.cli.running.setup import seed, set_up
from trainlab.cli.running.summary import summary
from trainlab.cli.running.workers import tell_alone
from trainlab.cli.verbs.job import callbacks_of, fit_arguments
from trainlab.data import device


def show(directory: Path, debug: bool) -> Failure | None:
    """Prints it; the directory is only read.

    Args:
        directory: Of the run.
        debug: Whether what goes wrong is raised.
    """
    read: list[Config] = []

    def work() -> None:
        device.grow_memory()
        config = reading.load([directory / "config.gin"])
        read.append(config)
        tell_alone(config, "shown")
        seed(config)
        setup = set_up(config, directory)
        print(summary(setup), end="\n\n")
        print(setup.trainer.describe_loop(callbacks=callbacks_of(setup, RunDirectory(directory)), **fit_arguments(setup)))

    return attempted(work, lambda: read[0] if read else None, lambda: "nothing is saved", debug)
