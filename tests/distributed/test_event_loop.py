"""The event loop: every whole frame is answered in its order, and nobody who is slow holds up another."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import socket
import struct
import threading
import time

import pytest
from stores import ABOUT, eventually

from zeroloop.config import CollectConfig, Config, GameConfig
from zeroloop.distributed import event_loop
from zeroloop.distributed.crew import Crew
from zeroloop.distributed.event_loop import Answer, EventLoop
from zeroloop.distributed.frames import Channel
from zeroloop.distributed.served import RESERVED, StoreClient, StoreServer
from zeroloop.distributed.store import MemoryStore
from zeroloop.errors import StoreError, UnreachableError
from zeroloop.evaluator.choice import Choice
from zeroloop.games import make

HEAD = struct.Struct("<4sIQ")


def frame(head, parts=()):
    """Return the bytes of a frame."""
    text = json.dumps({**head, "parts": [len(p) for p in parts]}).encode()
    return HEAD.pack(b"ZLF1", len(text), sum(map(len, parts))) + text + b"".join(parts)


ROOM = []
"""Whether there is room for who asks with `hold`."""


@pytest.fixture(autouse=True)
def _no_room():
    ROOM.clear()


def echo(head, parts):
    """Answer with what was asked, and with as many bytes as it wants."""
    if head.get("fault"):
        raise ZeroDivisionError("a fault of the program")
    out = [bytes(p) for p in parts] or [bytes(head.get("wants", 0))]
    full = bool(head.get("hold")) and not head.get("room", ROOM)
    answer = Answer({"n": head.get("n"), "full": full} if full else {"n": head.get("n")}, out)
    return answer._replace(again=lambda: echo(head, parts)) if full else answer


@pytest.fixture
def loop():
    made = EventLoop(echo, "test")
    yield made
    made.close()


def joined(loop):
    """Return a channel to this loop, over a real connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        loop.add(Channel(listening.accept()[0]))
    near.settimeout(20)
    return Channel(near)


def test_a_channel_that_is_closed_before_its_turn_ends_nobody_else(loop):
    near, far = socket.socketpair()
    closed = Channel.__new__(Channel)
    closed._socket, closed.peer = far, "gone"
    closed.close()
    loop.add(closed)
    channel = joined(loop)
    channel.send({"n": 3})
    assert channel.receive()[0] == {"n": 3} and loop.failure is None
    eventually(lambda: len(loop) == 1)
    near.close()
    channel.close()


def test_a_frame_that_comes_byte_by_byte_is_answered_when_it_is_whole(loop):
    channel, data = joined(loop), frame({"n": 5}, [b"abc", b"", b"de"])
    for at in range(len(data)):
        channel.connection.sendall(data[at : at + 1])
    head, parts = channel.receive()
    assert head == {"n": 5} and [bytes(p) for p in parts] == [b"abc", b"", b"de"]
    channel.close()


def test_frames_sent_in_one_piece_are_answered_in_their_order(loop):
    channel = joined(loop)
    channel.connection.sendall(b"".join(frame({"n": n, "hold": n % 7 == 0}) for n in range(100)))
    assert [channel.receive()[0]["n"] for _ in range(100)] == list(range(100))
    channel.close()


def test_a_large_frame_and_its_answer_arrive_whole(loop):
    channel, body = joined(loop), os.urandom(5_000_001)
    sender = threading.Thread(target=channel.send, args=({}, [body]))
    sender.start()
    assert bytes(channel.receive()[1][0]) == body
    sender.join()
    channel.close()


def test_who_does_not_read_answers_holds_up_nobody_and_is_not_read_from(loop):
    deaf, other = joined(loop), joined(loop)
    deaf.connection.settimeout(0.5)
    size, sent = 8 << 20, 0
    call = frame({"wants": size, "padding": "x" * 100_000})
    with contextlib.suppress(TimeoutError):
        for _ in range(1 << 10):  # one answer is under way; what comes behind stays with the sender
            deaf.connection.sendall(call)
            sent += 1
    assert sent < 1 << 10, "calls are taken in without end while no answer is read"
    other.send({"n": 1})
    assert other.receive()[0] == {"n": 1}
    deaf.connection.settimeout(20)
    for _ in range(3):
        assert len(deaf.receive()[1][0]) == size
    deaf.close()
    other.close()


def test_others_are_answered_while_an_answer_is_held(loop, monkeypatch):
    monkeypatch.setattr(event_loop, "HELD_SECONDS", 1e4)
    monkeypatch.setattr(event_loop, "HELD_RATE", 1e-4)
    waiting = [joined(loop) for _ in range(10)]
    for channel in waiting:
        channel.send({"hold": True})
    other = joined(loop)
    for n in range(20):
        other.send({"n": n})
        assert other.receive()[0] == {"n": n}
    loop.close()
    for channel in waiting:
        with pytest.raises(UnreachableError):
            channel.receive()
    for channel in (*waiting, other):
        channel.close()


def test_who_asks_for_room_again_at_once_is_held_again(loop):
    channels = [joined(loop) for _ in range(3)]
    for channel in channels:
        channel.connection.sendall(frame({"hold": True, "n": 1}) + frame({"hold": True, "room": [], "n": 2}))
    ROOM.append(True)
    for channel in channels:
        assert channel.receive()[0]["n"] == 1
        assert channel.receive()[0] == {"n": 2, "full": True}
        channel.close()


def test_a_worker_is_told_at_once_that_there_is_no_room_for_it_plays_on_until_then(monkeypatch):
    monkeypatch.setattr(event_loop, "HELD_SECONDS", 1e4)
    monkeypatch.setattr(event_loop, "HELD_RATE", 1e-4)
    store = MemoryStore(ABOUT, 1)
    server = StoreServer(store, "127.0.0.1:0", password="")
    clients = [StoreClient(server.address, password="") for _ in range(3)]
    for worker, client in enumerate(clients):
        client.join(worker, "t", ABOUT)
        assert client.add(worker, 1, [b"a"], [1]).stored == (1 if worker == 0 else 0)
        assert not server._loop._held
        client.close()
    server.close()


def test_a_worker_that_is_held_has_the_room_that_was_made_meanwhile(monkeypatch):
    monkeypatch.setattr(event_loop, "HELD_SECONDS", 2.0)
    monkeypatch.setattr(event_loop, "HELD_RATE", 0.1)
    store = MemoryStore(ABOUT, 2)
    server = StoreServer(store, "127.0.0.1:0", password="")
    client, found = StoreClient(server.address, password=""), []
    client.join(1, "t", ABOUT)
    assert client.add(1, 1, [b"a", b"b", b"c"], [1, 1, 1]).stored == 2, (
        "what is taken in part is told at once"
    )
    offer = threading.Thread(target=lambda: found.append(client.add(1, 3, [b"c"], [1])))
    offer.start()
    eventually(lambda: server._loop._held)
    assert not found
    store.acknowledge(1, {1: 1})
    offer.join(20)
    assert found[0].stored == 3 and [g.data for g in store.read(0, 9)] == [b"b", b"c"]
    client.close()
    server.close()


def test_the_more_answers_are_held_the_later_they_go_out(loop):
    def spent(count):
        channels = [joined(loop) for _ in range(count)]
        begun = time.monotonic()
        for channel in channels:
            channel.send({"hold": True})
        for channel in channels:
            channel.receive()
            channel.close()
        return time.monotonic() - begun

    spent(1)
    assert min(spent(1) for _ in range(5)) < 0.1, "one that asks for room is answered at once"
    assert spent(100) > 0.19, "500 a second at most"


def test_who_leaves_while_its_answer_is_held_harms_nobody(loop):
    gone, other = joined(loop), joined(loop)
    gone.send({"hold": True})
    gone.close()
    other.send({"hold": True, "n": 2})
    assert other.receive()[0] == {"n": 2, "full": True}, "there is no room, and that is told in the end"
    other.close()
    eventually(lambda: len(loop) == 0)


def test_three_hundred_at_once_are_answered_by_one_thread(loop):
    before = threading.active_count()
    channels = [joined(loop) for _ in range(300)]
    for n, channel in enumerate(channels):
        channel.send({"n": n})
    assert [channel.receive()[0]["n"] for channel in channels] == list(range(300))
    assert threading.active_count() <= before and len(loop) == 300
    for channel in channels:
        channel.close()
    eventually(lambda: len(loop) == 0)


def test_closing_cuts_off_everybody_and_takes_nobody_in(loop):
    channel = joined(loop)
    loop.close()
    with pytest.raises(UnreachableError):
        channel.send({})
        channel.receive()
    late = joined(loop)
    with pytest.raises(UnreachableError):
        late.receive()
    channel.close()
    late.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_program_is_told_and_nobody_waits_for_ever(loop):
    channel, other = joined(loop), joined(loop)
    channel.send({"fault": True})
    for each in (channel, other):
        with pytest.raises(UnreachableError):
            each.receive()
        each.close()
    eventually(lambda: isinstance(loop.failure, ZeroDivisionError))
    loop.close()


# The limit of open files.


def _scarce(pipe, files):
    resource.setrlimit(resource.RLIMIT_NOFILE, (files // 2, files))
    said = []
    server = StoreServer(MemoryStore(ABOUT, 9), "127.0.0.1:0", password="", say=said.append)
    pipe.send(server.address)
    pipe.recv()
    with open(os.devnull):  # the learner itself has files left
        pipe.send(said)
    server.close()


@pytest.mark.slow
def test_workers_beyond_the_limit_of_open_files_are_told_so_and_come_in_when_another_leaves():
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_scarce, args=(theirs, RESERVED + 40), daemon=True)
    process.start()
    address = pipe.recv()
    clients = [StoreClient(address, password="") for _ in range(45)]
    places = 0
    while places < 45:
        with contextlib.suppress(UnreachableError):
            clients[places].about()
            places += 1
            continue
        break
    assert 10 < places < 40, "the soft limit is raised; what is reserved is kept"
    for client in clients[places:]:
        with pytest.raises(UnreachableError, match=rf"has {places} workers, .* open files .*ulimit -n"):
            client.about()
    assert clients[0].about() == ABOUT, "who has a place keeps it"
    clients[0].close()

    def comes_in():
        with contextlib.suppress(UnreachableError):
            return clients[-1].about()

    assert eventually(comes_in) == ABOUT
    pipe.send("end")
    (said,) = pipe.recv()
    assert "ulimit -n" in said and "keeps its games" in said
    for client in clients:
        client.close()
    process.join(20)
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_learner_whose_server_has_failed_says_so_instead_of_waiting_for_games(tmp_path):
    config = Config(game=GameConfig(name="tictactoe"), collect=CollectConfig(bind="127.0.0.1:0"))
    game = make("tictactoe")
    choice = Choice("torch", "cpu", "fp32")
    crew = Crew(tmp_path, config, game, choice, keep=lambda episode: None, say=lambda text: None)
    crew.collector.drain()

    def fault(known):
        raise ZeroDivisionError("a fault of the program")

    crew.collector.store.weights = fault
    client = StoreClient(crew.server.address)
    with pytest.raises(UnreachableError):
        client.weights("")
    eventually(lambda: crew.server.failure)
    with pytest.raises(StoreError, match=r"server of workers .*a fault of the program.*same command"):
        eventually(crew.collector.drain)
    client.close()
    crew.close(finished=False)
