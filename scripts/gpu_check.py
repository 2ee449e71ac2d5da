"""Looks whether trainlab does on this machine's GPU what it promises: `python scripts/gpu_check.py --out gpu-results`.

Takes at most --seconds (360): the device and its kernels; the equalities in float32, float64, with TensorFloat-32 and under
mixed_float16; every strategy by `trainlab.testing`; two replicas on two logical devices, two workers on one; resuming to the last
bit; the command, killed and gone on with; how long a call of many updates keeps a signal waiting; batches that do not fit; then
speed and memory against Keras' `fit` and a loop by hand. What the time does not suffice for is told, and can be named in a second
go (--parts): on an H200 all but speed took three minutes. Each part is a process of its own that is ended when its time is over,
so that one that hangs takes nothing with it. What is found is printed and written, to `gpu_check.json`, as it is found. The
status is 0 if everything that was looked at is as it must be.
Without a GPU the same is done on the CPU; --short does a little of each part.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpu_checking import PARTS, TOGETHER
from gpu_checking.telling import MARK

SCRIPTS = Path(__file__).parent


class Findings:
    """Prints and keeps what is found."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self._found: list[dict[str, Any]] = []

    def add(self, part: str, finding: dict[str, Any]) -> None:
        """One of them: check, ok (None for what is only measured), seen."""
        word = {True: "ok   ", False: "FAILS", None: "     "}[finding["ok"]]
        with self._lock:
            self._found.append({"part": part, **finding})
            print(f"{word} {part}: {finding['check']}: {finding['seen']}", flush=True)
            self._path.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")

    @property
    def failed(self) -> list[str]:
        """Names of what is not as it must be."""
        return [f"{one['part']}: {one['check']}" for one in self._found if one["ok"] is False]

    def __len__(self) -> int:
        return sum(one["ok"] is not None for one in self._found)


def main() -> int:
    """Runs the parts; returns the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="directory of gpu_check.json (gpu-results)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=360, help="after which nothing runs any more (360)")
    parser.add_argument("--short", action="store_true", help="a little of each part")
    parser.add_argument("--patience", type=float, default=1, help="times as long that a part may take, where much else runs (1)")
    processes = max((os.cpu_count() or 1) // 2, 1)
    parser.add_argument("--processes", type=int, default=processes, help=f"parts at once where no time is measured ({processes})")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    findings = Findings(options.out / "gpu_check.json")
    ends = time.monotonic() + options.seconds

    def run(name: str) -> None:
        _run(name, options, ends, findings)

    if "device" in options.parts:
        run("device")
    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(run, [name for name in options.parts if name in TOGETHER]))
    for name in (name for name in options.parts if name != "device" and name not in TOGETHER):
        run(name)
    failed = findings.failed
    print(f"\n{len(findings) - len(failed)} of {len(findings)} are as they must be; written to {options.out}/gpu_check.json")
    for name in failed:
        print(f"  not: {name}")
    return int(bool(failed))


def _run(name: str, options: argparse.Namespace, ends: float, findings: Findings) -> None:
    seconds = min(options.patience * PARTS[name].seconds, ends - time.monotonic())
    if seconds <= 0:
        findings.add(name, {"check": "the whole part", "ok": False, "seen": "no time was left for it"})
        return
    command = [sys.executable, "-m", "gpu_checking", name, *(["--short"] if options.short else [])]
    paths = [str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, cwd=SCRIPTS, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, stop)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                findings.add(name, json.loads(line[len(MARK) :]))
        status = process.wait()
        timer.cancel()
        errors.seek(0)
        said = errors.read()
    if is_late.is_set():
        findings.add(name, {"check": "the whole part", "ok": False, "seen": f"ended after {seconds:.0f} s: {said[-1500:]}"})
    elif status:
        findings.add(name, {"check": "the whole part", "ok": False, "seen": f"status {status}: {said[-1500:]}"})
    else:
        findings.add(name, {"check": "time", "ok": None, "seen": f"{time.monotonic() - started:.1f} s"})


if __name__ == "__main__":
    sys.exit(main())
