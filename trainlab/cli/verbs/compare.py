"""`trainlab compare`: strategies × learning rates × seeds, in one process or several."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.running.failing import Failure, attempted
from trainlab.cli.running.parts import unpacked, with_parts
from trainlab.cli.running.setup import check_all_used, seed, with_defaults
from trainlab.comparing import Executor, drawn_rates, finish, plan_of, problem_of, write_report
from trainlab.data import device
from trainlab.runs import write_atomically

# What is of a run alone, and what a comparison has in its place.
_OF_RUNS = {
    "strategy": "the steps are those of compare.strategies",
    "callbacks": "nobody is called in a comparison",
    "tensorboard": "trainlab report reads the runs' directories",
    "steps": "the budget is run.epochs passes of the plain step",
    "overfit": "it is of a single run",
    "distribute": "runs are made side by side by --jobs",
}
# Harmless in a config that is used for runs too.
_UNUSED = ("keep", "keep_best", "monitor", "save_steps", "save_seconds")
_CHILD = "import json, sys; from trainlab.cli.verbs.compare import help_out; sys.exit(help_out(*json.loads(sys.argv[1])))"


def compare(files: Sequence[str], bindings: Sequence[str], directory: Path, jobs: int, debug: bool) -> Failure | None:
    """Makes the runs that are not there yet, and prints what all say; leaves `comparison.json` and `report.html`.

    Args:
        files, bindings: The config, as `reading.load` takes it.
        directory: Where the runs go.
        jobs: How many processes make them.
        debug: Whether what goes wrong is raised.
    """
    read: list[Config] = []

    def work() -> None:
        config, problem, plan = _set_up(files, bindings, read)
        problem.build()  # with which all that the config says was used
        check_all_used(config)
        executor = Executor(problem, plan, directory, lambda line: print(line, flush=True))
        executor.prepare()
        runs = sum(len(plan.trials(entry)) for entry in plan.entries)
        print(f"compare   {len(plan.entries)} steps × {len(plan.rates)} rates × {len(plan.seeds)} seeds: {runs} runs", flush=True)
        unused = [b.name for b in config.bindings if b.selector == "trainlab.run" and b.argument in _UNUSED]
        if unused:
            print(
                f"unused    {', '.join(dict.fromkeys(unused))}: a comparison saves and judges in its own way",
                flush=True,
            )
        print(f"budget    {plan.budget:,} evaluations of a batch's gradient a run", flush=True)
        helpers = [_helper(files, bindings, executor.directory, worker, jobs) for worker in range(1, jobs)]
        try:
            executor.work(0, jobs)
        finally:
            for helper in helpers:
                helper.terminate()
                helper.wait()
        found = finish(executor, problem, plan)
        print(f"\n{found}\n")
        text = found.to_json()
        write_atomically(found.directory / "comparison.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
        written = [str(directory / "comparison.json")]
        try:
            written.append(str(directory / write_report(found, found.directory / "report.html").name))
        except ModuleNotFoundError as error:  # the table and the numbers are there without it
            print(f"no page   {error}")
        print(f"results   {', '.join(written)}")

    left = f"the same command goes on with what is in {directory}"
    return attempted(work, lambda: read[0] if read else None, lambda: left, debug)


def help_out(files: Sequence[str], bindings: Sequence[str], directory: str, worker: int, jobs: int, parent: int) -> int:
    """Makes runs of a comparison beside the process that has begun it, and ends with it.

    Args:
        files, bindings, directory, jobs: As of `compare`.
        worker: The number of this process, from 1.
        parent: The process that has begun it.

    Returns:
        The exit status.
    """
    read: list[Config] = []

    def work() -> None:
        _, problem, plan = _set_up(files, bindings, read)
        alive = lambda: os.getppid() == parent  # noqa: E731
        Executor(problem, plan, Path(directory), lambda line: print(line, flush=True), alive).work(worker, jobs)

    failure = attempted(work, lambda: read[0] if read else None, lambda: "", debug=False)
    return 0 if failure is None else failure[1]


def _helper(files: Sequence[str], bindings: Sequence[str], directory: Path, worker: int, jobs: int) -> subprocess.Popen[bytes]:
    given = [list(files), list(bindings), str(directory), worker, jobs, os.getpid()]
    return subprocess.Popen([sys.executable, "-c", _CHILD, json.dumps(given)], stderr=subprocess.DEVNULL)


def _set_up(files: Sequence[str], bindings: Sequence[str], read: list[Config]) -> tuple[Config, Any, Any]:
    device.grow_memory()
    config = reading.load(files, bindings)
    read.append(config)
    for binding in config.bindings:
        if binding.selector == "trainlab.run" and binding.argument in _OF_RUNS:
            raise ConfigError(f"{binding.where}: {binding.name}: {_OF_RUNS[binding.argument]}; remove this")
    seed(config)
    settings, _ = with_parts(config.build())
    settings = with_defaults(settings)
    told = config.made("trainlab.compare")
    data, shapes = settings.data, (settings.data.input_shape, settings.data.num_outputs)
    problem = problem_of(
        lambda: settings.model(*shapes),
        unpacked(data.train),
        data.validation,
        data.test,
        batch_size=settings.batch_size if data.is_arrays else None,
        optimizer=settings.optimizer,
        loss=settings.loss,
        metrics=settings.metrics,
        metric=told.metric,
        settings={
            "jit_compile": bool(settings.jit_compile),
            "deterministic": settings.deterministic or None,
            "micro_batch_size": settings.micro_batch_size,
            "sum_duplicate_rows": settings.sum_duplicate_rows,
            "on_nonfinite": settings.on_nonfinite,
        },
    )
    rates = told.learning_rates
    if rates is None:
        rates = drawn_rates(told.smallest, told.largest, told.num_trials)
    return config, problem, plan_of(problem, told.strategies, rates, told.seeds, settings.epochs)
