"""Promotion: the evidence that is gathered and the decision, in one sentence with its numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.material import CONNECT4, TICTACTOE, Scripted, changed_tictactoe, highest, turns
from zeroloop.config import Config, EvaluateConfig, PromoteConfig
from zeroloop.errors import PlayerError, StoreError
from zeroloop.games import make
from zeroloop.match import MatchResult
from zeroloop.promotion import Decision, Evidence, Plan, decide, gather, match_results, plan_of
from zeroloop.rating import score_from_elo, sprt

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def skilled(state, legal, key, ply):
    """Win at once, else block, else take the centre, a corner, or what is left."""
    seat = state["plies"] & 1
    for mine, yours in ((seat, 1 - seat), (1 - seat, seat)):
        for line in LINES:
            own = [c for c in line if state["stones"][mine] >> c & 1]
            free = [c for c in line if c in legal]
            if len(own) == 2 and free and not state["stones"][yours] >> free[0] & 1:
                return free[0]
    return next(c for c in (4, 0, 2, 6, 8, 1, 3, 5, 7) if c in legal)


def drawn(state, legal, key, ply):
    """Play by a hash of key and ply, whoever moves."""
    return legal[(7 * key + 3 * ply) % len(legal)]


def config(**promote):
    given = {"max_pairs": 96, "floors": {}, "elo0": 0.0, "elo1": 100.0}
    return Config(
        promote=PromoteConfig(**{**given, **promote}),
        evaluate=EvaluateConfig(opponents={"fixed": 20}),
    )


def player(rule, name):
    return Scripted(TICTACTOE, rule, name)


def judged(candidate, champion, opponents=None, settings=None, seed=1):
    settings = settings or config()
    sides = player(candidate, "candidate"), player(champion, "champion")
    evidence = gather(TICTACTOE, settings, *sides, opponents or {}, seed=seed)
    return decide(settings, evidence)


# --- whole evaluations --------------------------------------------------------------------------


def test_much_better_candidate_is_promoted():
    found = judged(skilled, highest)
    assert found.promoted and found.evidence.test.decision == "accept"
    assert found.evidence.versus_champion.score > 0.7


def test_equal_candidate_is_undecided_at_the_cap_and_not_promoted():
    found = judged(skilled, skilled, settings=config(elo1=10.0))
    assert not found.promoted and found.evidence.test.decision == "undecided"
    assert len(found.evidence.versus_champion.pairs) == 96
    assert "undecided after 96 pairs" in found.reason


def test_worse_candidate_is_rejected():
    found = judged(highest, skilled)
    assert not found.promoted and found.evidence.test.decision == "reject"
    assert "no better" in found.reason


def test_one_of_three_equal_players_is_neither_accepted_nor_rejected_at_once():
    """Each of them wins a third of the games, and that is no evidence against the candidate."""
    game = turns("winner_takes_all", [[1, 0, 0], [0, 1, 0], [0, 0, 1]], 3)
    sides = (Scripted(game, drawn, name) for name in ("candidate", "champion"))
    settings = config(max_pairs=8, elo1=10.0)
    settings = replace(settings, match=replace(settings.match, opening_plies=2))
    found = decide(settings, gather(game, settings, *sides, {}, seed=1))
    assert found.evidence.versus_champion.score == pytest.approx(0.5)
    assert found.evidence.test.decision == "undecided" and not found.promoted


def test_test_stops_as_soon_as_it_has_decided():
    found = judged(skilled, highest, settings=config(max_pairs=200))
    assert len(found.evidence.versus_champion.pairs) < 200


def test_evidence_is_that_of_the_match_and_its_test():
    settings = config(alpha=0.1, beta=0.2)
    found = judged(skilled, highest, settings=settings).evidence
    match = found.versus_champion
    want = sprt(match.pairs, 0.5, score_from_elo(100.0), 0.1, 0.2)
    assert found.test == want
    assert (found.candidate, found.champion) == ("candidate", "champion") == match.players
    assert len(np.unique(match.opening)) == len(match.pairs) == len(match.seat) // 2


def test_evaluations_of_equal_seeds_are_equal_and_of_others_are_not():
    def noisy(state, legal, key, ply):
        return legal[(5 * key + state["stones"][0]) % len(legal)]

    a, b, c = (judged(noisy, highest, seed=s) for s in (3, 3, 4))
    assert a.summary() == b.summary()
    assert a.summary() != c.summary()


def test_fixed_opponents_play_their_number_of_games_on_openings_of_their_own():
    asked = player(highest, "fixed")
    found = judged(skilled, highest, {"fixed": asked})
    match = found.evidence.fixed["fixed"]
    assert match.players == ("candidate", "fixed") and len(match.seat) == 20
    assert match.score > 0.7 and asked.asked


def test_failing_player_leaves_no_evidence():
    def broken(state, legal, key, ply):
        raise PlayerError("engine died.")

    with pytest.raises(PlayerError, match="engine died"):
        judged(skilled, highest, {"fixed": player(broken, "fixed")})


def test_progress_is_told_in_words():
    told = []
    sides = player(skilled, "candidate"), player(highest, "champion")
    gather(TICTACTOE, config(), *sides, {"fixed": player(highest, "f")}, seed=1, progress=told.append)
    assert any("vs champion" in text for text in told) and any("vs fixed" in text for text in told)


# --- the decision -------------------------------------------------------------------------------


def match_of(scores):
    """Return the result of pairs with these scores: the first side has seat 0, then seat 1."""
    own = 2 * np.array(scores, np.float32) - 1
    points = np.stack([np.column_stack([own, -own]), np.column_stack([-own, own])], 1).reshape(-1, 2)
    n = len(scores)
    return MatchResult(
        ("candidate", "other"),
        points,
        np.tile(np.int32([0, 1]), n),
        np.repeat(np.arange(n, dtype=np.int32), 2),
        np.full(2 * n, 9, np.int32),
        (np.zeros(9, np.int32),) * (2 * n),
        0,
        -1.0,
        1.0,
    )


def evidence_of(scores, fixed=None, settings=None, left_out=None):
    rules = (settings or config()).promote
    plan = Plan(dict.fromkeys(fixed or {}, 20), rules.floors, left_out or {})
    match = match_of(scores)
    low, high = score_from_elo(rules.elo0), score_from_elo(rules.elo1)
    test = sprt(match.pairs, low, high, rules.alpha, rules.beta)
    players = {name: about(name) for name in ("candidate", "champion", *(fixed or {}))}
    return Evidence("candidate", "champion", match, test, fixed or {}, plan, 7, players)


def about(name):
    return {"name": name, "model": None, "simulations": None, "settings": {}}


WON, EVEN, LOST = [1.0] * 60, [0.5] * 8, [0.0] * 60


@pytest.mark.parametrize(
    ("scores", "promoted", "word"),
    [(WON, True, "promoted"), (EVEN, False, "undecided"), (LOST, False, "not promoted")],
)
def test_decision_follows_the_test_and_tells_its_numbers(scores, promoted, word):
    found = decide(config(), evidence_of(scores))
    assert found.promoted is promoted and word in found.reason
    assert found.reason.startswith("promoted:" if promoted else "not promoted:")
    low, high = found.evidence.versus_champion.interval
    share = f"{100 * np.mean(scores):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    assert share in found.reason and f"over {2 * len(scores)} games" in found.reason
    assert found.reason.endswith(".") and "\n" not in found.reason


@pytest.mark.parametrize(("score", "promoted"), [(0.74, False), (0.75, True), (0.95, True)])
def test_floor_blocks_what_is_below_it(score, promoted):
    settings = replace(config(), promote=replace(config().promote, floors={"fixed": 0.75}))
    match = match_of([score] * 10)
    found = decide(settings, evidence_of(WON, {"fixed": match}, settings))
    assert found.promoted is promoted
    low, high = match.interval
    told = f"{100 * score:.1f} % [{100 * low:.1f}, {100 * high:.1f}] against fixed"
    assert told in found.reason
    if not promoted:
        assert f"{told} over 20 games is below the floor of 75 %" in found.reason
        assert "against the champion over 120 games" in found.reason
        assert found.reason.endswith(".")


def test_floor_alone_does_not_promote():
    settings = replace(config(), promote=replace(config().promote, floors={"fixed": 0.5}))
    assert not decide(settings, evidence_of(EVEN, {"fixed": match_of(WON)}, settings)).promoted


def test_opponent_without_a_floor_blocks_nothing():
    assert decide(config(), evidence_of(WON, {"fixed": match_of(LOST)})).promoted


def test_decision_carries_its_evidence_as_plain_data():
    fixed = {"fixed": match_of([0.75] * 4)}
    found = decide(config(), evidence_of(WON, fixed)).summary()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["promoted"] is True and found["candidate"] == "candidate"
    assert found["llr"] >= found["llr_bounds"][1] > 0 > found["llr_bounds"][0]
    assert found["versus_champion"]["by_seat"]["1"] == {"games": 60, "score": 1.0}
    assert found["versus_champion"]["games"] == 120 and found["fixed"]["fixed"]["score"] == 0.75


# --- whom a candidate meets ---------------------------------------------------------------------


def rules(**promote):
    return Config(promote=PromoteConfig(**promote), evaluate=EvaluateConfig(opponents={"minimax:2": 30}))


def test_by_default_there_are_floors_against_random_and_the_heuristic_over_a_hundred_games():
    """0.85 and 0.60, as scores of one candidate seat: a hundred games tell 0.85 from 0.75."""
    plan = plan_of(make("hex"), Config())
    assert plan.floors == {"random": 0.85, "heuristic": 0.60} and not plan.left_out
    assert plan.games["random"] >= 100 and plan.games["heuristic"] >= 100


def test_floor_is_judged_on_enough_games_though_the_opponent_is_named_with_fewer():
    settings = Config(evaluate=EvaluateConfig(opponents={"random": 4}))
    assert plan_of(CONNECT4, settings).games["random"] == 100


def test_game_without_a_heuristic_has_no_floor_against_it_and_says_so():
    bare = changed_tictactoe("bare", rules={k: v for k, v in TICTACTOE.rules.items() if k != "heuristic"})
    plan = plan_of(bare, rules())
    assert plan.floors == {"random": 0.85} and "heuristic" not in plan.games
    assert "no heuristic" in plan.left_out["heuristic"]


def test_floors_of_two_players_do_not_bind_three_seats_and_own_ones_do():
    game = turns("three", [[1, 0, -1], [0, -1, 1], [-1, 1, 0]], 3)
    plan = plan_of(game, rules())
    assert not plan.floors and "3 seats" in plan.left_out["random"] and plan.games["random"] == 100
    own = plan_of(game, rules(floors={"random": 0.6}))
    assert own.floors == {"random": 0.6} and not own.left_out


def test_engines_are_met_where_asked_for_or_where_they_have_a_floor():
    engine = "stockfish:nodes=50"
    assert engine not in plan_of(TICTACTOE, rules(engines={engine: 10})).games
    assert plan_of(TICTACTOE, rules(engines={engine: 10}), engines=True).games[engine] == 10
    bound = rules(engines={engine: 10}, floors={engine: 0.1})
    assert plan_of(TICTACTOE, bound).games[engine] == 100


def test_two_names_of_one_player_are_met_once_with_all_that_either_asks_for():
    """The heuristic is minimax of depth 1."""
    given = PromoteConfig(floors={"heuristic": 0.6}, floor_games=20, engines={"minimax:1": 40})
    settings = Config(promote=given, evaluate=EvaluateConfig(opponents={"minimax:1": 30, "minimax:2": 6}))
    plan = plan_of(TICTACTOE, settings, engines=True)
    assert plan.games == {"heuristic": 30, "minimax:2": 6} and plan.floors == {"heuristic": 0.6}
    both = plan_of(TICTACTOE, Config(promote=PromoteConfig(floors={"heuristic": 0.6, "minimax:1": 0.7})))
    assert both.floors == {"heuristic": 0.7}
    assert "minimax:1" not in both.games


# --- the threshold ------------------------------------------------------------------------------


def test_threshold_plays_all_pairs_and_does_not_stop_by_the_test():
    found = judged(skilled, highest, settings=config(rule="threshold", max_pairs=96))
    assert found.promoted and len(found.evidence.versus_champion.pairs) == 96
    assert found.rule == "threshold" and "threshold 55 %" in found.reason


@pytest.mark.parametrize(
    ("scores", "promoted", "word"),
    [
        ([1.0] * 54 + [0.0] * 46, False, "below the threshold of 55 %"),
        ([1.0] * 56 + [0.0] * 44, False, "need not be better"),  # 56 % of 100 pairs: about +-10 points
        ([0.75] * 30 + [0.5] * 70, True, "57.5 %"),  # steadier: draws and splits
        ([1.0] * 70 + [0.0] * 30, True, "70.0 %"),
    ],
)
def test_threshold_needs_its_score_and_an_interval_above_one_half(scores, promoted, word):
    settings = config(rule="threshold")
    found = decide(settings, evidence_of(scores, settings=settings))
    assert found.promoted is promoted and word in found.reason


def test_without_a_champion_the_floors_alone_decide():
    settings = config(floors={"fixed": 0.6}, floor_games=20)
    for rule, promoted in ((skilled, True), (highest, False)):
        opponents = {"fixed": player(highest, "fixed")}
        evidence = gather(TICTACTOE, settings, player(rule, "candidate"), None, opponents, seed=1)
        found = decide(settings, evidence)
        assert found.promoted is promoted
        assert "no champion" in found.reason and found.summary()["versus_champion"] is None


def test_reason_of_a_promotion_tells_every_floor_with_its_interval():
    settings = config(floors={"fixed": 0.5})
    match = match_of([0.75] * 10)
    reason = decide(settings, evidence_of(WON, {"fixed": match}, settings)).reason
    low, high = match.interval
    assert f"75.0 % [{100 * low:.1f}, {100 * high:.1f}] against fixed (floor 50 %)" in reason


def test_decision_holds_the_settings_of_all_players_and_the_seed_of_the_openings():
    found = judged(skilled, highest, {"fixed": player(highest, "other")}, seed=5).summary()
    assert found["seed"] == 5 and set(found["players"]) == {"candidate", "champion", "fixed"}
    assert found["players"]["fixed"]["name"] == "other"


# --- the file of matches ------------------------------------------------------------------------


def test_results_of_the_file_of_matches_are_those_of_the_evaluations(tmp_path):
    path = tmp_path / "matches.jsonl"
    decisions = [
        decide(config(), evidence_of(WON, {"fixed": match_of([0.75] * 4)})),
        Decision(False, "no.", "sprt", evidence_of(EVEN)),
    ]
    path.write_text("".join(json.dumps({"model": "m", **d.summary()}) + "\n" for d in decisions))
    players, results = match_results(path)
    assert players == ["candidate", "other"]
    assert [(r.a, r.b, r.score_a_sum, r.games) for r in results] == [
        ("candidate", "other", 120.0, 120),
        ("candidate", "other", 6.0, 8),
        ("candidate", "other", 8.0, 16),
    ]


def test_unfinished_last_line_of_the_matches_is_left_out_and_damage_is_named(tmp_path):
    path = tmp_path / "matches.jsonl"
    line = json.dumps(decide(config(), evidence_of(WON)).summary()) + "\n"
    path.write_text(line + line[: len(line) // 2])
    assert len(match_results(path)[1]) == 1
    path.write_text(line + "{broken\n" + line)
    with pytest.raises(StoreError, match=r"matches\.jsonl:2 is damaged"):
        match_results(path)
