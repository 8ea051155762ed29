"""The store over Redis: the protocol's words, capacity, many learners, refusals at the door."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.distributed.redis_server import RedisServer, free_port
from tests.games.oracles import need, need_program
from tests.material import TICTACTOE, played, small_config
from zeroloop.bench import store as store_bench
from zeroloop.config import RedisConfig
from zeroloop.distributed.store import Weights, meaning
from zeroloop.errors import BackendError, RefusedError, StoreError, UnreachableError
from zeroloop.replay import Replay

need("redis")
from zeroloop.distributed.redis import RedisStore  # noqa: E402 - the package may be absent

ABOUT = {**meaning(TICTACTOE), "run": "ttt", "config": {"a": 1}, "inference": ""}
GAMES = [b"game %d" % i for i in range(1000)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield one
    one.kill()


@pytest.fixture
def stores(server, request):
    """Return a function that opens a run of this test as its learner, and another that connects to it."""
    opened, name = [], f"t{abs(hash(request.node.name))}"

    def open_run(learner="one", positions=1000, episodes=100, about=ABOUT, namespace=name):
        settings = RedisConfig(url=server.url, namespace=namespace, positions=positions, episodes=episodes)
        opened.append(RedisStore.open_run(settings, about, learner))
        return opened[-1]

    def connect(learner="", namespace=name):
        opened.append(RedisStore.connect(server.url, namespace, learner=learner))
        return opened[-1]

    yield open_run, connect
    for store in opened:
        store.close()


def joined(connect, worker=7, safe=0):
    store = connect()
    store.join(worker, "token", ABOUT, safe)
    return store


def data(found):
    return [game.data for game in found]


# The protocol.


def test_games_are_taken_in_order_and_each_once(stores):
    learner, worker = stores[0](), joined(stores[1])
    assert worker.add(7, 1, GAMES[1:4], [5, 5, 5]) == (3, 0)
    assert worker.add(7, 2, GAMES[2:6], [5] * 4) == (5, 0)
    assert [(g.number, g.worker, g.sequence, g.data) for g in learner.read(0, 100)] == [
        (i, 7, i, GAMES[i]) for i in range(1, 6)
    ]
    assert learner.counters() == {
        "games": 5,
        "positions": 25,
        "evicted_games": 0,
        "unread_evicted": 0,
        "duplicates": 2,
    }


def test_reading_goes_on_behind_a_number_and_stops_at_most(stores):
    learner, worker = stores[0](), joined(stores[1])
    worker.add(7, 1, GAMES[1:11], [1] * 10)
    assert data(learner.read(3, 4)) == GAMES[4:8]
    assert data(learner.read(8, 4)) == GAMES[9:11]
    assert learner.read(10, 4) == []


def test_a_gap_in_a_workers_numbers_is_refused(stores):
    learner, worker = stores[0](), joined(stores[1])
    worker.add(7, 1, GAMES[1:2], [1])
    with pytest.raises(RefusedError, match="worker 7 offered its game 3, but its game 2 comes next"):
        worker.add(7, 3, GAMES[3:4], [1])
    assert learner.counters()["games"] == 1


def test_a_worker_that_has_not_joined_is_refused(stores):
    stores[0]()
    for call in (lambda s: s.add(9, 1, [b"x"], [1]), lambda s: s.report(9, {})):
        with pytest.raises(RefusedError, match="worker 9 has not joined"):
            call(stores[1]())


def test_a_workers_number_belongs_to_its_token(stores):
    stores[0]()
    joined(stores[1])
    with pytest.raises(RefusedError, match="worker number 7 is another worker's"):
        stores[1]().join(7, "another", ABOUT)
    assert joined(stores[1]).add(7, 1, [b"x"], [1]).stored == 1


def test_one_number_is_claimed_once_by_many_at_the_same_time(stores):
    stores[0]()
    connected, won = [stores[1]() for _ in range(8)], []

    def claim(i):
        try:
            connected[i].join(3, f"token {i}", ABOUT)
            won.append(i)
        except RefusedError:
            pass

    threads = [threading.Thread(target=claim, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1


def test_a_worker_with_other_rules_is_refused_and_not_taken_in(stores):
    stores[0]()
    worker = stores[1]()
    with pytest.raises(RefusedError, match="this run has rules_identity .*, the worker other"):
        worker.join(7, "token", {**ABOUT, "rules_identity": "other"})
    assert worker.workers() == []


def test_a_store_that_knows_less_goes_on_from_what_the_worker_knows_is_safe(stores):
    stores[0]()
    worker = stores[1]()
    assert worker.join(7, "token", ABOUT, 40) == (40, 40)
    assert worker.add(7, 41, [b"x"], [1]) == (41, 40)


def test_what_a_learner_acknowledges_is_safe(stores):
    learner, worker = stores[0](), joined(stores[1])
    worker.add(7, 1, GAMES[1:6], [1] * 5)
    learner.acknowledge(3, {7: 3})
    assert worker.add(7, 6, [], []) == (5, 3)
    assert worker.report(7, {}).safe == 3
    learner.acknowledge(2, {7: 2})
    assert worker.report(7, {}).safe == 3


def test_a_learners_disk_tells_a_new_store_where_workers_go_on(stores):
    learner = stores[0]()
    learner.resume({7: 12})
    worker = stores[1]()
    assert worker.join(7, "token", ABOUT) == (12, 12)


def test_workers_get_the_newest_model_once(stores):
    learner, worker = stores[0](), joined(stores[1])
    assert worker.weights("") is None
    assert worker.report(7, {}).model == ""
    learner.publish(Weights("aa", bytes(range(256)) * 1000), 0.125)
    assert worker.weights("") == ("aa", bytes(range(256)) * 1000)
    assert worker.weights("aa") is None
    assert worker.report(7, {})[:2] == ("aa", 0.125)


def test_orders_reach_workers(stores):
    learner, worker = stores[0](), joined(stores[1])
    assert worker.report(7, {})[2:4] == (False, False)
    learner.pause(True)
    assert worker.report(7, {})[2:4] == (True, False)
    learner.pause(False)
    learner.stop()
    assert worker.report(7, {})[2:4] == (False, True)
    stores[0]()  # the learner goes on with its run
    assert worker.report(7, {})[2:4] == (False, False)


def test_silence_is_measured_by_the_server_whatever_our_clock_says(stores, monkeypatch):
    learner, worker = stores[0](), joined(stores[1])
    worker.report(7, {"games": 3, "host": "a"})
    monkeypatch.setattr(time, "time", lambda: 4e9)
    (row,) = learner.workers()
    assert row["games"] == 3 and row["worker"] == 7 and 0 <= row["silent_seconds"] < 5
    learner._lost = 0.2
    time.sleep(0.4)
    assert learner.workers() == []
    worker.report(7, {"games": 4})
    assert [r["games"] for r in learner.workers()] == [4]


# Capacity.


def test_the_oldest_go_first_by_games_and_by_positions(stores):
    learner, worker = stores[0](positions=1000, episodes=5), joined(stores[1])
    for i in range(1, 9):
        assert worker.add(7, i, GAMES[i : i + 1], [1]).stored == i
        learner.acknowledge(i, {7: i})
    assert data(learner.read(0, 100)) == GAMES[4:9]
    worker.add(7, 9, GAMES[9:10], [998])
    assert data(learner.read(0, 100)) == GAMES[7:10]
    assert learner.counters()["evicted_games"] == 6
    assert learner.counters()["unread_evicted"] == 0


def test_unread_games_are_never_evicted_while_a_learner_is_attached(stores):
    learner, worker = stores[0](episodes=5), joined(stores[1])
    assert worker.add(7, 1, GAMES[1:9], [1] * 8).stored == 5
    assert worker.add(7, 6, GAMES[6:9], [1] * 3).stored == 5
    learner.acknowledge(2, {7: 2})
    assert worker.add(7, 6, GAMES[6:9], [1] * 3).stored == 7
    assert data(learner.read(2, 100)) == GAMES[3:8]
    assert learner.counters()["unread_evicted"] == 0


def test_a_closed_learner_is_waited_for_and_a_detached_one_is_not(stores):
    learner, worker = stores[0](episodes=5), joined(stores[1])
    learner.close()
    assert worker.add(7, 1, GAMES[1:9], [1] * 8).stored == 5
    stores[0](episodes=5).detach()
    assert worker.add(7, 6, GAMES[6:9], [1] * 3).stored == 8
    assert worker.counters()["unread_evicted"] == 3


def test_without_a_learner_the_oldest_go_and_are_counted(stores):
    stores[0](learner="", episodes=5)
    worker = joined(stores[1])
    assert worker.add(7, 1, GAMES[1:13], [1] * 12).stored == 12
    assert worker.counters() == {
        "games": 12,
        "positions": 12,
        "evicted_games": 7,
        "unread_evicted": 7,
        "duplicates": 0,
    }
    learner = stores[0](learner="late", episodes=5)
    assert data(learner.read(0, 100)) == GAMES[8:13]


def test_a_game_longer_than_the_capacity_is_stored_alone(stores):
    learner, worker = stores[0](positions=10), joined(stores[1])
    worker.add(7, 1, GAMES[1:2], [6])
    learner.acknowledge(1, {7: 1})
    assert worker.add(7, 2, GAMES[2:3], [50]).stored == 2
    assert data(learner.read(0, 100)) == GAMES[2:3]


def test_an_acknowledgement_that_did_not_arrive_is_said_again(stores, server):
    learner, worker = stores[0](episodes=5), joined(stores[1])
    worker.add(7, 1, GAMES[1:6], [1] * 5)
    assert len(learner.read(0, 10)) == 5
    server.ask("CONFIG", "SET", "maxmemory", "100kb")
    with pytest.raises(UnreachableError, match="its memory is full"):
        learner.acknowledge(5, {7: 5})
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert worker.add(7, 6, GAMES[6:7], [1]) == (5, 0)
    assert learner.read(5, 10) == []
    assert worker.add(7, 6, GAMES[6:7], [1]) == (6, 5)


# What it costs the server.


def calls(server):
    found = server.client().info("commandstats")
    return {key.removeprefix("cmdstat_"): value["calls"] for key, value in found.items()}


def test_a_group_is_one_round_trip_and_there_are_no_scans(stores, server):
    learner, worker = stores[0](), joined(stores[1])
    server.ask("CONFIG", "RESETSTAT")
    worker.add(7, 1, GAMES[1:65], [1] * 64)
    assert calls(server)["evalsha"] == 1
    assert len(learner.read(0, 256)) == 64
    learner.acknowledge(64, {7: 64})
    learner.workers()
    found = calls(server)
    assert found["evalsha"] == 4
    assert not {"scan", "keys", "hscan", "sscan", "zscan", "randomkey"} & set(found)
    assert found["hmget"] < 12


def test_every_key_begins_with_the_runs_namespace_and_there_are_few(stores, server):
    before = set(server.ask("KEYS", "*"))
    learner, worker = stores[0](namespace="spaced"), RedisStore.connect(server.url, "spaced")
    worker.join(7, "token", ABOUT)
    worker.add(7, 1, GAMES[1:60], [1] * 59)
    worker.report(7, {})
    learner.publish(Weights("a", b"b"), 0.0)
    learner.acknowledge(9, {7: 9})
    worker.close()
    new = set(server.ask("KEYS", "*")) - before
    assert 0 < len(new) < 12 and all(key.startswith(b"spaced:") for key in new)


def test_runs_in_two_namespaces_know_nothing_of_each_other(stores, server):
    first, second = stores[0](namespace="first"), stores[0](namespace="second")
    worker = RedisStore.connect(server.url, "first")
    worker.join(7, "token", ABOUT)
    worker.add(7, 1, GAMES[1:3], [1, 1])
    worker.close()
    assert len(first.read(0, 10)) == 2 and second.read(0, 10) == [] and second.workers() == []


# Many learners.


def test_a_follower_sees_every_game_and_makes_none_safe(stores):
    learner, worker = stores[0](episodes=5), joined(stores[1])
    follower = stores[1](learner="two")
    worker.add(7, 1, GAMES[1:6], [1] * 5)
    assert data(follower.read(0, 100)) == GAMES[1:6]
    follower.acknowledge(5, {7: 5})
    assert worker.add(7, 6, GAMES[6:7], [1]) == (5, 0)  # full: the run's learner has read nothing
    assert data(learner.read(0, 100)) == GAMES[1:6]
    learner.acknowledge(5, {7: 5})
    assert worker.add(7, 6, GAMES[6:9], [1] * 3) == (8, 5)
    assert data(follower.read(5, 100)) == GAMES[6:9] and follower.missed == 0


def test_a_follower_is_told_what_it_missed(stores):
    learner, worker = stores[0](episodes=5), joined(stores[1])
    follower = stores[1](learner="two")
    worker.add(7, 1, GAMES[1:3], [1] * 2)
    assert len(follower.read(0, 100)) == 2
    for i in range(3, 12):
        learner.acknowledge(i - 1, {7: i - 1})
        worker.add(7, i, GAMES[i : i + 1], [1])
    assert data(follower.read(2, 100)) == GAMES[7:12]
    assert follower.missed == 4


def test_only_the_runs_learner_publishes(stores):
    stores[0]()
    with pytest.raises(RefusedError, match="belongs to learner 'one', not to 'two'"):
        stores[1](learner="two").publish(Weights("a", b"b"), 0.0)


def test_a_mirror_is_refilled_after_a_restart_many_games_a_round_trip(stores, server):
    games = played(TICTACTOE, 60)
    learner, worker = stores[0](positions=10_000), joined(stores[1])
    worker.add(7, 1, [g.to_bytes() for g in games], [g.positions for g in games])
    learner.acknowledge(60, {7: 60})
    learner.close()
    again = stores[0](positions=10_000)
    server.ask("CONFIG", "RESETSTAT")
    mirror, at, trips = Replay(TICTACTOE, small_config().replay), 0, 0
    while found := again.read(at, 25):
        mirror.add([type(games[0]).from_bytes(g.data, TICTACTOE) for g in found])
        at, trips = found[-1].number, trips + 1
    assert mirror.games == 60 and mirror.total == sum(g.positions for g in games)
    assert trips == 3 and calls(server)["evalsha"] == 4
    direct = Replay(TICTACTOE, small_config().replay)
    direct.add(games)
    np.testing.assert_array_equal(direct.sample(64, 5).planes, mirror.sample(64, 5).planes)


# The door.


def test_another_run_under_the_same_name_is_refused_by_name(stores):
    stores[0]()
    with pytest.raises(RefusedError, match="holds another run, with game tictactoe; this one has hex"):
        stores[0](about={**ABOUT, "game": "hex"})
    with pytest.raises(RefusedError, match="belongs to learner 'one', not to 'two'"):
        stores[0](learner="two")
    newer = {**ABOUT, "zeroloop": "99", "config": {"a": 2}}
    assert stores[0](about=newer).about() == newer  # the same learner came back with a newer program


def test_a_namespace_without_a_run_is_refused(stores):
    with pytest.raises(
        RefusedError, match="namespace 'nobody' at redis://.* holds no run; start its learner"
    ):
        stores[1](namespace="nobody")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "x" * 101])
def test_a_bad_namespace_is_named(server, name):
    with pytest.raises(StoreError, match="redis.namespace is"):
        RedisStore(server.url, name)


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://h", "redis://:secret@h:x9/0", "redis://h/one", ""])
def test_what_is_no_address_is_refused_without_its_password(url):
    with pytest.raises(StoreError, match="redis.url is no address") as caught:
        RedisStore(url, "a")
    assert "secret" not in str(caught.value)


def test_no_such_host_and_nothing_there_are_told():
    for url in ("redis://no-such-host.invalid:6379/0", f"redis://127.0.0.1:{free_port()}/0"):
        with pytest.raises(UnreachableError, match=f"{url} is not there: .+"):
            RedisStore.connect(url, "a")


def fake_server(answers):
    """Return the URL of a server that says these lines, one to each thing it is sent."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listening, contextlib.suppress(ConnectionError):
            connection, _ = listening.accept()
            with connection:
                for answer in answers:
                    connection.recv(4096)
                    connection.sendall(answer)
                connection.recv(4096)

    threading.Thread(target=serve, daemon=True).start()
    return f"redis://127.0.0.1:{listening.getsockname()[1]}/0"


def test_what_is_no_redis_is_told():
    with pytest.raises(RefusedError, match="does not speak Redis; check the address"):
        RedisStore.connect(fake_server([b"HTTP/1.1 400 Bad Request\r\n\r\n"] * 3), "a")


def test_an_old_server_is_refused_by_its_version():
    text = b"redis_version:6.2.14\r\nrun_id:abc\r\n"
    answers = [b"+OK\r\n+OK\r\n", b"$%d\r\n%s\r\n" % (len(text), text)]
    with pytest.raises(RefusedError, match="is Redis 6.2.14; zeroloop needs 7.0 or newer"):
        RedisStore.connect(fake_server(answers), "a")


def test_passwords_come_from_the_environment_or_the_address_and_are_never_told(tmp_path, monkeypatch):
    server = RedisServer(tmp_path, password="right-secret").start()
    try:
        plain = RedisConfig(url=server.url, namespace="a")
        with pytest.raises(RefusedError, match="refuses the password: none was given.*REDIS_PASSWORD"):
            RedisStore.open_run(plain, ABOUT)
        monkeypatch.setenv("REDIS_PASSWORD", "wrong-secret")
        with pytest.raises(RefusedError, match="refuses the password: the one given is wrong") as caught:
            RedisStore.open_run(plain, ABOUT)
        assert "secret" not in str(caught.value)
        monkeypatch.setenv("REDIS_PASSWORD", "right-secret")
        RedisStore.open_run(plain, ABOUT).close()
        monkeypatch.delenv("REDIS_PASSWORD")
        store = RedisStore.connect(server.url.replace("//", "//:right-secret@"), "a")
        assert "secret" not in store.name
        store.close()
    finally:
        server.kill()


def test_keys_of_another_program_are_told(stores, server):
    server.ask("SET", "foreign:state", "x")
    with pytest.raises(StoreError, match="are another program's; give another redis.namespace"):
        stores[1](namespace="foreign")


def test_games_deleted_by_somebody_else_are_told(stores, server):
    learner, worker = stores[0](namespace="robbed"), RedisStore.connect(server.url, "robbed")
    worker.join(7, "token", ABOUT)
    worker.add(7, 1, GAMES[1:4], [1] * 3)
    worker.close()
    server.ask("HDEL", "robbed:games", "2")
    with pytest.raises(StoreError, match="game 2 of namespace 'robbed'.* is gone"):
        learner.read(0, 10)


def test_a_server_that_deletes_keys_by_itself_is_refused(tmp_path):
    server = RedisServer(tmp_path, maxmemory="50mb", maxmemory_policy="allkeys-lru").start()
    try:
        with pytest.raises(RefusedError, match="maxmemory-policy allkeys-lru.*noeviction"):
            RedisStore.open_run(RedisConfig(url=server.url, namespace="a"), ABOUT)
    finally:
        server.kill()


def certificates(folder):
    """Make an authority and a server's certificate for 127.0.0.1."""
    program = need_program("openssl", "openssl")

    def openssl(*words):
        subprocess.run([program, *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl("req", "-x509", *key, "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=authority")
    openssl("req", *key, "own.key", "-out", "own.csr", "-subj", "/CN=redis")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "own.csr", "-out", "own.crt", *signed)


def test_tls_with_its_authority_works_and_without_is_refused(tmp_path, monkeypatch):
    certificates(tmp_path)
    files = {"cert_file": "own.crt", "key_file": "own.key", "ca_cert_file": "ca.crt"}
    files = {f"tls_{key}": tmp_path / name for key, name in files.items()}
    server = RedisServer(tmp_path, tls=True, tls_auth_clients="no", password="pw", **files).start()
    monkeypatch.setenv("REDIS_PASSWORD", "pw")
    try:
        trusted = RedisConfig(url=server.url, namespace="a", ca=str(tmp_path / "ca.crt"))
        learner = RedisStore.open_run(trusted, ABOUT)
        worker = RedisStore.connect(server.url, "a", ca=trusted.ca)
        worker.join(7, "token", ABOUT)
        worker.add(7, 1, [b"x" * 100_000], [1])
        assert data(learner.read(0, 10)) == [b"x" * 100_000]
        learner.close()
        worker.close()
        with pytest.raises(RefusedError, match="certificate that is not trusted.*redis.ca"):
            RedisStore.open_run(replace(trusted, ca=""), ABOUT)
        with pytest.raises(StoreError, match="redis.ca is '.*', which is no file"):
            RedisStore.open_run(replace(trusted, ca=str(tmp_path / "none")), ABOUT)
        with pytest.raises(UnreachableError, match="is not there"):
            RedisStore.open_run(replace(trusted, url=server.url.replace("rediss", "redis")), ABOUT)
    finally:
        server.kill()


# What is durable.


@pytest.mark.parametrize(
    "settings, safe",
    [
        ({"appendonly": "yes", "appendfsync": "always"}, 3),
        ({"appendonly": "yes", "appendfsync": "everysec"}, 0),
        ({"appendonly": "no", "appendfsync": "always"}, 0),
        ({"appendonly": "yes", "appendfsync": "always", "no_appendfsync_on_rewrite": "yes"}, 0),
    ],
)
def test_what_is_stored_is_safe_only_where_every_write_is_synced(tmp_path, settings, safe):
    server = RedisServer(tmp_path, **settings).start()
    try:
        learner = RedisStore.open_run(RedisConfig(url=server.url, namespace="a"), ABOUT)
        learner.join(7, "token", ABOUT)
        assert learner.add(7, 1, GAMES[:3], [1] * 3) == (3, safe)
        learner.close()
    finally:
        server.kill()


def test_nothing_is_assumed_of_a_server_that_does_not_tell_how_it_syncs(tmp_path, monkeypatch):
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always").start()
    try:
        may = "+@read +@write +@scripting +@connection +info +time"  # as docs/redis.md says
        server.ask("ACL", "SETUSER", "bob", "on", ">pw", "~a:*", *may.split())
        url = server.url.replace("//", "//bob@")
        monkeypatch.setenv("REDIS_PASSWORD", "pw")
        learner = RedisStore.open_run(RedisConfig(url=url, namespace="a"), ABOUT)
        learner.join(7, "token", ABOUT)
        assert learner.add(7, 1, GAMES[:3], [1] * 3) == (3, 0)
        assert learner.add(7, 4, GAMES[3:4], [1]) == (4, 0)
        with pytest.raises(RefusedError, match="does not let this user work"):
            RedisStore.connect(url, "b")
        learner.close()
    finally:
        server.kill()


def test_what_is_stored_can_be_cut_anywhere_and_every_game_still_comes_once(tmp_path):
    server = RedisServer(tmp_path / "first", appendonly="yes", appendfsync="no").start()
    settings = RedisConfig(url=server.url, namespace="a", positions=10_000, episodes=12)
    learner = RedisStore.open_run(settings, ABOUT)
    try:
        for worker in (1, 2):
            learner.join(worker, f"token {worker}", ABOUT)
        for turn in range(8):
            for worker in (1, 2):
                learner.add(
                    worker, 3 * turn + 1, [b"%d %d" % (worker, 3 * turn + k) for k in (1, 2, 3)], [4] * 3
                )
            found = learner.read(6 * turn, 100)
            learner.acknowledge(found[-1].number, {1: 3 * turn + 3, 2: 3 * turn + 3})
    finally:
        learner.close()
        server.kill()
    (log,) = (tmp_path / "first/appendonlydir").glob("*.incr.aof")
    whole = log.read_bytes()
    begin = whole.index(b"most_episodes") + 40
    rng = np.random.default_rng(5)
    for trial, cut in enumerate(sorted(rng.integers(begin, len(whole), 8))):
        folder = tmp_path / f"cut{trial}"
        shutil.copytree(tmp_path / "first", folder)
        (folder / "appendonlydir" / log.name).write_bytes(whole[:cut])
        again = RedisServer(folder, appendonly="yes", appendfsync="no", aof_load_truncated="yes").start()
        store = RedisStore.open_run(replace(settings, url=again.url), ABOUT)
        try:
            kept = store.read(0, 100)
            heads = again.client().hgetall("a:heads")
            state = {k.decode(): v for k, v in again.client().hgetall("a:state").items()}
            assert len(heads) == len(kept) <= 12 and int(state["kept"]) == 4 * len(kept)
            assert [g.data for g in kept] == [b"%d %d" % (g.worker, g.sequence) for g in kept]
            for worker in (1, 2):
                stored = store.join(worker, f"token {worker}", ABOUT).stored
                mine = [g.sequence for g in kept if g.worker == worker]
                assert not mine or mine == list(range(mine[0], stored + 1))
        finally:
            store.close()
            again.kill()


def set_back(folder, appended):
    """Let a server lose what was written behind so many bytes of its append-only file."""
    (log,) = (folder / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:appended])


def again(call):
    """Return what a call gives; the first one after a restart may find its connection broken."""
    try:
        return call()
    except UnreachableError:
        return call()


@pytest.mark.parametrize("late", [False, True], ids=["reads first", "acknowledges first"])
def test_numbers_given_twice_after_a_loss_hide_no_game_and_make_none_evictable(tmp_path, late):
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always").start()
    settings = RedisConfig(url=server.url, namespace="a", positions=1000, episodes=15)
    learner, worker = RedisStore.open_run(settings, ABOUT), None
    try:
        worker = RedisStore.connect(server.url, "a")
        worker.join(1, "token 1", ABOUT)
        worker.join(2, "token 2", ABOUT)
        worker.add(1, 1, GAMES[1:6], [1] * 5)
        (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        appended = log.stat().st_size
        worker.add(1, 6, GAMES[6:11], [1] * 5)
        assert len(learner.read(0, 100)) == 10
        server.kill()
        set_back(tmp_path, appended)
        server.start()
        assert again(lambda: worker.join(2, "token 2", ABOUT)).stored == 0
        worker.add(2, 1, GAMES[101:111], [1] * 10)  # numbers 6 to 15, five of which the learner has seen
        if late:
            again(lambda: learner.acknowledge(10, {1: 10}))
            assert worker.add(2, 11, GAMES[111:112], [1]).stored == 10, "an unread game was evicted"
        found = again(lambda: learner.read(10, 100))
        assert data(found) == GAMES[1:6] + GAMES[101:111]
        assert [g.number for g in found] == list(range(11, 26))
        learner.acknowledge(25, {1: 5, 2: 10})
        assert worker.add(2, 11, GAMES[111:112], [1]).stored == 11
        assert data(learner.read(25, 100)) == GAMES[111:112]
        assert worker.join(1, "token 1", ABOUT).stored == (10 if late else 5)
    finally:
        learner.close()
        if worker is not None:
            worker.close()
        server.kill()


def test_the_run_is_told_as_plain_data(stores):
    stores[0]()
    assert stores[1]().about() == json.loads(json.dumps(ABOUT))


@pytest.mark.slow
def test_the_benchmark_gives_every_figure(monkeypatch):
    need_program("redis-server", "redis-server")
    monkeypatch.setattr(store_bench, "WINDOW", 2000)
    found = store_bench.bench_store(TICTACTOE, small_config(), 1, seconds=1, rounds=2)
    assert found["written_positions_per_second"] > 100
    assert 0 < found["batch_ms_median"] <= found["batch_ms_p95"]
    assert found["following_batch_ms_p95"] > 0 and found["mirror_positions"] == 2000
    assert found["selfplay_ratio"] > 0 and found["redis_games"] > 0 and found["redis_games_left"] == 0


def test_the_benchmark_says_what_to_install(monkeypatch):
    monkeypatch.setattr(store_bench.shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match="apt install redis-server"):
        store_bench.bench_store(TICTACTOE, small_config(), 1)
