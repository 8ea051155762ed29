"""Chess follows the FIDE rules: known move counts, python-chess side by side, and the table of ids."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from tests.games.chess_play import DRAW, MATED, POLICIES, SPARSE, end_of, play_on
from tests.games.oracles import need
from zeroloop.errors import GameError, IllegalAction, InvalidState
from zeroloop.games import TERMINAL, make
from zeroloop.games.check import check_game
from zeroloop.games.chess import perft, repetitions
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players.minimax import MinimaxPlayer
from zeroloop.players.random import RandomPlayer

START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
CHESS = make("chess")
CHESS960 = make("chess", chess960=True)
KNOWN_COUNTS = {
    START: [20, 400, 8902, 197281, 4865609],
    "r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1": [48, 2039, 97862, 4085603],
    "8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1": [14, 191, 2812, 43238],
    "r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq - 0 1": [6, 264, 9467, 422333],
    "rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ - 1 8": [44, 1486, 62379, 2103487],
    "r4rk1/1pp1qppp/p1np1n2/2b1p1B1/2B1P1b1/P1NP1N2/1PP1QPPP/R4RK1 w - - 0 10": [46, 2079, 89890, 3894594],
}
"""The start and the five usual test positions: positions after 1, 2, 3, ... plies."""


def names(game, state):
    return {game.action_name(state, action) for action in game.legal(state)}


def moved(text, moves, game=CHESS):
    """Return the state after these moves from a FEN."""
    state = game.parse_position(text)
    for name in moves.split():
        game.play(state, game.parse_action(state, name))
    return state


def result(state):
    """Return the row of the outcome table, None while the game goes on."""
    over = CHESS.rules["to_play"](state) == TERMINAL
    return int(CHESS.rules["outcome"](state)) if over else None


@pytest.mark.parametrize("fen", KNOWN_COUNTS)
def test_known_positions_have_the_known_numbers_of_move_sequences(fen):
    counts = KNOWN_COUNTS[fen]
    assert [perft(CHESS, fen, depth + 1) for depth in range(len(counts))] == counts
    assert perft(CHESS, fen, 0) == 1


def test_the_position_with_the_most_moves_fits_the_bound():
    assert perft(CHESS, "R6R/3Q4/1Q4Q1/4Q3/2Q4Q/Q4Q2/pp1Q4/kBNN1KB1 w - - 0 1", 1) == CHESS.max_legal


@pytest.mark.parametrize("depth", [-1, True, 2.0])
def test_perft_refuses_a_depth_that_is_no_number_of_plies(depth):
    with pytest.raises(GameError, match="perft depth"):
        perft(CHESS, START, depth)


# Side by side with python-chess.

DIRECTIONS = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
KNIGHT = [(1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2)]


def id_of(chess, board, move):
    """Return a move's id by the table of docs/chess.md."""
    turn = 0 if board.turn else 56
    start, target = move.from_square ^ turn, move.to_square ^ turn
    if board.is_castling(move):
        right = (target & 7) > (start & 7)
        rooks = chess.SquareSet(board.castling_rights & (chess.BB_RANK_1 if board.turn else chess.BB_RANK_8))
        target = next(rook ^ turn for rook in rooks if ((rook & 7) > (start & 7)) == right)
    across, up = (target & 7) - (start & 7), (target >> 3) - (start >> 3)
    if move.promotion and move.promotion != chess.QUEEN:
        piece = [chess.KNIGHT, chess.BISHOP, chess.ROOK].index(move.promotion)
        return 64 * (64 + 3 * piece + across + 1) + start
    if (across, up) in KNIGHT and not board.is_castling(move):
        return 64 * (56 + KNIGHT.index((across, up))) + start
    distance = max(abs(across), abs(up))
    direction = DIRECTIONS.index((across // distance, up // distance))
    return 64 * (7 * direction + distance - 1) + start


def side_by_side(chess, game, board, policy, rng):
    """Play one game on both boards; return its plies and how it ended."""
    states, out = game.states(1), np.zeros(game.max_legal, np.int32)
    states[0] = game.parse_position(board.fen(en_passant="legal"))
    action = -1
    for ply in range(1000):
        count = play_on(game, states, out, action)
        row, reason = end_of(board)
        if row is not None:
            assert -1 - count == row, (board.fen(), reason)
            return ply + 1, reason
        ids = {id_of(chess, board, move): move for move in board.legal_moves}
        assert out[: max(count, 0)].tolist() == sorted(ids), board.fen()
        if ply % 16 == 0:
            assert game.position(states[0]) == board.fen(en_passant="legal")
            named = {game.action_name(states[0], action) for action in ids}
            assert named == {board.uci(move) for move in ids.values()}
        move = policy(board, rng)
        action = next(action for action, same in ids.items() if same == move)
        board.push(move)
    return ply + 1, "cut"


def play_beside(positions, seed):
    """Play so many positions beside python-chess and return the number of ends of each kind."""
    chess, rng = need("chess"), random.Random(seed)
    ends, total, number = Counter(), 0, 0
    while total < positions:
        policy = POLICIES[number % 3]
        kind = number // 3 % 3
        board, game = chess.Board(), CHESS
        if kind == 1:
            board = chess.Board(rng.choice(SPARSE))
        elif kind == 2:
            board, game = chess.Board.from_chess960_pos(rng.randrange(960)), CHESS960
        plies, reason = side_by_side(chess, game, board, policy, rng)
        ends[reason] += 1
        total += plies
        number += 1
    return ends


REASONS = {"checkmate", "stalemate", "material", "clock", "repetition"}


def test_random_games_are_those_of_python_chess_to_their_ends():
    assert set(play_beside(2_400, seed=3)) >= REASONS


@pytest.mark.slow
def test_a_hundred_thousand_positions_are_those_of_python_chess():
    ends = play_beside(100_000, seed=2)
    assert all(ends[reason] >= 20 for reason in REASONS), ends


@pytest.mark.parametrize("seed", range(3))
def test_chess960_positions_have_the_move_sequences_of_python_chess(seed):
    chess, rng = need("chess"), random.Random(seed)

    def count(board, depth):
        if depth == 0:
            return 1
        leaves = 0
        for move in board.legal_moves:
            board.push(move)
            leaves += count(board, depth - 1)
            board.pop()
        return leaves

    board = chess.Board.from_chess960_pos(rng.randrange(960))
    for _ in range(8 * seed):
        board.push(rng.choice(list(board.legal_moves)))
    assert perft(CHESS960, board.fen(en_passant="legal"), 2) == count(board, 2)


def random_boards(chess, n, seed, chess960=False):
    """Return boards from games of random moves, not over."""
    rng, boards = random.Random(seed), []
    while len(boards) < n:
        board = chess.Board.from_chess960_pos(rng.randrange(960)) if chess960 else chess.Board()
        for _ in range(rng.randrange(1, 120)):
            board.push(rng.choice(list(board.legal_moves)))
            if end_of(board)[0] is not None:
                break
        else:
            boards.append(board)
    return boards


def seen(game, state):
    planes = np.full(game.observation.planes, 7.0, np.float32)
    game.rules["observe"](state, planes, np.zeros(0, np.float32))
    return planes


@pytest.mark.parametrize("game", [CHESS, CHESS960], ids=["chess", "chess960"])
def test_a_position_with_colours_swapped_looks_the_same_and_has_the_same_ids(game):
    chess = need("chess")
    for board in random_boards(chess, 25, seed=3, chess960=game is CHESS960):
        state = game.parse_position(board.fen(en_passant="legal"))
        swapped = game.parse_position(board.mirror().fen(en_passant="legal"))
        assert game.legal(state) == game.legal(swapped)
        assert np.array_equal(seen(game, state), seen(game, swapped))


@pytest.mark.parametrize("game", [CHESS, CHESS960], ids=["chess", "chess960"])
def test_positions_are_written_as_python_chess_writes_them(game):
    chess = need("chess")
    for board in random_boards(chess, 40, seed=4, chess960=game is CHESS960):
        fen = board.fen(en_passant="legal")
        assert game.position(game.parse_position(board.fen(en_passant="fen"))) == fen
        assert game.position(game.parse_position(board.shredder_fen())) == fen or game is CHESS


def test_a_rook_that_may_castle_is_named_by_its_file_where_another_stands_further_out():
    fen = "1r2k1rr/8/8/8/8/8/8/RR2K2R w HBgb - 0 1"
    assert CHESS960.position(CHESS960.parse_position(fen)) == "1r2k1rr/8/8/8/8/8/8/RR2K2R w KBgq - 0 1"


# The rules, one by one.


def test_castling_on_both_sides():
    fen = "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1"
    assert names(CHESS, CHESS.parse_position(fen)) >= {"e1g1", "e1c1"}
    assert CHESS.position(moved(fen, "e1g1 e8c8")) == "2kr3r/8/8/8/8/8/8/R4RK1 w - - 2 2"
    assert CHESS.position(moved(fen, "e1c1 e8g8")) == "r4rk1/8/8/8/8/8/8/2KR3R w - - 2 2"


@pytest.mark.parametrize(
    "fen, castling",
    [
        ("4k3/8/8/8/8/5r2/8/R3K2R w KQ - 0 1", {"e1c1"}),  # f1 is attacked
        ("4k3/8/8/8/8/6r1/8/R3K2R w KQ - 0 1", {"e1c1"}),  # g1 is attacked
        ("4k3/8/8/8/8/4r3/8/R3K2R w KQ - 0 1", set()),  # in check
        ("4k3/8/8/8/8/7r/8/R3K2R w KQ - 0 1", {"e1g1", "e1c1"}),  # only the rook is attacked
        ("4k3/8/8/8/8/1r6/8/R3K2R w KQ - 0 1", {"e1g1", "e1c1"}),  # the rook passes b1, the king does not
        ("4k3/8/8/8/8/8/8/RN2K1NR w KQ - 0 1", set()),  # pieces in between
        ("4k3/8/8/8/8/8/8/R3K2R w K - 0 1", {"e1g1"}),  # one right
        ("4k3/8/8/8/8/8/6p1/R3K2R w KQ - 0 1", {"e1c1"}),  # a pawn attacks f1
    ],
)
def test_castling_needs_its_right_free_squares_and_no_attack_on_the_way_of_the_king(fen, castling):
    assert names(CHESS, CHESS.parse_position(fen)) & {"e1g1", "e1c1"} == castling


@pytest.mark.parametrize(
    "moves, rights",
    [
        ("e1e2 h8h7 e2e1 h7h8", "q"),
        ("a1a2 a8a7 a2a1 a7a8", "Kk"),
        ("h1h8 e8d7", "Q"),
    ],
)
def test_king_rook_and_a_captured_rook_lose_rights_for_good(moves, rights):
    state = moved("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", moves)
    assert CHESS.position(state).split()[2] == rights


def test_chess960_castling_is_the_king_to_its_rook_even_where_the_king_stays():
    state = CHESS960.parse_position("4k3/8/8/8/8/8/8/6KR w H - 0 1")
    assert "g1h1" in names(CHESS960, state)
    CHESS960.play(state, CHESS960.parse_action(state, "g1h1"))
    assert CHESS960.position(state) == "4k3/8/8/8/8/8/8/5RK1 b - - 1 1"


def test_chess960_castling_may_not_uncover_the_king_on_the_first_rank():
    assert "d1b1" in names(CHESS960, CHESS960.parse_position("4k3/8/8/8/8/8/8/1R1K4 w B - 0 1"))
    assert "d1b1" not in names(CHESS960, CHESS960.parse_position("4k3/8/8/8/8/8/8/rR1K4 w B - 0 1"))


def test_en_passant_is_for_one_move_only():
    fen = "4k3/3p4/8/4P3/8/8/4K3/8 b - - 0 1"
    assert CHESS.position(moved(fen, "d7d5 e5d6")) == "4k3/8/3P4/8/8/8/4K3/8 b - - 0 2"
    assert "e5d6" not in names(CHESS, moved(fen, "d7d5 e2e3 e8e7"))


def test_en_passant_may_not_uncover_the_king_along_the_rank():
    state = moved("4k3/3p4/8/K3P2r/8/8/8/8 b - - 0 1", "d7d5")
    assert "e5d6" not in names(CHESS, state)
    assert CHESS.position(state).split()[3] == "-"


def test_en_passant_may_capture_the_pawn_that_gives_check():
    assert "e5d6" in names(CHESS, moved("4k3/3p4/8/4P3/2K5/8/8/8 b - - 0 1", "d7d5"))


def test_a_pinned_piece_moves_along_the_pin_only():
    state = CHESS.parse_position("4r1k1/8/8/b7/4R3/2N5/8/4K3 w - - 0 1")
    moves = names(CHESS, state)
    assert {m for m in moves if m.startswith("e4")} == {"e4e2", "e4e3", "e4e5", "e4e6", "e4e7", "e4e8"}
    assert not any(m.startswith("c3") for m in moves)


def test_in_double_check_only_the_king_moves():
    double = CHESS.parse_position("4r1k1/8/8/8/8/5n2/3P4/4K2R w K - 0 1")
    assert names(CHESS, double) == {"e1d1", "e1f1", "e1f2"}


def test_a_pawn_promotes_to_four_pieces_straight_and_by_capture():
    state = CHESS.parse_position("1n2k3/P7/8/8/8/8/8/4K3 w - - 0 1")
    promotions = {m for m in names(CHESS, state) if m.startswith("a7")}
    assert promotions == {f"a7{to}{piece}" for to in ("a8", "b8") for piece in "qrbn"}
    CHESS.play(state, CHESS.parse_action(state, "a7b8n"))
    assert CHESS.position(state) == "1N2k3/8/8/8/8/8/8/4K3 b - - 0 1"


@pytest.mark.parametrize(
    "fen, row",
    [
        ("rnb1kbnr/pppp1ppp/8/4p3/6Pq/5P2/PPPPP2P/RNBQKBNR w KQkq - 1 3", MATED[0]),
        ("7k/5KQ1/8/8/8/8/8/8 b - - 0 1", MATED[1]),
        ("7k/5K2/6Q1/8/8/8/8/8 b - - 0 1", DRAW),  # stalemate
        ("7k/5KQ1/8/8/8/8/8/8 b - - 100 90", MATED[1]),  # mate counts before the clock
        ("7k/8/5K2/8/8/8/8/6R1 b - - 100 90", DRAW),
        ("7k/8/5K2/8/8/8/8/6R1 b - - 99 90", None),
    ],
)
def test_mate_stalemate_and_the_clock_end_the_game(fen, row):
    assert result(CHESS.parse_position(fen)) == row


@pytest.mark.parametrize(
    "pieces, drawn",
    [
        ("8/8/8/3k4/8/3K4/8/8", True),
        ("8/8/8/3k4/8/3K4/8/N7", True),
        ("8/8/8/3k4/8/3K4/8/B7", True),
        ("8/8/8/3k4/8/3K4/8/NN6", False),
        ("8/8/8/3k4/8/3K4/8/N6n", False),
        ("8/8/8/3k4/8/3K4/8/N6b", False),
        ("8/8/8/3k4/8/3K4/8/B6b", False),  # bishops of both colours
        ("8/8/8/3k4/8/3K4/8/B5b1", True),  # bishops of one colour
        ("8/8/8/3k4/8/3K4/1B6/B5b1", True),
        ("8/8/8/3k4/8/3K4/P7/8", False),
        ("8/8/8/8/3k4/8/3K4/R7", False),
    ],
)
def test_a_game_is_drawn_where_nobody_has_the_material_to_mate(pieces, drawn):
    fen = f"{pieces} w - - 0 1"
    assert (result(CHESS.parse_position(fen)) == DRAW) is drawn
    assert need("chess").Board(fen).is_insufficient_material() is drawn


def test_the_third_occurrence_of_a_position_draws():
    there_and_back = "g1f3 g8f6 f3g1 f6g8"
    once = moved(START, there_and_back)
    assert (result(once), repetitions(once)) == (None, 2)
    assert seen(CHESS, once)[12].all() and not seen(CHESS, CHESS.initial_state())[12].any()
    twice = moved(START, f"{there_and_back} {there_and_back}")
    assert (result(twice), repetitions(twice)) == (DRAW, 3)
    assert CHESS.details(twice) == {"repetitions": 3}
    with pytest.raises(IllegalAction, match="the game is over"):
        CHESS.play(twice, 0)


def test_a_game_drawn_by_repetition_reads_back_as_drawn():
    text = CHESS.position(moved(START, "g1f3 g8f6 f3g1 f6g8 " * 2))
    assert text == "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 8 5 repetition"
    assert CHESS.position(CHESS.parse_position(text)) == text
    assert result(CHESS.parse_position(text)) == DRAW


def test_a_position_with_other_castling_rights_is_another_position():
    shuffle = "h1g1 h8g8 g1h1 g8h8 "
    state = moved("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", shuffle * 2)
    assert (result(state), repetitions(state)) == (None, 2)


def test_a_position_with_a_right_to_capture_en_passant_is_another_position():
    shuffle = "e1e2 e8e7 e2e1 e7e8 "
    legal = moved("4k3/3p4/8/4P3/8/8/8/4K2R b - - 0 1", "d7d5 " + shuffle * 2)
    assert (result(legal), repetitions(legal)) == (None, 2)
    # Without a pawn that could capture it, the square that the pawn has passed changes nothing.
    without = moved("4k3/3p4/8/8/7P/8/8/4K2R b - - 0 1", "d7d5 " + shuffle * 2)
    assert (result(without), repetitions(without)) == (DRAW, 3)


def test_a_capture_or_pawn_move_forgets_what_came_before():
    state = moved(START, "g1f3 g8f6 f3g1 f6g8 e2e4")
    assert int(state.known) == 1 and not state["keys"][1:].any()


def test_two_orders_of_moves_give_one_record():
    first, second = (moved(START, moves) for moves in ("e2e4 e7e5 d2d4", "d2d4 e7e5 e2e4"))
    assert first.tobytes() == second.tobytes()


# What the network sees, and guesses.


def test_planes_are_seen_by_the_seat_to_move():
    planes = seen(CHESS, moved(START, "e2e4"))
    assert planes.shape == (20, 8, 8)
    assert planes[0, 1].all() and planes[0].sum() == 8  # my pawns on my second rank
    assert planes[6, 6].sum() == 7 and planes[6, 4, 4] == 1  # the pawn that went to e4
    assert planes[5, 0, 4] == planes[11, 7, 4] == 1  # kings on the e file
    assert planes[13:17].all() and not planes[17].any() and planes[19].all()
    ahead = seen(CHESS, moved(START, "e2e4 a7a6 e4e5 d7d5 "))
    assert ahead[17, 5, 3] == 1 and ahead[17].sum() == 1
    assert np.allclose(seen(CHESS, moved(START, "g1f3 g8f6"))[18], 0.02)


def test_castling_planes_tell_right_from_left_and_mine_from_yours():
    planes = seen(CHESS, CHESS.parse_position("r3k3/8/8/8/8/8/8/4K2R b Kq - 0 1"))
    assert [bool(plane.all()) for plane in planes[13:17]] == [False, True, True, False]


def test_past_boards_are_seen_by_the_seat_to_move_now():
    game, moves = make("chess", history=3), ["e2e4", "d7d5", "e4d5", "d8d5", "b1c3"]
    state = game.initial_state()
    boards = [seen(game, state)[:12]]
    for name in moves:
        game.play(state, game.parse_action(state, name))
        boards.append(seen(game, state)[:12])
    planes = seen(game, state)
    assert planes.shape == (20 + 36, 8, 8)
    assert np.array_equal(planes[:20], seen(CHESS, moved(START, " ".join(moves))))
    for n in range(3):
        past = boards[-2 - n]
        # A board that the other seat saw has its ranks in reverse and its sides exchanged.
        turned = past if n % 2 else np.concatenate([past[6:], past[:6]])[:, ::-1]
        assert np.array_equal(planes[20 + 12 * n : 32 + 12 * n], turned)
    assert not seen(game, game.parse_position(game.position(state)))[20:].any()


def test_the_heuristic_counts_material_for_the_seat_that_asks():
    ahead = CHESS.parse_position("4k3/8/8/8/8/8/8/3QK3 b - - 0 1")
    white, black = (CHESS.rules["heuristic"](ahead, seat) for seat in (0, 1))
    assert white > 0.5 and black == -white
    assert CHESS.rules["heuristic"](CHESS.initial_state(), 0) == 0


def test_minimax_of_one_ply_beats_random_play():
    starts = openings(CHESS, 20, 4, seed=1)
    match = play_match(CHESS, MinimaxPlayer(CHESS, 1), RandomPlayer(CHESS), starts=starts)
    assert match.scores.mean() >= 0.9


# Texts.


@pytest.mark.parametrize(
    "fen, sentence",
    [
        ("8/8/8/8 w - - 0 1", "has 4 ranks"),
        (START.replace("8/8/8/8", "8/8/8/9"), "rank 3 of the board, '9'"),
        (START.replace("8/8/8/8", "8/8/8/x7"), "rank 3 of the board, 'x7'"),
        ("8/8/8/8/8/8/8/K7 w - - 0 1", "Black has 0 kings"),
        ("kk6/8/8/8/8/8/8/K7 w - - 0 1", "Black has 2 kings"),
        ("k7/8/8/8/8/8/8/K6P w - - 0 1", "a pawn cannot stand on h1"),
        ("k6p/8/8/8/8/8/8/K7 w - - 0 1", "a pawn cannot stand on h8"),
        ("k7/pppppppp/p7/8/8/8/8/K7 w - - 0 1", "Black has 9 pawns"),
        ("k7/8/8/8/8/QQQQQ3/PPPPP3/K7 w - - 0 1", "White has 5 pawns and at least 4 promoted pieces"),
        ("k7/8/8/8/8/8/8/K7 x - - 0 1", "side to move is 'x'"),
        ("k7/8/8/8/8/8/8/K6r b - - 0 1", "White is in check, but the side to move is Black"),
        ("k7/1K6/8/8/8/8/8/8 w - - 0 1", "Black is in check"),
        ("k7/8/8/8/8/8/8/4K2R w KQ - 0 1", "White has no king and rook for 'Q'"),
        ("k7/8/8/8/8/8/8/3K3R w K - 0 1", "White has no king and rook for 'K'"),
        ("k7/8/8/8/8/8/8/4K2R w KK - 0 1", "a second time"),
        ("k7/8/8/8/8/8/8/4K2R w X - 0 1", "castling is 'X'"),
        ("k7/8/8/8/8/8/8/K7 w - e5 0 1", "en passant square is 'e5'"),
        ("k7/8/8/8/8/8/8/K7 w - e3 0 1", "a square of rank 6"),
        ("k7/8/8/8/8/8/8/K7 w - e6 0 1", "no pawn of Black has just passed it"),
        ("k7/8/8/8/8/8/8/K7 w - - -1 1", "half-move clock is '-1'"),
        ("k7/8/8/8/8/8/8/K7 w - - 101 1", "half-move clock is '101'"),
        ("k7/8/8/8/8/8/8/K7 w - - 0 0", "number of the move is '0'"),
        ("k7/8/8/8/8/8/8/K7 w - -", "has 4 fields; a FEN has 6"),
        ("", "has 0 fields"),
    ],
)
def test_a_wrong_position_is_told_in_one_sentence_with_its_field(fen, sentence):
    with pytest.raises(InvalidState, match=sentence) as error:
        CHESS.parse_position(fen)
    assert str(error.value).startswith("chess: ") and "\n" not in str(error.value)


def test_the_board_is_drawn_from_the_side_of_white():
    lines = CHESS.render(moved(START, "e2e4")).split("\n")
    assert lines[0] == "8 r n b q k b n r"
    assert lines[4] == "4 . . . . P . . ."
    assert lines[-1] == "  a b c d e f g h"


# Starts and options.


def test_a_game_may_start_from_a_position():
    fen = "8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1"
    game = make("chess", fen=fen)
    assert game.position(game.initial_state()) == fen
    assert game.options == {"fen": fen}


def test_openings_are_drawn_from_a_file_by_the_seed(tmp_path):
    path = tmp_path / "openings.txt"
    fen = "4k3/8/8/8/8/8/4P3/4K3 w - - 0 1"
    path.write_text(f"# two openings\ne2e4 e7e5\n\n{fen}  # an endgame\n")
    game = make("chess", openings=str(path))
    found = {game.position(game.initial_state(seed)) for seed in range(30)}
    assert found == {fen, "rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq - 0 2"}
    assert game.position(game.initial_state(7)) == game.position(game.initial_state(7))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("e2e4\ne2e5\n", ":2: chess: move 1, 'e2e5', is not legal"),
        ("8/8/8/8/8/8/8/8 w - - 0 1\n", ":1: chess: board: White has 0 kings"),
        ("# nothing\n", "have 0 starts"),
    ],
)
def test_a_wrong_opening_is_told_with_its_line(tmp_path, text, sentence):
    path = tmp_path / "openings.txt"
    path.write_text(text)
    with pytest.raises(GameError, match=sentence):
        make("chess", openings=str(path))


@pytest.mark.slow
def test_chess960_has_the_960_starts_of_scharnagls_table():
    chess = need("chess")
    expected = {chess.Board.from_chess960_pos(n).fen() for n in range(960)}
    found = {CHESS960.position(CHESS960.initial_state(seed)) for seed in range(2000)}
    assert found <= expected and len(found) > 800
    assert "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1" in expected


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"fen": 3}, "fen is 3"),
        ({"fen": START, "openings": "x"}, "both fen and openings"),
        ({"openings": "/nowhere/openings.txt"}, "cannot be read"),
        ({"chess960": 1}, "chess960 is 1"),
        ({"history": 9}, "history is 9"),
        ({"max_plies": 0}, "max_plies is 0"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(options, sentence):
    with pytest.raises(GameError, match=sentence):
        make("chess", **options)


def test_only_options_that_differ_are_part_of_the_name():
    assert CHESS.id == "chess"
    assert CHESS960.id == "chess(chess960=True)"
    assert make("chess", history=0, max_plies=512).options == {}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"chess960": True}, {"history": 2}])
def test_the_laws_of_the_contract_hold(options):
    assert check_game(make("chess", **options), games=3).games == 3
