"""Simulated workers do what real ones do: what they send is taken as a real worker's games are."""

from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner
from stores import ABOUT, eventually

from tests.material import small_config
from zeroloop.bench import bench_crowd
from zeroloop.bench.learn import random_episodes
from zeroloop.bench.simulated_worker import Crowd, Material, recorded
from zeroloop.cli import main
from zeroloop.distributed.served import StoreServer
from zeroloop.distributed.store import MemoryStore, Weights
from zeroloop.distributed.worker import worker_of
from zeroloop.episode import Episode
from zeroloop.games import make

GAME = make("tictactoe")


@pytest.fixture(scope="module")
def games():
    return [recorded(e.to_bytes(), e.positions) for e in random_episodes(GAME, small_config(), 5)]


class Learner:
    """A store that its workers fill, and what was read from it."""

    def __init__(self, address="127.0.0.1:0", number=0, taken=None):
        self.store, self.read = MemoryStore(ABOUT, 50), []
        self.store.resume(taken or {})
        self.store.publish(Weights("model", b"x" * 300_000), 0.0)
        self.server = StoreServer(self.store, address, password="")

    def take(self):
        found = self.store.read(0, 100)
        self.read += found
        if found:
            self.store.acknowledge(found[-1].number, {s.worker: s.sequence for s in found})
        return len(self.read)


def running(crowd):
    """Let a crowd work in a thread of its own; return what ends it."""
    end = threading.Event()
    thread = threading.Thread(target=crowd.run, args=(end.is_set,))
    thread.start()

    def ended():
        end.set()
        thread.join(20)
        assert not thread.is_alive()
        crowd.close()

    return ended


def test_every_game_of_a_simulated_worker_is_an_episode_with_a_key_of_its_own(games):
    learner = Learner()
    crowd = Crowd(learner.server.address, range(1, 8), Material(ABOUT, games, 50.0, 50))
    end = running(crowd)
    eventually(lambda: learner.take() > 300, 60)
    end()
    learner.server.close()
    read = [(s, Episode.from_bytes(s.data, GAME)) for s in learner.read]
    assert {s.worker for s, _ in read} == set(range(1, 8))
    assert all(worker_of(episode.game_id) == s.worker for s, episode in read)
    assert len({episode.game_id for _, episode in read}) == len(read)
    for worker in range(1, 8):
        mine = [s.sequence for s, _ in read if s.worker == worker]
        assert mine == list(range(1, len(mine) + 1))


def test_simulated_workers_come_back_to_a_learner_that_was_away_and_send_what_it_has_not(games):
    first = Learner()
    crowd = Crowd(first.server.address, range(1, 8), Material(ABOUT, games, 50.0, 50))
    end = running(crowd)
    eventually(lambda: first.take() > 100, 60)
    first.server.close()
    taken = {}
    for stored in first.read:
        taken[stored.worker] = stored.sequence
    again = Learner(first.server.address, taken=taken)
    eventually(lambda: again.take() > 100, 60)
    crowd.playing = False
    eventually(lambda: again.take() and all(w.safe == int(w.finished) for w in crowd.workers), 60)
    end()
    again.server.close()
    for worker in crowd.workers:
        sent = [s.sequence for s in first.read + again.read if s.worker == worker.number]
        assert sent == list(range(1, int(worker.finished) + 1))
    assert crowd.cut >= 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--workers", 1), "--workers is 1; it must be at least 2"),
        (("--processes", 0), "--processes is 0"),
        (("--learner", -5), "--learner is -5.0"),
        (("--seconds", "nan"), "--seconds is nan"),
    ],
)
def test_a_number_out_of_range_is_told_in_one_sentence(words, told):
    found = CliRunner().invoke(main, ["bench", "crowd", *map(str, words)])
    assert found.exit_code == 1 and told in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_benchmark_of_a_crowd_loses_no_game_and_can_be_read_by_programs():
    found = bench_crowd(GAME, small_config(), 20, 200.0, seconds=2.0)
    assert found["lost"] == 0 and found["games_kept"] == found["games_finished"] > 100
    assert found["accepted_games_per_second"] > 0 and found["threads"] < 10
    assert 0 < found["learner_cpu"] < 3 and found["report_ms_p50"] <= found["report_ms_p99"]
    json.dumps(found)
