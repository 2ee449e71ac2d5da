"""`--print-config`: what would run, every value with where it comes from."""

from collections.abc import Sequence
from pathlib import Path

from trainlab.cli.configs import reading
from trainlab.cli.configs.effective import effective
from trainlab.cli.running.failing import Failure, attempted

_WIDEST = 60


def print_config(files: Sequence[str], bindings: Sequence[str], directory: Path, debug: bool) -> Failure | None:
    """Prints a config that says what the given one comes to, with the place of each value behind it; nothing is built.

    Args:
        files, bindings: The config, as `reading.load` takes it.
        directory: Where the run would go.
        debug: Whether what goes wrong is raised.
    """

    def work() -> None:
        config = reading.load(files, bindings)
        lines = [(line, "") for line in config.import_lines]
        for value in effective(config):
            written = f"{value.name} = {value.text}" if value.text else value.name
            lines.append((written if value.is_binding else f"# {written}", value.where))
        width = min(_WIDEST, max(len(line) for line, _ in lines))
        print(f"# --run_dir {directory}")
        owner = None
        for line, where in lines:
            if line.split("=")[0].strip("# ").rpartition(".")[0] != owner and not line.startswith("import"):
                owner = line.split("=")[0].strip("# ").rpartition(".")[0]
                print()
            print(f"{line:{width}}  # {where}" if where else line)

    return attempted(work, lambda: None, lambda: "nothing is saved", debug)
