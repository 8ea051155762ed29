"""A worker: joins by address alone, plays the newest model, keeps what it has finished, says why it ends."""

from __future__ import annotations

import ast
import pathlib
import re
import threading
import time

import pytest

from tests.distributed.stores import Faulty, eventually
from tests.material import TICTACTOE, small_config
from zeroloop import model
from zeroloop.distributed import worker as module
from zeroloop.distributed.crew import about_run
from zeroloop.distributed.inference import InferenceServer
from zeroloop.distributed.served import StoreClient
from zeroloop.distributed.spool import Spool
from zeroloop.distributed.store import MemoryStore, Weights
from zeroloop.distributed.worker import Worker, worker_of
from zeroloop.episode import Episode
from zeroloop.errors import ConfigError, RefusedError, StoreError, UnreachableError, ZeroloopError
from zeroloop.evaluator.choice import choose, shapes_of
from zeroloop.files import sha256
from zeroloop.games import make
from zeroloop.networks import build

CONFIG = small_config(run={"precision": "fp32"}, collect={"queue": 100_000})


def about(config=CONFIG, identity="a", **changes):
    return {**about_run("ttt", config, TICTACTOE), "identity": identity, **changes}


def weights(seed, game=TICTACTOE):
    data = model.encode(build(CONFIG.network, shapes_of(game), seed), game)
    return Weights(sha256(data), data)


class Playing:
    """A worker that plays on a thread."""

    def __init__(self, store, root):
        self.said, self.error, self._stop = [], None, threading.Event()
        self.worker = Worker(store, root, stop=self._stop.is_set, say=self.said.append)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            self.worker.run()
        except ZeroloopError as error:
            self.error = error

    def end(self):
        self._stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def playing(tmp_path):
    """Return a function that lets a worker play for a store; it is ended with the test."""
    begun = []

    def play(store, root=tmp_path):
        begun.append(Playing(store, root))
        return begun[-1]

    yield play
    for one in begun:
        one.end()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1.0)


def opened(capacity=10_000, first=1, **given):
    store = MemoryStore(about(**given), capacity)
    if first:
        store.publish(weights(first), 0.0)
    return store


def taken(store, after=0):
    """Read and keep, as a learner does."""
    found = store.read(after, 1 << 20)
    if found:
        store.acknowledge(found[-1].number, {g.worker: g.sequence for g in found})
    return found


def spools(root):
    return [p for p in root.glob("*/*") if p.is_dir()]


def test_a_worker_plays_games_of_its_own_with_the_newest_model(playing):
    store, two = opened(), weights(2)
    one = playing(store)
    number = one.worker.spool.number
    eventually(lambda: store.counters()["games"] > 20)
    store.publish(two, 0.5)
    found, seats = [], set()

    def played_both():
        for stored in taken(store, found[-1].number if found else 0):
            found.append(stored)
            seats.add(Episode.from_bytes(stored.data, TICTACTOE).seats)
        return len(seats) > 1

    eventually(played_both)
    games = [Episode.from_bytes(g.data, TICTACTOE) for g in found]
    one.end()
    assert len({g.game_id for g in games}) == len(games)
    assert {worker_of(g.game_id) for g in games} == {number} and {g.seed for g in games} == {7}
    assert games[0].seats == (weights(1).hash,) * 2 and games[-1].seats == (two.hash,) * 2
    (row,) = store.workers()
    assert row["games"] >= len(games) and row["simulations"] > 0 and row["waiting"] >= 0
    assert row["search_seconds"] > 0 and row["inference_seconds"] > 0


def test_the_end_of_the_run_ends_the_worker_and_every_game_is_safe(playing, tmp_path):
    store = opened()
    one = playing(store)
    eventually(lambda: store.counters()["games"] > 20)
    store.stop()
    end = time.monotonic() + 60
    seen = []
    while one.thread.is_alive() and time.monotonic() < end:
        seen += taken(store)
        time.sleep(0.01)
    assert not one.thread.is_alive() and one.error is None and not spools(tmp_path)
    assert [g.sequence for g in seen] == list(range(1, one.worker.games + 1))


def test_without_a_model_a_worker_waits_and_counts_the_time(playing):
    store = opened(first=None)
    one = playing(store)
    eventually(lambda: one.worker.wait_seconds > 0.2)
    assert one.worker.games == 0
    store.publish(weights(1), 0.0)
    eventually(lambda: one.worker.games > 0)


def test_a_paused_worker_waits_and_goes_on(playing):
    store = opened()
    one = playing(store)
    eventually(lambda: one.worker.games > 5)
    store.pause(True)
    eventually(lambda: one.worker._sender.orders.paused)
    time.sleep(0.1)
    games, waited = one.worker.games, one.worker.wait_seconds
    time.sleep(0.3)
    assert one.worker.games == games and one.worker.wait_seconds > waited + 0.2
    store.pause(False)
    eventually(lambda: one.worker.games > games)


def test_full_queues_let_the_worker_wait_and_nothing_is_dropped(playing):
    store = MemoryStore(about(small_config(run={"precision": "fp32"}, collect={"queue": 12})), 5)
    store.publish(weights(1), 0.0)
    one = playing(store)
    eventually(lambda: one.worker.wait_seconds > 0.3)
    assert 5 < one.worker.spool.waiting <= 4 * 12 + CONFIG.selfplay.games
    assert store.counters()["games"] == 5
    seen = []
    end = time.monotonic() + 60
    while len(seen) < 60 and time.monotonic() < end:
        seen += taken(store)
        time.sleep(0.002)
    assert [g.sequence for g in seen] == list(range(1, len(seen) + 1)) and len(seen) >= 60


def test_what_a_worker_could_not_send_is_said_and_sent_by_the_next_one(playing, tmp_path):
    store = opened(capacity=3)
    first = playing(store)
    eventually(lambda: first.worker.games > 3)
    first.end()
    (folder,) = spools(tmp_path)
    left = first.worker.games
    assert first.said == [f"{left} finished games are kept in {folder}; the next worker there sends them"]
    second = playing(store)
    assert second.said[0] == (
        f"{left} finished games of worker {first.worker.spool.number}, which is gone, are sent first"
    )
    seen = []
    end = time.monotonic() + 60
    while sum(g.worker == first.worker.spool.number for g in seen) < left and time.monotonic() < end:
        seen += taken(store)
        time.sleep(0.002)
    assert [g.sequence for g in seen if g.worker == first.worker.spool.number] == list(range(1, left + 1))


@pytest.mark.parametrize("key", ["protocol", "zeroloop", "game", "rules_identity", "observation_version"])
def test_another_version_or_game_is_refused_by_name_before_a_spool_is_made(key, tmp_path):
    store = MemoryStore(about(**{key: "strange"}), 9)
    mine = re.escape(str(about()[key]))
    with pytest.raises(
        RefusedError, match=f"this run has {key} strange, the worker {mine}; install the same"
    ):
        Worker(store, tmp_path, stop=lambda: False, say=print)
    assert not spools(tmp_path)


def test_of_a_newer_zeroloop_the_version_is_named_and_not_a_key_that_is_unknown_here(tmp_path):
    told = about(zeroloop="99.0")
    told["config"]["collect"]["invented_later"] = 1
    with pytest.raises(RefusedError, match="this run has zeroloop 99.0"):
        Worker(MemoryStore(told, 9), tmp_path, stop=lambda: False, say=print)
    told["zeroloop"] = about()["zeroloop"]
    with pytest.raises(ConfigError, match="invented_later"):
        Worker(MemoryStore(told, 9), tmp_path, stop=lambda: False, say=print)


@pytest.mark.slow
def test_a_game_file_that_differs_is_refused(tmp_path):
    """The learner's file and the worker's have one name and other rules."""
    source = pathlib.Path("zeroloop/games/tictactoe.py").read_text().replace("from ..", "from zeroloop.")
    source = source.replace("from .game", "from zeroloop.games.game")
    files = {"theirs": source, "mine": source.replace("0o421, 0o124]", "0o421, 0o421]")}
    assert files["theirs"] != files["mine"]
    for folder, text in files.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ttt.py").write_text(text)
    theirs = make(str(tmp_path / "theirs" / "ttt.py"))
    told = about_run("ttt", small_config(str(tmp_path / "mine" / "ttt.py")), theirs)
    with pytest.raises(RefusedError, match="this run has rules_identity .*the same game on both machines"):
        Worker(MemoryStore(told, 9), tmp_path, stop=lambda: False, say=print)


def test_an_address_that_never_answers_is_told_and_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST", 0.3)
    said, begun = [], time.monotonic()
    with pytest.raises(UnreachableError, match="nothing answers at 127.0.0.1:1 .*check the address"):
        Worker(StoreClient("127.0.0.1:1"), tmp_path, stop=lambda: False, say=said.append)
    assert 0.3 < time.monotonic() - begun < 5
    assert len(said) == 1 and "nothing answers at 127.0.0.1:1" in said[0] and "Asking again" in said[0]


def test_a_learner_that_comes_late_is_waited_for(playing):
    store, away = opened(), [True]
    threading.Timer(0.3, lambda: away.clear()).start()
    one = playing(Faulty(store, lambda name: "before" if away else None))
    eventually(lambda: one.worker.games > 0)


@pytest.mark.parametrize(
    "found, told",
    [
        (Weights("0" * 64, weights(1).data), "its bytes were damaged on the way"),
        (Weights(sha256(b"no model"), b"no model"), sha256(b"no model")[: model.SHORT]),
        (weights(1, make("connect4")), "connect4"),
    ],
    ids=["another hash", "no model", "of another game"],
)
def test_a_model_that_is_not_what_it_says_is_refused_by_name_and_not_played(playing, found, told):
    store = opened(first=None)
    store.publish(found, 0.0)
    one = playing(store)
    one.thread.join(60)
    assert told in str(one.error) and one.worker.games == 0


def test_a_store_that_has_come_to_serve_another_run_gets_no_game(playing, tmp_path):
    class Turned:
        def __init__(self):
            self.store = opened(capacity=5)

        def __getattr__(self, name):
            return getattr(self.store, name)

    store = Turned()
    one = playing(store)
    eventually(
        lambda: one.worker.games > 5
    )  # it may hear that five are enough before it has played a seventh
    store.store = opened(identity="b")
    one.thread.join(60)
    assert isinstance(one.error, RefusedError) and "now serves another run" in str(one.error)
    assert store.counters()["games"] == 0
    (folder,) = spools(tmp_path)
    other = playing(store)
    eventually(lambda: other.worker.games > 5)
    assert "sent first" not in "".join(other.said), "games of one run are never sent to another"
    assert {g.worker for g in store.read(0, 1 << 20)} <= {other.worker.spool.number}
    (kept,) = [s for s in Spool.adopt(folder.parent)]
    assert kept.waiting == one.worker.games
    kept.close()


@pytest.fixture
def served():
    """Return a store whose run has an inference server, and that server."""
    server = InferenceServer(TICTACTOE, choose("cpu", "auto", "fp32"), lanes=1)
    model = weights(1)
    server.publish(model.hash, model.data)
    config = small_config(
        run={"precision": "fp32"},
        collect={"queue": 100_000},
        inference={"server": server.listen("127.0.0.1:0")},
    )
    store = MemoryStore(about(config), 10_000)
    store.publish(model, 0.0)
    yield store, server
    server.close()


def lost(one, server):
    """Let the server go once the worker plays, and wait until the worker misses it."""
    eventually(lambda: one.worker.games > 5)
    server.close()
    eventually(lambda: any("leaves are kept" in text for text in one.said))


def test_the_end_of_the_run_ends_a_worker_whose_inference_server_is_away(playing, served, tmp_path):
    store, server = served
    one = playing(store)
    lost(one, server)
    store.stop()

    def ended():
        taken(store)
        return not one.thread.is_alive()

    eventually(ended, 60)
    assert one.error is None and not spools(tmp_path)


def test_a_worker_that_is_told_to_end_while_its_inference_server_is_away_names_no_error(playing, served):
    store, server = served
    one = playing(store)
    lost(one, server)
    one.end()
    assert one.error is None


@pytest.mark.parametrize(("elsewhere", "told"), [("127.0.0.1:1", "at 127.0.0.1:1"), ("", "in each worker")])
def test_a_run_that_goes_on_with_its_network_elsewhere_gets_a_new_worker(playing, served, elsewhere, told):
    class Turned:
        def __init__(self, store):
            self.store, self.away = store, False

        def __getattr__(self, name):
            if self.away:
                raise UnreachableError("the learner is away.")
            return getattr(self.store, name)

    store, server = served
    turned = Turned(store)
    one = playing(turned)
    address = server.address
    lost(one, server)
    turned.away = True
    eventually(lambda: any("does not answer" in text and "store" in text for text in one.said))
    moved = small_config(
        run={"precision": "fp32"}, collect={"queue": 100_000}, inference={"server": elsewhere}
    )
    turned.store, turned.away = MemoryStore(about(moved), 10_000), False
    one.thread.join(60)
    assert isinstance(one.error, RefusedError)
    assert told in str(one.error) and address in str(one.error) and "Start the worker again" in str(one.error)
    (folder,) = spools(one.worker.spool.folder.parent.parent)
    (kept,) = [s for s in Spool.adopt(folder.parent)]
    assert kept.waiting == one.worker.games, "the next worker sends what this one had finished"
    kept.close()


def test_a_renamed_run_has_the_spools_that_it_had():
    assert module.run_key(about()) == module.run_key(about(run="renamed"))
    assert module.run_key(about()) != module.run_key(about(identity="b"))
    without = {k: v for k, v in about().items() if k != "identity"}
    assert module.run_key(without) != module.run_key({**without, "rules_identity": "x"})
    assert re.fullmatch("[0-9a-f]+", module.run_key({**without, "run": "../../up"})), "it names a folder"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_disk_ends_every_thread_of_the_worker_and_what_it_had_is_sent(
    playing, tmp_path, monkeypatch, threads
):
    config = small_config(run={"precision": "fp32"}, collect={"threads": threads})
    store = MemoryStore(about(config), 10_000)
    store.publish(weights(1), 0.0)
    add, room = Spool.add, [20]

    def full(spool, data, positions):
        if not room[0]:
            raise StoreError("the disk is full.")
        room[0] -= 1
        return add(spool, data, positions)

    monkeypatch.setattr(Spool, "add", full)
    one = playing(store)
    seen = []
    end = time.monotonic() + 60
    while one.thread.is_alive() and time.monotonic() < end:
        seen += taken(store)
        time.sleep(0.01)
    assert str(one.error) == "the disk is full." and not one.thread.is_alive()
    assert [g.sequence for g in seen] == list(range(1, 21)) and not spools(tmp_path)


def test_a_worker_whose_listener_is_gone_works_on(tmp_path):
    def gone(text):
        raise BrokenPipeError

    store, stop, failing = opened(), threading.Event(), [False]
    faulty = Faulty(store, lambda name: "before" if failing[0] and name != "close" else None)
    worker = Worker(faulty, tmp_path, stop=stop.is_set, say=gone)
    thread = threading.Thread(target=worker.run)
    thread.start()
    eventually(lambda: store.counters()["games"] > 5)
    failing[0] = True
    time.sleep(0.2)
    failing[0] = False
    before = store.counters()["games"]
    eventually(lambda: store.counters()["games"] > before + 10)
    failing[0] = True
    stop.set()
    thread.join(60)
    assert not thread.is_alive() and len(spools(tmp_path)) == 1


def test_a_worker_whose_model_is_newer_than_its_orders_does_not_hammer_the_store(playing):
    store = opened()
    faulty = Faulty(store, lambda name: None)
    one = playing(faulty)
    eventually(lambda: one.worker.games > 5)
    orders = one.worker._sender.orders
    one.worker._sender._row = lambda: (_ for _ in ()).throw(UnreachableError("no report."))
    one.worker._sender.orders = replace_orders(orders, "f" * 64)
    del faulty.calls[:]
    time.sleep(0.5)
    assert sum(name == "weights" for name, _ in faulty.calls) < 20


def replace_orders(orders, name):
    return orders._replace(model=name)


def test_no_decision_reads_the_clock_on_the_wall():
    """Clocks of two machines differ: intervals come from one process's monotonic clock."""
    allowed = {"mlflow.py"}  # stamps what it logs
    for path in pathlib.Path("zeroloop/distributed").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and path.name not in allowed:
                assert ast.unparse(node) not in ("time.time", "time.time_ns", "datetime.now"), path
            if isinstance(node, ast.ImportFrom):
                assert node.module != "time", path
