"""Hex agrees with a slow implementation made of dictionaries and geometry, and with known facts."""

from __future__ import annotations

import functools
import random
import re

import numpy as np
import pytest

from zeroloop import draws
from zeroloop.compiled import INTERPRETED, kernel
from zeroloop.errors import GameError, IllegalAction, InvalidState
from zeroloop.games import TERMINAL, make
from zeroloop.games.check import check_game
from zeroloop.games.explain import plain_twin
from zeroloop.games.game import apply_action, initial, legal_actions, to_play
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players.minimax import MinimaxPlayer
from zeroloop.players.random import RandomPlayer

SEATS = 0, 1


def plain(size, swap=False):
    return plain_twin(make("hex", size=size, swap=swap))


def name(cell):
    row, column = cell
    return "abcdefghijklmnopqrs"[column] + str(row + 1)


def near(a, b):
    """Whether two cells share a side: their centres are as near as hexagons can lie."""
    down = b[0] - a[0]
    across = b[1] - a[1] + down / 2
    return abs(across**2 + 3 / 4 * down**2 - 1) < 1e-9


@functools.cache
def neighbours(size):
    around = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if near((0, 0), (down, right))]
    inside = range(size)
    return {
        (row, column): [
            (row + down, column + right)
            for down, right in around
            if row + down in inside and column + right in inside
        ]
        for row in inside
        for column in inside
    }


class Board:
    """A rhombus of hexagons. Row r lies half a cell further right than row r - 1."""

    def __init__(self, size, swap=False):
        self.size, self.swap, self.stones, self.played = size, swap, {}, 0
        self.cells = [(row, column) for row in range(size) for column in range(size)]

    @property
    def mover(self):
        return self.played % 2

    def wins(self, seat):
        """Whether a chain of the seat leads from top to bottom (0) or from left to right (1)."""
        mine = {cell for cell, owner in self.stones.items() if owner == seat}
        edge = {cell for cell in mine if cell[seat] == 0}
        chain = set()
        while edge:
            chain |= edge
            edge = {beside for cell in edge for beside in neighbours(self.size)[cell]} & mine - chain
        return any(cell[seat] == self.size - 1 for cell in chain)

    def winner(self):
        return next((seat for seat in SEATS if self.wins(seat)), None)

    def moves(self):
        free = [name(cell) for cell in self.cells if cell not in self.stones]
        return free + (["swap"] if self.swap and self.played == 1 else [])

    def play(self, move):
        if move == "swap":
            ((row, column),) = self.stones
            self.stones = {(column, row): 1}
        else:
            self.stones[next(cell for cell in self.cells if name(cell) == move)] = self.mover
        self.played += 1

    def view(self, seat):
        """Whose stone lies where, as the seat sees it: 1 mine, -1 yours, its own edges top and bottom."""
        grid = np.zeros((self.size, self.size), int)
        for (row, column), owner in self.stones.items():
            grid[(row, column) if seat == 0 else (column, row)] = 1 if owner == seat else -1
        return grid


def name_of_action(board, action):
    """Ids count the cells row by row in the mover's view; that of the stone on the board is the swap."""
    cell = divmod(action, board.size)
    cell = cell if board.mover == 0 else cell[::-1]
    return "swap" if cell in board.stones else name(cell)


@pytest.mark.parametrize(
    "size, swap, seed",
    [
        (2, False, 0),
        (2, True, 1),
        (3, False, 2),
        (3, True, 3),
        (5, True, 4),
        (7, False, 5),
        pytest.param(11, False, 6, marks=pytest.mark.slow),
    ]
    + [(4, True, seed) for seed in range(10, 30)],
)
def test_random_games_follow_the_slow_rules_to_their_end(size, swap, seed):
    rng, board, game = random.Random(seed), Board(size, swap), plain(size, swap)
    state = game.initial_state()
    planes, nothing = np.empty(game.observation.planes, np.float32), np.empty(0, np.float32)
    while board.winner() is None:
        assert game.rules["to_play"](state) == board.mover
        legal = game.legal(state)
        assert legal == sorted(legal)
        names = [game.action_name(state, action) for action in legal]
        assert sorted(names) == sorted(board.moves())
        assert names == [name_of_action(board, action) for action in legal]
        game.rules["observe"](state, planes, nothing)
        assert (planes[0] == (board.view(board.mover) == 1)).all()
        assert (planes[1] == (board.view(board.mover) == -1)).all()
        if swap:
            assert (planes[2] == (board.played == 1)).all()
        move = "swap" if seed % 2 and "swap" in names else rng.choice(names)
        game.play(state, game.parse_action(state, move))
        board.play(move)
        assert game.parse_position(game.position(state)).tobytes() == state.tobytes()
    assert game.rules["to_play"](state) == TERMINAL and game.legal(state) == []
    assert game.points(state) == ([1.0, -1.0] if board.winner() == 0 else [-1.0, 1.0])


@kernel
def play_out(game, states, legal, seed):
    """Play a random game in each record to its end; the games differ by their place."""
    for i in range(states.shape[0]):
        initial(game, states[i], 0)
        ply = 0
        while to_play(game, states[i]) != TERMINAL:
            count = legal_actions(game, states[i], legal)
            pick = draws.integer(np.uint64(seed), draws.CHECK, i, ply, 0, count)
            apply_action(game, states[i], legal[pick])
            ply += 1


def stones_of(state, size):
    """The stones of a record, as `Board.stones`."""
    bits = [(seat, row, int(state.stones[seat, row])) for seat in SEATS for row in range(size)]
    return {(row, c): seat for seat, row, line in bits for c in range(size) if line >> c & 1}


@pytest.mark.parametrize("size, games", [(2, 300), (3, 300), (6, 100), (15, 2), (16, 2), (19, 2)])
def test_a_game_ends_when_and_only_when_one_seat_has_joined_its_edges(size, games):
    game = make("hex", size=size)
    states = game.states(games)
    play_out(game, states, np.zeros(game.max_legal, np.int32), size)
    for state in states:
        board = Board(size)
        board.stones = stones_of(state, size)
        assert [board.wins(seat) for seat in SEATS] == [state.over == 1, state.over == 2]
        # Some stone of the winner was the last, and before it nobody had won.
        last = [cell for cell, owner in board.stones.items() if owner == state.over - 1]
        assert any(not board_without(board, cell).wins(state.over - 1) for cell in last)


def board_without(board, cell):
    out = Board(board.size)
    out.stones = {c: owner for c, owner in board.stones.items() if c != cell}
    return out


@pytest.mark.parametrize("size", [2, 3, 4, 7, 12, 19])
def test_no_board_is_a_draw_exactly_one_seat_joins_its_edges_on_a_full_one(size):
    rng = random.Random(size)
    for _ in range(100 if size < 8 else 2):
        board = Board(size)
        owners = [0] * ((size * size + 1) // 2) + [1] * (size * size // 2)
        rng.shuffle(owners)
        board.stones = dict(zip(board.cells, owners, strict=True))
        assert board.wins(0) != board.wins(1)


@pytest.mark.parametrize(
    "size, swap", [(2, False), (2, True), pytest.param(3, False, marks=pytest.mark.slow)]
)
def test_every_reachable_position_of_a_small_board_is_judged_as_by_the_slow_rules(size, swap):
    game, seen = plain(size, swap), {}
    left = [(game.initial_state(), Board(size, swap))]
    while left:
        state, board = left.pop()
        facts = (board.mover, tuple(sorted(board.stones.items())), swap and board.played < 2)
        if state.tobytes() in seen:
            assert seen[state.tobytes()] == facts
            continue
        seen[state.tobytes()] = facts
        winner = board.winner()
        assert game.rules["to_play"](state) == (board.mover if winner is None else TERMINAL)
        if winner is not None:
            assert game.rules["outcome"](state) == winner
            continue
        for action in game.legal(state):
            child, after = game.copy(state), Board(size, swap)
            after.stones, after.played = dict(board.stones), board.played
            after.play(game.action_name(state, action))
            game.rules["apply_action"](child, action)
            left.append((child, after))
    assert len(set(seen.values())) == len(seen)  # equal positions have equal bytes


def test_the_order_of_the_stones_leaves_no_trace_in_a_state():
    game, rng = plain(7), random.Random(1)
    for _ in range(10):
        cells = [name(cell) for cell in Board(7).cells]
        rng.shuffle(cells)
        mine, yours = cells[:8], cells[8:16]
        texts = set()
        for _ in range(4):
            rng.shuffle(mine)
            rng.shuffle(yours)
            moves = [move for pair in zip(mine, yours, strict=True) for move in pair]
            texts.add(game.parse_position(" ".join(moves)).tobytes())
        assert len(texts) == 1


# The swap.


def test_swapping_puts_a_stone_of_the_second_seat_on_the_mirrored_cell():
    game = plain(5, swap=True)
    state = game.parse_position("c1 swap")
    assert stones_of(state, 5) == {(2, 0): 1}
    assert game.rules["to_play"](state) == 0
    assert game.position(state) == "c1 swap" and "swap" not in game.render(state)


def test_swapping_is_the_action_on_the_stone_and_open_to_the_second_move_only():
    game = plain(5, swap=True)
    state = game.initial_state()
    assert "swap" not in [game.action_name(state, a) for a in game.legal(state)]
    game.play(state, game.parse_action(state, "c1"))
    assert game.legal(state) == list(range(25)) and "O may swap." in game.render(state)
    assert [a for a in game.legal(state) if game.action_name(state, a) == "swap"] == [2 * 5 + 0]
    for move in ("swap", "a1"):
        after = game.copy(state)
        game.play(after, game.parse_action(after, move))
        names = [game.action_name(after, a) for a in game.legal(after)]
        assert "swap" not in names and len(names) == 25 - len(stones_of(after, 5))


def test_swapping_a_stone_on_the_short_diagonal_leaves_it_where_it_is():
    game = plain(4, swap=True)
    assert stones_of(game.parse_position("b2 swap"), 4) == {(1, 1): 1}


def test_swapping_does_not_exist_without_the_option():
    game = plain(4)
    state = game.parse_position("b2")
    assert len(game.legal(state)) == 15
    with pytest.raises(IllegalAction, match="'swap' is not a legal move here"):
        game.parse_action(state, "swap")


def test_the_swapped_position_differs_from_the_same_stone_before_a_swap_to_the_network():
    game = plain(3, swap=True)
    seen = []
    for text in ("b1", "b1 swap"):
        planes = np.empty((3, 3, 3), np.float32)
        game.rules["observe"](game.parse_position(text), planes, np.empty(0, np.float32))
        seen.append(planes)
    assert (seen[0][:2] == seen[1][:2]).all() and seen[0][2].all() and not seen[1][2].any()


# Symmetries.


def observed(game, state):
    planes = np.empty(game.observation.planes, np.float32)
    game.rules["observe"](state, planes, np.empty(0, np.float32))
    return planes


@pytest.mark.parametrize("size", [2, 5, pytest.param(16, marks=pytest.mark.slow)])
def test_half_a_turn_of_the_board_is_the_same_game(size):
    game, rng = plain(size), random.Random(size)
    state, turned = game.initial_state(), game.initial_state()
    while game.legal(state):
        action = rng.choice(game.legal(state))
        image = game.copy(state)
        game.rules["symmetry"](image, 1)
        assert image.tobytes() == turned.tobytes()
        assert (observed(game, image) == observed(game, state)[:, ::-1, ::-1]).all()
        assert game.rules["symmetry_action"](action, 1) == size * size - 1 - action
        game.play(state, action)
        game.play(turned, size * size - 1 - action)
    assert game.points(state) == game.points(turned)


def test_exchanging_the_seats_and_mirroring_the_board_gives_the_same_view_and_the_same_ids():
    game, rng = plain(6), random.Random(4)
    for _ in range(20):
        cells = rng.sample(Board(6).cells, 11)
        mirrored = [(column, row) for row, column in cells]
        first, second = cells[:6], cells[6:]
        if joins(first, 6, 0) or joins(second, 6, 1):
            continue
        # Six stones against five with the second seat to move; mirrored, the seats have changed places.
        there = game.parse_position(" ".join(map(name, alternate(first, second))))
        here = game.initial_state()
        for seat, stones in ((1, mirrored[:6]), (0, mirrored[6:])):
            for row, column in stones:
                here.stones[seat, row] |= 1 << column
        assert (observed(game, here) == observed(game, there)).all()
        assert game.legal(here) == game.legal(there)


def alternate(first, second):
    return [cell for pair in zip(first, [*second, None], strict=True) for cell in pair if cell]


def joins(cells, size, seat):
    board = Board(size)
    board.stones = dict.fromkeys(cells, seat)
    return board.wins(seat)


# Names and texts.


def test_letters_name_columns_and_numbers_name_rows_from_the_top():
    game = plain(11)
    state = game.initial_state()
    assert [game.action_name(state, a) for a in (0, 1, 11, 120)] == ["a1", "b1", "a2", "k11"]
    game.play(state, 0)
    assert [game.action_name(state, a) for a in (1, 11, 120)] == ["a2", "b1", "k11"]


def test_a_position_lists_the_stones_of_both_seats_by_rows():
    game = plain(3)
    assert game.position(game.initial_state()) == ""
    assert game.position(game.parse_position("c3 b2 a1 a3")) == "a1 b2 c3 a3"
    assert game.parse_position("  c3   a1 ").tobytes() == game.parse_position("c3 a1").tobytes()


def test_a_finished_position_lists_a_winning_move_last():
    game = plain(3)
    state = game.parse_position("b1 a1 a3 c1 b2")
    assert game.points(state) == [1.0, -1.0]
    text = game.position(state)
    assert text == "b1 a1 b2 c1 a3"
    lost = game.parse_position("a1 a2 b1 b2 c1 c2")
    assert game.points(lost) == [-1.0, 1.0] and game.position(lost) == "a1 a2 b1 b2 c1 c2"


@pytest.mark.parametrize("seed", range(20))
def test_a_finished_game_after_a_swap_reads_back(seed):
    game, rng = plain(3, swap=True), random.Random(seed)
    state = game.initial_state()
    while game.legal(state):
        names = [game.action_name(state, a) for a in game.legal(state)]
        move = "swap" if "swap" in names else rng.choice(names)
        game.play(state, game.parse_action(state, move))
    text = game.position(state)
    assert text.split()[1] == "swap"
    assert game.parse_position(text).tobytes() == state.tobytes()


BAD = {
    "a4": "move 1 of 'a4', 'a4', is no cell of the board; cells are a1 to c3.",
    "A1": "'A1', is no cell of the board",
    "a1 b": "move 2 of 'a1 b', 'b', is no cell of the board",
    "a1 b1 a1": "move 3 of 'a1 b1 a1', 'a1', is a cell that is already taken",
    "a1 swap": "'swap', is not allowed; only with the option swap=true, as the second move.",
    "b1 a1 b2 c1 a3 c3": "'c3', comes after the game is over; move 5 has won it.",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_position_is_refused_with_its_reason(text):
    with pytest.raises(InvalidState, match=f"^hex: .*{re.escape(BAD[text])}"):
        plain(3).parse_position(text)


@pytest.mark.parametrize("text", ["swap", "a1 b1 swap", "a1 swap swap"])
def test_swapping_out_of_turn_is_refused_in_a_position(text):
    with pytest.raises(InvalidState, match="'swap', is not allowed; only with the option"):
        plain(3, swap=True).parse_position(text)


def test_the_picture_slants_and_numbers_rows_on_both_sides():
    assert plain(3).render(plain(3).parse_position("b1 a3")).split("\n") == [
        "   a b c",
        " 1 . X . 1",
        "  2 . . . 2",
        "   3 O . . 3",
        "      a b c",
    ]


@pytest.mark.parametrize("size", [1, 20, 0, -5, 5.0, "5", True, None])
def test_a_board_of_another_size_is_refused(size):
    with pytest.raises(GameError, match=r"hex: size is .*; it must be a whole number from 2 to 19\."):
        make("hex", size=size)


def test_a_swap_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(GameError, match="hex: swap is 1; it must be true or false"):
        make("hex", swap=1)


def test_options_are_always_part_of_the_identity():
    assert make("hex").id == "hex(size=11, swap=False)"
    assert make("hex", size=5, swap=True).id == "hex(size=5, swap=True)"
    assert make("hex").num_actions == 121 and make("hex", size=4, swap=True).max_plies == 17


# The heuristic.


def guess(text, size, seat):
    game = plain(size)
    return game.rules["heuristic"](game.parse_position(text), seat)


def test_the_heuristic_is_the_opposite_for_the_other_seat():
    for text in ("", "b1", "b2 c3", "d1 a4 b3"):
        assert guess(text, 5, 0) == -guess(text, 5, 1)


def test_the_heuristic_prefers_the_seat_whose_stones_reach_further():
    assert guess("c3 a1", 5, 0) > guess("e5 c3", 5, 0)
    assert guess("b2 a1", 3, 0) > 0.5  # a bridge to either edge: nothing is lacking
    assert guess("a1 b2", 3, 0) < 0


def test_a_bridge_that_is_cut_is_worth_less_than_one_that_holds():
    # b2 reaches the top of this board over b1 or c1, as long as both are empty.
    assert guess("b2 c2 a3 a2", 3, 0) > guess("b2 b1 a3 a2", 3, 0)


@pytest.mark.skipif(INTERPRETED, reason="tens of thousands of guesses")
def test_minimax_of_one_ply_beats_random_play():
    game = make("hex", size=5)
    starts = openings(game, 50, 4, seed=1)
    result = play_match(game, MinimaxPlayer(game, 1), RandomPlayer(game), starts=starts)
    assert result.scores.mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("size, swap", [(3, True), (5, False)])
def test_the_laws_of_the_contract_hold(size, swap):
    assert check_game(make("hex", size=size, swap=swap), games=30).games == 30
