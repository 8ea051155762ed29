"""Regret: costs by judges whose values are known otherwise, and reports of players with planted faults."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.games.oracles import need, need_program
from zeroloop.action_values import judge_of
from zeroloop.errors import PlayerError
from zeroloop.games import make
from zeroloop.players import parse
from zeroloop.regret import (
    Decisions,
    Regret,
    judged,
    own_decisions,
    picture,
    report,
    summary,
    text_of,
    worst_positions,
    write_positions,
)

TICTACTOE = make("tictactoe")
BACKGAMMON = make("backgammon")


class Faulty:
    """Plays by the solver, but the first legal action in `share` of its decisions of one seat."""

    name = "faulty"

    def __init__(self, share, seat=0):
        self.share, self.seat, self.wise = share, seat, parse("solver", TICTACTOE, seed=3)

    def choose(self, states, keys, plies):
        actions = self.wise.choose(states, keys, plies)
        for i, state in enumerate(states):
            drawn = np.random.default_rng([int(keys[i]), int(plies[i])]).random()
            if TICTACTOE.rules["to_play"](state) == self.seat and drawn < self.share:
                actions[i] = TICTACTOE.legal(state)[0]
        return actions


KNOWN: dict[tuple[bytes, int], float] = {}


def value(state, seat):
    """Return the exact points of a seat by plain exhaustion."""
    key = (state.tobytes(), seat)
    if key not in KNOWN:
        points = TICTACTOE.points(state)
        after = [value(child(TICTACTOE, state, a), seat) for a in TICTACTOE.legal(state)]
        mine = TICTACTOE.rules["to_play"](state) == seat
        KNOWN[key] = points[seat] if points else max(after) if mine else min(after)
    return KNOWN[key]


def child(game, state, action):
    out = game.copy(state)
    game.play(out, action)
    return out


def decisions_of(player, count=60, judge="solver", seed=1):
    wise = judge_of(judge, TICTACTOE)
    found, games = own_decisions(TICTACTOE, player, parse("random", TICTACTOE), wise, count, seed=seed)
    return found, games, wise


# --- what is judged -----------------------------------------------------------------------------


def test_decisions_are_the_players_own_with_a_choice_from_every_seat_and_third():
    found, games, _ = decisions_of(Faulty(1.0), 60)
    assert len(found.states) == 60 and games >= 32
    for state, action, seat in zip(found.states, found.actions, found.seats, strict=True):
        legal = TICTACTOE.legal(state)
        assert len(legal) > 1 and action in legal and TICTACTOE.rules["to_play"](state) == seat
        assert seat == 1 or action == legal[0]
    assert set(found.seats.tolist()) == {0, 1} and set(found.thirds.tolist()) == {0, 1, 2}


def test_decisions_are_the_same_for_equal_seeds_only():
    a, b, c = (decisions_of(Faulty(0.5), seed=s)[0] for s in (1, 1, 2))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert any((x != y).any() for x, y in zip(a, c, strict=True))


def test_the_cost_is_the_value_given_away_by_plain_exhaustion():
    found, games, judge = decisions_of(Faulty(1.0), 40)
    cost = judged(TICTACTOE, found, games, judge).cost
    for i, state in enumerate(found.states):
        seat = int(found.seats[i])
        after = {a: value(child(TICTACTOE, state, a), seat) for a in TICTACTOE.legal(state)}
        assert cost[i] == max(after.values()) - after[int(found.actions[i])]
    assert set(cost.tolist()) >= {0.0, 1.0}


def test_a_perfect_player_has_no_regret_and_a_planted_fault_shows_in_its_seat():
    wise = judge_of("solver", TICTACTOE)
    for share in (0.0, 0.7):
        found, games, _ = decisions_of(Faulty(share), 200)
        told = summary(TICTACTOE, judged(TICTACTOE, found, games, wise), wise, player="faulty")
        assert told["decisions"] == 200 and told["games"] == games
        assert told["by_seat"]["1"]["regret"] == 0 and told["by_seat"]["1"]["best"]["rate"] == 1
        assert (told["by_seat"]["0"]["regret"] > 0.1) == (share > 0)
        assert (told["regret"] == 0) == (share == 0) == (told["worst"] == [])
        low, high = told["regret_interval"]
        assert low <= told["regret"] <= high and high > 0


# --- the numbers of a report --------------------------------------------------------------------


def made_regret():
    """Six decisions with costs 0, 0, 1, 0, 2, 0.25 in three openings."""
    states = TICTACTOE.states(6)
    for i in range(6):
        states[i] = child(TICTACTOE, TICTACTOE.initial_state(), i)
    seats, thirds = np.array([0, 1, 0, 1, 0, 1], np.int32), np.array([0, 0, 1, 1, 2, 2], np.int32)
    cost = np.array([0, 0, 1, 0, 2, 0.25])
    values = np.full((6, 9), np.nan)
    values[np.arange(6), 7], values[np.arange(6), 8] = 1.0, 1.0 - cost
    chosen = np.full(6, 8, np.int32)
    openings = np.array([0, 0, 1, 1, 2, 2], np.int64)
    return Regret(
        Decisions(states, chosen, seats, np.arange(6, dtype=np.int32), thirds, openings), 6, values, cost, 2.0
    )


def test_means_shares_splits_and_worst_positions_are_those_of_a_case_by_hand():
    found = made_regret()
    told = summary(TICTACTOE, found, judge_of("solver", TICTACTOE), player="x", worst=2, blunder=1.0)
    assert told["regret"] == pytest.approx(3.25 / 6) and told["largest"] == 2
    assert told["best"]["rate"] == pytest.approx(0.5) and told["blunders"]["rate"] == pytest.approx(2 / 6)
    assert told["by_seat"]["0"]["regret"] == 1 and told["by_seat"]["1"]["regret"] == pytest.approx(0.25 / 3)
    assert [told["by_third"][k]["regret"] for k in ("first", "middle", "last")] == [0, 0.5, 1.125]
    assert [row["cost"] for row in told["worst"]] == [2, 1]
    worst = told["worst"][0]
    assert worst["position"] == TICTACTOE.position(found.decisions.states[4]) and worst["seat"] == 0
    assert (worst["chosen"], worst["best"]) == (
        TICTACTOE.action_name(found.decisions.states[4], 8),
        TICTACTOE.action_name(found.decisions.states[4], 7),
    )
    json.dumps(told, allow_nan=False)
    text = text_of(told)
    assert "6 decisions with a choice" in text and worst["position"] in text


def test_worst_positions_are_distinct_and_cost_something():
    found = made_regret()
    found.decisions.states[2] = found.decisions.states[4]
    assert [row["cost"] for row in worst_positions(TICTACTOE, found, 10, 1e-9)] == [2, 0.25]


def test_an_action_without_a_value_is_an_error_and_not_a_cost():
    found, games, judge = decisions_of(Faulty(0.0), 20)
    wrong = found.actions.copy()
    wrong[3] = next(a for a in range(9) if a not in TICTACTOE.legal(found.states[3]))
    with pytest.raises(PlayerError, match="judge solver has no value for action"):
        judged(TICTACTOE, found._replace(actions=wrong), games, judge)


def test_a_judge_that_knows_no_decision_says_so():
    class Blind:
        name = "blind"

        def judges(self, states):
            return np.zeros(len(states), np.bool_)

    with pytest.raises(PlayerError, match="judge blind knows none of the decisions of faulty in"):
        own_decisions(TICTACTOE, Faulty(0.0), parse("random", TICTACTOE), Blind(), 5)


@pytest.mark.slow
def test_written_positions_are_read_back_as_openings_and_the_picture_is_a_png(tmp_path):
    from zeroloop.selfplay.hard import HardPositions

    out, image = tmp_path / "hard.jsonl", tmp_path / "regret.png"
    told = report("random", "solver", positions=80, worst=5, out=out, image=image, game=TICTACTOE, seed=2)
    hard = HardPositions(TICTACTOE, out)
    assert [TICTACTOE.position(s) for s in hard.states] == [row["position"] for row in told["worst"]]
    assert len(told["worst"]) == 5 and told["worst"][0]["cost"] == 2
    assert image.read_bytes()[:4] == b"\x89PNG" and image.stat().st_size > 5000
    write_positions(out, {**told, "worst": []})
    assert out.read_text() == ""
    picture(image, made_regret(), told)


# --- judges -------------------------------------------------------------------------------------


def naive(state, depth, seat):
    """Return minimax to a depth for seat's points, the heuristic at the horizon, without pruning."""
    points = TICTACTOE.points(state)
    if points is not None:
        return points[seat]
    if depth == 0:
        return TICTACTOE.rules["heuristic"](state, 0) * (1 if seat == 0 else -1)
    after = [naive(child(TICTACTOE, state, a), depth - 1, seat) for a in TICTACTOE.legal(state)]
    return max(after) if TICTACTOE.rules["to_play"](state) == seat else min(after)


def test_minimax_values_are_those_of_a_search_without_pruning():
    game = TICTACTOE
    judge = judge_of("minimax:3", game)
    found = decisions_of(Faulty(1.0), 25)[0]
    values = judge.action_values(found.states)
    for i, state in enumerate(found.states):
        for action in game.legal(state):
            want = naive(child(game, state, action), 2, int(found.seats[i]))
            assert values[i, action] == pytest.approx(want, abs=1e-3)


def test_minimax_of_one_decision_takes_dice_by_expectation():
    judge = judge_of("minimax:1", BACKGAMMON)
    state = BACKGAMMON.initial_state()
    if BACKGAMMON.chance(state):
        BACKGAMMON.play(state, BACKGAMMON.chance(state)[3][0])
    states = BACKGAMMON.states(1)
    states[0] = state
    values = judge.action_values(states)[0]
    legal = BACKGAMMON.legal(state)
    assert np.flatnonzero(~np.isnan(values)).tolist() == legal
    seat = int(BACKGAMMON.rules["to_play"](state))
    for action in legal[:3]:  # in mid-turn: no dice come next, and the horizon is the heuristic
        want = BACKGAMMON.rules["heuristic"](child(BACKGAMMON, state, action), seat) * BACKGAMMON.scale
        assert values[action] == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "game", "message"),
    [
        ("oracle", TICTACTOE, "there is no judge 'oracle'; judges: solver"),
        ("gnubg:9", BACKGAMMON, "there is no judge 'gnubg:9'"),
        ("minimax:0", TICTACTOE, "minimax"),
        ("solver", BACKGAMMON, "backgammon has no solver"),
        ("bearoff", TICTACTOE, "knows backgammon, not tictactoe"),
        ("minimax", TICTACTOE, "there is no judge 'minimax'"),
    ],
)
def test_bad_judges_are_refused_in_one_sentence(name, game, message):
    with pytest.raises(PlayerError, match=message) as caught:
        judge_of(name, game)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_gnubg_prefers_its_own_best_move_and_knows_every_legal_action():
    need_program("gnubg", "gnubg")
    judge = judge_of("gnubg:0", BACKGAMMON)
    player = parse("gnubg:0", BACKGAMMON)
    try:
        random = parse("random", BACKGAMMON, seed=4)
        found, _ = own_decisions(BACKGAMMON, random, parse("random", BACKGAMMON), judge, 60, seed=5)
        values = judge.action_values(found.states)
        for i, state in enumerate(found.states):
            legal = BACKGAMMON.legal(state)
            assert np.flatnonzero(~np.isnan(values[i])).tolist() == legal
            assert np.abs(values[i, legal]).max() <= 3
        n = len(found.states)
        actions = player.choose(found.states, np.arange(n, dtype=np.uint64), np.zeros(n, np.int32))
        cost = np.nanmax(values, axis=1) - values[np.arange(n), actions]
        assert cost.max() < 2e-3  # its answer at 0-ply is the best end by its own evaluation
        told = judged(BACKGAMMON, found, 1, judge)
        assert told.cost.mean() > 0.02
    finally:
        judge.close()
        player.close()


def test_stockfish_finds_mate_and_values_every_legal_move():
    need("chess")
    need_program("stockfish", "stockfish")
    chess = make("chess")
    with pytest.raises(PlayerError, match="give a depth and nothing else"):
        judge_of("stockfish:nodes=50", chess)
    judge = judge_of("stockfish:depth=4", chess)
    try:
        states = chess.states(2)
        states[0] = chess.parse_position("6k1/5ppp/7q/8/8/8/5PPP/R5K1 w - - 0 1")  # Ra8 is mate
        states[1] = chess.parse_position("rnb1kbnr/pppp1ppp/8/4p2q/4P3/5N2/PPPP1PPP/RNBQKB1R b KQkq - 0 1")
        values = judge.action_values(states)
        for row, state in zip(values, states, strict=True):
            assert np.flatnonzero(~np.isnan(row)).tolist() == chess.legal(state)
        assert chess.action_name(states[0], int(np.nanargmax(values[0]))) == "a1a8"
        assert values[0, chess.parse_action(states[0], "a1a8")] == 1
        assert values[0, chess.parse_action(states[0], "a1a2")] < -0.3
        lost = chess.parse_action(states[1], "h5f3")  # queen for knight
        assert values[1].max(where=~np.isnan(values[1]), initial=-1) - values[1, lost] > 0.2
    finally:
        judge.close()
