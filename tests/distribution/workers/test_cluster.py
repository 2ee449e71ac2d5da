"""Who the workers are by TF_CONFIG; that all are there, or who is missing."""

import contextlib
import errno
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import tensorflow as tf

import trainlab as tl
from trainlab.distribution import replicas_of
from trainlab.distribution.workers import cluster as clusters
from trainlab.distribution.workers import joining
from trainlab.distribution.workers.cluster import Cluster, cluster_of


def config(cluster, **task):
    return json.dumps({"cluster": cluster, "task": task})


TWO = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, None),
        ("", None),
        ("{}", None),
        (config({"worker": ["a:1"]}, type="worker", index=0), None),
        (config(TWO, type="worker", index=1), Cluster(("a:1", "b:2"), 1)),
        (config({"chief": ["c:3"], **TWO}, type="worker", index=1), Cluster(("c:3", "a:1", "b:2"), 2)),
        (config({"chief": ["c:3"], **TWO}, type="chief", index=0), Cluster(("c:3", "a:1", "b:2"), 0)),
        (config({"worker": ["[::1]:5", "[::1]:6"]}, type="worker", index=0), Cluster(("[::1]:5", "[::1]:6"), 0)),
    ],
)
def test_what_tf_config_says(given, expected):
    assert cluster_of(given) == expected


@pytest.mark.parametrize(
    "given, says",
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"cluster": 3}', "cannot be read"),
        (config({"ps": ["a:1"], **TWO}, type="worker", index=0), "not ps"),
        (config({"evaluator": ["a:1"], **TWO}, type="worker", index=0), "not evaluator"),
        (config(TWO, type="worker", index=2), "none of the 2"),
        (config(TWO, type="worker", index=-1), "none of the 2"),
        (config(TWO, type="worker", index="1"), "none of the 2"),
        (config(TWO, type="worker", index=True), "none of the 2"),
        (config(TWO, type="chief", index=0), "none of the 2"),
        (config(TWO, index=1), "none of the 2"),
        (config(TWO, type="worker"), "none of the 2"),
        (config(TWO), "none of the 2"),
        (config({"worker": ["a:1", "b:0"]}, type="worker", index=0), "'b:0' is no host:port, the port from 1 to 65535"),
        (config({"worker": ["a:1", "b:65536"]}, type="worker", index=0), "'b:65536' is no host:port"),
        (config({"worker": ["a:1", ":2"]}, type="worker", index=0), "':2' is no host:port"),
        (config({"worker": ["a:1", "a:1"]}, type="worker", index=0), "one address"),
        (config({"worker": ["a:1", "b"]}, type="worker", index=0), "'b' is no host:port"),
    ],
)
def test_what_it_must_not_say(given, says):
    with pytest.raises(ValueError, match=r"^TF_CONFIG must be JSON.*") as raised:
        cluster_of(given)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def free_addresses(number):
    held = [socket.socket() for _ in range(number)]
    for each in held:
        each.bind(("localhost", 0))
    addresses = tuple(f"localhost:{each.getsockname()[1]}" for each in held)
    for each in held:
        each.close()
    return addresses


def meet(addresses, ranks, seconds=20.0):
    """What each of these workers gets, connections or an error; all in threads of this process."""
    results = {}

    def join(rank):
        cluster = Cluster(addresses, rank)
        meeting = clusters._gather if cluster.is_chief else clusters._report
        try:
            results[rank] = meeting(cluster, time.monotonic() + seconds)
        except (OSError, TimeoutError) as error:
            results[rank] = error

    threads = [threading.Thread(target=join, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("number", [2, 3, 5])
def test_all_meet_and_stay_connected(number):
    results = meet(free_addresses(number), range(number))
    assert sorted(results[0]) == list(range(1, number)) and all(sorted(results[rank]) == [0] for rank in range(1, number))
    for rank in range(1, number):
        results[rank][0].sendall(b"here")
        results[0][rank].settimeout(10)
        assert results[0][rank].recv(4) == b"here"
    for connections in results.values():
        for connection in connections.values():
            connection.close()


@pytest.mark.parametrize("there, missing", [((0,), "1"), ((0, 2), "1"), ((1, 2), "0"), ((2,), "0")])
def test_who_is_missing_is_named(there, missing):
    addresses = free_addresses(3)
    for rank, result in meet(addresses, there, seconds=1.0).items():
        assert isinstance(result, TimeoutError), (rank, result)
        assert f"worker {missing} ({addresses[int(missing)]})" in str(result) and "start the same program" in str(result)


def test_strangers_at_the_door_are_no_workers():
    addresses = free_addresses(2)
    port = int(addresses[0].rpartition(":")[2])
    done = threading.Event()

    def knock():
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"trainlab nobody\n", b"trainlab 7\n", b"trainlab 0\n", b"\n"):
            while True:
                try:
                    connection = socket.create_connection(("localhost", port), timeout=5)
                    break
                except OSError:
                    time.sleep(0.01)
            with connection, contextlib.suppress(OSError):
                connection.sendall(words)
                connection.recv(10)  # until it is closed
        done.set()

    thread = threading.Thread(target=knock)
    thread.start()
    results = {}
    chief = threading.Thread(target=lambda: results.update(meet(addresses, [0])))
    chief.start()
    done.wait(30)
    results |= meet(addresses, [1])
    chief.join()
    thread.join()
    assert sorted(results[0]) == [1] and sorted(results[1]) == [0]


def greeting(addresses, rank):
    """The connection of a process that has told the chief that it is there."""
    until = time.monotonic() + 20
    while True:
        try:
            connection = socket.create_connection(("localhost", int(addresses[0].rpartition(":")[2])), timeout=20)
            connection.sendall(f"trainlab {rank}\n".encode())
            return connection
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.01)


def answer(connection):
    """What the chief says in the end, after how long it waits."""
    with connection.makefile("rb", buffering=0) as lines:
        assert lines.readline().startswith(b"wait ")
        return lines.readline()


def test_one_that_ended_and_was_started_again_is_let_in():
    addresses, results = free_addresses(3), {}
    chief = threading.Thread(target=lambda: results.update(meet(addresses, [0])))
    chief.start()
    greeting(addresses, 1).close()
    again = greeting(addresses, 1)
    results |= meet(addresses, [2])
    chief.join()
    assert answer(again) == b"go\n" and sorted(results[0]) == [1, 2] and sorted(results[2]) == [0]
    results[0][1].sendall(b"here")
    assert again.recv(10) == b"here"  # not to the first one
    again.close()


def test_one_that_ended_is_not_there():
    addresses, results = free_addresses(3), {}
    chief = threading.Thread(target=lambda: results.update(meet(addresses, [0], seconds=2.0)))
    chief.start()
    greeting(addresses, 1).close()
    chief.join()
    assert f"worker 1 ({addresses[1]}), worker 2 ({addresses[2]}) have not started, or have ended" in str(results[0])


@pytest.mark.parametrize("doubled", [0, 1])
def test_two_that_are_the_same_worker(doubled):
    """The second is told at once, by a line; the first stays."""
    addresses, results = free_addresses(3), {}
    chief = threading.Thread(target=lambda: results.update(meet(addresses, [0])))
    chief.start()
    first = greeting(addresses, 1)
    if doubled:
        second = meet(addresses, [1])[1]
        assert isinstance(second, OSError) and "\n" not in str(second)
        assert f"worker 1 ({addresses[1]}): another process has joined as this worker already" in str(second)
    results |= meet(addresses, [2])
    chief.join()
    assert answer(first) == b"go\n" and sorted(results[0]) == [1, 2] and sorted(results[2]) == [0]
    first.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_is_taken(rank):
    addresses = free_addresses(2)
    with socket.socket() as taken:
        taken.bind(("", int(addresses[rank].rpartition(":")[2])))
        taken.listen()
        result = meet(addresses, [rank], seconds=2.0)[rank]
    assert isinstance(result, OSError) and addresses[rank] in str(result) and "give another port" in str(result)
    assert "Address already in use" in str(result)


@pytest.mark.slow
def test_who_comes_early_waits_as_long_as_the_chief(monkeypatch):
    """And names who is missing: not the chief, with which it is connected."""
    monkeypatch.setattr(clusters, "_PATIENCE", 0.5)
    addresses, results = free_addresses(3), {}
    chief = threading.Thread(target=lambda: results.update(meet(addresses, [0], seconds=4.0)))
    chief.start()
    results |= meet(addresses, [1], seconds=1.0)
    chief.join()
    for rank in (0, 1):
        assert isinstance(results[rank], TimeoutError) and f"worker 2 ({addresses[2]}) has not started" in str(results[rank])


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_chief_is_reached_by_either_kind_of_address(family, host):
    addresses = free_addresses(1)
    with clusters._listener(Cluster((*addresses, "b:1"), 0)), socket.socket(family) as other:
        other.settimeout(5)
        try:
            other.connect((host, int(addresses[0].rpartition(":")[2])))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                pytest.skip("no such address here")
            raise


def test_whose_process_has_ended_is_seen_by_its_address():
    with socket.socket() as here:
        here.bind(("localhost", 0))
        here.listen()
        addresses = (f"localhost:{here.getsockname()[1]}", "localhost:1", "localhost:2")
        assert Cluster(addresses, 2).unreachable() == [1]


def test_one_worker_alone_has_nobody_to_wait_for(monkeypatch):
    """A launcher that was asked for one: all devices of this machine, and no cluster."""
    alone = config({"worker": ["localhost:1"]}, type="worker", index=0)
    monkeypatch.setenv("TF_CONFIG", alone)
    assert (cluster_of(alone), clusters.described_by(alone)) == (None, Cluster(("localhost:1",), 0))
    strategy = tl.join_workers()
    assert type(strategy) is tf.distribute.MirroredStrategy
    assert strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU"))


@pytest.mark.parametrize("given", [None, "", "{}", '{"task": {"type": "worker", "index": 0}}'])
def test_where_there_are_no_workers_that_is_a_line(given, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_CONFIG", given)
    with pytest.raises(ValueError, match="^TF_CONFIG names no workers to join") as raised:
        tl.join_workers()
    assert "\n" not in str(raised.value)


def test_what_comes_too_late_is_a_line_before_anybody_is_waited_for(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config({"worker": list(free_addresses(2))}, type="worker", index=0))
    tf.constant(0.0)
    with pytest.raises(RuntimeError, match=r"^TensorFlow has run something in this process already: call join_workers\(\) once"):
        tl.join_workers()


def test_workers_whom_nobody_knows_do_not_train_each_by_itself(monkeypatch):
    """Of a resolver of somebody's own, or of a TF_CONFIG that was taken away."""
    of_two = tf.distribute.MultiWorkerMirroredStrategy.__new__(tf.distribute.MultiWorkerMirroredStrategy)
    monkeypatch.setattr(type(of_two), "extended", SimpleNamespace(worker_devices=("/job:worker/task:0/device:CPU:0",)))
    monkeypatch.setattr(type(of_two), "num_replicas_in_sync", 2)
    for given in (None, config({"worker": ["a:1", "b:2", "c:3"]}, type="worker", index=0)):
        monkeypatch.delenv("TF_CONFIG", raising=False)
        if given is not None:
            monkeypatch.setenv("TF_CONFIG", given)
        with pytest.raises(ValueError, match="^distribute is a MultiWorkerMirroredStrategy of 2 replicas, 1 of them here"):
            replicas_of(of_two)
    joining._joined[of_two] = Cluster(("a:1", "b:2"), 1)  # control: as `join_workers` keeps it
    assert (replicas_of(of_two).number, replicas_of(of_two).first) == (2, 1)
