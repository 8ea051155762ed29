"""The door: the right password on both sides or a refusal by name, and nothing that a stranger can hold."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import tracemalloc

import pytest

from tests.distributed.stores import ABOUT, Wire, eventually
from tests.material import TICTACTOE
from zeroloop.distributed import door, inference
from zeroloop.distributed.frames import Channel
from zeroloop.distributed.inference import InferenceServer
from zeroloop.distributed.leaves import RemoteEvaluator, publish
from zeroloop.distributed.served import StoreClient, StoreServer
from zeroloop.distributed.store import MemoryStore
from zeroloop.errors import RefusedError, StoreError, UnreachableError
from zeroloop.evaluator.choice import choose

ANY = "127.0.0.1:0"
HEAD = struct.Struct("<4sIQ")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv("WORKER_PASSWORD", raising=False)
    monkeypatch.delenv("WORKER_PASSWORD_FILE", raising=False)


class Served:
    """A store's server, and what it has said."""

    def __init__(self, password):
        self.said = []
        self.server = StoreServer(MemoryStore(ABOUT, 9), ANY, "here", password, self.said.append)
        self.address = self.server.address


@pytest.fixture
def serve():
    made = []

    def start(password):
        made.append(Served(password))
        return made[-1]

    yield start
    for one in made:
        one.server.close()


def asked(address, password):
    """Return what a client with this password is told the run to be."""
    client = StoreClient(address, password)
    try:
        return client.about()
    finally:
        client.close()


@pytest.mark.parametrize("password", ["", "secret", "pass wörd \u2603", "\udcff", "x" * 10_000])
def test_the_same_password_on_both_sides_opens(serve, password):
    one = serve(password)
    assert asked(one.address, password) == ABOUT and one.said == []


REFUSED = {
    "wrong": ("right", "wrong", "the client's password is not the server's"),
    "a part of it": ("right", "rig", "the client's password is not the server's"),
    "none given": ("right", "", "the server asks for a password, and the client has none"),
}


@pytest.mark.parametrize("server, client, why", REFUSED.values(), ids=REFUSED)
def test_a_wrong_or_missing_password_is_refused_by_name_on_both_sides(serve, server, client, why):
    one = serve(server)
    for _ in range(3):
        with pytest.raises(RefusedError, match=f"^{one.address} refuses: {why}; set WORKER_PASSWORD .*[.]$"):
            asked(one.address, client)
    eventually(lambda: one.said)
    assert len(one.said) == 1, "the same host and reason are told once"
    assert "127.0.0.1" in one.said[0] and f"was turned away: {why}" in one.said[0]
    assert asked(one.address, server) == ABOUT, "who knows it is taken in afterwards"
    for secret in {server, client} - {""}:
        assert f"'{secret}'" not in one.said[0]


def test_a_server_without_the_password_gets_nothing_and_is_named(serve):
    one = serve("")
    with pytest.raises(
        RefusedError, match=f"^{one.address} has no password, but here one is set: .*stranger"
    ):
        asked(one.address, "secret")
    eventually(lambda: "the client has a password, the server none" in "".join(one.said))


class Stranger:
    """A server that a test plays: each of `answers` makes an answer from what came."""

    def __init__(self, *answers):
        self.heard = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, args=(answers,), daemon=True).start()

    def serve(self, answers):
        connection, _ = self.socket.accept()
        channel = Channel(connection)
        try:
            for answer in answers:
                self.heard.append(channel.receive()[0])
                channel.send(answer(self.heard))
            self.heard.append(channel.receive()[0])
        except UnreachableError:
            pass
        finally:
            channel.close()
            self.socket.close()


def challenge(heard):
    return {"door": 1, "nonce": "ab" * 32, "password": True}


@pytest.mark.parametrize(
    "last",
    [
        lambda heard: {"door": 1, "proof": ""},
        lambda heard: {"door": 1},
        lambda heard: {"door": 1, "proof": 5},
        lambda heard: {"door": 1, "proof": heard[-1]["proof"]},
        lambda heard: {"door": 1, "proof": "é" * 64},
        lambda heard: {"door": 1, "proof": "0" * 64},
    ],
    ids=["empty", "none", "a number", "our own sent back", "no hex", "made up"],
)
def test_a_server_that_only_says_that_it_knows_the_password_gets_no_call(last):
    one = Stranger(challenge, last)
    with pytest.raises(RefusedError, match=f"{one.address} does not know the password .*nothing is sent"):
        asked(one.address, "secret")
    eventually(lambda: one.socket.fileno() == -1)
    assert [head.get("call") for head in one.heard] == ["enter", None]
    assert "secret" not in json.dumps(one.heard), "no password travels"


def recorded(address, password):
    """Come in with the right password; return the frames that the client sent."""
    sent, send = [], Channel.send

    def keep(channel, head, parts=()):
        if channel.peer == address:
            sent.append(head)
        send(channel, head, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "send", keep)
        asked(address, password)
    return sent[:2]


def test_what_was_recorded_opens_nothing(serve):
    one = serve("secret")
    frames = recorded(one.address, "secret")
    channel = Channel.connect(one.address)
    channel.send(frames[0])
    answer, _ = channel.receive()
    assert answer["nonce"] != frames[0]["nonce"]
    channel.send(frames[1])
    assert "password is not the server's" in channel.receive()[0]["refused"]
    with pytest.raises(UnreachableError):
        channel.receive()
    channel.close()


def test_nonces_are_new_every_time(serve):
    one, found = serve("secret"), set()
    for _ in range(20):
        channel = Channel.connect(one.address)
        channel.send({"call": "enter", "door": 1, "zeroloop": "x", "nonce": "cd" * 32})
        found.add(channel.receive()[0]["nonce"])
        channel.close()
    assert len(found) == 20 and all(len(nonce) == 64 for nonce in found)


@pytest.mark.parametrize("password", ["secret", ""])
def test_no_call_is_answered_before_the_door(serve, password):
    one = serve(password)
    store = one.server._store
    store.join(1, "t", ABOUT)
    for call in ("about", "stop"):
        channel = Channel.connect(one.address)
        channel.send({"call": call})
        assert list(channel.receive()[0]) == ["door", "refused"]
        channel.close()
    assert not store.report(1, {}).stopped


def test_a_call_in_the_place_of_the_proof_is_no_proof(serve):
    one = serve("secret")
    channel = Channel.connect(one.address)
    channel.send({"call": "enter", "door": 1, "zeroloop": "x", "nonce": "cd" * 32})
    channel.receive()
    channel.send({"call": "publish", "hash": "x", "progress": 0})
    assert "refused" in channel.receive()[0]
    assert one.server._store.weights("") is None
    channel.close()


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_a_connection_cut_after_any_byte_opens_nothing_and_is_asked_for_again(serve, step):
    one = serve("secret")

    def through(up=None, down=None):
        wire = Wire(one.address, up, down)
        client = StoreClient(wire.address, "secret")
        try:
            tries = 0
            while True:
                tries += 1
                try:
                    assert client.about() == ABOUT
                    return tries, wire.passed
                except UnreachableError:
                    assert tries < 3
        finally:
            client.close()
            wire.close()

    tries, (sent, answered) = through()
    assert tries == 1 and sent > 300 and answered > 300
    for cut in range(1, sent, step):
        assert through(up=cut)[0] == 2, f"cut after {cut} bytes of what is sent"
    for cut in range(1, answered, step):
        assert through(down=cut)[0] == 2, f"cut after {cut} bytes of the answers"
    assert one.said == [], "who was cut off is no stranger"


def test_who_connects_and_says_nothing_is_let_go(serve, monkeypatch):
    monkeypatch.setattr(door, "SECONDS", 0.3)
    one = serve("secret")
    before = threading.active_count()
    host, port = one.address.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(5)]
    for each in silent:
        each.settimeout(20)
        assert each.recv(1) == b""
        each.close()
    eventually(lambda: threading.active_count() <= before)
    monkeypatch.setattr(door, "SECONDS", 10.0)
    assert asked(one.address, "secret") == ABOUT


def test_who_speaks_ever_so_slowly_is_let_go_as_well(serve, monkeypatch):
    monkeypatch.setattr(door, "SECONDS", 0.5)
    one = serve("secret")
    text = json.dumps({"call": "enter", "door": 1, "nonce": "ab" * 32, "parts": []}).encode()
    host, port = one.address.split(":")
    with socket.create_connection((host, int(port))) as slow, pytest.raises(OSError):
        for byte in HEAD.pack(b"ZLF1", len(text), 0) + text:  # each within the time for all, all beyond it
            slow.sendall(bytes([byte]))
            time.sleep(0.05)


@pytest.mark.parametrize("sizes", [(1 << 20, 0), (10, 1 << 30), (10, 1)], ids=["head", "body", "any body"])
def test_a_stranger_claims_no_memory(serve, sizes):
    one = serve("secret")
    host, port = one.address.split(":")
    tracemalloc.start()
    with socket.create_connection((host, int(port))) as greedy:
        greedy.settimeout(20)
        greedy.sendall(HEAD.pack(b"ZLF1", *sizes))
        assert greedy.recv(1) == b""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 18


def test_an_older_client_is_told_the_version(serve):
    """The protocol before there was a door began with a call."""
    one = serve("")
    for call in ("about", "hello"):
        channel = Channel.connect(one.address)
        channel.send({"call": call, "about": ABOUT, "batch": 8})
        told = channel.receive()[0]["refused"]
        assert told.startswith("the server is zeroloop ") and "another version" in told
        assert told.endswith("install the same on both machines.")
        channel.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"refused": "a call that this store does not know: KeyError('enter')"},
        {"refused": "a connection begins with a hello; this is another version, or a stranger."},
        {"door": 2, "nonce": "ab" * 32, "password": False},
        {"door": 1, "nonce": "ab", "password": False},
        {"about": {}},
    ],
    ids=["an older store", "an older inference server", "a newer door", "a bad nonce", "something"],
)
def test_an_older_or_newer_server_is_refused_by_its_version_and_not_asked_again(answer):
    one = Stranger(lambda heard: answer)
    with pytest.raises(RefusedError, match=f"^{one.address} has another version of zeroloop than this one, "):
        asked(one.address, "")


def test_a_newer_client_is_told_both_versions(serve):
    one = serve("")
    channel = Channel.connect(one.address)
    channel.send({"call": "enter", "door": 2, "zeroloop": "99.1", "nonce": "ab" * 32})
    assert "the client of another version, 99.1;" in channel.receive()[0]["refused"]
    channel.close()


def test_the_inference_server_has_the_same_door():
    said = []
    server = InferenceServer(
        TICTACTOE, choose("cpu", precision="fp32"), max_batch=8, lanes=1, password="right", say=said.append
    )
    try:
        address = server.listen(ANY)
        for given in ("wrong", ""):
            with pytest.raises(RefusedError, match=f"{address} refuses: .*WORKER_PASSWORD"):
                RemoteEvaluator(TICTACTOE, address, "0" * 64, 8, stop=lambda: False, password=given)
            with pytest.raises(RefusedError, match=f"{address} refuses: .*WORKER_PASSWORD"):
                publish(address, TICTACTOE, "0" * 64, b"", password=given)
        eventually(lambda: server.counters()["refused"] == 4 and len(said) == 2)
        RemoteEvaluator(TICTACTOE, address, "0" * 64, 8, password="right").close()
    finally:
        server.close()


def test_an_inference_server_out_of_files_takes_callers_again_when_it_has_some(monkeypatch):
    scarce, channel = [3], inference.Channel

    def made(connection):
        if scarce[0]:
            scarce[0] -= 1
            connection.close()
            raise OSError(24, "Too many open files")
        return channel(connection)

    monkeypatch.setattr(inference, "Channel", made)
    server = InferenceServer(TICTACTOE, choose("cpu", precision="fp32"), max_batch=8, lanes=1)
    try:
        address = server.listen(ANY)
        RemoteEvaluator(TICTACTOE, address, "0" * 64, 8, stop=lambda: False, tell=lambda text: None).close()
        assert scarce == [0]
    finally:
        server.close()


# Where the password comes from.


def test_the_password_is_read_from_the_environment_or_a_file(monkeypatch, tmp_path, serve):
    assert door.own_password() == ""
    file = tmp_path / "password"
    file.write_text("from a file\n")
    monkeypatch.setenv("WORKER_PASSWORD_FILE", str(file))
    one = serve(None)
    assert asked(one.address, None) == asked(one.address, "from a file") == ABOUT
    monkeypatch.setenv("WORKER_PASSWORD", "both")
    with pytest.raises(StoreError, match="WORKER_PASSWORD and WORKER_PASSWORD_FILE are both set; unset one"):
        door.own_password()
    monkeypatch.delenv("WORKER_PASSWORD_FILE")
    assert door.own_password() == "both"
    with pytest.raises(RefusedError):
        asked(one.address, None)


@pytest.mark.parametrize(
    "fault, why", [("absent", "which cannot be read .No such file"), ("empty", "which is empty")]
)
def test_a_file_without_a_password_is_an_error_and_not_no_password(monkeypatch, tmp_path, fault, why):
    file = tmp_path / "password"
    if fault == "empty":
        file.write_text(" \n")
    monkeypatch.setenv("WORKER_PASSWORD_FILE", str(file))
    with pytest.raises(StoreError, match=f"WORKER_PASSWORD_FILE is '{file}', {why}"):
        StoreServer(MemoryStore(ABOUT, 9), ANY)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_an_address_that_only_this_machine_reaches_needs_no_password(address):
    assert door.warning("collect.bind", address, "") == ""


@pytest.mark.parametrize("address", ["0.0.0.0:1", "192.168.1.100:1", "[::]:1", "gpu-box:1"])
def test_without_a_password_an_address_that_others_reach_is_told(address):
    told = door.warning("collect.bind", address, "")
    assert (
        told.startswith(f"collect.bind is {address}, which other machines reach")
        and "WORKER_PASSWORD" in told
    )
    assert door.warning("collect.bind", address, "secret") == ""
