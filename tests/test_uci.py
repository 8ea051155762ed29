"""The UCI engine: driven by python-chess as a program, and line by line as the protocol is written."""

from __future__ import annotations

import io
import queue
import re
import subprocess
import sys
import threading
import time

import pytest

from tests.games.oracles import need
from zeroloop import model
from zeroloop.analysis import Analyst
from zeroloop.config import NetworkConfig
from zeroloop.errors import PlayerError
from zeroloop.evaluator.choice import Choice, shapes_of
from zeroloop.games import make
from zeroloop.networks import build
from zeroloop.uci import Engine
from zeroloop.uci_text import Board, centipawns, parse_go, seconds_for_move

chess = need("chess")
chess_engine = need("chess.engine")

SMALL = NetworkConfig(blocks=1, channels=8, policy_channels=4, value_channels=2, value_hidden=8)
CHESS = make("chess")
TORCH = Choice("torch", "cpu", "fp32")
PATIENT = 600
"""Seconds that a test waits for an engine whose kernels may have to be compiled."""


def untrained(game):
    return model.Model("0" * 64, build(SMALL, shapes_of(game), 3).eval(), game)


class Session:
    """An engine in this process, spoken to line by line."""

    def __init__(self, game=CHESS, simulations=40):
        self.sent, self.read = queue.SimpleQueue(), 0
        self.out = io.StringIO()
        made = Engine(untrained(game), simulations, self.out, choice=TORCH)
        self.thread = threading.Thread(target=made.run, args=(iter(self.sent.get, None),), daemon=True)
        self.thread.start()

    def send(self, *lines):
        for line in lines:
            self.sent.put(line)

    def until(self, start, wait=PATIENT):
        """Return what was said since the last call, up to a line that begins like this."""
        end = time.monotonic() + wait
        while time.monotonic() < end:
            lines = self.out.getvalue().splitlines()
            for place in range(self.read, len(lines)):
                if lines[place].startswith(start) and self.out.getvalue().endswith("\n"):
                    found, self.read = lines[self.read : place + 1], place + 1
                    return found
            time.sleep(0.002)
        raise AssertionError(f"no '{start}' came, only: {self.out.getvalue().splitlines()[self.read :]}")

    def ask(self, *lines):
        """Send lines and return all that was said until `readyok`, that word left out."""
        self.send(*lines, "isready")
        return self.until("readyok")[:-1]

    def told(self, *lines):
        """Send lines and return all up to the first information for people."""
        self.send(*lines)
        return self.until("info string")

    def go(self, *lines):
        self.send(*lines)
        return self.until("bestmove")

    def end(self):
        self.sent.put(None)
        self.thread.join(PATIENT)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def shared():
    session = Session()
    session.ask()
    yield session
    session.end()


@pytest.fixture
def session(shared):
    shared.ask("setoption name MultiPV value 1", "debug off", "ucinewgame", "position startpos")
    return shared


def move_of(lines):
    return lines[-1].split()[1]


# --- the handshake and the options --------------------------------------------------------------


def test_uci_is_answered_by_names_options_and_uciok(session):
    session.send("uci")
    said = session.until("uciok")
    assert said[0].startswith("id name zeroloop") and said[1].startswith("id author ")
    assert "option name Threads type spin default 1 min 1 max 1" in said
    assert all(line.startswith("option name ") for line in said[2:-1])
    assert not any("Ponder" in line or "Chess960" in line for line in said)


def test_options_out_of_range_or_unknown_are_refused_in_a_sentence(session):
    assert "1 to 218" in session.ask("setoption name MultiPV value 0")[0]
    assert "whole number" in session.ask("setoption name Hash value many")[0]
    assert "no option 'Style'" in session.ask("setoption name Style value wild")[0]
    assert "without Chess960" in session.ask("setoption name UCI_Chess960 value true")[0]
    assert session.ask("setoption name move overhead value 30") == []  # names know no case
    assert session.ask("setoption name Clear Hash") == []


def test_hash_that_the_machine_has_not_is_refused_and_the_old_one_stays(session, monkeypatch):
    def none_left(*args, **options):
        raise MemoryError

    monkeypatch.setattr("zeroloop.uci.Analyst", none_left)
    assert "set less" in session.told("setoption name Hash value 60000")[0]
    monkeypatch.undo()
    assert session.ask("setoption name Hash value 64") == []
    assert move_of(session.go("go nodes 5")) != "(none)"


def test_words_before_a_command_are_skipped_and_garbage_is_told(session):
    assert "no command" in session.ask("xyzzy 12")[0]
    assert session.ask("", "   ") == []
    assert move_of(session.go("joho position startpos moves e2e4", "hey go nodes 5")) != "(none)"


def test_ponder_is_refused_politely(session):
    assert "ponder" in session.ask("ponderhit")[0]
    said = session.go("go ponder wtime 1000 btime 1000")
    assert "ponder" in said[0] and move_of(said) == "(none)"


# --- positions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "position fen 8/8/8/8/8/8/8/8 w - - 0 1",
        "position fen rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR x KQkq - 0 1",
        "position fen",
        "position",
        "position endpos",
        "position startpos moves e2e5",
        "position startpos moves e2e4 e2e4",
        "position startpos moves f2f3 e7e5 g2g4 d8h4 e1f2",
    ],
)
def test_wrong_position_is_told_and_never_answered_by_a_move(session, wrong):
    said = session.go("position startpos moves e2e4", wrong, "go nodes 10")
    assert [line.split()[:2] for line in said[:2]] == [["info", "string"]] * 2
    assert move_of(said) == "(none)" and len(said) == 3
    assert move_of(session.go("position startpos", "go nodes 10")) != "(none)"


def test_mate_and_stalemate_have_no_move(session):
    for over in (
        "startpos moves f2f3 e7e5 g2g4 d8h4",
        "fen 7k/5Q2/6K1/8/8/8/8/8 b - - 0 1",
    ):
        said = session.go(f"position {over}", "go nodes 10")
        assert "no move is legal" in said[0] and move_of(said) == "(none)"


def test_draw_that_nobody_claimed_is_played_on(session):
    """A third repetition and 50 moves end a game only when a player claims them."""
    shuffle = "g1f3 g8f6 f3g1 f6g8 " * 2
    board = chess.Board()
    for name in shuffle.split():
        board.push_uci(name)
    assert board.can_claim_draw() and not board.is_game_over()
    said = session.go(f"position startpos moves {shuffle}", "go nodes 20")
    assert "not claimed" in said[0] and chess.Move.from_uci(move_of(said)) in board.legal_moves
    said = session.go(f"position startpos moves {2 * shuffle} e2e4 e7e5", "go nodes 20")
    assert not any("claimed" in line for line in said)
    replayed = Board(CHESS)
    replayed.set(["startpos", "moves", *(2 * shuffle).split(), "e2e4"])
    assert replayed.names(replayed.state).keys() >= {"e7e5", "g8f6"}
    fifty = "fen 4k3/8/8/8/8/8/3R4/4K3 w - - 100 90"
    assert "not claimed" in session.go(f"position {fifty}", "go nodes 20")[0]


@pytest.mark.parametrize("clock", [100, 101, 149])
def test_a_position_after_50_moves_without_a_claim_is_played_on(session, clock):
    """The arbiter ends the game at 75 moves, half-move clock 150; up to there it goes on."""
    fen = f"4k3/8/8/8/8/8/3R4/4K3 w - - {clock} 120"
    assert not chess.Board(fen).is_game_over()
    said = session.go(f"position fen {fen}", "go nodes 20")
    assert "not claimed" in said[0] and chess.Move.from_uci(move_of(said)) in chess.Board(fen).legal_moves
    said = session.go(f"position fen {fen} moves d2d7", "go nodes 20")
    assert move_of(said) in ("e8d7", "e8f8")


def test_a_half_move_clock_of_75_moves_and_more_is_refused(session):
    for clock in ("150", "9999", "-1", "1e2"):
        said = session.go(f"position fen 4k3/8/8/8/8/8/3R4/4K3 w - - {clock} 120", "go nodes 20")
        assert "half-move clock" in said[0] and move_of(said) == "(none)"


def test_a_mate_with_the_fiftieth_move_is_mate(session):
    said = session.go("position fen 7k/6Q1/6K1/8/8/8/8/8 b - - 120 90", "go nodes 5")
    assert "no move is legal" in said[-2] and move_of(said) == "(none)"


def test_dead_position_is_still_answered_by_a_legal_move(session):
    fen = "4k3/8/8/8/8/8/8/4K2N w - - 0 1"
    said = session.go(f"position fen {fen}", "go nodes 20")
    assert chess.Move.from_uci(move_of(said)) in chess.Board(fen).legal_moves


def test_promotion_en_passant_and_castling_are_written_as_in_the_protocol():
    board = Board(CHESS)
    for fen, expected in (
        ("8/P6k/8/8/8/8/8/K7 w - - 0 1", {"a7a8q", "a7a8r", "a7a8b", "a7a8n"}),
        ("4k3/8/8/pP6/8/8/8/4K3 w - a6 0 1", {"b5a6"}),
        ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", {"e1g1", "e1c1"}),
        ("r3k2r/8/8/8/8/8/8/R3K2R b KQkq - 0 1", {"e8g8", "e8c8"}),
    ):
        board.set(["fen", *fen.split()])
        assert set(board.names(board.state)) == {m.uci() for m in chess.Board(fen).legal_moves} >= expected


def test_longer_list_of_the_same_moves_gives_the_same_position_as_from_the_start():
    line = "e2e4 e7e5 g1f3 b8c6 f1b5 a7a6 b5c6 d7c6 e1g1"
    moves = line.split()
    slow, step = Board(CHESS), Board(CHESS)
    for n in range(len(moves) + 1):
        step.set(["startpos", "moves", *moves[:n]])
    slow.set(["startpos", "moves", *moves])
    assert slow.state.tobytes() == step.state.tobytes()
    step.set(["startpos", "moves", "d2d4"])
    slow = Board(CHESS)
    slow.set(["startpos", "moves", "d2d4"])
    assert slow.state.tobytes() == step.state.tobytes()


def test_chess960_castling_is_king_takes_rook_only_where_the_option_is_set():
    board = Board(make("chess", chess960=True))
    fen = "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1"
    usual = ["fen", *fen.split()]
    board.set(usual)
    assert {"e1g1", "e1c1"} <= set(board.names(board.state))
    board.chess960 = True
    board.set(usual)
    assert {"e1h1", "e1a1"} <= set(board.names(board.state))
    fen = "bqnb1rkr/pp3ppp/3ppn2/2p5/5P2/P2P4/NPP1P1PP/BQ1BNRKR w HFhf - 2 9"
    board.set(["fen", *fen.split()])
    assert set(board.names(board.state)) == {m.uci() for m in chess.Board(fen, chess960=True).legal_moves}


def test_unusual_castling_rights_are_refused_without_the_option():
    session = Session(make("chess", chess960=True))
    said = session.go("position fen 4k3/8/8/8/8/8/8/R4K1R w AH - 0 1", "go nodes 1")
    assert "first squares" in said[0] and move_of(said) == "(none)"
    session.send("uci")
    assert "option name UCI_Chess960 type check default false" in session.until("uciok")
    session.end()


# --- go -----------------------------------------------------------------------------------------


def test_go_before_any_position_searches_the_usual_start(shared):
    fresh = Session()
    assert chess.Move.from_uci(move_of(fresh.go("go nodes 10"))) in chess.Board().legal_moves
    fresh.end()


def test_information_has_depth_score_nodes_speed_time_and_a_legal_line(session):
    said = session.go("position startpos moves e2e4", "go nodes 200")
    found = re.fullmatch(
        r"info depth (\d+) multipv 1 score cp (-?\d+) nodes (\d+) nps \d+ hashfull \d+ time \d+ pv (.+)",
        said[-2],
    )
    assert found and int(found[3]) == 200 and int(found[1]) == len(found[4].split())
    board = chess.Board()
    board.push_uci("e2e4")
    for name in found[4].split():
        board.push_uci(name)
    assert found[4].split()[0] == move_of(said)


def test_go_without_limits_takes_the_simulations_of_the_name(session):
    assert " nodes 40 " in session.go("go")[-2]
    said = session.go("go depth 3")
    assert "depth is no limit" in said[0] and " nodes 40 " in said[-2]


def test_multipv_tells_distinct_moves_best_first(session):
    said = session.go("setoption name MultiPV value 3", "position startpos", "go nodes 300")
    lines = [line for line in said if " multipv " in line][-3:]
    assert [line.split(" multipv ")[1][0] for line in lines] == ["1", "2", "3"]
    firsts = [line.split(" pv ")[1].split()[0] for line in lines]
    assert len(set(firsts)) == 3 and firsts[0] == move_of(said)


def test_multipv_of_more_than_the_legal_moves_tells_all_that_were_visited(session):
    said = session.go("setoption name MultiPV value 218", "go nodes 2000")
    assert sum(" multipv " in line for line in said) <= 20 * (len(said) // 20 + 1)
    assert len({line.split(" pv ")[1].split()[0] for line in said if " pv " in line}) == 20


def test_searchmoves_restricts_the_answer_and_says_how(session):
    best = move_of(session.go("position startpos", "go nodes 60"))
    others = sorted({"a2a3", "h2h4", "b1c3"} - {best})
    said = session.go(f"go nodes 60 searchmoves {' '.join(others)}")
    assert "searchmoves" in said[0] and move_of(said) in others
    assert "not legal" in session.go("go nodes 10 searchmoves e2e5")[0]
    assert move_of(session.go("go nodes 10")) != "(none)"


def test_without_simulations_the_policy_plays_and_the_score_is_that_of_the_seat_to_move():
    bare = Session(simulations=0)
    for moves in ("", "e2e4"):
        board = Board(CHESS)
        board.set(["startpos", "moves", *moves.split()])
        looked = Analyst(untrained(CHESS), choice=TORCH).analyse(board.state, stop=lambda: True)
        said = bare.go(f"position startpos moves {moves}", "go")
        assert f" score cp {centipawns(looked.values[board.seat])} nodes 0 " in said[-2]
        assert move_of(said) == board.name(board.state, max(looked.lines, key=lambda x: x.prior).actions[0])
    assert abs(centipawns(looked.values[1])) > 0
    bare.end()


@pytest.mark.parametrize("wrong", ["nodes", "nodes x", "nodes 0", "movetime -5", "wtime 1e3", "movestogo 0"])
def test_wrong_number_is_refused_in_a_sentence(session, wrong):
    said = session.go(f"go {wrong}")
    assert "must be" in said[0] and move_of(said) == "(none)"


def test_a_number_beyond_the_limit_is_refused_with_the_limit(session):
    for word in ("nodes", "movetime", "wtime"):
        said = session.go(f"go {word} 999999999999999999999")
        assert said[0].endswith("to 1000000000000.") and move_of(said) == "(none)"
    assert parse_go(["nodes", "1000000000000"]).numbers == {"nodes": 10**12}


def test_no_time_at_all_is_still_answered_by_a_move(session):
    said = session.go("position startpos", "go movetime 0")
    assert chess.Move.from_uci(move_of(said)) in chess.Board().legal_moves
    assert " pv " + move_of(said) in said[-2]
    assert move_of(session.go("go movetime 0 wtime 0 btime 0")) != "(none)"


def test_infinite_search_answers_isready_and_ends_with_stop_only(session):
    session.send("position startpos", "go infinite")
    time.sleep(0.3)
    assert not any("bestmove" in line for line in session.ask())
    said = session.go("stop")
    assert chess.Move.from_uci(move_of(said)) in chess.Board().legal_moves
    session.send("stop")  # without a search: nothing
    assert session.ask() == []


def test_infinite_search_with_a_limit_of_nodes_still_waits_for_stop(session):
    session.send("go infinite nodes 5")
    time.sleep(0.3)
    assert not any("bestmove" in line for line in session.ask())
    assert " nodes 5 " in session.go("stop")[-2]


def test_commands_that_must_wait_are_told_and_done_afterwards(session):
    session.send("position startpos", "go infinite")
    session.ask()
    assert "waits" in session.ask("position startpos moves e2e4")[0]
    assert "waits" in session.ask("go nodes 7")[0]
    first = session.go("stop")
    second = session.until("bestmove")
    assert move_of(first)[1] in "12" and move_of(second)[1] in "78" and " nodes 7 " in second[-2]


def test_games_in_a_row_do_not_mix(session):
    game = "ucinewgame", "position startpos moves d2d4", "go nodes 100"

    def plain(lines):
        return [re.sub(r"nps \d+|time \d+", "", line) for line in lines]

    first = plain(session.go(*game))
    session.go("position startpos moves d2d4 d7d5 c2c4", "go nodes 100")
    assert plain(session.go(*game)) == first
    assert plain(session.go(*game)) == first
    assert plain(session.go("go nodes 100")) != first  # the tree is kept within a game


def test_commands_that_follow_stop_belong_to_the_next_search(session):
    session.send("position startpos", "go infinite")
    session.ask()
    session.send("stop", "position startpos moves e2e4", "go nodes 7")
    said = session.until("bestmove") + session.until("bestmove")
    assert " nodes 7 " in said[-2] and not any("waits" in line for line in said)


def test_end_of_input_ends_a_search():
    session = Session()
    session.send("go infinite")
    session.ask()
    session.end()
    assert session.out.getvalue().splitlines()[-1].startswith("bestmove ")


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "increment", "to_go"),
    [(1, 0.1, 0), (0.1, 0.1, 0), (60, 0, 0), (5400, 30, 0), (60, 0, 40), (10, 0, 1), (2, 0, 5), (3, 2, 1)],
)
def test_clock_never_runs_out(start, increment, to_go):
    """200 moves whose overhead is what it was said to be; to_go moves bring a new `start`."""
    remaining, left = start, to_go
    for _ in range(200):
        remaining -= seconds_for_move(remaining, increment, left, 0.02) + 0.02
        assert remaining >= 0
        remaining += increment
        left -= 1
        if to_go and left == 0:
            remaining, left = remaining + start, to_go


def test_thought_is_shorter_than_what_remains():
    for remaining in (-1, 0, 0.01, 0.5, 100):
        for to_go in (0, 1, 2, 40, 1000):
            thought = seconds_for_move(remaining, 60, to_go, 0.02)
            assert 0 <= thought <= max(remaining - 0.02, 0)


def test_more_time_and_increment_give_longer_thought_and_all_of_it_is_used():
    assert seconds_for_move(60, 0, 0, 0.02) < seconds_for_move(120, 0, 0, 0.02)
    assert seconds_for_move(60, 0, 0, 0.02) < seconds_for_move(60, 1, 0, 0.02)
    assert seconds_for_move(60, 0, 2, 0.02) > seconds_for_move(60, 0, 20, 0.02)
    remaining = 60.0
    for _ in range(60):
        remaining -= seconds_for_move(remaining, 0, 0, 0.02)
    assert remaining < 20


def searched(lines):
    """Return the milliseconds that the last line of information tells."""
    return int(lines[-2].split(" time ")[1].split()[0])


@pytest.mark.slow
def test_each_side_has_its_own_clock(session):
    clocks = "go wtime 20000 btime 40 winc 0 binc 0"
    assert 300 < searched(session.go("position startpos", clocks)) < 500
    assert searched(session.go("position startpos moves e2e4", clocks)) < 150
    assert searched(session.go("position startpos moves e2e4", "go wtime 10 btime 3000 movestogo 2")) > 900
    assert searched(session.go("go wtime 60000 btime 60000 movetime 100")) < 200


def test_limits_are_read_as_the_protocol_writes_them():
    text = "wtime 1000 btime -20 winc 5 binc 6 movestogo 7 searchmoves e2e4 d2d4 infinite"
    found = parse_go(text.split())
    expected = {"wtime": 1000, "btime": -20, "winc": 5, "binc": 6, "movestogo": 7}
    assert found.numbers == expected and found.moves == ("e2e4", "d2d4") and found.infinite
    assert parse_go(["nodes", "5", "quickly"]).unknown == ("quickly",)


def test_centipawns_are_those_of_elo():
    """An expected score of 64 % is worth 100 Elo; the mapping is odd and grows."""
    assert centipawns(0) == 0 and abs(centipawns(2 * 0.640065 - 1) - 100) <= 1
    values = [-1, -0.9, -0.2, 0, 0.2, 0.9, 1]
    scores = [centipawns(v) for v in values]
    assert scores == sorted(scores) == [-s for s in reversed(scores)] and scores[-1] < 10_000


# --- the program --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    name = model.save(untrained(CHESS).network, CHESS, folder)
    return str(folder / f"{name}.safetensors")


def command(path, simulations=50):
    return [sys.executable, "-m", "zeroloop", "uci", f"{path}@{simulations}"]


@pytest.fixture(scope="module")
def program(stored):
    with chess_engine.SimpleEngine.popen_uci(command(stored), timeout=PATIENT) as engine:
        engine.ping()  # isready: compiled and warm
        yield engine


def test_python_chess_plays_two_games_with_it(program):
    for game in range(2):
        board = chess.Board()
        while not board.is_game_over() and board.ply() < 40:
            found = program.play(board, chess_engine.Limit(nodes=20), game=game, info=chess_engine.INFO_ALL)
            assert found.move in board.legal_moves and found.info["nodes"] == 20
            board.push(found.move)


def test_python_chess_analyses_three_lines_and_stops_it(program):
    with program.analysis(chess.Board(), multipv=3) as going:
        for info in going:
            if info.get("multipv") == 3:
                break
    assert len(going.multipv) == 3
    first = {info["pv"][0] for info in going.multipv}
    assert len(first) == 3 and all(move in chess.Board().legal_moves for move in first)
    assert going.wait().move in first


@pytest.mark.slow
def test_moves_come_in_time(program):
    """The median, because one wait for a busy processor proves nothing."""
    board, took = chess.Board(), []
    for _ in range(9):
        began = time.perf_counter()
        board.push(program.play(board, chess_engine.Limit(time=0.2), game="time").move)
        took.append(time.perf_counter() - began)
    assert 0.1 < sorted(took)[4] < 0.3


def test_python_chess_refuses_chess960_with_a_model_of_usual_chess(program):
    board = chess.Board.from_chess960_pos(5)
    with pytest.raises(chess_engine.EngineError):
        program.play(board, chess_engine.Limit(nodes=5))


@pytest.mark.slow
def test_end_of_input_ends_the_program_and_nothing_else_is_on_its_standard_output(stored):
    lines = "uci\nisready\ngo infinite\n"
    done = subprocess.run(command(stored), input=lines, capture_output=True, text=True, timeout=PATIENT)
    assert done.returncode == 0 and "readyok" in done.stdout.splitlines()
    known = ("id ", "option ", "uciok", "info ", "readyok", "bestmove ")
    assert all(line.startswith(known) for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1].startswith("bestmove ") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_program_refuses_a_model_of_another_game_by_name():
    answer = subprocess.run(
        command("demo:connect4"), input="", capture_output=True, text=True, timeout=PATIENT
    )
    assert answer.returncode == 1 and not answer.stdout
    assert "demo:connect4 plays connect4" in answer.stderr and len(answer.stderr.splitlines()) == 1


def test_model_of_another_game_is_refused():
    with pytest.raises(PlayerError, match="plays tictactoe"):
        Engine(untrained(make("tictactoe")), 10, io.StringIO())


@pytest.mark.slow
def test_python_chess_plays_chess960(tmp_path):
    game = make("chess", chess960=True)
    name = model.save(untrained(game).network, game, tmp_path)
    path = tmp_path / f"{name}.safetensors"
    with chess_engine.SimpleEngine.popen_uci(command(path), timeout=PATIENT) as engine:
        for number in (0, 518, 959):
            board = chess.Board.from_chess960_pos(number)
            while not board.is_game_over() and board.ply() < 80:
                board.push(engine.play(board, chess_engine.Limit(nodes=10), game=number).move)
        castling = chess.Board("1rk4r/8/8/8/8/8/8/1RK4R w HBhb - 0 1", chess960=True)
        for move in (m for m in castling.legal_moves if castling.is_castling(m)):
            after = castling.copy()
            after.push(move)
            assert engine.play(after, chess_engine.Limit(nodes=5)).move in after.legal_moves
            chosen = engine.play(castling, chess_engine.Limit(nodes=5), root_moves=[move]).move
            assert chosen == move
