"""Who is watched is ended by a line if another ends, or hangs; else nothing is noticed of it."""

import socket
import subprocess
import sys
import time

import pytest

from trainlab.distribution.workers import watch

PROGRAM = """
import importlib.util, socket, sys, time
spec = importlib.util.spec_from_file_location("watch", sys.argv[1])
watch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(watch)
with watch.watched({1: socket.socket(fileno=int(sys.argv[2]))}, {0: "the chief", 1: "one", 2: "two"}, float(sys.argv[3])):
    print("begun", flush=True)
    time.sleep(float(sys.argv[4]))
print("ended", flush=True)
"""


@pytest.fixture
def begin():
    made = []

    def make(seconds, sleeps):
        mine, its = socket.socketpair()
        command = [sys.executable, "-c", PROGRAM, watch.__file__, str(its.fileno()), str(seconds), str(sleeps)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[its.fileno()])
        its.close()
        assert process.stdout.readline() == "begun\n"
        made.append(process)
        return process, mine

    yield make
    for process in made:
        process.kill()
        process.communicate()


def test_nothing_is_noticed_while_all_are_there(begin):
    process, mine = begin(30, 1)
    mine.sendall(b"beat 0.1\n")
    assert (process.communicate(timeout=60)[0], process.returncode) == ("ended\n", 0)
    mine.setblocking(False)
    assert watch.silenced({1: mine}) == [1], "it has ended, and nobody holds its end"


@pytest.mark.slow
def test_another_that_ends(begin):
    process, mine = begin(60, 60)
    mine.close()
    began = time.monotonic()
    assert process.communicate(timeout=60)[0] == "one ended while the workers joined; start all of them again\n"
    assert process.returncode == -9 and time.monotonic() - began < 20


def test_another_that_the_chief_names(begin):
    process, mine = begin(60, 60)
    mine.sendall(b"beat 0.1\nlost 2 has ended\n")
    assert process.communicate(timeout=60)[0] == "two ended while the workers joined; start all of them again\n"
    assert process.returncode == -9


def test_one_that_hangs(begin):
    process, _mine = begin(0.5, 60)
    said = "all workers have started, and not joined within 0.5 s: one may hang; start all of them again\n"
    assert process.communicate(timeout=60)[0] == said and process.returncode == -9


@pytest.mark.slow
def test_one_that_has_joined_and_ends_at_once_has_let_the_others_join(begin):
    process, mine = begin(60, 2)
    mine.close()
    assert (process.communicate(timeout=60)[0], process.returncode) == ("ended\n", 0)
