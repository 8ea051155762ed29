"""Health: a planted fault is told with its numbers; a healthy run says nothing, too little data neither."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tests.material import TICTACTOE, run_config, session, turns
from zeroloop import health as health_module
from zeroloop.config import HealthConfig
from zeroloop.episode import Episode
from zeroloop.errors import ConfigError, LearningError
from zeroloop.health import Health, spans
from zeroloop.learner import Learner
from zeroloop.metrics import METRICS, read_events
from zeroloop.report import markdown, read_facts
from zeroloop.symptoms import calibration, effective_number, match_seats, promotions, state_keys
from zeroloop.view import View

THREE = turns("three_seats", [[1, 0, -1], [-1, 1, 0], [0, -1, 1]], 3)
START = TICTACTOE.initial_state().tobytes()


def episode(number, final, game=TICTACTOE, **given):
    """Return an episode of 10 plies whose states are all different, from the game's start on.

    Args:
      given: `value`: root value of the mover, one number; `line`: number that its states are made of;
        `policy`: probabilities of each target over actions 0, 1, ...; `surprise`: by seat;
        `source`; `outcome`.
    """
    plies, seats = 10, game.num_players
    movers = (np.arange(plies) % seats).astype(np.int8)
    states = game.states(plies)
    words = states.view(np.uint64).reshape(plies, -1)
    words[1:, 0] = 1000 * (1 + given.get("line", number)) + np.arange(1, plies)
    states[0] = game.initial_state()
    values = np.zeros((plies, seats), np.float32)
    values[np.arange(plies), movers] = given.get("value", 0.0)
    policy = given.get("policy", [0.5, 0.25, 0.25])
    surprise = np.array(given.get("surprise", [0.3] * seats), np.float32)[movers]
    return Episode(
        game=game.id,
        rules_identity="",
        observation_version=1,
        seed=0,
        game_id=number,
        source=given.get("source", "selfplay"),
        seats=("model",) * seats,
        outcome=given.get("outcome", 0),
        final_value=np.array(final, np.float32),
        states=states,
        action=np.zeros(plies, np.int32),
        to_play=movers,
        policy_weight=np.ones(plies, np.float32),
        value_weight=np.ones(plies, np.float32),
        simulations=np.full(plies, 8, np.int32),
        root_value=values,
        surprise=surprise,
        offsets=np.arange(0, plies * len(policy) + 1, len(policy)).astype(np.int32),
        policy_ids=np.tile(np.arange(len(policy), dtype=np.int32), plies),
        policy_probs=np.tile(np.array(policy, np.float16), plies),
    )


class Run:
    """Feeds a Health with iterations of made games."""

    def __init__(self, game=TICTACTOE, **config):
        self.health = Health(game, HealthConfig(**config))
        self.games = self.positions = 0
        self.values = {}

    def iteration(self, finals, held=10**6, **given):
        """Play one game per final value, probe the policy, and return the names that turned."""
        logits, losses = given.pop("logits", np.zeros((50, 9))), given.pop("losses", {})
        searched = given.pop("searched", (1000, 0))
        for final in finals:
            each = {k: v(self.games) if callable(v) else v for k, v in given.items()}
            one = episode(self.games, final, self.health.game, **each)
            self.health.keep(one, min(self.games + 1, held))
            self.health.add(one)
            self.games += 1
            self.positions += one.positions
        self.health.probe(logits, np.ones(logits.shape, bool))
        for head, loss in losses.items():
            self.health.loss(head, loss)
        self.health.searched(*searched)
        self.values, turned = self.health.close_iteration(self.positions, min(self.positions, 10 * held))
        return [(w.name, w.begins) for w in turned]


def fair(n, seed=1):
    """Return n final values of an even game, as `n` coin flips say."""
    rng = np.random.default_rng(seed)
    return [(1.0, -1.0) if x else (-1.0, 1.0) for x in rng.random(n) < 0.5]


def tilted(n, seat, share):
    """Return n final values of which `seat` wins a share."""
    rng = np.random.default_rng(2)
    return [tuple(1.0 if (s == seat) == bool(x) else -1.0 for s in (0, 1)) for x in rng.random(n) < share]


def warned(run, *iterations, **given):
    return [turn for finals in iterations for turn in run.iteration(finals, **given)]


def test_healthy_games_give_every_metric_and_no_warning():
    run = Run(seat_most={"0": 0.1, "1": 0.1})
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(6):
        assert run.iteration(fair(300, int(rng.integers(99))), value=lambda i: 0.01 * math.sin(i)) == []
        seen |= set(run.values)
    values = {f"calibration_{name}" for name in ("error", "floor", "slope")}
    assert seen == {"policy_entropy", "target_entropy", "seat_surprise", "openings", "duplicates", *values}
    assert seen <= set(METRICS)


def test_too_few_games_say_nothing():
    """99 games of the worst kind: no rate is told from so few."""
    run = Run(seat_most={"0": 0.0})
    same = {"line": 7, "value": 1.0}
    assert warned(run, [(0.0, 0.0)] * 40, [(0.0, 0.0)] * 59, [], **same) == []  # 990 positions
    assert set(run.values) <= {"policy_entropy", "target_entropy", "seat_surprise"}


# Seats.


def test_seat_with_more_points_than_the_game_allows_is_told_with_its_numbers():
    run = Run(seat_most={"0": 0.1, "1": 0.1})
    assert warned(run, tilted(400, 1, 0.75), tilted(400, 1, 0.75)) == [("seat_1", True)]
    text = run.health.active["seat_1"]
    assert "seat 1" in text and "+0.5" in text and "over 800 games" in text and "+0.10" in text


def test_seat_within_four_standard_errors_of_its_limit_is_not_told():
    """150 games at 58 %: 0.16 points above an even game, with a standard error of 0.08."""
    run = Run(seat_most={"0": 0.1, "1": 0.1})
    assert warned(run, tilted(150, 1, 0.58), [], [], []) == []


def test_seat_that_is_not_named_is_not_judged():
    run = Run(seat_most={"1": 0.1})
    assert warned(run, tilted(400, 0, 0.95), [], []) == []


def test_third_seat_is_judged_as_well():
    run = Run(THREE, seat_most={"0": 0.1, "1": 0.1, "2": 0.1})
    rows = [(0.0, -1.0, 1.0), (-1.0, 0.0, 1.0)] * 100
    assert warned(run, rows, rows) == [("seat_2", True)]


def test_network_that_sees_one_seat_wrongly_is_corrected_there_by_the_search():
    """The seats win alike, as they do where the search makes up for it."""
    run = Run()
    assert warned(run, fair(200), fair(200), surprise=[0.4, 1.1]) == [("surprise_seat_1", True)]
    assert "2.8 times" in run.health.active["surprise_seat_1"]
    assert warned(Run(), fair(200), fair(200), surprise=[0.9, 1.1]) == []
    assert warned(Run(), fair(200), fair(200), surprise=[0.01, 0.05]) == [], "next to nothing to correct"


def by_seat(score0, score1, games=100):
    seats = {"0": {"games": games, "score": score0}, "1": {"games": games, "score": score1}}
    return {"versus_champion": {"by_seat": seats}, "fixed": {}}


def bad_seats(row, **most):
    return [r.name for r in match_seats(row, {k[1:]: v for k, v in most.items()}) if r.bad]


def test_matches_of_a_mis_encoded_board_are_told():
    """38-48 % as White and 72-93 % as Black: Black's seat wins 70 % whoever sits there."""
    assert bad_seats(by_seat(0.43, 0.83), s0=0.1, s1=0.1) == ["match_seat_1"]


def test_matches_between_unequal_players_or_with_an_allowed_advantage_are_not():
    assert bad_seats(by_seat(0.95, 0.93), s0=0.2, s1=0.2) == []
    assert bad_seats(by_seat(0.83, 0.27), s1=0.15) == []  # Hex without swap: whoever begins wins
    assert bad_seats(by_seat(0.43, 0.83, games=20), s0=0.2, s1=0.2) == [], "40 games are too few"


# How games end.


def test_draws_and_cut_games_are_told():
    assert warned(Run(), [(0.0, 0.0)] * 200, [(0.0, 0.0)] * 200) == [("draws", True)]
    run = Run()
    assert warned(run, fair(200), fair(200), outcome=-1) == [("truncated", True)]
    assert "100% of the last" in run.health.active["truncated"]
    half = fair(100) + [(0.0, 0.0)] * 100
    assert warned(Run(), half, half, half) == []


# Policies.


def test_one_hot_policy_and_one_hot_targets_are_told():
    sharp = np.zeros((100, 9))
    sharp[:, 4] = 50.0
    run = Run()
    assert warned(run, fair(120), fair(120), logits=sharp, policy=[1.0]) == [
        ("policy_entropy", True),
        ("target_entropy", True),
    ]
    assert run.values["policy_entropy"] < 1e-6 and run.values["target_entropy"] < 1e-6


def test_entropy_is_a_share_of_the_log_of_the_legal_moves():
    """Three of nine equal: log 3 / log 9 = 0.5, whatever is illegal; a forced move counts for nothing."""
    health = Health(TICTACTOE, HealthConfig())
    mask = np.zeros((20, 12), bool)
    mask[:10, :9] = True
    mask[10:, 0] = True
    logits = np.full((20, 12), 30.0)
    logits[:, 3:9] = -60.0
    health.probe(logits, mask)
    values, _ = health.close_iteration(0, 0)
    assert values["policy_entropy"] == pytest.approx(0.5)


def test_target_entropy_is_over_the_same_logs():
    """A forced move has no target, and so no share in the mean log either."""
    run = Run()
    forced = np.zeros((30, 9), bool)
    forced[:, 2] = True
    run.health.probe(np.zeros((30, 9)), forced)
    run.iteration(fair(100), policy=[0.5, 0.5])
    assert run.values["target_entropy"] == pytest.approx(math.log(2) / math.log(9), rel=1e-3)


# Values.


def outcomes(probability_of_value, n=2000, seed=5):
    """Return n values in -1..1 and an outcome for each, won by the mover with the probability given."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.95, 0.95, n)
    won = rng.random(n) < probability_of_value(values)
    return values, np.where(won, 1.0, -1.0)


def calibrated(values, results, iterations=2):
    """Play games whose picked value and outcome are these, whoever moves; return run and turns."""
    run, turned = Run(), []
    for part_v, part_z in zip(
        np.array_split(values, iterations), np.array_split(results, iterations), strict=True
    ):
        for v, z in zip(part_v, part_z, strict=True):
            run.health._now["games"] += 1
            run.health._add_value(float(v), float(z))
        turned += [(w.name, w.begins) for w in run.health.close_iteration(0, 0)[1]]
    return run, turned


LIES = {
    "inverted": lambda v: (1 - v) / 2,
    "overconfident": lambda v: (1 + 0.1 * v) / 2,
    "optimistic": lambda v: np.clip((1 + v) / 2 - 0.35, 0, 1),
}


@pytest.mark.parametrize("kind", LIES)
def test_value_head_that_lies_is_told(kind):
    _, turned = calibrated(*outcomes(LIES[kind]))
    assert turned == [("calibration", True)]


def test_values_that_are_right_or_too_modest_are_not_told():
    """A young value head says too little: an outcome then moves by more than the value does."""
    assert calibrated(*outcomes(lambda v: (1 + v) / 2))[1] == []
    assert calibrated(*outcomes(lambda v: np.clip((1 + 1.5 * v) / 2, 0, 1)))[1] == []


def sums(values, results):
    bins, moments = np.zeros((10, 4)), np.zeros(6)
    for v, z in zip(values, results, strict=True):
        bins[min(int((v + 1) * 5), 9)] += (1, v, z, z * z)
        moments += (1, v, z, v * v, v * z, z * z)
    return bins, moments


def test_calibration_error_by_hand():
    """Two bins: predicted -0.5, came -1 and 0; predicted 0.5, came 1 and 1."""
    found = calibration(*sums([-0.5, -0.5, 0.5, 0.5], [-1.0, 0.0, 1.0, 1.0]))
    assert found.n == 4 and found.error == pytest.approx(0.25) and found.slope == pytest.approx(1.5)
    assert found.floor == pytest.approx(math.sqrt(2 / math.pi) * 0.5 / math.sqrt(2) / 2)


def test_floor_is_what_right_values_miss_by_chance():
    """Over 200 sets of 500 right predictions the error is the floor on average."""
    pairs = [calibration(*sums(*outcomes(lambda v: (1 + v) / 2, 500, seed))) for seed in range(200)]
    ratio = np.mean([c.error for c in pairs]) / np.mean([c.floor for c in pairs])
    assert 0.95 < ratio < 1.08
    slopes = np.array([(c.slope - 1) / c.slope_error for c in pairs])
    # Outcomes spread least where values are extreme and pull most: the error given is on the safe side.
    assert abs(slopes.mean()) < 0.3 and 0.6 < slopes.std() < 1.1


def test_only_one_position_a_game_is_compared():
    run = Run()
    run.iteration(fair(200), value=lambda i: 0.3 if i % 2 else -0.3)
    assert sum(row[0] for row in run.health._pool[0]["bins"]) == 200


# Openings and repeats.


def test_effective_number_of_equal_shares_is_their_number():
    keys = np.repeat(np.arange(50, dtype=np.uint64), 200)
    assert effective_number(keys) == pytest.approx(50, rel=0.01)
    assert effective_number(np.zeros(300, np.uint64)) == 1.0
    assert effective_number(np.arange(300, dtype=np.uint64)) == 300


def test_openings_that_become_one_are_told():
    run = Run(duplicates=0.0)
    assert warned(run, fair(600)) == []
    assert run.values["openings"] == 600
    assert warned(run, fair(600), fair(600), line=5) == [("openings", True)]
    assert run.values["openings"] == 1.0
    assert warned(run, fair(600), fair(600)) == [("openings", False)]


def test_openings_that_never_differed_are_told():
    assert warned(Run(duplicates=0.0), fair(300), fair(300), line=5) == [("openings", True)]


def test_random_openings_and_other_players_are_not_counted():
    run = Run()
    assert warned(run, [(0.0, 0.0)] * 300, [(0.0, 0.0)] * 300, source="selfplay:random", line=5) == [
        ("duplicates", True)
    ]
    assert set(run.values) <= {"policy_entropy", "duplicates"}


def test_repeated_games_in_the_window_are_told_until_they_leave_it():
    run = Run(duplicates=0.2)  # the start alone is one position in ten
    assert run.iteration(fair(200)) == []
    twice = {"line": lambda i: 10**6 + i // 2}
    assert warned(run, fair(200), fair(200), **twice) == [("duplicates", True)]
    assert "of 6000 positions" in run.health.active["duplicates"]
    assert warned(run, fair(400), fair(400), fair(400), held=300) == [("duplicates", False)]


def test_share_of_repeats_is_exact():
    """Each of 100 games twice: half of all positions, and the start of every game but one beside."""
    run = Run(patience=9)
    run.iteration(fair(200), line=lambda i: i // 2)
    assert run.values["duplicates"] == pytest.approx(1 - (9 * 100 + 1) / 2000)


def test_state_keys_depend_on_every_byte():
    states = TICTACTOE.states(64)
    rng = np.random.default_rng(1)
    for i in range(1, 64):
        states.view(np.uint8).reshape(64, -1)[i, rng.integers(states.itemsize)] = 1 + i
    plain = {s.tobytes() for s in states}
    assert len(set(state_keys(states).tolist())) == len(plain)
    assert (state_keys(states) == state_keys(states[:].copy())).all()


# Learning, searching, promoting.


def test_exploding_loss_is_told_and_is_no_measure_of_what_is_usual():
    run = Run()
    for i in range(8):
        assert run.iteration([], losses={"value": 1.0 + 0.1 * math.sin(i)}) == []
    turns = [run.iteration([], losses={"value": 3.0}) for _ in range(30)]
    assert [t for turn in turns for t in turn] == [("loss_value", True)]
    assert warned(run, [], [], losses={"value": 1.1}) == [("loss_value", False)]


def test_small_loss_that_doubles_is_noise():
    run = Run()
    for _ in range(8):
        run.iteration([], losses={"value": 0.02})
    assert warned(run, [], [], [], losses={"value": 0.05}) == []


def test_full_trees_are_told():
    assert warned(Run(), [], [], searched=(1000, 100)) == [("overflows", True)]
    assert warned(Run(), [], [], searched=(1000, 20)) == []


def evaluations(*rows):
    """Return evaluations as (promoted, score against the champion) say, of 100 games each."""
    match = {"games": 100, "by_seat": {}}
    return [
        {"promoted": p, "reason": "not promoted: below the floor.", "fixed": {}}
        | {"versus_champion": {**match, "score": score}}
        for p, score in rows
    ]


@pytest.mark.parametrize(
    ("rows", "bad"),
    [
        ([(False, 0.5)] * 8, True),  # none ever
        ([(False, 0.5)] * 7, False),  # not long enough
        ([(True, 0.6)] + [(False, 0.5)] * 20, False),  # a plateau
        ([(True, 0.6)] + [(False, 0.7)] * 8, True),  # better, and refused
        ([(True, 0.6)] + [(False, 0.3)] * 8, True),  # worse
        ([(False, 0.5)] * 20 + [(True, 0.6)], False),
    ],
)
def test_promotions_that_never_come_are_told_and_a_plateau_is_not(rows, bad):
    (reading,) = promotions(evaluations(*rows), 8)
    assert reading.bad is bad
    assert not bad or "below the floor" in reading.text


def test_warning_of_promotions_ends_with_one():
    health = Health(TICTACTOE, HealthConfig())
    rows = evaluations(*[(False, 0.5)] * 8, (True, 0.6))
    assert [w.begins for w in health.close_evaluation(rows[:8])] == [True]
    assert [w.begins for w in health.close_evaluation(rows)] == [False]


# Warnings begin and end.


def test_one_bad_iteration_is_no_warning_and_one_good_one_no_end():
    bad, good = {"searched": (1000, 500)}, {"searched": (10**6, 0)}
    run = Run(games=100)
    run.health._pool.clear()

    def look(**given):
        run.health._pool.clear()  # each iteration alone
        return run.iteration([], **given)

    assert look(**bad) == []
    assert look(**good) == []
    assert look(**bad) == []
    assert look(**bad) == [("overflows", True)]
    assert look(**bad) == [], "it begins once"
    assert look(**good) == []
    assert look(searched=(1000, 45)) == [], "just below the limit is not clear of it"
    assert look(**good) == []
    assert look(**good) == [("overflows", False)]
    assert run.health.begun == 1 and not run.health.active


OFF = {
    "draws": 0,
    "truncated": 0,
    "entropy": 0,
    "calibration": 0,
    "openings": 0,
    "duplicates": 0,
    "overflows": 0,
    "seat_surprise": 0,
    "loss_ratio": 0,
    "evaluations": 0,
}


def test_zero_switches_each_warning_off():
    run = Run(**OFF)
    worst = {"line": 5, "value": 0.9, "policy": [1.0], "surprise": [0.1, 2.0], "searched": (100, 90)}
    logits = np.eye(9)[np.zeros(100, int)] * 99
    finals = [(0.0, 0.0)] * 200
    for i in range(8):
        assert run.iteration(finals, logits=logits, losses={"value": 10.0**i}, **worst) == []
    assert run.health.close_evaluation(evaluations(*[(False, 0.1)] * 9)) == []
    assert run.health.failed("it exploded") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"draws": 1.5}, "health.draws is 1.5"),
        ({"loss_ratio": 0.5}, "health.loss_ratio is 0.5"),
        ({"seat_most": {"white": 0.1}}, "seat 'white'"),
        ({"seat_most": {"0": 3.0}}, "health.seat_most.0 is 3.0"),
        ({"patience": 0}, "health.patience is 0"),
        ({"games": 10}, "health.games is 10"),
    ],
)
def test_limits_out_of_range_are_refused_by_their_key(changes, said):
    with pytest.raises(ConfigError, match=said):
        HealthConfig(**changes)


def test_state_goes_through_json_and_what_follows_is_the_same():
    """The window's keys come back with its games, everything else with the checkpoint."""
    one, two = Run(seat_most={"1": 0.1}), Run(seat_most={"1": 0.1})
    script = [
        (tilted(150, 1, 0.7), {"losses": {"value": 1.0, "policy": 2.0}}),
        (tilted(150, 1, 0.7), {"losses": {"value": 1.0}, "value": lambda i: math.sin(i)}),
        (fair(400), {"losses": {"value": 5.0}, "line": 3}),
        (fair(400), {"line": 3}),
        (fair(50), {}),
    ]
    for finals, given in script:
        kept = two.health._keys, two.health._waiting, two.health._held
        fresh = Health(TICTACTOE, two.health.config)
        fresh.restore(json.loads(json.dumps(two.health.state())))
        fresh._keys, fresh._waiting, fresh._held = kept
        two.health = fresh
        assert one.iteration(finals, **given) == two.iteration(finals, **given)
        assert one.values == two.values
    assert one.health.begun >= 3
    assert json.dumps(one.health.state()) == json.dumps(two.health.state())


# In the loop.


@pytest.mark.slow
def test_healthy_smoke_run_has_no_warning_and_its_metrics_are_written(tmp_path):
    outcome, told = session(tmp_path / "run", run_config())
    assert outcome.warnings == 0
    assert [values for kind, values in told if kind == "warning"] == []
    rows = read_events(tmp_path / "run", "metrics")
    assert all(0.2 < row["policy_entropy"] <= 1.0 for row in rows if "policy_entropy" in row)
    assert any("policy_entropy" in row for row in rows)
    assert read_events(tmp_path / "run", "warning") == []
    assert "## Warnings\n\nNone." in markdown(read_facts(tmp_path / "run"))


@pytest.mark.slow
def test_draw_collapse_is_shown_written_reported_and_survives_the_session(tmp_path, monkeypatch, capsys):
    """Scoring has a fault: whoever wins, an episode says that nobody did."""
    draw = TICTACTOE.outcomes.tolist().index([0, 0])
    monkeypatch.setitem(TICTACTOE.rules, "outcome", lambda state: draw)
    given = run_config(health={"patience": 1})
    outcome, told = session(tmp_path / "run", given)
    events = read_events(tmp_path / "run", "warning")
    draws = [e for e in events if e["warning"] == "draws"]
    assert len(draws) == 1 and draws[0]["state"] == "begins"
    assert draws[0]["value"] == 1.0 and draws[0]["n"] >= 100 and "100% of the last" in draws[0]["text"]
    assert outcome.warnings == len([e for e in events if e["state"] == "begins"])
    shown = [values for kind, values in told if kind == "warning"]
    assert shown == [{k: v for k, v in e.items() if k != "kind"} for e in events]
    report = markdown(read_facts(tmp_path / "run"))
    assert "| draws |" in report and "not ended" in report
    more = replace(given, budget=replace(given.budget, positions=1100))
    again, told = session(tmp_path / "run", more)
    assert any(k == "warning" and v["warning"] == "draws" for k, v in told), "the view is told what goes on"
    assert len([e for e in read_events(tmp_path / "run", "warning") if e["warning"] == "draws"]) == 1
    assert again.warnings >= outcome.warnings


def test_learner_that_gives_up_is_a_warning_and_still_an_error(tmp_path, monkeypatch):
    def step(self, batch, progress=0.0):
        raise LearningError("the loss is not finite at step 0.")

    monkeypatch.setattr(Learner, "step", step)
    with pytest.raises(LearningError):
        session(tmp_path / "run", run_config())
    (event,) = read_events(tmp_path / "run", "warning")
    assert event["warning"] == "loss_failed" and "not finite" in event["text"]


def test_view_shows_one_line_for_warnings_until_they_end(capsys):
    view = View("title")
    begun = {"warning": "draws", "state": "begins", "text": "99% of the last 500 games ended in a draw."}
    view.report("warning", begun)
    view.report("warning", {**begun, "warning": "openings", "text": "one opening."})
    assert "warning: draws: 99%" in capsys.readouterr().err
    console = Console(width=200)
    with console.capture() as drawn:
        console.print(view._draw())
    lines = [line for line in drawn.get().splitlines() if "WARNING" in line]
    assert lines == ["WARNING  openings: one opening.  (and 1 more)"]
    for name in ("draws", "openings"):
        view.report("warning", {"warning": name, "state": "ends", "text": "it is over."})
    with console.capture() as drawn:
        console.print(view._draw())
    assert "WARNING" not in drawn.get()


def test_spans_pair_beginnings_with_ends_and_drop_what_a_killed_session_told_twice():
    def event(name, state, iteration):
        return {"warning": name, "state": state, "iteration": iteration, "text": ""}

    rows = [
        event("draws", "begins", 3),
        event("draws", "begins", 3),
        event("openings", "begins", 4),
        event("draws", "ends", 9),
        event("draws", "begins", 12),
    ]
    told = [(w["warning"], w["iteration"], w.get("end")) for w in spans(rows)]
    assert sorted(told) == [("draws", 3, 9), ("draws", 12, None), ("openings", 4, None)]


def test_setup_that_is_drawn_has_no_openings_to_compare():
    def initial(state, seed):
        state.stones[0] = seed & 3
        state.plies = 0

    from tests.material import changed_tictactoe

    drawn = changed_tictactoe("drawn", rules={**TICTACTOE.rules, "initial": initial})
    assert health_module._fixed_start(drawn) == b""
    assert health_module._fixed_start(TICTACTOE) == START
