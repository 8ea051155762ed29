"""The learner's side: what is kept is kept once, whatever dies, and what is no game of the run is refused."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from tests.distributed.stores import ABOUT, Faulty
from tests.material import CONNECT4, TICTACTOE, played, small_config
from zeroloop.distributed.collector import RemoteCollector, phase_shares
from zeroloop.distributed.store import MemoryStore, Stored
from zeroloop.distributed.worker import GROUPS, STRIDE, worker_of
from zeroloop.episode import Episode
from zeroloop.errors import UnreachableError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.networks import build

CONFIG = small_config()
GAMES = played(TICTACTOE, 40)


def episode(worker, sequence, **changes):
    """Return a game as this worker might have played it."""
    found = GAMES[(7 * worker + sequence) % len(GAMES)]
    key = worker * GROUPS + sequence * STRIDE
    return replace(found, **{"game_id": key, "seed": CONFIG.run.seed, **changes})


def send(store, worker, *sequences):
    """Send these games of a worker."""
    store.join(worker, "t", ABOUT, sequences[0] - 1)
    games = [episode(worker, s).to_bytes() for s in sequences]
    return store.add(worker, sequences[0], games, [1] * len(games)).stored


class Learner:
    """A collector with what it keeps: a log that survives, and sentences."""

    def __init__(self, store, log=None, config=CONFIG, tend=lambda: None):
        self.log, self.said = [] if log is None else log, []
        self.collector = RemoteCollector(
            TICTACTOE, config, None, store, self.log.append, self.said.append, tend
        )

    @property
    def keys(self):
        return [e.game_id for e in self.log]


def keys(worker, *sequences):
    return [worker * GROUPS + s * STRIDE for s in sequences]


def test_games_are_kept_in_order_acknowledged_and_counted():
    store = MemoryStore(ABOUT, 99)
    one = Learner(store)
    send(store, 5, 1, 2, 3)
    send(store, 6, 1)
    assert one.collector.drain() == 4
    assert one.keys == keys(5, 1, 2, 3) + keys(6, 1)
    assert store.join(5, "t", ABOUT) == (3, 3) and store.join(6, "t", ABOUT) == (1, 1)
    assert store.read(0, 9) == [] and one.collector.drain() == 0
    assert one.collector.games == 4
    assert one.collector.moves == sum(e.positions for e in one.log)
    assert not one.said


def test_a_game_is_kept_before_it_is_acknowledged():
    store, order = MemoryStore(ABOUT, 99), []
    one = Learner(Faulty(store, lambda name: order.append(name)))
    one.collector._keep = lambda e: order.append("keep")
    send(store, 5, 1, 2)
    one.collector.drain()
    assert [x for x in order if x in ("keep", "acknowledge")] == ["keep", "keep", "acknowledge"]


def half(size):
    data = episode(5, 2).to_bytes()
    return data[: int(len(data) * size)]


BAD = {
    "half written": (half(0.5), "cut short"),
    "without its last byte": (half(0.9999), "cut short"),
    "empty": (b"", "not an episode"),
    "garbage": (b"ZLEP" + bytes(range(250)), "format"),
    "of another game": (played(CONNECT4, 1)[0].to_bytes(), "connect4"),
    "of another run": (episode(5, 2, seed=99).to_bytes(), "seed 99; the run has 7"),
    "of another worker": (episode(6, 2).to_bytes(), "one of worker 6"),
    "of the learner itself": (episode(5, 2, game_id=12).to_bytes(), "one of worker 0"),
}


@pytest.mark.parametrize("data, why", BAD.values(), ids=BAD)
def test_what_is_no_game_of_this_run_is_refused_by_name_and_not_stored(data, why):
    store = MemoryStore(ABOUT, 99)
    one = Learner(store)
    send(store, 5, 1)
    store.add(5, 2, [data, episode(5, 3).to_bytes()], [1, 1])
    one.collector.drain()
    assert one.keys == keys(5, 1, 3) and one.collector.refused == 1 and one.collector.missed == 0
    (said,) = one.said
    assert said.startswith("game 2 of worker 5 is refused and not stored: ") and why in said
    assert store.join(5, "t", ABOUT) == (3, 3), "the others of the worker go on"


def test_an_episode_cut_at_any_byte_is_refused():
    data = episode(5, 1).to_bytes()
    store = MemoryStore(ABOUT, len(data) + 1)
    one = Learner(store)
    store.join(5, "t", ABOUT)
    store.add(5, 1, [data[:n] for n in range(len(data))], [1] * len(data))
    while one.collector.drain():
        pass
    assert one.log == [] and one.collector.refused == len(data)


def test_a_lost_acknowledgement_is_made_up_for_even_where_no_game_follows():
    """Else the worker that has ended would wait for it for ever."""
    store, faults = MemoryStore(ABOUT, 99), ["before"]
    one = Learner(Faulty(store, lambda name: faults.pop() if name == "acknowledge" and faults else None))
    send(store, 5, 1, 2)
    assert one.collector.drain() == 0
    assert store.join(5, "t", ABOUT).safe == 0 and one.keys == keys(5, 1, 2)
    one.collector.drain()
    assert store.join(5, "t", ABOUT).safe == 2 and one.keys == keys(5, 1, 2)


def test_an_outage_is_said_once_and_so_is_its_end():
    store, away = MemoryStore(ABOUT, 99), [True]
    one = Learner(Faulty(store, lambda name: "before" if away else None))
    for _ in range(3):
        assert one.collector.drain() == 0
    assert len(one.said) == 1 and "The learner waits for it; what it has is safe" in one.said[0]
    away.clear()
    send(store, 5, 1)
    assert one.collector.drain() == 1
    assert len(one.said) == 2 and "the store answers again" in one.said[1]


def test_a_game_that_a_store_hands_out_twice_is_kept_once():
    data = [episode(5, s).to_bytes() for s in (1, 2)]
    twice = [Stored(1, 5, 1, data[0]), Stored(2, 5, 2, data[1]), Stored(3, 5, 1, data[0])]
    twice.append(Stored(4, 5, 2, data[1]))

    class Twice(MemoryStore):
        def read(self, after, most):
            return [game for game in twice if game.number > after][:1]

    one = Learner(Twice(ABOUT, 9))
    while one.collector.drain():
        pass
    assert one.keys == keys(5, 1, 2)


def test_a_refused_game_behind_the_checkpoint_makes_no_later_one_come_twice():
    """Of games 1 to 4 the third was refused and is not in the log: counting what is there is not enough."""
    one = Learner(MemoryStore(ABOUT, 99), [episode(5, 1), episode(5, 2), episode(5, 4)])
    one.collector.restore([], {"taken": {"5": 2}}, set(keys(5, 4)))
    send(one.collector.store, 5, 4, 5)
    one.collector.drain()
    assert one.keys == keys(5, 1, 2, 4, 5)


class Killed(BaseException):
    """SIGKILL."""


@pytest.mark.parametrize("seed", range(30))
def test_a_learner_killed_anywhere_keeps_each_game_once_when_it_comes_back(seed):
    """The log survives, the checkpoint is older, the store is new; workers offer what is not safe."""
    rng = random.Random(seed)
    log, saved, safe = [], ({}, 0), {5: 0, 6: 0}
    finished = {5: 0, 6: 0}
    while len(log) < 60:
        store = MemoryStore(ABOUT, rng.choice([4, 99]))
        one = Learner(store, log)
        state, size = saved
        if state:
            one.collector.restore([], state, {e.game_id for e in log[size:]})
        else:
            one.collector.skip({e.game_id for e in log})
        deadly = rng.randint(1, 12)

        def keep(found):
            nonlocal deadly
            deadly -= 1
            if deadly == 0:
                raise Killed
            log.append(found)
            if rng.random() < 0.1:
                raise Killed

        one.collector._keep = keep
        stored = {w: store.join(w, "t", ABOUT, safe[w]).stored for w in safe}
        for w in safe:
            assert stored[w] >= safe[w]
        try:
            for _ in range(rng.randint(1, 8)):
                for w in safe:
                    finished[w] += rng.randrange(4)
                    wanted = range(stored[w] + 1, finished[w] + 1)
                    if wanted:
                        stored[w] = send_to(store, w, wanted)
                one.collector.drain(rng.randint(1, 6))
                if rng.random() < 0.7:
                    safe |= {w: store.report(w, {}).safe for w in safe}
                if rng.random() < 0.3:
                    saved = one.collector.state(), len(log)
        except Killed:
            pass
    found = [e.game_id for e in log]
    assert len(set(found)) == len(found), "a game was kept twice"
    for w in safe:
        mine = [k for k in found if worker_of(k) == w]
        assert mine == keys(w, *range(1, len(mine) + 1)), "a game was lost, or out of order"
        assert safe[w] <= len(mine), "a worker was told to forget a game that was not kept"


def send_to(store, worker, sequences):
    games = [episode(worker, s).to_bytes() for s in sequences]
    return store.add(worker, sequences[0], games, [1] * len(games)).stored


def test_a_run_that_its_learner_played_itself_goes_on_with_workers():
    """Keys of its own games are not taken for a worker's."""
    store = MemoryStore(ABOUT, 99)
    one = Learner(store)
    one.collector.restore([], {"quotas": [5, 5], "labels": [[], []]}, set(range(200)))
    send(store, 1 << 20, 1, 2)
    one.collector.drain()
    assert one.keys == keys(1 << 20, 1, 2)


def test_a_phase_is_over_once_its_positions_have_come():
    store = MemoryStore(ABOUT, 99)
    one = Learner(store)
    send(store, 5, *range(1, 11))
    each = [episode(5, s).positions for s in range(1, 11)]
    one.collector.begin(sum(each))
    assert one.collector.collect(lambda: False)
    assert len(one.log) == 10
    one.collector.begin(1)
    assert not one.collector.collect(lambda: True), "nothing has come: stopped"
    threading.Timer(0.1, lambda: send(store, 5, 11)).start()
    assert one.collector.collect(lambda: False) and len(one.log) == 11


def test_a_phase_may_be_so_many_games():
    config = small_config(collect={"gate": "games", "games": 4})
    store = MemoryStore(ABOUT, 99)
    one = Learner(store, config=config)
    send(store, 5, *range(1, 4))
    one.collector.begin(1 << 40)
    asked = []
    assert not one.collector.collect(lambda: len(asked) > 3 or asked.append(1)), "three are too few"
    send(store, 5, 4)
    assert one.collector.collect(lambda: False) and len(one.log) >= 4


def test_workers_are_read_with_the_number_of_models_since_theirs():
    store = MemoryStore(ABOUT, 99)
    one = Learner(store)
    network = build(CONFIG.network, shapes_of(TICTACTOE), 1)
    for name in ("a", "b", "b", "c"):
        one.collector.publish(network, name)
    for worker, name in ((1, "a"), (2, "b"), (3, "c"), (4, ""), (5, "unknown")):
        store.join(worker, "t", ABOUT)
        store.report(worker, {"model": name, "simulations": 1000, "moves": 1})
    one.collector.drain()
    assert one.collector.counters()["simulations"] == 0  # they were played before this session
    for worker, name in ((1, "a"), (2, "b"), (3, "c"), (4, ""), (5, "unknown")):
        store.report(worker, {"model": name, "simulations": 1010, "moves": 2})
    one.collector.look()
    behind = {row["worker"]: row["updates_behind"] for row in one.collector.rows()}
    assert behind == {1: 2, 2: 1, 3: 0, 4: None, 5: None}
    assert one.collector.counters()["simulations"] == 50
    one.collector.clear_counters()
    assert one.collector.counters()["simulations"] == 0


def test_a_model_that_could_not_be_published_is_published_at_the_next_occasion():
    store, away = MemoryStore(ABOUT, 99), [True]
    one = Learner(Faulty(store, lambda name: "before" if away else None))
    network = build(CONFIG.network, shapes_of(TICTACTOE), 1)
    one.collector.publish(network, "a")
    assert store.weights("") is None and "Workers wait for their first model" in one.said[0]
    away.clear()
    one.collector.publish(network, "a")
    assert store.weights("").hash == "a"
    assert one.said[1:] == ["it answers again; workers get the newest model"]


def test_that_no_worker_is_left_is_said_once_and_so_is_the_next_one():
    clock = [0.0]
    store = MemoryStore(ABOUT, 99, 30.0, lambda: clock[0])
    one = Learner(store)
    one.collector.look()
    assert one.said == []  # none has come yet: it was said how one comes
    send(store, 5, 1)
    one.collector.look()
    clock[0] = 40.0
    one.collector.look()
    one.collector.look()
    assert one.said == ["no worker has reported for 30 s; games come again when one does"]
    send(store, 6, 1)
    one.collector.look()
    one.collector.look()
    assert one.said[1:] == ["a worker reports again; present: 1"]


def test_workers_that_leave_with_the_run_are_not_missed():
    clock = [0.0]
    store = MemoryStore(ABOUT, 99, 30.0, lambda: clock[0])
    one = Learner(store)
    send(store, 5, 1)
    one.collector.look()
    one.collector.over, clock[0] = True, 40.0
    one.collector.look()
    assert one.said == []


def test_phase_shares_are_of_all_thread_time():
    rows = [
        {"search_seconds": 3.0, "inference_seconds": 5.0, "transfer_seconds": 1.0, "wait_seconds": 1.0},
        {"search_seconds": 5.0, "inference_seconds": 5.0},
    ]
    assert phase_shares(rows) == {"search": 0.4, "inference": 0.5, "transfer": 0.05, "wait": 0.05}
    assert phase_shares([]) == {} and phase_shares([{}]) == {}


def test_worker_processes_are_looked_after_also_while_the_store_is_away():
    looked = []

    def away(name):
        raise UnreachableError("it is away.")

    one = Learner(Faulty(MemoryStore(ABOUT, 9), away), tend=lambda: looked.append(1))
    one.collector.drain()
    assert looked


def test_every_key_of_a_worker_names_it():
    for worker in (0, 1, 12345, 2**31 - 1):
        for group in (0, GROUPS - 1):
            for game in (0, 1, 1 << 24):
                assert worker_of(worker * GROUPS + group + game * STRIDE) == worker
    assert Episode.from_bytes(episode(2**31 - 1, 1 << 20).to_bytes(), TICTACTOE).game_id < 1 << 63


def test_games_of_a_model_too_many_updates_behind_are_refused_by_name_and_counted():
    store = MemoryStore(ABOUT, 99)
    one = Learner(store, config=replace(CONFIG, collect=replace(CONFIG.collect, stale_updates=2)))
    for seed, name in enumerate("abcd"):
        one.collector.publish(build(CONFIG.network, shapes_of(TICTACTOE), seed), name)
    assert one.collector.published == list("abcd")
    store.join(5, "t", ABOUT)
    games = [episode(5, k, seats=(name, name)).to_bytes() for k, name in enumerate("abcdx", 1)]
    store.add(5, 1, games, [1] * len(games))
    one.collector.drain()
    assert one.keys == keys(5, 2, 3, 4) and one.collector.refused == 2
    assert "model a is more than collect.stale_updates = 2 updates behind" in one.said[0]


def test_a_learner_that_goes_on_gives_the_last_model_again_and_knows_the_order_of_models():
    first, second = Learner(MemoryStore(ABOUT, 99)), Learner(MemoryStore(ABOUT, 99))
    network = build(CONFIG.network, shapes_of(TICTACTOE), 1)
    for name in "abc":
        first.collector.publish(network, name)
    second.collector.restore([], first.collector.state(), ())
    second.collector.publish(network, "c")
    assert second.collector.store.weights("").hash == "c"
    assert second.collector.published == list("abc")
