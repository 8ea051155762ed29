"""The loop: every phase happens, in its order, also where a session ended inside it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.material import RUN_BASE, TICTACTOE, run_config, session, small_config
from tests.toy_games import COIN_FLIP
from zeroloop.config import OpponentConfig
from zeroloop.episode import Episode
from zeroloop.errors import BackendError, ConfigError, LearningError, PlayerError
from zeroloop.evaluator.choice import Choice, require_pure, shapes_of
from zeroloop.metrics import read_events
from zeroloop.networks import build
from zeroloop.replay import Replay
from zeroloop.replay.log import EpisodeLog
from zeroloop.run import Run, checkpoint_names, read_checkpoint, set_paused
from zeroloop.schedule import Schedule
from zeroloop.start import check_start
from zeroloop.train import _Loop, train


def newest(folder):
    return read_checkpoint(folder, checkpoint_names(folder)[-1]).state


def episodes(folder):
    log = EpisodeLog(folder / "episodes.log")
    found = [Episode.from_bytes(data, TICTACTOE) for _, data in log.open_at(0)]
    log.close()
    return found


def evaluations(folder):
    return [json.loads(line) for line in (folder / "matches.jsonl").read_text().splitlines()]


def assert_complete(folder, given):
    """The budget is spent, all that it earned is learnt, and the last model is measured."""
    state = newest(folder)
    assert state["positions"] >= given.budget.positions
    assert state["steps"] == int(given.learn.reuse * state["positions"] / given.learn.batch_size)
    assert state["measured_steps"] == state["steps"]
    assert evaluations(folder)[-1]["positions"] == state["positions"]


def test_run_is_complete_and_its_metrics_are_declared(tmp_path):
    given = run_config()
    outcome, _ = session(tmp_path / "run", given)
    assert outcome.finished
    assert_complete(tmp_path / "run", given)
    rows = read_events(tmp_path / "run", "metrics")
    speeds = [row["positions_per_second"] for row in rows if "positions_per_second" in row]
    assert speeds and all(0 < x < 1e6 for x in speeds)


class Killed(Exception):
    pass


@pytest.mark.parametrize("phase", ["learn", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_run_killed_in_its_last_phase_still_learns_and_is_measured(tmp_path, monkeypatch, phase):
    """The games are on disk and spend the budget, but no checkpoint knows of them."""
    given, real = run_config(evaluate={"every_positions": 10**6}), getattr(_Loop, phase)

    def dies(loop):
        if loop.progress() >= 1:
            raise Killed
        real(loop)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, phase, dies)
        with pytest.raises(Killed):
            session(tmp_path / "run", given)
    outcome, _ = session(tmp_path / "run", given)
    assert outcome.finished
    assert_complete(tmp_path / "run", given)


DETERMINISTIC = run_config(run={**RUN_BASE["run"], "deterministic": True})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The newest checkpoint of a deterministic run that nothing stopped."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    session(folder, DETERMINISTIC)
    return read_checkpoint(folder, checkpoint_names(folder)[-1])


@pytest.mark.slow
@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("phase", ["collect", "learn", "evaluate"])
def test_deterministic_run_stopped_inside_a_phase_ends_as_if_never_stopped(
    tmp_path, monkeypatch, uninterrupted, phase, calls
):
    seen, loop, real = [0], [], _Loop.__init__

    def stop():
        if loop and loop[0].phase == phase:
            seen[0] += 1
        return seen[0] >= calls

    def remember(self, *args):
        real(self, *args)
        loop.append(self)

    run = Run.open(tmp_path / "run", DETERMINISTIC)
    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "__init__", remember)
        first = train(run, lambda kind, values: None, stop)
    run.close()
    assert not first.finished
    session(tmp_path / "run", DETERMINISTIC)
    assert newest(tmp_path / "run") == uninterrupted.state
    found = read_checkpoint(tmp_path / "run", checkpoint_names(tmp_path / "run")[-1]).learner
    assert found.keys() == uninterrupted.learner.keys()
    assert all((found[k] == uninterrupted.learner[k]).all() for k in found)


@pytest.mark.slow
def test_session_that_resumes_in_learning_reports_no_speed_of_play(tmp_path):
    given = run_config()
    steps = [0]

    def stop():
        steps[0] += 1
        return steps[0] > 40

    outcome, _ = session(tmp_path / "run", given, stop)
    assert not outcome.finished
    session(tmp_path / "run", given)
    for row in read_events(tmp_path / "run", "metrics"):
        assert row.get("simulations_per_second", 0) < 1e7
        assert row.get("simulations_per_move", 8) < 100


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["gate", "always"])
def test_self_play_uses_the_champion_or_the_newest_model(tmp_path, mode):
    given = run_config(promote={**RUN_BASE["promote"], "mode": mode, "floors": {"random": 1.0}})
    given = replace(given, evaluate=replace(given.evaluate, opponents={"random": 4}))
    session(tmp_path / "run", given)
    seats = [e.seats[0] for e in episodes(tmp_path / "run")]
    champion = (tmp_path / "run" / "champion").read_text()
    if mode == "always":
        assert len(set(seats)) >= 4 and seats[-1] != seats[0]
    else:
        promoted = {row["model"] for row in evaluations(tmp_path / "run") if row["promoted"]}
        assert set(seats) <= promoted | {seats[0]}
        assert champion in promoted | {seats[0]}


@pytest.mark.slow
def test_schedules_over_the_run_reach_the_search(tmp_path):
    """The episodes themselves say how many simulations their moves got."""
    ramp = Schedule.from_plain({"over": "run", "at": {0: 2, 1: 16}})
    session(tmp_path / "run", run_config(search={"simulations": ramp}))
    budgets = [e.simulations[e.simulations > 0] for e in episodes(tmp_path / "run")]
    means = [n.mean() for n in budgets if len(n)]
    assert means[0] < 5 and means[-1] > 12


@pytest.mark.slow
@pytest.mark.parametrize("player", ["random", "past", "policy"])
def test_opponents_play_and_train_nothing(tmp_path, player):
    play = {"opponents": (OpponentConfig(player=player, share=0.5),)}
    given = run_config(selfplay=play)
    session(tmp_path / "run", given)
    assert_complete(tmp_path / "run", given)
    found = episodes(tmp_path / "run")
    mixed = [e for e in found if len(set(e.seats)) == 2]
    assert len(mixed) > len(found) / 4
    if player == "policy":
        named = {s for e in mixed for s in e.seats if s.startswith("policy:")}
        assert len(named) >= 3, "the newest model without search changes as the run goes on"


@pytest.mark.slow
def test_killed_run_seats_past_models_again_in_place_of_games_that_its_checkpoint_lacks(tmp_path):
    play = {"opponents": (OpponentConfig(player="past", share=0.5),)}
    given = run_config(selfplay=play, run={**RUN_BASE["run"], "checkpoint_iterations": 1})

    def report(kind, values):
        if kind == "phase" and values["name"] == "learn" and values["iteration"] == 3:
            raise Killed

    run = Run.open(tmp_path / "run", given)
    with pytest.raises(Killed):
        train(run, report)
    run.close()
    assert newest(tmp_path / "run")["games"] < len(episodes(tmp_path / "run"))
    session(tmp_path / "run", given)
    assert_complete(tmp_path / "run", given)


# What would fail only at the first evaluation is said before the first game.


def test_opponent_that_the_game_cannot_have_is_told_at_the_start():
    with pytest.raises(PlayerError, match="heuristic"):
        check_start(COIN_FLIP, run_config(evaluate={"opponents": {"minimax:3": 4}}))
    with pytest.raises(PlayerError, match="nobody"):
        check_start(
            TICTACTOE, run_config(selfplay={"opponents": (OpponentConfig(player="nobody", share=0.1),)})
        )


def test_too_few_openings_are_told_at_the_start():
    with pytest.raises(ConfigError, match=r"opening|promote\.max_pairs"):
        check_start(TICTACTOE, run_config(promote={"max_pairs": 5000}, match={"opening_plies": 2}))


def test_a_server_that_has_no_workers_to_serve_is_told_at_the_start():
    with pytest.raises(ConfigError, match=r"no workers .* collect\.workers=N"):
        check_start(TICTACTOE, run_config(inference={"server": "learner"}))
    check_start(TICTACTOE, run_config(inference={"server": "learner"}, collect={"workers": 1}))


@pytest.mark.parametrize(
    ("section", "changes", "key"),
    [
        ("promote", {"max_pairs": 0}, "promote.max_pairs"),
        ("promote", {"floors": {"random": 1.5}}, "promote.floors.random"),
        ("budget", {"positions": 0}, "budget.positions"),
        ("budget", {"minutes": -1.0}, "budget.minutes"),
        ("match", {"opening_plies": -1}, "match.opening_plies"),
        ("evaluate", {"positions": -1}, "evaluate.positions"),
        ("collect", {"bind": "foo"}, "collect.bind"),
        ("collect", {"bind": "127.0.0.1:70000"}, "collect.bind"),
        ("collect", {"bind": "http://127.0.0.1:6390"}, "collect.bind"),
        ("inference", {"server": "gpu-box"}, "inference.server"),
        ("inference", {"bind": ""}, "inference.bind"),
        ("redis", {"url": "127.0.0.1:6379"}, "redis.url"),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_key(section, changes, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        run_config(**{section: changes})


def test_deterministic_runs_stay_on_the_cpu():
    with pytest.raises(ConfigError, match=r"run\.device is cuda"):
        run_config(run={"deterministic": True, "device": "cuda"})


def test_backend_whose_answer_depends_on_the_row_is_refused(monkeypatch):
    given = small_config()
    network = build(given.network, shapes_of(TICTACTOE), 1)
    choice = Choice("torch", "cpu", "fp32")
    require_pure(TICTACTOE, network, choice, 8)
    from zeroloop.evaluator.torch import TorchBackend

    real = TorchBackend.result

    def leaky(self, ticket):
        found = real(self, ticket)
        values = np.array(found.values)
        values[-1] += np.float32(1e-6)
        return found._replace(values=values)

    monkeypatch.setattr(TorchBackend, "result", leaky)
    with pytest.raises(BackendError, match="in row 7 of a batch of 8"):
        require_pure(TICTACTOE, network, choice, 8)


def test_loss_that_is_not_finite_ends_the_run_in_one_sentence(tmp_path, monkeypatch):
    real = Replay.sample

    def poisoned(self, n, step):
        batch = real(self, n, step)
        batch.planes[:] = np.nan
        return batch

    monkeypatch.setattr(Replay, "sample", poisoned)
    with pytest.raises(LearningError, match=r"not finite at step 0 .*learn\.learning_rate"):
        session(tmp_path / "run", run_config())


@pytest.mark.slow
def test_configured_opponents_do_not_disturb_the_estimate():
    from zeroloop.bench import bench_selfplay

    play = {"opponents": (OpponentConfig(player="random", share=0.5),), "games": 4}
    found = bench_selfplay(TICTACTOE, small_config(selfplay=play), 1, seconds=0.2, rounds=1)
    assert found["evaluations_per_second"] > 0 and found["ratio"] > 0


@pytest.mark.slow
def test_a_run_that_is_paused_when_it_goes_on_waits_and_then_plays(tmp_path):
    folder, given = tmp_path / "run", run_config()
    run = Run.open(folder, given)
    set_paused(folder, True)
    said, asked = [], []

    def stop():
        asked.append(1)
        if len(asked) == 3:
            assert said.count("say") and len(episodes(folder)) == 0
            set_paused(folder, False)
        return False

    try:
        outcome = train(run, lambda kind, values: said.append(kind), stop)
    finally:
        run.close()
    assert outcome.finished and len(episodes(folder)) > 0
