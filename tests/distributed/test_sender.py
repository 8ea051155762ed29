"""The sender: whatever the store does, each game arrives once, in order, and none is lost."""

from __future__ import annotations

import random
import shutil
import threading
import time

import pytest

from tests.distributed.stores import ABOUT, Faulty, eventually
from zeroloop.distributed import sender as module
from zeroloop.distributed.sender import Sender
from zeroloop.distributed.spool import Spool
from zeroloop.distributed.store import MemoryStore, Weights
from zeroloop.errors import RefusedError, StoreError, UnreachableError


@pytest.fixture
def sending(tmp_path):
    """Return a function that makes a sender of a new spool, or of one given."""
    made = []

    def make(store, spool=None, row=lambda: {"games": 1}, **given):
        said = []
        one = Sender(store, spool or Spool.make(tmp_path), ABOUT, row, said.append, **given)
        one.said = said
        made.append(one)
        return one

    yield make
    for one in made:
        one.finish(0)
        one.spool.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("SHORTEST", 0.001), ("LONGEST", 0.01), ("IDLE", 0.01), ("REPORT", 0.02)):
        monkeypatch.setattr(module, name, seconds)


def played(spool, first, last):
    for i in range(first, last + 1):
        spool.add(b"game %d" % i, i)


def taken(store, after=0):
    """Read what is there as a learner, keep it, and return the games' numbers in the order of the store."""
    found = store.read(after, 1 << 20)
    assert all(g.data == b"game %d" % g.sequence for g in found)
    if found:
        store.acknowledge(found[-1].number, {g.worker: g.sequence for g in found})
    return [g.sequence for g in found]


def test_games_arrive_in_order_and_are_forgotten_once_they_are_safe(sending):
    store = MemoryStore(ABOUT, 1000)
    one = sending(store)
    played(one.spool, 1, 150)
    eventually(lambda: one.stored == 150)
    assert one.spool.waiting == 150, "no learner has them"
    assert taken(store) == list(range(1, 151))
    eventually(lambda: one.spool.waiting == 0)
    assert one.finish(5) and not one.said and one.resent == 0


@pytest.mark.parametrize("seed", range(8))
def test_calls_and_answers_lost_at_random_lose_and_double_no_game(sending, seed):
    rng = random.Random(seed)
    store, seen = MemoryStore(ABOUT, 12), []
    failing = [True]
    faulty = Faulty(store, lambda name: rng.choice([None, "before", "after"]) if failing[0] else None)
    one = sending(faulty)
    for i in range(100):
        played(one.spool, i + 1, i + 1)
        if i % 7 == 0:
            time.sleep(0.005)
            seen += taken(store)
    failing[0] = False
    end = time.monotonic() + 60
    while len(seen) < 100 and time.monotonic() < end:
        seen += taken(store)
    assert seen == list(range(1, 101))
    assert one.finish(5) and store.counters()["games"] == 100 and store.counters()["positions"] == 5050
    assert one.error is None


def test_an_outage_is_said_once_with_where_the_games_are_and_so_is_its_end(sending):
    store, away = MemoryStore(ABOUT, 1000), [False]
    one = sending(Faulty(store, lambda name: "before" if away[0] else None))
    eventually(lambda: one.orders)
    away[0] = True
    played(one.spool, 1, 3)
    time.sleep(0.1)
    away[0] = False
    eventually(lambda: one.stored == 3)
    assert one.said == [
        f"the store does not answer: it is away. Finished games are kept in {one.spool.folder} until it "
        "does.",
        "the store answers again; 3 finished games were kept meanwhile",
    ]


def test_back_off_doubles_up_to_a_bound_and_ends_with_the_outage(sending, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 0.064)
    asked, away = [], [True]

    class Away:
        def join(self, *given):
            asked.append(time.monotonic())
            if away[0]:
                raise UnreachableError("it is away.")
            return MemoryStore(ABOUT, 9).join(*given)

    one = sending(Away())
    eventually(lambda: len(asked) > 12)
    gaps = [b - a for a, b in zip(asked, asked[1:], strict=False)]
    assert gaps[0] < 0.03 and all(gap > 0.06 for gap in gaps[7:])
    away[0] = False
    one.finish(0)


def test_a_full_store_is_asked_gently_and_filled_as_it_empties(sending):
    store = MemoryStore(ABOUT, 5)
    faulty = Faulty(store, lambda name: None)
    one = sending(faulty)
    played(one.spool, 1, 200)
    eventually(lambda: one.stored == 5)
    del faulty.calls[:]
    time.sleep(0.3)
    offers = [given for name, given in faulty.calls if name == "add"]
    assert 0 < len(offers) <= 0.3 / module.IDLE + 2, "it waits between two offers"
    assert all(len(given[2]) == 1 for given in offers), "bytes that a full store turns away are few"
    assert one.spool.waiting == 200
    seen = []
    end = time.monotonic() + 60
    while len(seen) < 200 and time.monotonic() < end:
        seen += taken(store)
    assert seen == list(range(1, 201))
    assert one.finish(5)


def test_an_idle_sender_asks_nothing_but_to_report(sending):
    faulty = Faulty(MemoryStore(ABOUT, 9), lambda name: None)
    one = sending(faulty)
    eventually(lambda: one.orders)
    del faulty.calls[:]
    time.sleep(0.2)
    assert {name for name, _ in faulty.calls} == {"report"}
    assert len(faulty.calls) <= 0.2 / module.REPORT + 2


def test_orders_follow_the_store(sending):
    store = MemoryStore(ABOUT, 9)
    one = sending(store)
    eventually(lambda: one.orders)
    store.publish(Weights("abc", b""), 0.5)
    store.pause(True)
    eventually(lambda: one.orders.model == "abc" and one.orders.paused and one.orders.progress == 0.5)
    store.stop()
    eventually(lambda: one.orders.stopped)


def test_a_store_that_begins_anew_is_joined_again_and_gets_what_it_lost(sending):
    class Restarted:
        def __init__(self):
            self.store = MemoryStore(ABOUT, 1000)

        def __getattr__(self, name):
            return getattr(self.store, name)

    store = Restarted()
    one = sending(store)
    played(one.spool, 1, 10)
    eventually(lambda: one.stored == 10)
    store.acknowledge(4, {one.spool.number: 4})
    eventually(lambda: one.spool.safe == 4)
    store.store = MemoryStore(ABOUT, 1000)
    played(one.spool, 11, 12)
    eventually(lambda: one.stored == 12)
    assert taken(store) == list(range(5, 13)), "what a learner has is not sent again, the rest is"
    assert one.error is None and one.resent == 6


def test_a_store_that_went_back_in_time_gets_no_game_under_a_wrong_number(sending):
    """Restored from an old copy it knows the worker, but fewer of its games than a learner has."""
    old = MemoryStore(ABOUT, 1000)
    one = sending(Faulty(old, lambda name: None))
    played(one.spool, 1, 6)
    eventually(lambda: one.stored == 6)
    taken(old)
    eventually(lambda: one.spool.safe == 6)
    back = MemoryStore(ABOUT, 1000)
    back.join(one.spool.number, one.spool.token, ABOUT)
    back.add(one.spool.number, 1, [b"game 1", b"game 2"], [1, 2])
    one._store.store = back
    played(one.spool, 7, 8)
    eventually(lambda: one.stored == 8)
    assert taken(back) == [1, 2, 7, 8]


def test_a_worker_turned_away_at_the_door_keeps_its_games_and_knows_why(sending):
    store = MemoryStore({**ABOUT, "zeroloop": "2"}, 9)
    spool_of = sending(store)
    played(spool_of.spool, 1, 2)
    eventually(lambda: spool_of.error)
    assert isinstance(spool_of.error, RefusedError) and "zeroloop 2, the worker 1" in str(spool_of.error)
    assert not spool_of.finish(1) and spool_of.spool.waiting == 2 and not spool_of.alive


def test_a_store_that_refuses_every_offer_ends_the_sender_instead_of_being_hammered(sending):
    class Refusing(MemoryStore):
        offers = 0

        def add(self, *given):
            self.offers += 1
            raise RefusedError("no, for no reason.")

    store = Refusing(ABOUT, 9)
    one = sending(store)
    played(one.spool, 1, 2)
    eventually(lambda: one.error)
    assert str(one.error) == "no, for no reason." and store.offers < 10 and one.spool.waiting == 2


def test_what_is_no_store_ends_the_sender_with_its_reason(sending):
    class Strange:
        def join(self, *given):
            raise StoreError("it does not speak zeroloop's protocol.")

    one = sending(Strange())
    eventually(lambda: one.error)
    assert "does not speak" in str(one.error)


def test_before_each_joining_the_worker_may_refuse_the_store(sending):
    def check():
        raise RefusedError("another run.")

    store = MemoryStore(ABOUT, 9)
    one = sending(store, check=check)
    played(one.spool, 1, 1)
    eventually(lambda: one.error)
    assert store.counters()["games"] == 0 and one.spool.waiting == 1


def test_the_spool_of_a_dead_worker_is_sent_and_reports_nothing(sending, tmp_path):
    store = MemoryStore(ABOUT, 1000)
    dead = Spool.make(tmp_path)
    played(dead, 1, 5)
    store.join(dead.number, dead.token, ABOUT)
    store.add(dead.number, 1, [b"game 1", b"game 2", b"game 3"], [1, 2, 3])
    dead.close()
    (spool,) = Spool.adopt(tmp_path)
    one = sending(store, spool, row=None)
    eventually(lambda: one.stored == 5)
    assert taken(store) == [1, 2, 3, 4, 5] and store.counters()["duplicates"] == 0
    assert one.finish(5) and spool.waiting == 0
    assert "games" not in store.workers()[0]


def test_two_who_are_the_same_worker_do_not_mix(sending, tmp_path):
    """Its folder was copied: the token is the same, the games are; each is taken once."""
    store = MemoryStore(ABOUT, 1000)
    first = Spool.make(tmp_path / "a")
    played(first, 1, 5)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (copy,) = Spool.adopt(tmp_path / "b")
    both = [sending(store, first), sending(store, copy, row=None)]
    eventually(lambda: all(one.stored == 5 for one in both))
    assert taken(store) == [1, 2, 3, 4, 5]


def test_finishing_gives_up_soon_where_nobody_answers_and_keeps_the_rest(sending):
    one = sending(Faulty(MemoryStore(ABOUT, 9), lambda name: "before"))
    played(one.spool, 1, 3)
    begun = time.monotonic()
    assert not one.finish(30)
    assert time.monotonic() - begun < 5 and one.spool.waiting == 3
    eventually(lambda: not one.alive)


def test_finishing_waits_for_the_learner_and_asks_moderately(sending, monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.1)
    store = MemoryStore(ABOUT, 1000)
    faulty = Faulty(store, lambda name: None)
    one = sending(faulty)
    played(one.spool, 1, 3)
    eventually(lambda: one.stored == 3)
    del faulty.calls[:]
    threading.Timer(0.3, lambda: taken(store)).start()
    begun = time.monotonic()
    assert one.finish(10)
    assert 0.2 < time.monotonic() - begun < 3
    assert len(faulty.calls) < 60


def test_after_finishing_in_vain_nothing_more_is_sent(sending):
    store = MemoryStore(ABOUT, 1)
    one = sending(store)
    played(one.spool, 1, 3)
    eventually(lambda: one.stored == 1)
    assert not one.finish(0.05)
    eventually(lambda: not one.alive)
    taken(store)
    time.sleep(0.05)
    assert one.spool.waiting == 3 and store.counters()["games"] == 1


def test_the_spool_of_a_dead_worker_is_removed_as_soon_as_it_is_safe(sending, tmp_path):
    store = MemoryStore(ABOUT, 1000)
    dead = Spool.make(tmp_path)
    played(dead, 1, 5)
    dead.close()
    (spool,) = Spool.adopt(tmp_path)
    one = sending(store, spool, row=None)
    eventually(lambda: one.stored == 5)
    assert spool.folder.exists()
    taken(store)
    eventually(lambda: not one.alive)
    assert not spool.folder.exists() and one.finish(1)
    spool.remove()
