"""The watcher: every model rated once, nothing of the trainer's touched, its share kept, safe to end."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import zeroloop.models
import zeroloop.watch
from tests.material import RUN_BASE, run_config, session
from zeroloop.config import Config, EvaluateConfig, PromoteConfig
from zeroloop.errors import BusyError, ConfigError, ResumeError, StoreError
from zeroloop.files import DirectoryLock
from zeroloop.promotion import read_matches
from zeroloop.registry import Registry
from zeroloop.run import Run, stored_config
from zeroloop.session import train_session
from zeroloop.train import train
from zeroloop.watch import Pace, watch_run

GIVEN = run_config(
    promote={"max_pairs": 4, "floors": {"random": 0.1}, "floor_games": 6},
    evaluate={"by": "watch", "max_share": 1.0, "opponents": {}},
    run={**RUN_BASE["run"], "deterministic": True},
)
JUDGED = replace(GIVEN.evaluate, by="loop")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch") / "runs"
    session(folder / "a", GIVEN)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs") / "a"


def watch(run, **given):
    return watch_run(run, once=True, background=False, **given)


def rows(run):
    return read_matches(run / "watch.jsonl")


def test_loop_that_leaves_judging_to_the_watcher_saves_models_and_judges_the_last_one(run):
    models = list((run / "models").glob("*.safetensors"))
    judged = read_matches(run / "matches.jsonl")
    assert len(models) >= 3 and len(judged) == 1
    assert judged[0]["model"] == (run / "newest").read_text()
    with Registry(run.parent) as registry:
        assert len(registry.models()) == len(models)


def test_every_model_is_rated_once_the_newest_first(run):
    models = {p.stem for p in (run / "models").glob("*.safetensors")}
    assert watch(run)["rated"] == len(models) == len(rows(run))
    assert {row["model"] for row in rows(run)} == models
    assert rows(run)[0]["model"] == (run / "newest").read_text()
    assert watch(run) == {"run": str(run), "rated": 0, "known": len(models)}
    for row in rows(run):
        assert row["reason"] and row["fixed"]["random"]["games"] == 6 and row["cpu_seconds"] > 0
    with Registry(run.parent) as registry:
        found = {d["hash"] for d in registry.rows("SELECT hash FROM decisions")}
    assert found == models and rows(run)[-1]["elo"] is not None


def test_watcher_touches_nothing_of_the_trainer(run):
    def files():
        return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and "watch" not in p.name}

    before = files()
    watch(run)
    assert {p: data for p, data in files().items() if p.parent.name != "watch"} == before


def test_watcher_works_while_a_trainer_holds_the_run(run):
    lock = DirectoryLock(run)
    try:
        assert watch(run)["rated"] >= 3
    finally:
        lock.release()


@pytest.mark.slow
def test_row_that_a_killed_watcher_left_unfinished_is_rated_again(run):
    watch(run)
    whole = (run / "watch.jsonl").read_text()
    (run / "watch.jsonl").write_text(whole[:-40])
    assert watch(run)["rated"] == 1
    assert sorted(r["model"] for r in rows(run)) == sorted(json.loads(x)["model"] for x in whole.splitlines())
    with Registry(run.parent) as registry:  # the evidence had been stored: it is there once
        counted = registry.rows("SELECT count(*) AS n FROM decisions")[0]["n"]
    assert counted == len(rows(run)) + 1  # and that of the loop


def test_one_watcher_of_a_run_at_a_time(run):
    (run / "watch").mkdir()
    lock = DirectoryLock(run / "watch")
    try:
        with pytest.raises(
            ResumeError, match=r"is watched by process \d+ already; wait for it, or stop it\.$"
        ):
            watch(run)
    finally:
        lock.release()


@pytest.mark.slow
def test_registry_that_is_held_for_a_while_does_not_end_the_watcher(run, monkeypatch):
    real, calls, told = zeroloop.watch.run_gauntlet, [], []

    def held_once(*args, **given):
        calls.append(args)
        if len(calls) == 1:
            raise BusyError("registry.sqlite: database is locked.")
        return real(*args, **given)

    monkeypatch.setattr(zeroloop.watch, "run_gauntlet", held_once)
    total = len(list((run / "models").glob("*.safetensors")))
    assert watch(run, tell=told.append, poll=0.01)["rated"] == total == len(calls) - 1
    assert "database is locked" in told[0]


def test_interrupted_gauntlet_leaves_no_row_and_the_next_one_goes_on(run):
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 30

    found = watch(run, stop=stop)
    total = len(list((run / "models").glob("*.safetensors")))
    assert found["rated"] < total and len(rows(run)) == found["rated"]
    assert watch(run)["known"] == total


def test_what_cannot_be_watched_is_told(run, tmp_path):
    with pytest.raises(StoreError, match="is not a run"):
        watch(tmp_path)
    shut = replace(GIVEN, evaluate=replace(GIVEN.evaluate, max_share=0.0))
    with pytest.raises(ConfigError, match=r"evaluate\.max_share is 0"):
        watch(run, config=shut)


def test_gate_cannot_wait_for_a_watcher():
    with pytest.raises(ConfigError, match=r"evaluate\.by is watch, but promote\.mode is gate"):
        Config(evaluate=EvaluateConfig(by="watch"), promote=PromoteConfig(mode="gate"))


@pytest.mark.slow
@pytest.mark.parametrize(("share", "processors"), [(0.25, 1), (0.15, 2)])
def test_pace_keeps_the_share_of_the_machine(share, processors):
    pace = Pace(share, processors, lambda: False)
    wall, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - wall < 1.5:
        until = time.process_time() + 0.005
        while time.process_time() < until:
            pass
        pace()
    used = (time.process_time() - cpu) / (time.monotonic() - wall) / processors
    assert used <= share + 0.02


def test_share_is_not_saved_up_without_bound():
    pace = Pace(0.5, 1, lambda: False)
    pace._wall -= 10_000  # nothing to do for hours
    pace()
    assert pace._credit <= 0.5 * 5.0


WATCHER = """
import pathlib, sys
from zeroloop.watch import watch_run
print(watch_run(pathlib.Path(sys.argv[1]), tell=lambda text: print(text, file=sys.stderr), poll=0.1)["rated"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watcher_that_is_told_to_end_ends_well_and_the_next_one_goes_on(run, number):
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stderr.readline()  # one model is rated
    process.send_signal(number)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and int(told) >= 1 and "Traceback" not in errors
    assert len(rows(run)) == int(told)
    total = len(list((run / "models").glob("*.safetensors")))
    assert watch(run)["known"] == total


def test_stored_configuration_is_that_of_the_run(run):
    assert stored_config(run).evaluate.by == "watch"


# --- a run and its registry (both sides of it are here: the trainer and the watcher) -----------


def test_damaged_registry_is_found_before_the_run_directory_is_made(tmp_path):
    (tmp_path / "registry.sqlite").write_bytes(b"no database" * 500)
    with pytest.raises(StoreError, match=r"registry\.sqlite is damaged"):
        train_session(tmp_path / "a", GIVEN, preflight=False)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_run_waits_for_a_registry_that_another_process_holds_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(zeroloop.models, "WAIT", 0.05)
    with Registry(tmp_path / "runs"):
        pass
    told = []
    with Registry(tmp_path / "runs") as holder:
        held = contextlib.ExitStack()

        def report(kind, values):
            told.append((kind, values))
            if kind == "decision" or "waits for it" in values.get("text", ""):
                held.close()  # the other process lets go
            elif kind == "phase" and values["name"] == "evaluate":
                held.enter_context(holder.change())

        opened = Run.open(tmp_path / "runs" / "a", replace(GIVEN, evaluate=JUDGED))
        try:
            assert train(opened, report).finished
        finally:
            opened.close()
    waits = [v["text"] for k, v in told if k == "say" and "waits for it" in v["text"]]
    decisions = [v for k, v in told if k == "decision"]
    assert len(waits) == len(decisions) >= 2
    with Registry(tmp_path / "runs") as registry:
        assert registry.rows("SELECT count(*) AS n FROM decisions")[0]["n"] == len(decisions)


@pytest.mark.slow
def test_stop_while_another_process_holds_the_registry_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(zeroloop.models, "WAIT", 0.05)
    given, asked, held_once = replace(GIVEN, evaluate=JUDGED), [False], False
    with Registry(tmp_path / "runs") as holder, contextlib.ExitStack() as held:

        def report(kind, values):
            nonlocal held_once
            if kind == "phase" and values["name"] == "learn" and not held_once:
                held.enter_context(holder.change())
                held_once = True
            asked[0] = asked[0] or "waits for it" in values.get("text", "")

        opened = Run.open(tmp_path / "runs" / "a", given)
        try:
            assert not train(opened, report, lambda: asked[0]).finished
        finally:
            opened.close()
    outcome, _ = session(tmp_path / "runs" / "a", given)
    assert outcome.finished
    rows = read_matches(tmp_path / "runs" / "a" / "matches.jsonl")
    assert len({row["model"] for row in rows}) == len(rows) >= 1
    with Registry(tmp_path / "runs") as registry:
        assert registry.rows("SELECT count(*) AS n FROM decisions")[0]["n"] == len(rows)
