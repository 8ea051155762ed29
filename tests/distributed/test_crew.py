"""A session whose workers somebody else has started: what ends, what waits, what a refusal leaves alone."""

from __future__ import annotations

import json
import threading

import pytest

from tests.material import small_config
from zeroloop.distributed import worker as module
from zeroloop.distributed.served import StoreClient
from zeroloop.distributed.worker import Worker, worker_of
from zeroloop.episode import Episode
from zeroloop.metrics import read_events
from zeroloop.replay.log import EpisodeLog
from zeroloop.run import Run
from zeroloop.status import read
from zeroloop.status.summary import summarise
from zeroloop.train import train

CONFIG = small_config(
    run={"precision": "fp32", "iteration_positions": 200},
    collect={"bind": "127.0.0.1:0"},
    budget={"positions": 1500, "minutes": 0.0},
    evaluate={"positions": 0, "every_positions": 100_000, "opponents": {}},
    promote={"max_pairs": 2, "floors": {}},
)


class Session:
    """A session of a run, and a worker that joins it by its address alone."""

    def __init__(self, folder, root, config=CONFIG, until=lambda: False):
        self.said, self.stop = [], threading.Event()
        self.root, self.until = root, until
        self.worker = self.thread = None
        run = Run.open(folder, config)
        try:
            self.outcome = train(run, self.report, lambda: self.until())
        finally:
            run.close()

    def report(self, kind, values):
        text = values.get("text", "")
        self.said.append(text)
        if "THIS_HOST:" in text:
            self.thread = threading.Thread(target=self.play, args=(text.rpartition(":")[2],))
            self.thread.start()

    def play(self, port):
        store = StoreClient(f"127.0.0.1:{port}")
        self.worker = Worker(store, self.root, stop=self.stop.is_set, say=self.said.append)
        self.worker.run()

    def end(self):
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def keys(folder):
    game = Run.open(folder, CONFIG)
    try:
        log = EpisodeLog(folder / "episodes.log")
        found = [Episode.from_bytes(data, game.game).game_id for _, data in log.open_at(0)]
        log.close()
        return found
    finally:
        game.close()


def test_the_end_of_a_run_ends_its_workers_and_takes_every_game_they_have_finished(tmp_path):
    one = Session(tmp_path / "run", tmp_path / "spool")
    one.thread.join(15)
    assert not one.thread.is_alive() and not one.stop.is_set()
    assert one.outcome.finished
    assert not any("no worker has reported" in text for text in one.said), "it left because it was told to"
    found = keys(tmp_path / "run")
    assert len(found) == len(set(found)) == one.worker.games
    assert {worker_of(key) for key in found} == {one.worker.spool.number}
    assert not list((tmp_path / "spool").glob("*/[0-9]*"))  # nothing is left to be sent

    shown, store = summarise(tmp_path / "run"), read(tmp_path / "run")["store"]
    assert shown["state"] == "finished"
    assert shown["games"] == store["games"] == len(found)
    assert store["waiting"] == 0


@pytest.mark.slow
def test_workers_of_a_run_that_is_stopped_wait_for_its_learner(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    run, spool = tmp_path / "run", tmp_path / "spool"
    asked = []
    one = Session(run, spool, until=lambda: bool(asked.append(1)) or len(asked) > 40)
    assert not one.outcome.finished
    one.thread.join(1.0)
    assert one.thread.is_alive()
    assert not one.worker._sender.orders.stopped
    one.end()

    before = keys(run)
    own = small_config(
        **{name: vars(getattr(CONFIG, name)) for name in ("run", "budget", "evaluate", "promote")},
    )
    opened, played = Run.open(run, own), []
    try:  # and it may go on in its own threads
        train(opened, lambda kind, values: played.append(kind), lambda: played.count("metrics") > 2)
    finally:
        opened.close()
    after = keys(run)
    assert after[: len(before)] == before and len(after) > len(before) and len(set(after)) == len(after)


@pytest.mark.slow
def test_rates_of_workers_are_those_of_the_games_that_came(tmp_path):
    one = Session(tmp_path / "run", tmp_path / "spool")
    rows = read_events(tmp_path / "run", "metrics")
    assert len(rows) > 3
    for row in rows:
        assert row.get("simulations_per_second", 1.0) > 0  # absent where no worker had reported
        assert row["games_per_second"] * row["seconds"] <= 1.5 * row["games"] + 1 or row["seconds"] > 5
    assert sum(row["play_seconds"] + row["learn_seconds"] for row in rows) <= one.outcome.seconds
    overflows = sum(row["overflows"] for row in rows)
    assert overflows == 0, json.dumps(rows[-1])
