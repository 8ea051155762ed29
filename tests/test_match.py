"""Matches: openings, seatings, dice, points and scores of scripted players whose results are known."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import numpy as np
import pytest

from tests.material import CUT_TREE, ORDERS, TICTACTOE, Scripted, highest, lowest, turns
from tests.toy_games import COIN_FLIP, MOVE_TWICE, THREE_WAY_VOTE, WIN_NOW
from zeroloop.errors import BackendError, ConfigError, PlayerError
from zeroloop.games import make
from zeroloop.games.game import CHANCE, TERMINAL
from zeroloop.match import MatchResult, joined, play_match
from zeroloop.openings import drawn_openings, openings
from zeroloop.players import PlaySettings, SearchPlayer, parse
from zeroloop.rating import elo_from_score, score_interval
from zeroloop.search.forest import Evaluation


def starts_of(game, n):
    """Return n times the first position."""
    return np.array([game.initial_state() for _ in range(n)], game.state_dtype)


def play(game, first, second, starts, **options):
    sides = [
        p if isinstance(p, Scripted) else Scripted(game, p, name)
        for p, name in ((first, "first"), (second, "second"))
    ]
    return play_match(game, *sides, starts=starts, **options)


def drawn(state, legal, key, ply):
    """Play by a hash of key and ply."""
    return legal[(7 * key + 3 * ply) % len(legal)]


# --- openings -----------------------------------------------------------------------------------


def test_openings_are_distinct_undecided_and_short():
    found = openings(TICTACTOE, 60, 3, seed=1)
    assert len({s.tobytes() for s in found}) == 60
    assert set(found["plies"]) <= {1, 2, 3}
    assert all(TICTACTOE.rules["to_play"](s) >= 0 for s in found)
    for state in found:
        assert bin(state["stones"][0]).count("1") - bin(state["stones"][1]).count("1") == state["plies"] % 2


def test_openings_use_every_length_up_to_the_bound():
    plies = Counter(openings(TICTACTOE, 40, 4, seed=2)["plies"].tolist())
    assert set(plies) == {1, 2, 3, 4}


def test_longer_openings_are_taken_only_when_the_shorter_are_used_up():
    found = openings(TICTACTOE, 9 + 72 + 20, 2, seed=3)
    plies = Counter(found["plies"].tolist())
    assert plies[1] == 9 and plies[2] == 72 and plies[3] == 20
    first = openings(TICTACTOE, 81, 2, seed=3)
    np.testing.assert_array_equal(first, found[:81])


def test_openings_of_a_game_with_dice_end_at_a_decision():
    found = openings(CUT_TREE, 25, 2, seed=4)
    assert all(CUT_TREE.rules["to_play"](s) >= 0 for s in found)
    assert len({s.tobytes() for s in found}) == 25


def test_openings_are_equal_for_equal_seeds_only():
    a, b, c = (openings(TICTACTOE, 30, 4, seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_fewer_openings_of_a_seed_are_the_first_of_more():
    np.testing.assert_array_equal(openings(TICTACTOE, 10, 4, seed=5), openings(TICTACTOE, 30, 4, seed=5)[:10])


def test_game_without_so_many_openings_says_so_in_one_sentence():
    """After actions 0, 1 and 3 seat 1 is to move; after 2 the game is over."""
    assert len(openings(WIN_NOW, 3, 1, seed=1)) == 3
    with pytest.raises(
        ConfigError, match=r"win_now has only about 3 distinct openings, but 4 .* at most 6 games\.$"
    ):
        openings(WIN_NOW, 4, 1, seed=1)


def test_no_openings_may_be_asked_for():
    assert len(openings(TICTACTOE, 0, 4, seed=1)) == 0


@pytest.mark.parametrize("game", [TICTACTOE, CUT_TREE], ids=lambda g: g.id)
def test_a_drawn_opening_and_a_match_can_be_played_again_from_their_moves(game):
    found = drawn_openings(game, 6, 2, seed=8)
    np.testing.assert_array_equal(found.states, openings(game, 6, 2, seed=8))
    for start, end, moves in zip(found.initial, found.states, found.moves, strict=True):
        assert again(game, start, moves).tobytes() == end.tobytes()
    result = play(game, drawn, drawn, found.states)
    assert [len(m) for m in result.moves] == result.plies.tolist()
    for number, moves in enumerate(result.moves):
        end = again(game, found.states[result.opening[number]], moves)
        if game.rules["to_play"](end) == TERMINAL:
            assert game.points(end) == pytest.approx(result.points[number].tolist())
        else:
            assert result.plies[number] == game.max_plies


def again(game, start, moves):
    state = start.copy()
    for move in moves:
        game.play(state, int(move))
    return state


# --- seatings, points, scores -------------------------------------------------------------------


def test_every_opening_is_played_in_every_seating():
    starts = openings(TICTACTOE, 12, 3, seed=1)
    result = play(TICTACTOE, drawn, lowest, starts)
    assert len(result.seat) == 24
    pairs = Counter(zip(result.opening.tolist(), result.seat.tolist(), strict=True))
    assert pairs == {(k, seat): 1 for k in range(12) for seat in range(2)}


def test_players_are_asked_for_their_own_seat_only():
    starts = openings(TICTACTOE, 10, 3, seed=2)
    sides = [Scripted(TICTACTOE, drawn, "a"), Scripted(TICTACTOE, lowest, "b")]
    result = play_match(TICTACTOE, *sides, starts=starts)
    assert len(sides[0].asked) + len(sides[1].asked) == result.plies.sum()
    movers = [
        int(TICTACTOE.rules["to_play"](np.frombuffer(s, TICTACTOE.state_dtype)[0]))
        for s, _, _ in sides[0].asked
    ]
    assert 0 in movers and 1 in movers


def test_points_and_scores_of_known_players_are_right():
    """WinNow: a master wins at once with seat 0; with seat 1 it wins by action 0, a fool draws by 1."""

    def master(state, legal, key, ply):
        return 2 if len(legal) == 4 else 0

    def fool(state, legal, key, ply):
        return 0 if len(legal) == 4 else 1

    result = play(WIN_NOW, master, fool, starts_of(WIN_NOW, 3))
    assert result.seat.tolist() == [0, 1] * 3 and result.opening.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(result.points[0::2], [[1, -1]] * 3)
    # Seat 0 (the fool) plays 0, seat 1 (the master) plays 0: row 1 of the table, seat 1 wins.
    np.testing.assert_array_equal(result.points[1::2], [[-1, 1]] * 3)
    assert result.scores.tolist() == [1.0] * 6 and result.score == 1.0
    assert result.plies.tolist() == [1, 2] * 3
    other = play(WIN_NOW, fool, master, starts_of(WIN_NOW, 3))
    assert other.score == 0.0
    equal = play(WIN_NOW, fool, fool, starts_of(WIN_NOW, 3))
    assert equal.scores.tolist() == [0.5] * 6


def test_score_is_scaled_from_the_worst_to_the_best_points():
    """CoinFlip: action 0 gives seat 0 a quarter of a point, on a scale from -1 to 1."""
    result = play(COIN_FLIP, lowest, lowest, starts_of(COIN_FLIP, 2))
    assert (result.worst, result.best) == (-1.0, 1.0)
    np.testing.assert_array_equal(result.points, [[0.25, -0.25]] * 4)
    assert result.scores.tolist() == [0.625, 0.375] * 2
    assert result.pairs.tolist() == [0.5, 0.5]


def test_player_against_itself_scores_one_half_in_every_pair():
    starts = openings(TICTACTOE, 20, 4, seed=3)
    result = play(TICTACTOE, highest, highest, starts)
    assert result.pairs.tolist() == [0.5] * 20 and result.score == 0.5


def test_consecutive_plies_of_one_seat_belong_to_one_player():
    """MoveTwice: the seats move 0, 1, 1, 0; seat 1 wins after 0 by playing 1 twice."""

    def script(state, legal, key, ply):
        return (0, 1, 1, 0)[ply]

    result = play(MOVE_TWICE, script, script, starts_of(MOVE_TWICE, 1))
    np.testing.assert_array_equal(result.points, [[-1, 1], [-1, 1]])
    assert result.scores.tolist() == [0.0, 1.0]


def test_three_players_give_one_game_per_seat_of_the_first_side():
    """ThreeWayVote: the first side says yes, all others no; a lone yes costs a point."""
    result = play(THREE_WAY_VOTE, highest, lowest, starts_of(THREE_WAY_VOTE, 2))
    assert result.seat.tolist() == [0, 1, 2, 0, 1, 2]
    assert result.opening.tolist() == [0, 0, 0, 1, 1, 1]
    for points, seat in zip(result.points, result.seat, strict=True):
        want = [0.0, 0.0, 0.0]
        want[seat] = -1.0
        np.testing.assert_array_equal(points, want)
    assert (result.worst, result.best) == (-1.0, 2.0)
    # One point behind both others, on a scale of three points.
    np.testing.assert_allclose(result.scores, 0.5 - 1 / 6)
    other = play(THREE_WAY_VOTE, lowest, highest, starts_of(THREE_WAY_VOTE, 2))
    np.testing.assert_allclose(other.scores, 0.5 + 1 / 6)  # 2 points; both others pay one for the rise


WINNER_TAKES_ALL = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("winner", range(3))
def test_three_equal_players_score_one_half_where_the_winner_takes_all(winner):
    """A game that always ends alike says nothing of the sides, though each wins a third of its games."""
    game = turns("winner_takes_all", WINNER_TAKES_ALL, 3)
    script = Scripted(game, lambda state, legal, key, ply: winner if ply == 0 else 0)
    result = play_match(game, script, script, starts=starts_of(game, 8))
    np.testing.assert_array_equal(result.points, [WINNER_TAKES_ALL[winner]] * 24)
    np.testing.assert_allclose(result.pairs, 0.5)
    assert result.score == pytest.approx(0.5) and result.summary()["elo"] == pytest.approx(0, abs=1e-9)
    low, high = result.interval
    assert low < 0.5 < high


def test_score_of_identical_play_is_one_half_whatever_the_points():
    for game in (THREE_WAY_VOTE, CUT_TREE, ORDERS):
        result = play(game, lowest, lowest, starts_of(game, 4), seed=2)
        np.testing.assert_allclose(result.pairs, 0.5)


def test_scores_reach_from_0_to_1_and_no_further():
    """Alone at the top while all others are at the bottom is 1, the reverse is 0."""
    first = np.array([[2, -1, -1], [-1, 2, 2], [2, 2, 2], [-1, -1, 2], [0.5, 0.5, 0.5]])
    points = np.concatenate([np.roll(first, seat, 1) for seat in range(3)])
    result = made_result(points, 3)._replace(seat=np.repeat(np.int32([0, 1, 2]), 5), worst=-1.0, best=2.0)
    np.testing.assert_allclose(result.scores, [1.0, 0.0, 0.5, 0.25, 0.5] * 3)


def test_scores_of_two_players_with_a_fixed_sum_are_their_place_on_the_scale():
    own = np.linspace(0, 1, 8)
    result = made_result(np.column_stack([own, 1 - own]))._replace(seat=np.zeros(8, np.int32), worst=0.0)
    np.testing.assert_allclose(result.scores, own, atol=1e-6)


def test_same_dice_are_rolled_in_all_seatings_of_an_opening():
    """With the same rule on both sides the games of an opening differ in nothing but names."""
    starts = openings(CUT_TREE, 40, 2, seed=7)
    result = play(CUT_TREE, lowest, lowest, starts, seed=9)
    for k in range(40):
        mine = result.opening == k
        assert mine.sum() == 3 and len(np.unique(result.points[mine], axis=0)) == 1
        assert len(np.unique(result.plies[mine])) == 1
    ends = [play(CUT_TREE, lowest, lowest, starts, seed=s).points for s in (9, 10)]
    assert (ends[0] != ends[1]).any(), "another seed must roll other dice"


def test_games_of_an_opening_keep_their_dice_when_their_turns_take_different_plies():
    game = make("backgammon")
    starts = openings(game, 6, 1, seed=2)
    result = play_match(game, parse("minimax:1", game), parse("random", game, seed=4), starts=starts, seed=5)
    drifted = 0
    for k in range(6):
        (first, when), (second, then) = (
            rolls_of(game, starts[k], result.moves[g]) for g in np.flatnonzero(result.opening == k)
        )
        n = min(len(first), len(second))
        assert first[:n] == second[:n] and n > 5
        drifted += when[:n] != then[:n]
    assert drifted == 6


def rolls_of(game, start, moves):
    """Return the chance outcomes among the moves, and their plies."""
    state, found, plies = start.copy(), [], []
    for ply, move in enumerate(moves):
        if game.rules["to_play"](state) == CHANCE:
            found.append(int(move))
            plies.append(ply)
        game.play(state, int(move))
    return found, plies


def test_dice_differ_between_openings_and_follow_their_probabilities():
    """CoinFlip: gamble 1 pays 1, -0.5, 0 with probabilities 0.5, 0.3, 0.2."""
    middle = Scripted(COIN_FLIP, lambda state, legal, key, ply: 1)
    result = play_match(COIN_FLIP, middle, middle, starts=starts_of(COIN_FLIP, 2000), seed=3)
    points = result.points[::2, 0]
    np.testing.assert_array_equal(points, result.points[1::2, 0])
    for value, share in ((1.0, 0.5), (-0.5, 0.3), (0.0, 0.2)):
        sigma = (share * (1 - share) / 2000) ** 0.5
        assert abs((points == value).mean() - share) < 4 * sigma  # 4 sigma


def test_first_opening_numbers_games_for_their_keys_and_dice():
    starts = openings(CUT_TREE, 20, 2, seed=7)
    whole = play(CUT_TREE, drawn, lowest, starts, seed=9)
    parts = [
        play(CUT_TREE, drawn, lowest, starts[a:b], seed=9, first_opening=a) for a, b in ((0, 8), (8, 20))
    ]
    together = joined(parts)
    for name in ("points", "seat", "opening", "plies"):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))
    assert (together.truncated, together.players) == (whole.truncated, whole.players)


def test_match_is_equal_for_equal_seeds():
    starts = openings(CUT_TREE, 20, 2, seed=7)
    a, b = (play(CUT_TREE, drawn, highest, starts, seed=3) for _ in range(2))
    np.testing.assert_array_equal(a.points, b.points)
    assert a.summary() == b.summary()


def test_match_leaves_its_openings_alone():
    starts = openings(TICTACTOE, 5, 3, seed=1)
    kept = starts.copy()
    play(TICTACTOE, lowest, highest, starts)
    np.testing.assert_array_equal(starts, kept)


def test_truncated_games_count_as_the_middle_of_the_scale():
    starts = openings(CUT_TREE, 60, 1, seed=2)
    result = play(CUT_TREE, lowest, highest, starts)
    middle = np.float32((result.worst + result.best) / 2)
    cut = (result.points == middle).all(1)
    assert result.truncated == cut.sum() > 0
    np.testing.assert_allclose(result.scores[cut], 0.5, atol=1e-6)
    assert (result.plies[cut] == CUT_TREE.max_plies).all()
    assert (result.plies[~cut] <= CUT_TREE.max_plies).all()


# --- two searching players ----------------------------------------------------------------------


class Hashed:
    """An evaluator whose answer is a function of each state alone."""

    def __init__(self, game, salt):
        self.game, self.salt = game, salt

    def submit(self, leaves):
        n, width = leaves.legal.shape
        seeds = [int(sha256(bytes([self.salt]) + s.tobytes()).hexdigest()[:8], 16) for s in leaves.states[:n]]
        rows = [np.random.default_rng(seed).random(width + self.game.num_players) for seed in seeds]
        answer = np.array(rows, np.float32)
        return Evaluation(answer[:, :width] * 3, answer[:, width:] - 0.5)

    def result(self, ticket):
        return ticket


def searcher(game, salt, batch, simulations=12):
    settings = PlaySettings(batch=batch, cache_megabytes=0)
    return SearchPlayer(
        game,
        Hashed(game, salt),
        simulations,
        name=f"s{salt}",
        seed=salt,
        settings=settings,
        twin=lambda: searcher(game, salt, batch, simulations),
    )


class Apart:
    """The same player, of which a match knows nothing but `choose`."""

    def __init__(self, player):
        self.name, self.choose = player.name, player.choose


@pytest.mark.parametrize("game", [TICTACTOE, CUT_TREE], ids=lambda g: g.id)
@pytest.mark.parametrize("batch", [3, 64])
def test_two_searching_players_play_the_same_games_side_by_side_as_in_rounds(game, batch):
    starts = openings(game, 40, 2, seed=1)
    together = play_match(game, searcher(game, 1, batch), searcher(game, 2, batch), starts=starts, seed=3)
    apart = play_match(game, Apart(searcher(game, 1, 1)), Apart(searcher(game, 2, 64)), starts=starts, seed=3)
    assert [m.tolist() for m in together.moves] == [m.tolist() for m in apart.moves]
    np.testing.assert_array_equal(together.points, apart.points)
    assert together.truncated == apart.truncated


def test_a_network_that_fails_ends_the_match_and_the_player_can_play_again():
    class Failing(Hashed):
        asked = 0

        def submit(self, leaves):
            self.asked += 1
            if self.asked == 5:
                raise BackendError("the device is gone.")
            return super().submit(leaves)

    first, second = searcher(TICTACTOE, 1, 64), searcher(TICTACTOE, 2, 64)
    starts = openings(TICTACTOE, 8, 2, seed=1)
    wanted = play_match(TICTACTOE, first, second, starts=starts)
    second.evaluator = Failing(TICTACTOE, 2)
    with pytest.raises(BackendError, match="the device is gone"):
        play_match(TICTACTOE, first, second, starts=starts)
    found = play_match(TICTACTOE, first, second, starts=starts)
    np.testing.assert_array_equal(found.points, wanted.points)


# --- the result ---------------------------------------------------------------------------------


def made_result(points, seats=2):
    points = np.array(points, np.float32)
    return MatchResult(
        ("a", "b"),
        points,
        np.tile(np.arange(seats, dtype=np.int32), len(points) // seats),
        np.repeat(np.arange(len(points) // seats, dtype=np.int32), seats),
        np.full(len(points), 5, np.int32),
        (np.zeros(5, np.int32),) * len(points),
        0,
        -1.0,
        1.0,
    )


def test_interval_comes_from_pairs_and_not_from_single_games():
    """Ten pairs won and lost by the seat alone say that the sides are equal, quite surely."""
    result = made_result([[1, -1], [1, -1]] * 10)
    assert result.scores.tolist() == [1.0, 0.0] * 10
    assert result.pairs.tolist() == [0.5] * 10
    assert result.interval == score_interval([0.5] * 10)
    assert result.interval != score_interval(result.scores)


def test_summary_is_plain_and_counts_seats_apart():
    result = made_result([[1, -1], [0, 0], [1, -1], [-1, 1]])
    found = result.summary()
    assert found["score"] == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert found["interval"] == list(score_interval([0.75, 1.0]))
    assert found["elo"] == pytest.approx(elo_from_score(0.875))
    assert found["by_seat"] == {
        "0": {"games": 2, "score": 1.0},
        "1": {"games": 2, "score": 0.75},
    }
    assert (found["games"], found["pairs"], found["distinct_openings"]) == (4, 2, 2)
    assert found["mean_plies"] == 5.0 and found["players"] == ["a", "b"]


def test_points_and_first_places_of_the_first_side():
    result = made_result([[1, -1], [0, 0], [1, -1], [-1, 1]])  # it sits in seats 0, 1, 0, 1
    found = result.summary()
    assert found["points_per_game"] == pytest.approx((1 + 0 + 1 + 1) / 4)
    low, high = score_interval([0.75, 1.0])
    assert found["points_interval"] == pytest.approx([2 * low - 1, 2 * high - 1])
    assert found["first_place_rate"] == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert found["first_place_interval"] == pytest.approx(list(score_interval([0.75, 1.0])))


@pytest.mark.parametrize("points", [[1, -1], [-1, 1]])
def test_infinite_elo_is_left_out_of_the_summary(points):
    result = made_result([points, [-p for p in points]])
    assert result.score in (0.0, 1.0) and result.summary()["elo"] is None


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 0, 9, 2**31 - 1])
def test_illegal_move_voids_the_match_with_the_position_in_the_message(bad):
    starts = starts_of(TICTACTOE, 1)
    TICTACTOE.rules["apply_action"](starts[0], 0)
    cheat = Scripted(TICTACTOE, lambda state, legal, key, ply: bad, "cheat")
    with pytest.raises(PlayerError) as caught:
        play(TICTACTOE, cheat, lowest, starts)
    told = str(caught.value)
    assert "cheat" in told and f"action {bad}" in told and "X../.../..." in told and "void" in told


def test_illegal_move_late_in_a_game_shows_that_position():
    def careless(state, legal, key, ply):
        return 0 if state["plies"] == 6 else legal[0]

    with pytest.raises(PlayerError, match=r"position [XO.]{3}/[XO.]{3}/[XO.]{3} of tictactoe") as caught:
        play(TICTACTOE, careless, careless, starts_of(TICTACTOE, 1))
    assert str(caught.value).count("O") >= 3


def test_failure_of_a_player_ends_the_match():
    def broken(state, legal, key, ply):
        raise PlayerError("engine died.")

    with pytest.raises(PlayerError, match=r"engine died\."):
        play(TICTACTOE, lowest, broken, starts_of(TICTACTOE, 2))


def test_progress_counts_finished_games_up_to_all():
    told = []
    play(TICTACTOE, lowest, highest, starts_of(TICTACTOE, 3), progress=lambda *x: told.append(x))
    assert told[-1] == (6, 6) and all(total == 6 for _, total in told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
