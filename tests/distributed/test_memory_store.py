"""Stores against a slow model written from the protocol's words, and behind a wire that is cut anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time

import pytest

from tests.distributed.stores import ABOUT, MAKERS, Model, Wire, eventually
from zeroloop.distributed import door
from zeroloop.distributed.frames import Channel
from zeroloop.distributed.served import StoreClient, StoreServer
from zeroloop.distributed.store import MEANING, MemoryStore, Orders, Weights
from zeroloop.errors import RefusedError, StoreError, UnreachableError


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def game(worker, sequence):
    return b"game %d of %d" % (sequence, worker)


def refusal(call, *given):
    """Return what the call returns, or that it was refused."""
    try:
        return call(*given)
    except RefusedError:
        return "refused"


@pytest.mark.parametrize("seed", range(12))
def test_a_store_does_what_a_slow_model_of_the_protocol_does(make, seed):
    rng, capacity = random.Random(seed), random.Random(seed).choice([1, 3, 10])
    model, workers = Model(capacity), [5, 6, 2**31 - 1]
    with make(capacity) as (learner, connect):
        stores = {w: connect() for w in workers}
        for _ in range(250):
            w, act = rng.choice(workers), rng.random()
            if act < 0.1:
                token = f"token {w}" if rng.random() < 0.8 else "another"
                about = ABOUT if rng.random() < 0.8 else {**ABOUT, rng.choice(MEANING): "2"}
                given = w, token, about, rng.randint(0, model.safe.get(w, 0))
                assert refusal(stores[w].join, *given) == refusal(model.join, *given)
            elif act < 0.6:
                last = model.stored(w)
                first = rng.choice([last + 1, last + 1, last + 1, max(1, last - 2), last + 2])
                count = rng.randrange(5)
                if first > last + 1 and not count:
                    continue  # an offer of nothing has no gap
                given = w, first, [game(w, first + i) for i in range(count)], [i + 1 for i in range(count)]
                assert refusal(stores[w].add, *given) == refusal(model.add, *given)
            elif act < 0.8:
                after, most = rng.randint(model.acknowledged, len(model.games)), rng.randint(1, 6)
                assert learner.read(after, most) == model.read(after, most)
            elif act < 0.9 and len(model.games) > model.acknowledged:
                number = rng.randint(model.acknowledged + 1, len(model.games))
                taken = {g.worker: g.sequence for g in model.games if g.number <= number}
                learner.acknowledge(number, taken)
                model.acknowledge(number, taken)
            elif w in model.tokens:
                assert stores[w].report(w, {}).safe == model.safe[w]
            else:
                assert refusal(stores[w].report, w, {}) == "refused"
            counters = learner.counters()
            assert {k: counters[k] for k in model.counters()} == model.counters()
        assert counters["evicted_games"] == counters["unread_evicted"] == 0


def test_many_workers_at_once_lose_and_double_nothing(make):
    games, workers, seen = 60, range(1, 5), []
    with make(7) as (learner, connect):

        def send(worker):
            store, stored = connect(), 0
            store.join(worker, "t", ABOUT)
            while stored < games:
                some = range(stored + 1, min(stored + 1 + worker * 3, games + 1))
                now = store.add(worker, stored + 1, [game(worker, s) for s in some], [1] * len(some)).stored
                if now == stored:
                    time.sleep(0.001)
                stored = now

        threads = [threading.Thread(target=send, args=(w,)) for w in workers]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 20
        while len(seen) < games * len(workers) and time.monotonic() < end:
            found = learner.read(len(seen), 5)
            assert len(found) <= 5
            seen += found
            if found:
                learner.acknowledge(found[-1].number, {g.worker: g.sequence for g in found})
        for thread in threads:
            thread.join()
    assert [g.number for g in seen] == list(range(1, games * len(workers) + 1))
    for worker in workers:
        mine = [g for g in seen if g.worker == worker]
        assert [g.sequence for g in mine] == list(range(1, games + 1))
        assert all(g.data == game(worker, g.sequence) for g in mine)


def test_a_store_that_is_full_takes_fewer_and_goes_on_when_there_is_room(make):
    with make(3) as (learner, connect):
        worker = connect()
        worker.join(1, "t", ABOUT)
        assert worker.add(1, 1, [b"a", b"b", b"c", b"d", b"e"], [1] * 5).stored == 3
        assert worker.add(1, 4, [b"d"], [1]).stored == 3
        learner.read(0, 9)
        assert worker.add(1, 4, [b"d"], [1]).stored == 3, "what is read and not kept is still the store's"
        learner.acknowledge(1, {1: 1})
        assert worker.add(1, 4, [b"d", b"e"], [1, 1]) == (4, 1)


def test_a_worker_that_knows_more_than_a_new_store_goes_on_from_there(make):
    with make(9) as (learner, connect):
        worker = connect()
        assert worker.join(1, "t", ABOUT, safe=7) == (7, 7)
        assert worker.add(1, 8, [b"h"], [1]) == (8, 7)
        assert worker.join(1, "t", ABOUT, safe=3) == (8, 7)


@pytest.mark.parametrize("key", MEANING)
def test_a_worker_of_another_program_or_game_is_refused_and_the_difference_named(make, key):
    with make(9) as (_, connect), pytest.raises(RefusedError, match=f"this run has {key} 1, the worker 2"):
        connect().join(1, "t", {**ABOUT, key: "2"})


def test_a_gap_is_refused_with_the_number_that_comes_next(make):
    with make(9) as (learner, connect):
        worker = connect()
        worker.join(4, "t", ABOUT)
        with pytest.raises(RefusedError, match="worker 4 offered its game 2, but its game 1 comes next"):
            worker.add(4, 2, [b"b", b"c"], [1, 1])
        assert learner.read(0, 9) == []


@pytest.mark.parametrize("positions", [[1, 1], [1, 1, 1, 1], []])
def test_an_offer_whose_parts_do_not_fit_stores_nothing(make, positions):
    with make(9) as (learner, connect):
        worker = connect()
        worker.join(1, "t", ABOUT)
        with pytest.raises((RefusedError, ValueError)):
            worker.add(1, 1, [b"a", b"b", b"c"], positions)
        assert learner.read(0, 9) == [] and learner.counters()["games"] == 0


def test_models_reach_workers_by_their_hash(make):
    with make(9) as (learner, connect):
        worker = connect()
        worker.join(1, "t", ABOUT)
        assert worker.weights("") is None
        assert worker.report(1, {}).model == ""
        for name, data in (("one", b"1" * 70_000), ("two", b"")):
            learner.publish(Weights(name, data), 0.25)
            assert worker.weights("") == Weights(name, data)
            assert worker.weights(name) is None
            assert worker.report(1, {}) == Orders(name, 0.25, False, False, 0)


def test_pausing_and_stopping_reach_workers_in_their_orders(make):
    with make(9) as (learner, connect):
        worker = connect()
        worker.join(1, "t", ABOUT)
        learner.pause(True)
        assert worker.report(1, {}).paused
        learner.pause(False)
        learner.stop()
        orders = worker.report(1, {})
        assert orders.stopped and not orders.paused


def test_workers_are_shown_with_their_last_figures(make):
    with make(9) as (learner, connect):
        worker = connect()
        worker.join(1, "t", ABOUT)
        worker.report(1, {"games": 3, "host": "a", "worker": 99})
        worker.report(1, {"games": 4, "host": "b"})
        (row,) = learner.workers()
        assert (row["worker"], row["games"], row["host"]) == (1, 4, "b")
        assert 0 <= row["silent_seconds"] < 5


def test_silence_is_measured_on_the_stores_own_clock():
    now = [100.0]
    store = MemoryStore(ABOUT, 9, lost_seconds=30, clock=lambda: now[0])
    for worker in (1, 2):
        store.join(worker, "t", ABOUT)
        store.report(worker, {"alive_seconds": 1e9, "time": -1e9})
    now[0] += 20
    store.report(2, {})
    now[0] += 11
    assert [(r["worker"], r["silent_seconds"]) for r in store.workers()] == [(2, 11)]
    store.report(1, {})
    assert {r["worker"] for r in store.workers()} == {1, 2}, "it is back"


def test_a_learner_that_comes_back_is_offered_no_game_that_it_has():
    store = MemoryStore(ABOUT, 9)
    store.resume({1: 5})
    assert store.join(1, "t", ABOUT) == (5, 5)
    assert store.add(1, 4, [b"d", b"e", b"f"], [1] * 3) == (6, 5)
    assert [g.sequence for g in store.read(0, 9)] == [6]


def test_waiting_for_a_game_ends_as_one_comes():
    store = MemoryStore(ABOUT, 9)
    store.join(1, "t", ABOUT)
    begun = time.monotonic()
    assert not store.wait(0, 0.05)
    threading.Timer(0.05, lambda: store.add(1, 1, [b"a"], [1])).start()
    assert store.wait(0, 10)
    assert time.monotonic() - begun < 5


# The wire.


def offered(wire):
    """Join and offer five games over this wire, again and again until they are stored."""
    client, stored, tries = StoreClient(wire.address), 0, 0
    batch = [game(1, s) for s in range(1, 6)]
    try:
        while stored < 5:
            tries += 1
            assert tries < 4
            try:
                client.join(1, "t", ABOUT)
                stored = client.add(1, 1, batch, [1] * 5).stored
            except UnreachableError:
                continue
    finally:
        client.close()
    return tries


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_a_connection_cut_after_any_byte_stores_each_game_once(step):
    def through(up=None, down=None):
        store = MemoryStore(ABOUT, 100)
        server = StoreServer(store, "127.0.0.1:0")
        wire = Wire(server.address, up, down)
        try:
            tries = offered(wire)
            found = store.read(0, 100)
            assert [(g.sequence, g.data) for g in found] == [(s, game(1, s)) for s in range(1, 6)], (up, down)
            return tries, wire.passed
        finally:
            wire.close()
            server.close()

    tries, (sent, answered) = through()
    assert tries == 1 and sent > 300 and answered > 50
    for cut in range(1, sent, step):
        assert through(up=cut)[0] == 2, f"cut after {cut} bytes of what is sent"
    for cut in range(1, answered, step):
        assert through(down=cut)[0] == 2, f"cut after {cut} bytes of the answers"


GARBAGE = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "huge lengths": struct.pack("<4sIQ", b"ZLF1", 2, 1 << 63),
    "no JSON": struct.pack("<4sIQ", b"ZLF1", 3, 0) + b"{no",
    "a half frame": struct.pack("<4sIQ", b"ZLF1", 400, 1000) + b'{"call":"add"',
    "deep JSON": struct.pack("<4sIQ", b"ZLF1", 100_000, 0) + b"[" * 100_000,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_a_stranger_who_sends_garbage_is_cut_off_and_nobody_else_notices(data):
    store = MemoryStore(ABOUT, 9)
    server = StoreServer(store, "127.0.0.1:0")
    client = StoreClient(server.address)
    client.join(1, "t", ABOUT)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(data)
        with contextlib.suppress(OSError):  # the server was faster
            stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):  # likewise, with what it had sent unread
            assert stranger.recv(1) == b"", "the connection is closed without an answer"
    assert client.add(1, 1, [b"a"], [1]).stored == 1
    assert len(store.read(0, 9)) == 1
    client.close()
    server.close()


CALLS = [
    ({}, []),
    ({"call": "no such"}, []),
    ({"call": ["add"]}, []),
    ({"call": "add"}, [b"x"]),
    ({"call": "add", "worker": "me", "first": 1, "positions": [1]}, [b"x"]),
    ({"call": "add", "worker": 1, "first": 1, "positions": "1x"}, [b"x", b"y"]),
    ({"call": "add", "worker": 1, "first": 1, "positions": [1, None]}, [b"x", b"y"]),
    ({"call": "add", "worker": 1, "first": 1, "positions": [1, {}]}, [b"x", b"y"]),
    ({"call": "add", "worker": 1, "first": 1, "positions": [1]}, [b"x", b"y"]),
    ({"call": "add", "worker": 1, "first": float("inf"), "positions": [1]}, [b"x"]),
    ({"call": "join", "worker": 1, "token": "t", "about": 3, "safe": 0}, []),
    ({"call": "join", "worker": 1, "token": "t", "about": [1], "safe": 0}, []),
    ({"call": "report", "worker": 1, "row": 5}, []),
    ({"call": "publish", "hash": "x", "progress": 0}, []),
    ({"call": "acknowledge", "number": 5, "safe": [1]}, []),
]


@pytest.mark.parametrize("head, parts", CALLS, ids=[json.dumps(h)[:60] for h, _ in CALLS])
def test_a_call_that_makes_no_sense_is_refused_and_stores_nothing(head, parts):
    store = MemoryStore(ABOUT, 9)
    store.join(1, "t", ABOUT)
    server = StoreServer(store, "127.0.0.1:0")
    channel = door.connect(server.address)
    channel.send(head, parts)
    answer, _ = channel.receive()
    assert "refused" in answer
    assert store.read(0, 9) == [] and store.counters()["positions"] == 0
    channel.send({"call": "counters"})
    assert "counters" in channel.receive()[0], "the connection goes on"
    channel.close()
    server.close()


def answering(*frames):
    """Return the address of a server that answers every call with the next of these."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        channel = Channel(connection)
        door.Door("").admit(channel)
        for head, parts in frames:
            channel.receive()
            channel.send(head, parts)
        channel.close()
        listening.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{listening.getsockname()[1]}"


STRANGE = {
    "about": lambda s: s.about(),
    "join": lambda s: s.join(1, "t", {}),
    "add": lambda s: s.add(1, 1, [b"x"], [1]),
    "read": lambda s: s.read(0, 1),
    "weights": lambda s: s.weights(""),
    "report": lambda s: s.report(1, {}),
    "workers": lambda s: s.workers(),
    "counters": lambda s: s.counters(),
}


@pytest.mark.parametrize("head", [{}, {"about": 1, "stored": None, "games": 5, "hash": "x", "workers": [1]}])
@pytest.mark.parametrize("call", STRANGE)
def test_an_answer_that_makes_no_sense_is_told_with_the_address(call, head):
    address = answering((head, []))
    client = StoreClient(address)
    with pytest.raises(StoreError, match=f"{address} answered '{call}' .*same version") as caught:
        STRANGE[call](client)
    client.close()
    assert not isinstance(caught.value, UnreachableError), "it would be asked again for ever"


def test_a_server_that_speaks_something_else_is_told():
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        connection.sendall(b"-ERR unknown command 'ZLF1'\r\n")
        connection.recv(100)
        connection.close()
        listening.close()

    threading.Thread(target=serve, daemon=True).start()
    with pytest.raises(StoreError, match="does not speak zeroloop's protocol"):
        StoreClient(f"127.0.0.1:{listening.getsockname()[1]}").about()


def test_a_client_finds_a_server_again_that_was_away():
    first = StoreServer(MemoryStore(ABOUT, 9), "127.0.0.1:0")
    client = StoreClient(first.address)
    client.join(1, "t", ABOUT)
    first.close()
    with pytest.raises(UnreachableError):
        client.add(1, 1, [b"a"], [1])
    with pytest.raises(UnreachableError, match=f"nothing answers at {first.address}"):
        client.about()
    second = eventually(lambda: reopened(first.address))
    with pytest.raises(RefusedError, match="has not joined"):
        client.add(1, 1, [b"a"], [1])
    client.join(1, "t", ABOUT)
    assert client.add(1, 1, [b"a"], [1]).stored == 1
    client.close()
    second.close()


def reopened(address):
    return StoreServer(MemoryStore(ABOUT, 9), address)


def test_a_server_out_of_files_takes_callers_again_when_it_has_some(monkeypatch):
    from zeroloop.distributed import served

    refused, channel = [3], served.Channel

    def scarce(connection):
        if refused[0]:
            refused[0] -= 1
            connection.close()
            raise OSError(24, "Too many open files")
        return channel(connection)

    scarce.connect = channel.connect
    monkeypatch.setattr(served, "Channel", scarce)
    server = StoreServer(MemoryStore(ABOUT, 9), "127.0.0.1:0")
    client = StoreClient(server.address)

    def told():
        try:
            return client.about()
        except UnreachableError:
            return None

    assert eventually(told) == ABOUT and refused == [0]
    client.close()
    server.close()


def test_connections_that_are_gone_leave_no_thread_and_no_file():
    server = StoreServer(MemoryStore(ABOUT, 9), "127.0.0.1:0")
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        client = StoreClient(server.address)
        client.about()
        client.close()
    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)
    server.close()
