"""Frames: whole or not at all, whatever comes over the wire."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
import tracemalloc

import pytest

from zeroloop.distributed.frames import Channel, listen, split_address
from zeroloop.errors import StoreError, UnreachableError

HEAD = struct.Struct("<4sIQ")


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    a, b = Channel.__new__(Channel), Channel.__new__(Channel)
    for channel, one, name in ((a, near, "near"), (b, far, "far")):
        one.settimeout(10)
        channel._socket, channel.peer = one, name
        channel.bytes_sent = channel.bytes_received = 0
    yield a, b
    a.close()
    b.close()


def frame(head, parts=()):
    """Return the bytes of a frame."""
    text = json.dumps({**head, "parts": [len(p) for p in parts]}).encode()
    return HEAD.pack(b"ZLF1", len(text), sum(map(len, parts))) + text + b"".join(parts)


def raw(head, body=b"", magic=b"ZLF1", head_size=None, body_size=None):
    sizes = len(head) if head_size is None else head_size, len(body) if body_size is None else body_size
    return HEAD.pack(magic, *sizes) + head + body


@pytest.mark.parametrize("seed", range(5))
def test_what_is_sent_arrives(pair, seed):
    rng = random.Random(seed)
    for _ in range(40):
        head = {"call": "x", "n": rng.randrange(1 << 60), "text": "é\u2028" * rng.randrange(5)}
        parts = [rng.randbytes(rng.choice([0, 1, 7, 1000, 70_000])) for _ in range(rng.randrange(5))]
        kinds = [rng.choice([bytes, bytearray, memoryview])(p) for p in parts]
        sender = threading.Thread(target=pair[0].send, args=(head, kinds))
        sender.start()
        found, out = pair[1].receive()
        sender.join()
        assert found == head and [bytes(p) for p in out] == parts
    assert pair[0].bytes_sent == pair[1].bytes_received


def test_a_large_body_arrives_whole(pair):
    data = random.Random(1).randbytes(5_000_001)
    sender = threading.Thread(target=pair[0].send, args=({}, [data, b"end"]))
    sender.start()
    _, (body, end) = pair[1].receive()
    sender.join()
    assert bytes(body) == data and bytes(end) == b"end"


def test_a_connection_cut_at_any_byte_gives_no_frame():
    whole = frame({"call": "add", "first": 1}, [b"abc", b"", b"de"])
    for size in range(len(whole)):
        near, far = socket.socketpair()
        far.sendall(whole[:size])
        far.close()
        channel = Channel.__new__(Channel)
        channel._socket, channel.peer = near, "there"
        with pytest.raises(UnreachableError, match="there has closed the connection"):
            channel.receive()
        near.close()


BAD = {
    "wrong magic": raw(b"{}", magic=b"HTTP"),
    "a head too long": raw(b"", head_size=1 << 25),
    "a body too long": raw(b"{}", body_size=1 << 40),
    "no JSON": raw(b"{no"),
    "no UTF-8": raw(b'"\xff"'),
    "JSON too deep": raw(b"[" * 100_000),
    "no object": raw(b"[1]"),
    "no parts": raw(b"{}", b"abc"),
    "parts that are no list": raw(b'{"parts": 3}', b"abc"),
    "parts that are no numbers": raw(b'{"parts": ["abc"]}', b"abc"),
    "parts that are true": raw(b'{"parts": [true, 2]}', b"abc"),
    "a negative part": raw(b'{"parts": [-1, 4]}', b"abc"),
    "parts too short": raw(b'{"parts": [1]}', b"abc"),
    "parts too long": raw(b'{"parts": [2, 2]}', b"abc"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_frame_is_refused_and_the_sender_named(pair, data):
    sender = threading.Thread(target=pair[0]._socket.sendall, args=(data,))
    sender.start()
    with pytest.raises(StoreError, match="far") as caught:
        pair[1].receive()
    assert not isinstance(caught.value, UnreachableError), "it would be asked again for ever"
    sender.join()


def test_a_length_alone_claims_no_memory(pair):
    pair[0]._socket.sendall(raw(b"{}", body_size=1 << 31))
    pair[0]._socket.shutdown(socket.SHUT_WR)
    tracemalloc.start()
    with pytest.raises(UnreachableError):
        pair[1].receive()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_silence_longer_than_the_timeout_is_told(pair):
    pair[1].set_timeout(0.05)
    with pytest.raises(UnreachableError, match="no answer in time"):
        pair[1].receive()


def test_a_channel_that_was_closed_meanwhile_is_told_and_no_error_of_the_system(pair):
    pair[0].close()
    for call in (lambda: pair[0].set_timeout(None), lambda: pair[0].send({}), pair[0].receive):
        with pytest.raises(UnreachableError, match="^near "):
            call()


def test_closing_ends_a_thread_that_waits(pair):
    ended = []

    def wait():
        with pytest.raises(UnreachableError):
            pair[1].receive()
        ended.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    pair[1].close()
    waiting.join(5)
    assert ended


def test_an_address_at_which_nobody_listens_is_told_with_what_to_check():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=f"nothing answers at {address} .*firewall"):
        Channel.connect(address)


def test_a_host_that_does_not_exist_is_told():
    with pytest.raises(UnreachableError, match="nothing answers at no.such.host.invalid:1"):
        Channel.connect("no.such.host.invalid:1")


@pytest.mark.parametrize(
    "address", ["http://host:80", "", "host", "host:", ":80", "host:x", "host:-1", "host:70000", "h:²", "1"]
)
def test_an_address_that_is_none_is_told_with_an_example(address):
    with pytest.raises(StoreError, match="is no address; give HOST:PORT, such as"):
        split_address(address)


def test_a_port_in_use_is_told():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(
            StoreError, match=rf"{address} cannot be listened at \(Address already in use\); .*another one"
        ):
            listen(address)
