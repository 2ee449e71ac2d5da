"""One part: `python -m gpu_checking NAME [--short]`."""

from __future__ import annotations

import sys

from gpu_checking import PARTS


def main() -> None:
    """Runs the part named."""
    name, is_short = sys.argv[1], "--short" in sys.argv
    PARTS[name].run(is_short)


if __name__ == "__main__":
    main()
