"""Rebuilds scripts/EVIDENCE.md, with pictures, from nothing but the repository: `python scripts/reproduce.py`.

Published figures and closed forms, and what is seen of them here, whether they are met or not. All of it takes under an hour on
two cores. `--parts` runs some of it and keeps the rest of the page as it was; `--short` takes seconds, and shows that it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from reproducing.section import Section, assembled

PARTS = {  # each the name of a module with `run(section, directory)`
    "quadratic": "DeepOBS' quadratic_deep",
    "game": "The bilinear game",
    "stability": "Stability, cycles and orders",
    "gan": "A small GAN on 16 Gaussians",
    "mnist_1d": "MNIST-1D",
    "comparing": "All strategies at equal cost",
}


def main(arguments: list[str] | None = None) -> None:
    """Runs what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--short", action="store_true", help="everything small, into another directory")
    parser.add_argument("--out", type=Path, help="directory of EVIDENCE.md (scripts, or evidence-short)")
    options = parser.parse_args(arguments)
    out = options.out or (Path("evidence-short") if options.short else Path(__file__).parent)
    directory = out / "evidence"
    directory.mkdir(parents=True, exist_ok=True)
    from benchmarking.report import machine

    for name in options.parts:
        section = Section(name, PARTS[name], options.short, machine=machine())
        print(f"\n== {section.title}", flush=True)
        started = time.perf_counter()
        if importlib.import_module(f"reproducing.{name}").run(section, directory) is False:
            continue
        section.seconds = time.perf_counter() - started
        section.write(directory)
        (out / "EVIDENCE.md").write_text(assembled(list(PARTS), directory, section.machine), encoding="utf-8")
    print(f"\nwritten to {out / 'EVIDENCE.md'}")


if __name__ == "__main__":
    main()
