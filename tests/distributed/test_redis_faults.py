"""What happens to a Redis server in a long run, done for real: no finished game is lost, none comes twice."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from tests.distributed.redis_server import RedisServer
from tests.games.oracles import need
from tests.material import TICTACTOE, played, small_config
from zeroloop.config import RedisConfig
from zeroloop.distributed.collector import RemoteCollector
from zeroloop.distributed.sender import Sender
from zeroloop.distributed.spool import Spool
from zeroloop.distributed.store import meaning
from zeroloop.distributed.worker import GROUPS
from zeroloop.errors import RefusedError

need("redis")
from zeroloop.distributed.redis import RedisStore  # noqa: E402 - the package may be absent

MEANING = meaning(TICTACTOE)
ABOUT = {**MEANING, "run": "ttt", "config": {}, "inference": ""}


@pytest.fixture(scope="module")
def material():
    return played(TICTACTOE, 32)


class Learner:
    """A learner that keeps what comes, on a thread of its own."""

    def __init__(self, server, capacity=200, resume=None):
        settings = RedisConfig(url=server.url, namespace="a", positions=100_000, episodes=capacity)
        self.store = RedisStore.open_run(settings, ABOUT)
        self.kept, self.said = [], []
        self.collector = RemoteCollector(
            TICTACTOE, small_config(), None, self.store, self.kept.append, self.said.append
        )
        if resume:
            self.collector.restore([], resume, [])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._end.is_set():
            if not self.collector.drain(16):
                time.sleep(0.01)

    def close(self):
        self._end.set()
        self._thread.join(20)
        self.store.close()


class Player:
    """A worker's spool and sender; `play` finishes games at a rate."""

    def __init__(self, server, folder, material, spool=None):
        self.spool = spool or Spool.make(folder)
        self.material, self.said, self.finished = material, [], []
        self.store = RedisStore(server.url, "a")
        row = lambda: {"games": len(self.finished)}  # noqa: E731
        self.sender = Sender(self.store, self.spool, MEANING, row, self.said.append)

    def play(self, games, gap=0.004):
        for _ in range(games):
            number = len(self.finished)
            key = self.spool.number * GROUPS + (number << 37)
            episode = replace(self.material[number % len(self.material)], game_id=key)
            self.spool.add(episode.to_bytes(), episode.positions)
            self.finished.append(key)
            time.sleep(gap)

    def close(self, seconds=30):
        done = self.sender.finish(seconds)
        self.store.close()
        self.spool.close()
        return done


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def run(tmp_path, material, fault, words, games=60, **settings):
    """Play before, through and after a fault; return learner and players, whose every game came once."""
    server = RedisServer(tmp_path / "redis", **settings).start()
    learner = Learner(server)
    players = [Player(server, tmp_path / "spools", material) for _ in range(2)]
    try:
        for p in players:
            p.play(games // 2)
        until(lambda: len(learner.kept) > games // 4)
        threads = [threading.Thread(target=p.play, args=(games,)) for p in players]
        for t in threads:
            t.start()
        fault(server)
        for t in threads:
            t.join()
        for p in players:
            p.play(10)
            until(lambda p=p: p.spool.waiting == 0)
            assert p.close()
        expected = [key for p in players for key in p.finished]
        until(lambda: len(learner.kept) >= len(expected))
        assert sorted(e.game_id for e in learner.kept) == sorted(expected)
        for p in players:
            mine = [e.game_id for e in learner.kept if e.game_id in set(p.finished)]
            assert mine == p.finished  # in the order in which they were finished
            assert words in " ".join(p.said), p.said
            assert "the store answers again" in p.said[-1]
        assert learner.collector.refused == learner.collector.missed == 0
        assert learner.store.counters()["unread_evicted"] == 0
        return learner, players
    finally:
        for p in players:
            p.close(0)
        learner.close()
        server.kill()


def killed_for(seconds):
    def fault(server):
        server.kill()
        time.sleep(seconds)
        server.start()

    return fault


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"appendonly": "yes", "appendfsync": "everysec"}, marks=pytest.mark.slow),
        {"appendonly": "yes", "appendfsync": "always"},
        pytest.param({"appendonly": "no"}, marks=pytest.mark.slow),
    ],
    ids=["everysec", "always", "nothing kept"],
)
def test_a_server_that_is_killed_and_started_again(tmp_path, material, settings):
    run(tmp_path, material, killed_for(0.5), "is not there", **settings)


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again(tmp_path, material):
    def fault(server):
        for _ in range(5):
            killed_for(0.1)(server)
            time.sleep(0.3)

    run(tmp_path, material, fault, "is not there", games=240, appendonly="yes", appendfsync="everysec")


@pytest.mark.slow
def test_a_server_that_loses_its_last_second_gives_its_numbers_to_others(tmp_path, material):
    """Cut the append-only file: games that the learner has are forgotten, and their numbers used again."""

    def fault(server):
        server.kill()
        (log,) = (server.folder / "appendonlydir").glob("*.incr.aof")
        whole = log.read_bytes()
        log.write_bytes(whole[: len(whole) * 2 // 3])
        time.sleep(0.3)
        server.start()

    run(tmp_path, material, fault, "is not there", appendonly="yes", appendfsync="no")


def stopped_for(seconds):
    def fault(server):
        server.freeze()
        time.sleep(seconds)
        server.thaw()

    return fault


@pytest.mark.slow
def test_a_server_that_stands_still(tmp_path, material):
    run(tmp_path, material, stopped_for(8), "has not answered for 5 s")


@pytest.mark.slow
def test_a_server_that_stands_still_for_a_minute(tmp_path, material):
    run(tmp_path, material, stopped_for(60), "has not answered for 5 s")


@pytest.mark.slow
def test_a_server_whose_clients_are_paused(tmp_path, material):
    run(tmp_path, material, lambda s: s.ask("CLIENT", "PAUSE", "7000", "ALL"), "has not answered for 5 s")


@pytest.mark.slow
def test_a_server_out_of_memory(tmp_path, material):
    def fault(server):
        server.ask("CONFIG", "SET", "maxmemory", "100kb")
        time.sleep(1)
        server.ask("CONFIG", "SET", "maxmemory", "0")

    run(tmp_path, material, fault, "its memory is full", maxmemory_policy="noeviction")


@pytest.mark.slow
def test_a_server_that_cannot_save_refuses_writes(tmp_path, material):
    def fault(server):
        away = server.folder / "away"
        away.mkdir()
        server.ask("CONFIG", "SET", "save", "3600 1")
        server.ask("CONFIG", "SET", "dir", str(away))
        away.rmdir()
        server.ask("BGSAVE")
        until(lambda: server.client().info("persistence")["rdb_last_bgsave_status"] == "err")
        time.sleep(1)
        server.ask("CONFIG", "SET", "save", "")

    run(tmp_path, material, fault, "cannot save to its disk", enable_protected_configs="yes")


@pytest.mark.slow
def test_a_server_that_becomes_a_replica_refuses_writes(tmp_path, material):
    def fault(server):
        server.ask("REPLICAOF", "127.0.0.1", "1")
        time.sleep(1)
        server.ask("REPLICAOF", "NO", "ONE")

    run(tmp_path, material, fault, "read-only replica")


def test_a_password_that_becomes_wrong_stops_the_worker_and_the_next_one_sends_its_games(tmp_path, material):
    server = RedisServer(tmp_path / "redis").start()
    learner = Learner(server)
    player = Player(server, tmp_path / "spools", material)
    try:
        player.play(20)
        until(lambda: len(learner.kept) == 20)
        learner.close()
        server.ask("CONFIG", "SET", "requirepass", "another")
        server.password = "another"
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        player.play(20)
        until(lambda: player.sender.error is not None)
        assert isinstance(player.sender.error, RefusedError)
        assert "refuses the password: none was given" in str(player.sender.error)
        assert player.spool.waiting >= 20
        player.close()
        server.ask("CONFIG", "SET", "requirepass", "")
        again = Learner(server, resume=learner.collector.state())
        (spool,) = Spool.adopt(tmp_path / "spools")
        heir = Player(server, tmp_path / "spools", material, spool)
        assert heir.close()
        again.close()
        assert [e.game_id for e in learner.kept + again.kept] == player.finished
    finally:
        server.kill()


def test_a_full_store_waits_for_its_learner(tmp_path, material):
    server = RedisServer(tmp_path / "redis").start()
    learner = Learner(server, capacity=25)
    player = Player(server, tmp_path / "spools", material)
    try:
        learner.close()
        player.play(60, gap=0)
        until(lambda: player.sender.stored >= 25)
        time.sleep(0.5)
        assert player.sender.stored == 25 and player.spool.waiting == 60
        again = Learner(server, capacity=25)
        assert player.close()
        again.close()
        assert [e.game_id for e in again.kept] == player.finished
    finally:
        server.kill()


def test_a_learner_that_dies_between_reading_and_acknowledging_gets_its_games_again(tmp_path, material):
    server = RedisServer(tmp_path / "redis").start()
    learner = Learner(server)
    player = Player(server, tmp_path / "spools", material)
    try:
        player.play(30)
        until(lambda: len(learner.kept) == 30)
        learner.close()
        player.play(30)
        until(lambda: player.sender.stored == 60)
        reader = RedisStore.open_run(RedisConfig(url=server.url, namespace="a"), ABOUT)
        assert len(reader.read(0, 1000)) == 60  # and dies before it keeps them
        reader.close()
        again = Learner(server, resume=learner.collector.state())
        assert player.close()
        again.close()
        assert [e.game_id for e in learner.kept + again.kept] == player.finished
    finally:
        server.kill()


def test_half_written_and_foreign_games_are_refused_by_name_at_the_learner(tmp_path, material):
    server = RedisServer(tmp_path / "redis").start()
    learner = Learner(server)
    player = Player(server, tmp_path / "spools", material)
    try:
        player.play(5)
        whole = replace(material[0], game_id=player.spool.number * GROUPS + (77 << 37)).to_bytes()
        for data in (whole[: len(whole) // 2], b"", b"\x00" * 500, material[1].to_bytes()):
            player.spool.add(data, 5)
        player.play(5)
        assert player.close()
        until(lambda: len(learner.kept) == 10)
        assert [e.game_id for e in learner.kept] == player.finished
        assert learner.collector.refused == 4
        number = player.spool.number
        for sequence, why in ((6, "cut short"), (7, "not an episode"), (8, "not an episode"), (9, "its key")):
            assert any(
                f"game {sequence} of worker {number} is refused and not stored" in said and why in said
                for said in learner.said
            ), learner.said
    finally:
        learner.close()
        server.kill()


def test_a_game_damaged_in_the_server_is_refused_by_name(tmp_path, material):
    server = RedisServer(tmp_path / "redis").start()
    settings = RedisConfig(url=server.url, namespace="a")
    RedisStore.open_run(settings, ABOUT).close()
    player = Player(server, tmp_path / "spools", material)
    try:
        player.play(6)
        until(lambda: player.sender.stored == 6)
        data = bytearray(server.ask("HGET", "a:games", "3"))
        data[-40] ^= 1  # in the last array: nothing else would notice
        server.ask("HSET", "a:games", "3", bytes(data))
        learner = Learner(server)
        assert player.close()
        learner.close()
        assert [e.game_id for e in learner.kept] == player.finished[:2] + player.finished[3:]
        assert f"game 3 of worker {player.spool.number} is refused" in learner.said[0]
    finally:
        server.kill()
