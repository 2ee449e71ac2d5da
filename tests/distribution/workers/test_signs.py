"""Signs of life: who ends, hangs, or waits for data too long is known, by name, to all.

Times are compared with what was measured: on a busy machine a thread may have to wait its turn for seconds.
"""

import os
import re
import socket
import threading
import time

import pytest

from trainlab.distribution.workers.signs import Signs


class Line:
    """A chief and two others, connected; `silent` ones have no `Signs`, only the connection."""

    def __init__(self, seconds, silent=(), are_in_fit=True):
        pairs = {rank: socket.socketpair() for rank in (1, 2)}
        self.raw = {rank: pairs[rank][1] for rank in pairs}
        self.chief = Signs(0, {rank: pair[0] for rank, pair in pairs.items()}, seconds)
        self.others = {rank: Signs(rank, {0: pairs[rank][1]}, seconds) for rank in pairs if rank not in silent}
        self.found = []
        for name, signs in [(0, self.chief), *self.others.items()]:
            signs.heed_silence(are_in_fit)
            signs.on_lost = lambda rank, why, name=name: self.found.append((name, rank, why))

    def wait(self, number, seconds=20.0):
        until = time.monotonic() + seconds
        while len(self.found) < number and time.monotonic() < until:
            time.sleep(0.01)
        return sorted(self.found)

    def wait_for(self, pairs, seconds=20.0):
        """Until each of these has found who is lost, whatever else they find: one may end before another hears of a third."""
        until = time.monotonic() + seconds
        while not pairs <= {found[:2] for found in self.found} and time.monotonic() < until:
            time.sleep(0.01)
        assert pairs <= {found[:2] for found in self.found}


def counted(monkeypatch):
    """What is said from now on, and by whom."""
    sent, send_all = [], Signs._send_all

    def send(signs, said):
        sent.append((signs._rank, said))
        send_all(signs, said)

    monkeypatch.setattr(Signs, "_send_all", send)
    return sent


def beats_of(sent, rank):
    return [said for who, said in sent if who == rank and said.startswith("beat ")]


def seconds_in(found, lost, pattern):
    """The fewest seconds told of one that is lost."""
    return min(int(re.search(pattern, why)[1]) for _, rank, why in found if rank == lost)


@pytest.fixture
def line():
    made = []

    def make(*args, **kwargs):
        made.append(Line(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.chief.let_go()
        for signs in each.others.values():
            signs.let_go()


def test_nobody_is_lost_while_all_are_there(line):
    whole = line(60.0)
    time.sleep(2.0)
    assert whole.found == [] and whole.chief.lost == {}


def test_a_sign_is_no_answer_to_one(line, monkeypatch):
    """Each says twice a second that it is there, however often it hears others."""
    sent, began = counted(monkeypatch), time.monotonic()
    whole = line(60.0)
    while not all(len(beats_of(sent, rank)) >= 4 for rank in range(3)) and time.monotonic() - began < 20:
        time.sleep(0.01)
    numbers = [len(beats_of(sent, rank)) for rank in range(3)]
    most = (time.monotonic() - began) / 0.5 + 2
    assert all(4 <= number <= most for number in numbers) and whole.found == [], (numbers, most)


def test_a_process_that_ends_is_lost_to_all(line):
    whole = line(60.0, silent=[2])
    whole.raw[2].close()
    assert whole.wait(2) == [(0, 2, "has ended"), (1, 2, "has ended")]
    assert whole.chief.lost == {2: "has ended"} == whole.others[1].lost


def test_one_that_says_nothing_is_lost(line):
    whole = line(2.0, silent=[2])
    whole.wait_for({(0, 2), (1, 2)})
    assert seconds_in(whole.found, 2, r"has given no sign of life for (\d+) s") >= 2


@pytest.mark.slow
def test_before_a_fit_nobody_is_lost_who_says_nothing_but_who_ends(line):
    whole = line(1.0, silent=[2], are_in_fit=False)
    time.sleep(2.5)
    assert whole.found == [] == list(whole.chief.lost)
    began = time.monotonic()
    whole.chief.heed_silence(True)
    whole.wait_for({(0, 2)})
    waited = time.monotonic() - began
    assert waited > 1.0  # counted from the beginning of the fit
    assert 1 <= seconds_in(whole.found, 2, r"has given no sign of life for (\d+) s") <= waited + 0.5
    other = line(60.0, silent=[2], are_in_fit=False)
    other.raw[2].close()
    assert other.wait(2) == [(0, 2, "has ended"), (1, 2, "has ended")]


def test_the_chief_itself(line):
    whole = line(60.0)
    whole.chief.let_go()
    whole.wait_for({(1, 0), (2, 0)})  # and the chief may still hear the others go
    assert {(name, why) for name, rank, why in whole.found if rank == 0} == {(1, "has ended"), (2, "has ended")}


def test_one_that_waits_for_its_data_for_too_long(line):
    whole = line(2.0)
    with whole.others[1].reading():
        whole.wait_for({(0, 1), (1, 1), (2, 1)})  # it is told itself
    assert seconds_in(whole.found, 1, r"has waited for its data for (\d+) s") >= 2


@pytest.mark.slow
def test_what_is_told_is_how_long_this_batch_takes_not_how_long_all_have(line, monkeypatch):
    sent, longest, began = counted(monkeypatch), 0.0, time.monotonic()
    whole = line(60.0)
    while len(beats_of(sent, 1)) < 8 and time.monotonic() - began < 20:
        begun = time.monotonic()
        with whole.others[1].reading():
            time.sleep(0.2)
            longest = max(longest, time.monotonic() - begun)
    told = [float(said.partition(" ")[2]) for said in beats_of(sent, 1)]
    assert len(told) >= 8 and 0 < max(told) <= longest + 0.1 and whole.found == []


def test_one_that_leaves_says_why(line):
    whole = line(60.0)
    whole.others[2].leave("ValueError: two\nlines")
    assert whole.wait(3) == [(name, 2, "has left the training: ValueError: two lines") for name in range(3)]


def test_what_is_no_sign_is_not_taken_for_one(line):
    whole = line(60.0, silent=[2])
    whole.raw[2].sendall(b"beat 0.1\nbeat 0")
    time.sleep(0.5)
    whole.raw[2].sendall(b".2\nhello\n")
    time.sleep(1.0)
    assert whole.found == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_keeps_no_worker_alive(line):
    whole = line(60.0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        whole.chief.let_go()  # as if it ended; the child has had a copy of its connections
        assert [(name, rank) for name, rank, _ in whole.wait(2)] == [(1, 0), (2, 0)]
    finally:
        os.close(writer)
        os.waitpid(child, 0)
        os.close(reader)


def test_its_thread_holds_nothing_up(line):
    whole = line(60.0)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "trainlab signs")
    assert whole.found == []
