"""`scripts/workers.py`: whatever workers write, and whoever reads it, they end."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "scripts" / "workers.py"
MANY = 2**14  # lines, more than a pipe holds


def begin(program):
    command = [sys.executable, str(SCRIPT), "2", "--", sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_bytes_that_are_no_text_come_through():
    process = begin(f"import sys; sys.stdout.buffer.write(b'\\xff caf\\xe9\\n' * {MANY}); sys.exit(3)")
    out, err = process.communicate(timeout=60)
    lines = out.split(b"\n")
    assert process.returncode == 3 and err == b""
    assert lines.count(b"\xff caf\xe9") == lines.count(b"worker 1: \xff caf\xe9") == MANY


def test_where_nobody_reads_on_they_end_all_the_same():
    process = begin(f"for i in range({MANY}): print('a line of some length')")
    try:
        assert process.stdout.readline().endswith(b"a line of some length\n")
        process.stdout.close()
        assert process.wait(60) == 0 and process.stderr.read() == b""
    finally:
        process.kill()
        process.stderr.close()


def test_what_cannot_be_started_is_a_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "2", "--", str(tmp_path / "pyhton"), "x.py"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.splitlines()[-1].endswith(
        f"error: {str(tmp_path / 'pyhton')!r} cannot be started: No such file or directory"
    )
