"""The command line: `python -m trainlab.train --config configs/heun.gin`."""

import sys

from trainlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
