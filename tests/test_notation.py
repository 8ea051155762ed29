"""Records of games: replay; PGN against python-chess, SGF by its specification, MAT against gnubg."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess

import numpy as np
import pytest

from tests.games.oracles import need, need_program
from tests.games.trails_slow import game as trails
from zeroloop.errors import ConfigError, InvalidState
from zeroloop.games import CHANCE, make
from zeroloop.games.backgammon import position_id
from zeroloop.match import play_match
from zeroloop.notation import check_row, formats_for, mat, pgn, record, replay, san, sgf, walk
from zeroloop.openings import drawn_openings
from zeroloop.players.random import RandomPlayer

DATE = "2026.01.31"


def named(game, name, seed):
    player = RandomPlayer(game, seed)
    player.name = name
    return player


def rows_of(game, count, seed=1, names=("first", "second")):
    """Return records, through JSON, of random games with what the match itself says of them."""
    starts = drawn_openings(game, count, 4, seed)
    sides = [named(game, name, seed + n) for n, name in enumerate(names)]
    result = play_match(game, *sides, starts=starts.states, seed=seed)
    rows = []
    for g, (number, seat) in enumerate(zip(result.opening.tolist(), result.seat.tolist(), strict=True)):
        row = record(
            game,
            starts.initial[number],
            starts.moves[number].tolist(),
            result.moves[g].tolist(),
            number=number,
            seat=seat,
            seats=[names[s != seat] for s in range(game.num_players)],
            models=[None] * game.num_players,
            points=result.points[g].tolist(),
            date=DATE,
        )
        rows.append(check_row(json.loads(json.dumps(row))))
    return rows, result, starts


@pytest.fixture(scope="module")
def chess_games():
    game = make("chess", max_plies=160)
    return game, *rows_of(game, 10)


@pytest.fixture(scope="module")
def backgammon_games():
    game = make("backgammon")
    return game, *rows_of(game, 4)


# --- records ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "game", [make("connect4"), make("hex", size=5, swap=True), trails()], ids=lambda game: game.name
)
def test_every_record_leads_to_the_stored_points(game):
    rows, result, _ = rows_of(game, 12)
    assert len(rows) == 12 * game.num_players
    for row, points in zip(rows, result.points.tolist(), strict=True):
        assert game.points(replay(game, row)) == points == row["points"]


def test_every_chess_and_backgammon_record_leads_to_the_stored_points(chess_games, backgammon_games):
    for game, rows, result, _ in (chess_games, backgammon_games):
        for row, points in zip(rows, result.points.tolist(), strict=True):
            end = game.points(replay(game, row))
            assert points == row["points"]
            assert end == points if row["ended"] == "over" else end is None


def test_cut_game_is_told_from_a_finished_one(chess_games):
    game, rows, result, _ = chess_games
    cut = [row for row in rows if row["ended"] == "cut"]
    assert len(cut) == result.truncated > 0
    assert all(row["points"] == [0, 0] for row in cut)
    cut[0]["ended"] = "over"
    with pytest.raises(InvalidState, match="the record says 'over' with points"):
        replay(game, cut[0])
    cut[0]["ended"] = "cut"


def test_record_names_the_position_where_the_players_took_over(chess_games, backgammon_games):
    for game, rows, _, starts in (chess_games, backgammon_games):
        for row in rows:
            assert row["start"] == game.position(starts.states[row["opening"]])
            assert row["initial"] == game.position(starts.initial[row["opening"]])
            assert row["opening_moves"] == len(starts.moves[row["opening"]])


def test_dice_stand_among_the_moves_and_belong_to_no_seat(backgammon_games):
    _, rows, _, _ = backgammon_games
    for row in rows:
        dice = [m for m, mover in zip(row["moves"], row["movers"], strict=True) if mover == CHANCE]
        assert dice and all(re.fullmatch("[1-6]{2}", name) for name in dice)
        assert set(row["movers"]) == {CHANCE, 0, 1}


def test_move_that_is_not_possible_is_named_with_its_ply():
    game = make("connect4")
    row = rows_of(game, 2)[0][0]
    row["moves"][6] = "z9"
    with pytest.raises(
        InvalidState, match=r"connect4: ply 7 of the record, 'z9', is not possible in .*; all"
    ):
        replay(game, row)


def test_record_that_goes_on_after_the_end_is_refused():
    game = make("connect4")
    row = rows_of(game, 2)[0][0]
    row["moves"].append(row["moves"][0])
    with pytest.raises(InvalidState, match="allowed: none: the game is over"):
        replay(game, row)


def test_record_with_changed_points_is_refused():
    game = make("connect4")
    row = next(r for r in rows_of(game, 4)[0] if r["points"] != [0, 0])
    row["points"] = row["points"][::-1]
    with pytest.raises(InvalidState, match="but its moves lead to"):
        replay(game, row)


def test_record_of_another_game_or_board_is_refused():
    game = make("hex", size=5)
    row = rows_of(game, 2)[0][0]
    with pytest.raises(InvalidState, match=r"of hex\(size=5, swap=False\), not of hex\(size=4, swap=False\)"):
        replay(make("hex", size=4), row)


def test_record_without_a_key_or_of_another_type_is_refused():
    row = rows_of(make("connect4"), 2)[0][0]
    for key in row:
        with pytest.raises(InvalidState, match=key):
            check_row({k: v for k, v in row.items() if k != key})
        with pytest.raises(InvalidState, match=key):
            check_row({**row, key: None})
    with pytest.raises(InvalidState, match="format 2"):
        check_row({**row, "format": 2})
    with pytest.raises(InvalidState, match="JSON object"):
        check_row([])


def test_actions_that_are_not_legal_make_no_record():
    game = make("connect4")
    given = {"number": 0, "seat": 0, "seats": ["a", "b"], "models": [None] * 2, "points": [1, -1]}
    with pytest.raises(InvalidState, match="ply 7, action 3, is not legal"):
        record(game, game.initial_state(), [3, 3], [3, 3, 3, 3, 3], date=DATE, **given)


# --- PGN ----------------------------------------------------------------------------------------


def read_pgn(chess, text):
    chess_pgn = need("chess.pgn")
    file, found = io.StringIO(text), []
    while (one := chess_pgn.read_game(file)) is not None:
        assert not one.errors
        found.append(one)
    return found


@pytest.mark.slow
def test_python_chess_reads_the_games_with_the_same_end(chess_games):
    chess = need("chess")
    game, rows, _, _ = chess_games
    found = read_pgn(chess, pgn(game, rows))
    assert len(found) == len(rows) == 20
    for one, row in zip(found, rows, strict=True):
        assert [m.uci() for m in one.mainline_moves()] == row["moves"]
        assert one.headers["Round"] == f"{row['opening'] + 1}.{row['seat'] + 1}"
        assert [one.headers["White"], one.headers["Black"]] == row["seats"]
        assert one.headers["Date"] == DATE and one.headers["Site"] == "?" and "FEN" not in one.headers
        board = one.end().board()
        fen = game.position(replay(game, row)).removesuffix(" repetition")
        assert board.fen(en_passant="legal") == fen
        outcome = board.outcome(claim_draw=True)
        if row["ended"] == "over":
            assert outcome.result() == one.headers["Result"] and one.headers["Termination"] == "normal"
        else:
            assert one.headers["Result"] == "1/2-1/2" and one.headers["Termination"] == "adjudication"


def test_results_tell_white_from_black():
    """Fool's mate: Black wins; and the same with colours exchanged is a win of White."""
    game = make("chess")
    start = game.initial_state()
    given = {"number": 4, "seat": 1, "seats": ["a", 'b "x" \\'], "models": ["c0ffee", None], "date": DATE}
    for moves, points, result, last in (
        ("f2f3 e7e5 g2g4 d8h4", [-1, 1], "0-1", "2. g4 Qh4# 0-1"),
        ("e2e4 g7g5 b1c3 f7f6 d1h5", [1, -1], "1-0", "3. Qh5# 1-0"),
    ):
        state, actions = game.copy(start), []
        for name in moves.split():
            actions.append(game.parse_action(state, name))
            game.play(state, actions[-1])
        text = pgn(game, [record(game, start, actions[:1], actions[1:], points=points, **given)])
        assert f'[Result "{result}"]' in text and text.strip().endswith(last)
        assert '[Black "b \\"x\\" \\\\"]' in text and '[WhiteModel "c0ffee"]' in text
        assert "BlackModel" not in text and '[Round "5.2"]' in text and '[OpeningPlies "1"]' in text


@pytest.mark.slow
def test_game_from_a_position_and_chess960_carry_their_start():
    chess = need("chess")
    fen = "4k3/P6P/8/2pP4/8/8/8/R3K2R w KQ c6 0 12"
    for options in ({"fen": fen}, {"chess960": True}, {"fen": fen.replace("w KQ c6 0", "b KQ - 0")}):
        game = make("chess", max_plies=60, **options)
        rows, _, _ = rows_of(game, 6)
        for one, row in zip(read_pgn(chess, pgn(game, rows)), rows, strict=True):
            assert one.headers["SetUp"] == "1" and one.headers["FEN"] == row["initial"]
            assert (one.headers.get("Variant") == "Chess960") == ("chess960" in options)
            assert [m.uci() for m in one.mainline_moves()] == row["moves"]


POSITIONS = [
    "4k3/P6P/8/2pP4/8/8/8/R3K2R w KQ c6 0 12",  # castling, promotion, en passant
    "8/k7/8/8/4Q2Q/8/8/K6Q w - - 0 1",  # three queens: file, rank and square apart
    "1n1n4/P1P5/8/8/1k6/8/p1p5/1N1NK3 w - - 0 1",  # promotions that take
    "1n1n4/P1P5/8/8/1k6/8/p1p5/1N1NK3 b - - 0 1",
    "r3k2r/8/8/8/8/8/8/4K3 b kq - 0 1",  # castling that checks nobody
    "5k2/8/8/8/8/8/8/4K2R w K - 0 1",  # castling with check
    "7k/5Q2/8/6K1/8/8/8/8 w - - 0 1",  # mates and a stalemate
    "3k4/8/8/1N3N2/8/1N6/8/K7 w - - 0 1",  # knights
    "r1bqkbnr/pppp1ppp/2n5/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 2 3",
]


@pytest.mark.parametrize("fen", POSITIONS)
def test_every_move_is_named_as_python_chess_names_it(fen):
    chess = need("chess")
    game = make("chess")
    state, board = game.parse_position(fen), chess.Board(fen)
    legal = game.legal(state)
    assert len(legal) == board.legal_moves.count()
    from zeroloop.notation import Step

    for action in legal:
        after = game.copy(state)
        game.play(after, action)
        move = chess.Move.from_uci(game.action_name(state, action))
        assert san(Step(state, int(state.mover), action, legal, after)) == board.san(move)


# --- SGF ----------------------------------------------------------------------------------------


def read_sgf(text):
    """Return (root properties, moves) of each tree, by the grammar of FF[4]; no variations."""
    trees = []
    for tree in re.findall(r"\(((?:\s*;(?:\s*[A-Z]+(?:\s*\[(?:\\.|[^\]\\])*\])+)*)+)\s*\)", text, re.S):
        nodes = [
            {
                key: re.sub(r"\\(.)", r"\1", value)
                for key, value in re.findall(r"([A-Z]+)\[((?:\\.|[^\]\\])*)\]", node)
            }
            for node in re.findall(r";((?:\s*[A-Z]+(?:\s*\[(?:\\.|[^\]\\])*\])+)*)", tree, re.S)
        ]
        trees.append((nodes[0], [next(iter(node.items())) for node in nodes[1:]]))
    return trees


def joins(cells, axis, size):
    """Return whether the cells (column, row) join both edges: axis 1 top and bottom, 0 left and right."""
    open_cells = [c for c in cells if c[axis] == 0]
    seen = set(open_cells)
    while open_cells:
        x, y = open_cells.pop()
        if (x, y)[axis] == size - 1:
            return True
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)):
            if (x + dx, y + dy) in cells and (x + dx, y + dy) not in seen:
                seen.add((x + dx, y + dy))
                open_cells.append((x + dx, y + dy))
    return False


@pytest.mark.parametrize("swap", [False, True])
def test_hex_games_read_by_the_specification_end_with_the_winner_joined(swap):
    """Black moves first and joins top and bottom; a swap of pieces mirrors the stone at the long diagonal."""
    size = 4
    game = make("hex", size=size, swap=swap)
    names = ("a]b\\", "runs/x@64")
    rows, _, _ = rows_of(game, 15, names=names)
    trees = read_sgf(sgf(game, rows))
    assert len(trees) == len(rows)
    swaps = 0
    for (root, moves), row in zip(trees, rows, strict=True):
        assert (root["FF"], root["GM"], root["SZ"], root["DT"]) == ("4", "11", "4", "2026-01-31")
        assert [root["PB"], root["PW"]] == row["seats"]
        stones = {"B": set(), "W": set()}
        for n, (colour, cell) in enumerate(moves):
            assert colour == "BW"[n % 2]
            if cell == "swap-pieces":
                swaps += 1
                ((x, y),) = stones["B"]
                stones = {"B": set(), "W": {(y, x)}}
                continue
            where = (ord(cell[0]) - ord("a"), int(cell[1:]) - 1)
            assert where not in stones["B"] | stones["W"]
            stones[colour].add(where)
        won = [joins(stones["B"], 1, size), joins(stones["W"], 0, size)]
        assert won == [p == 1 for p in row["points"]]
        assert root["RE"] == ("B+" if won[0] else "W+")
    assert (swaps > 0) == swap


# --- MAT ----------------------------------------------------------------------------------------


def test_turns_stand_in_the_columns_of_their_players():
    """A hand-written beginning: the second player of the session begins, hits, and dances."""
    game = make("backgammon")
    start = game.initial_state()
    state, actions = game.copy(start), []
    for name in ["31", "8/5", "6/5", "66", "24/18", "24/18", "13/7", "13/7"]:
        actions.append(game.parse_action(state, name))
        game.play(state, actions[-1])
    seats = {"number": 0, "seat": 1, "seats": ["minimax:1", "b"], "models": [None] * 2}
    row = record(game, start, actions[:3], actions[3:], points=[0, 0], date=DATE, **seats)
    assert row["ended"] == "cut"
    lines = mat(game, [row]).splitlines()
    assert lines[:4] == [" 0 point match", "", " Game 1", " b : 0" + " " * 29 + " minimax-1 : 0"]
    assert lines[4] == "  1)" + " " * 30 + "31: 8/5 6/5"
    assert lines[5] == "  2) 66: 24/18 24/18 13/7 13/7"


def test_session_of_other_players_is_refused(backgammon_games):
    game, rows, _, _ = backgammon_games
    with pytest.raises(InvalidState, match="a session is between two players"):
        mat(game, [*rows, {**rows[0], "seats": ["first", "third"]}])


READ_MAT = """
import gnubg
gnubg.command("set jacoby off")
gnubg.command('import mat "{path}"')
print("FOUND", gnubg.match(0, 1, 1, 0))
"""


def test_gnubg_reads_the_same_positions_dice_and_points(backgammon_games, tmp_path):
    program = need_program("gnubg", "gnubg")
    game, rows, _, _ = backgammon_games
    path = tmp_path / "games.mat"
    path.write_text(mat(game, rows))
    (tmp_path / "read.py").write_text(READ_MAT.format(path=path))
    done = subprocess.run(
        [program, "-t", "-q", "-r", "-p", str(tmp_path / "read.py")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": ""},
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found = ast.literal_eval(line.removeprefix("FOUND "))
    assert found["match-info"]["match-length"] == 0 and len(found["games"]) == len(rows)
    for read, row in zip(found["games"], rows, strict=True):
        sides = {"X": row["seats"].index("first"), "O": row["seats"].index("second")}
        assert sides[read["info"]["winner"]] == int(np.argmax(row["points"]))
        assert read["info"]["points-won"] == max(row["points"])
        turns, seat = [], -1
        for step in walk(game, row):
            if step.mover == CHANCE:
                seat = -1
            elif seat < 0:
                seat = step.mover
                dice = tuple(sorted(map(int, re.findall("[1-6]", dice_before(step.before))), reverse=True))
                turns.append((seat, dice[:2], position_id(step.before)))
        moves = [one for one in read["game"] if one["action"] == "move"]
        assert [
            (sides[m["player"]], tuple(sorted(m["dice"], reverse=True)), m["board"]) for m in moves
        ] == turns


def dice_before(state):
    """Return the dice of a turn that begins: `31`, `2222`."""
    return make("backgammon").position(state).split()[2]


# --- which game has which -----------------------------------------------------------------------


def test_games_have_their_usual_formats():
    assert formats_for(make("chess")) == ["pgn"] and formats_for(make("hex")) == ["sgf"]
    assert formats_for(make("backgammon")) == ["mat"] and formats_for(make("connect4")) == []
    assert formats_for(make("chess"), ["jsonl"]) == []


def test_unknown_format_and_format_of_another_game_are_refused():
    with pytest.raises(ConfigError, match="--format png is unknown; allowed: jsonl, pgn, sgf, mat"):
        formats_for(make("chess"), ["pgn", "png"])
    with pytest.raises(ConfigError, match="--format mat writes games of backgammon, not of chess"):
        formats_for(make("chess"), ["mat"])
