"""One job: `python -m benchmarking.jobs NAME SIZE`, a JSON object; prints one that says what was found, or what failed."""

import json
import os
import sys
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarking.jobs import JOBS, Size


def main() -> None:
    """Measures it."""
    name, size = sys.argv[1:]
    try:
        found = JOBS[name].measure(Size(**json.loads(size))).as_json()
    except Exception as error:
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
