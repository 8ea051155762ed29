"""UCI engines as players: their names, what they are told, their bad days, and Stockfish."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.games.oracles import need, need_program
from zeroloop.errors import PlayerError
from zeroloop.games import make
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players import uci
from zeroloop.players.random import RandomPlayer

need("chess")
from zeroloop.players import uci_engine  # noqa: E402  (it needs python-chess)

CHESS = make("chess")
CHESS960 = make("chess", chess960=True)
START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"

FAKE = """#!{python}
import json, os, sys, time
import chess
{told}
GAMES, BOARD = 0, chess.Board()

def say(*lines):
    print(*lines, sep="\\n", flush=True)

def best():
    return BOARD.uci(min(BOARD.legal_moves, key=lambda move: move.uci()))

def go():
    say("info depth 1 score cp 0", "bestmove " + best())

for line in sys.stdin:
    words = line.split()
    with open(__file__ + ".log", "a") as log:
        log.write(line)
    if words[0] == "uci":
        say("id name Fake 1.0", "id author nobody", *OPTIONS, "uciok")
    elif words[0] == "isready":
        say("readyok")
    elif words[0] == "position":
        fen = chess.STARTING_FEN if words[1] == "startpos" else " ".join(words[2:8])
        BOARD = chess.Board(fen)
        for move in words[words.index("moves") + 1:] if "moves" in words else []:
            BOARD.push_uci(move)
    elif words[0] == "go":
        GAMES += 1
        if GAMES > len(PROOF):
            {bad_day}
        else:
            go()
    elif words[0] == "quit":
        break
"""
OPTIONS = (
    "option name Threads type spin default 4 min 1 max 8",
    "option name Hash type spin default 64 min 32 max 64",
    "option name Ponder type check default true",
)


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def fake(tmp_path):
    """Return a function that writes an engine which plays well in its proof and does `bad_day` afterwards."""

    def written(bad_day="go()", options=OPTIONS):
        told = f"OPTIONS, PROOF = {list(options)!r}, {list(uci.PROOF)!r}"
        text = FAKE.format(python=sys.executable, told=told, bad_day=bad_day)
        return write_program(tmp_path / "fake_engine", text)

    return written


def log_of(program):
    return program.with_name(program.name + ".log").read_text().splitlines()


def alive(pid):
    """Return whether a process exists; a zombie does."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(player, *texts, game=CHESS):
    states = np.concatenate([np.atleast_1d(game.parse_position(text)) for text in texts])
    n = len(states)
    actions = player.choose(states, np.zeros(n, np.uint64), np.zeros(n, np.int32))
    return [game.action_name(state, int(action)) for state, action in zip(states, actions, strict=True)]


# Names.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("stockfish:nodes=50", "stockfish:nodes=50"),
        ("stockfish:skill=3,nodes=50", "stockfish:nodes=50,skill=3"),
        ("stockfish:elo=1400,movetime=20,depth=4", "stockfish:depth=4,movetime=20,elo=1400"),
        ("uci:./engines/other,depth=3", "uci:./engines/other,depth=3"),
        ("uci:C:\\engines\\a b.exe,depth=3", "uci:C:\\engines\\a b.exe,depth=3"),
    ],
)
def test_equal_players_have_one_name(text, name):
    assert uci.parse_name(text).name == name
    assert uci.parse_name(name).name == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stockfish", "has no limit; give nodes, depth, movetime, such as stockfish:nodes=1000"),
        ("stockfish:", "has no limit"),
        ("stockfish:skill=3", "has no limit"),
        ("uci:./other", "such as uci:./other,nodes=1000"),
        ("uci", "names no program"),
        ("uci:nodes=5", "names no program"),
        ("stockfish:nodes=5,threads=2", "unknown key 'threads'; allowed: nodes, depth, movetime, skill, elo"),
        ("stockfish:nodes=5,", "unknown key ''"),
        ("stockfish:nodes=5,nodes=6", "'nodes' is given twice"),
        ("stockfish:nodes", "nodes is ''; it must be a whole number from 1"),
        ("stockfish:nodes=0", "nodes is '0'; it must be a whole number from 1"),
        ("stockfish:nodes=-5", "nodes is '-5'"),
        ("stockfish:nodes=1e3", "nodes is '1e3'"),
        ("stockfish:nodes=\N{SUPERSCRIPT TWO}", "it must be a whole number"),
        ("stockfish:depth=1001", "from 1 to 1,000"),
        ("stockfish:movetime=9" + "9" * 5000, "from 1 to 3,600,000"),
        ("stockfish:nodes=5,skill=3,elo=1500", "elo overrules skill; give one of them"),
    ],
)
def test_a_wrong_name_is_refused_in_one_sentence(text, says):
    with pytest.raises(PlayerError, match="player") as caught:
        uci.parse_name(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_only_chess_is_played():
    with pytest.raises(PlayerError, match="plays chess, not connect4"):
        uci.uci_player("stockfish:nodes=5", make("connect4"), 0)


def test_an_absent_engine_gives_the_package_to_install(monkeypatch):
    monkeypatch.setattr(uci.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(PlayerError, match="apt install stockfish"):
        uci.uci_player("stockfish:nodes=5", CHESS, 0)
    with pytest.raises(
        PlayerError, match=r"there is no program './nowhere' .* give the path of a UCI engine"
    ):
        uci.uci_player("uci:./nowhere,nodes=5", CHESS, 0)


def test_absent_python_chess_gives_the_line_to_type(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PlayerError, match=r"pip install 'zeroloop\[chess\]'"):
        uci.uci_player("stockfish:nodes=5", CHESS, 0)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"movetime": 2000}, 12),
        ({"nodes": 5000}, 11),
        ({"depth": 9}, 310),
        ({"nodes": 10**12, "movetime": 500}, 10.5),
    ],
)
def test_every_limit_bounds_the_time_of_a_move(limits, seconds):
    assert uci.most_seconds(limits) == pytest.approx(seconds)


# What an engine is told.


def test_an_engine_runs_with_one_thread_a_fixed_table_and_no_pondering(fake):
    program = fake()
    player = uci.uci_player(f"uci:{program},nodes=7,depth=3", CHESS, 0)
    assert ask(player, START) == ["a2a3"]
    player.close()
    log = log_of(program)
    assert log[0] == "uci"
    assert {"setoption name Threads value 1", "setoption name Hash value 32"} <= set(log)
    assert "setoption name Ponder value false" in log
    assert log[-5:] == ["isready", "position startpos", "go depth 3 nodes 7", "isready", "quit"]
    assert log[-6] == "ucinewgame"
    told = player.settings
    assert told["engine"] == {"name": "Fake 1.0", "author": "nobody"}
    assert told["program"] == "fake_engine"
    assert told["limits"] == {"nodes": 7, "depth": 3}
    assert told["options_set"] == {"Threads": 1, "Hash": 32}
    absent = dict.fromkeys(["Skill Level", "UCI_LimitStrength", "UCI_Elo", "UCI_Chess960"])
    assert told["options"] == absent | {"Threads": 1, "Hash": 32, "Ponder": False}
    assert json.loads(json.dumps(told)) == told


def test_every_position_is_a_new_game_to_the_engine(fake, monkeypatch):
    monkeypatch.setattr(uci, "cores", lambda: 1)
    program = fake()
    player = uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)
    ask(player, START, START, START)
    player.close()
    searches = [line.split()[0] for line in log_of(program) if line.split()[0] in ("ucinewgame", "go")]
    assert searches == ["ucinewgame", "go"] * (len(uci.PROOF) + 3)


def after(game, text, moves):
    state = game.parse_position(text)
    for name in moves.split():
        game.play(state, game.parse_action(state, name))
    return state


LINES = [
    (CHESS, START, "g1f3 g8f6 f3g1 f6g8", 0),
    (CHESS, START, "e2e4 b8c6 g1f3 c6b8", 1),
    (CHESS, "4k3/8/8/8/1p6/8/P7/4K3 w - - 0 1", "a2a4 e8e7 e1e2", 1),
    (CHESS, "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 3 7", "a1b1 e8e7 b1a1 e7e8 a1a2", 2),
    (CHESS, "4k3/8/8/8/8/8/8/R3K2R w KQ - 0 1", "e1g1 e8e7 f1f2 e7e6", 1),
    (CHESS, "4k2r/8/8/8/8/8/8/R3K3 b Q - 17 30", "h8h1 e1d2 h1h8 d2e1", 2),
    (CHESS960, "1rk3r1/p7/8/8/8/8/P5P1/1RK3RR w Gq - 0 1", "h1h5 g8g7 h5h2 g7g8", 0),
]


def board(text, game):
    return need("chess").Board(text, chess960=game is CHESS960)


def reader(game):
    """Return a player without an engine, which can read states."""
    player = object.__new__(uci.UciPlayer)
    player.game, player.name, player.chess960 = game, "reader", game is CHESS960
    return player


@pytest.mark.parametrize(("game", "text", "moves", "first"), LINES)
def test_an_engine_is_told_all_moves_since_the_last_one_that_is_for_good(game, text, moves, first):
    state, names = after(game, text, moves), moves.split()
    told, meant = reader(game).board(state), board(text, game)
    for name in names[:first]:
        meant.push_uci(name)
    assert [move.uci() for move in told.move_stack] == names[first:]
    assert told.root().fen(en_passant="legal") == meant.fen(en_passant="legal")
    assert told.fen(en_passant="legal") == game.position(state)


@pytest.mark.parametrize("game", [CHESS, CHESS960], ids=["chess", "chess960"])
def test_the_moves_of_random_games_are_found_again(game):
    player = reader(game)
    rng, longest = random.Random(5), 0
    for seed in range(3):
        state = game.initial_state(seed)
        real = board(game.position(state), game)
        while len(game.legal(state)) and real.ply() < 160:
            moves = list(real.legal_moves)
            quiet = [m for m in moves if not real.is_zeroing(m)]
            move = rng.choice(quiet if quiet and rng.random() < 0.9 else moves)
            game.play(state, game.parse_action(state, real.uci(move)))
            real.push(move)
            if len(game.legal(state)):
                told = player.board(state)
                line = [m.uci() for m in told.move_stack]
                assert line == [m.uci() for m in real.move_stack][len(real.move_stack) - len(line) :]
                assert len(line) == int(state.known) - 1
                longest = max(longest, len(line))
    assert longest > 30


def test_a_record_whose_keys_fit_no_line_is_refused():
    state = after(CHESS, START, "g1f3 g8f6 f3g1")
    state.keys[1] ^= np.uint64(1)
    with pytest.raises(PlayerError, match="that no quiet move connects"):
        uci.line_of(state, CHESS.position(state), "KQkq")


def test_repetition_reaches_the_engine(fake):
    program = fake()
    state = after(CHESS, START, "g1f3 g8f6 f3g1 f6g8")
    player = uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)
    player.choose(np.atleast_1d(state), np.zeros(1, np.uint64), np.zeros(1, np.int32))
    player.close()
    assert "position startpos moves g1f3 g8f6 f3g1 f6g8" in log_of(program)


# Bad days of an engine.

BLACK = "rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1"
CASTLES = "r3k2r/pppq1ppp/2npbn2/2b1p3/2B1P3/2NPBN2/PPPQ1PPP/R3K2R w KQkq - 4 8"


@pytest.mark.parametrize(
    ("bad_day", "fen", "says"),
    [
        ("sys.exit(3)", BLACK, "exit code: 3"),
        ("os.kill(os.getpid(), 9)", BLACK, "exit code: -9"),
        ("sys.exit('out of memory')", BLACK, "it said: .*out of memory"),
        ("say('bestmove e2e4')", BLACK, "answered 'bestmove e2e4', which does not name one legal move"),
        ("say('bestmove e7e4')", BLACK, "answered 'bestmove e7e4'"),
        ("say('bestmove (none)')", BLACK, r"answered 'bestmove \(none\)'"),
        ("say('bestmove 0000')", BLACK, "answered 'bestmove 0000'"),
        ("say('bestmove NULL')", BLACK, "answered 'bestmove NULL'"),
        ("say('bestmove resign')", BLACK, "answered 'bestmove resign'"),
        ("say('bestmove')", BLACK, "answered 'bestmove'"),
        ("say('bestmove E7E5')", BLACK, "answered 'bestmove E7E5'"),
        ("say('bestmove e5')", BLACK, "answered 'bestmove e5'"),
        ("say('bestmove e7e5 d7d5')", BLACK, "answered 'bestmove e7e5 d7d5'"),
        ("say('bestmove e1h1')", CASTLES, "answered 'bestmove e1h1'"),
        ("say('bestmove e7e5', 'bestmove d7d5')", BLACK, "that nobody asked for, 'bestmove d7d5'"),
        ("say('bestmove e7e5'); time.sleep(0.2); say('bestmove d7d5')", BLACK, "nobody asked for"),
        ("say(*['x'] * 3_000); time.sleep(60)", BLACK, None),
        ("os.write(1, b'x' * 3_000_000); time.sleep(60)", BLACK, "a line of more than 1,048,576 bytes"),
    ],
)
def test_a_failed_move_voids_the_match_with_the_position(fake, monkeypatch, bad_day, fen, says):
    program = fake(bad_day)
    player = uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)
    pids = player._engines.pids
    if says is None:
        player._seconds, says = 0.5, r"gave no move within 0\.5 s"
    with pytest.raises(PlayerError, match=says) as caught:
        ask(player, fen)
    assert f"in position {fen}. The match is void; no move was substituted." in str(caught.value)
    assert str(caught.value).startswith(f"uci:{program},nodes=7 ")
    assert pids
    assert not any(map(alive, pids))
    with pytest.raises(PlayerError, match="has failed before"):
        ask(player, fen)


def test_castling_and_a_move_to_ponder_are_read(fake):
    program = fake("say('bestmove e1c1 ponder e8g8')")
    player = uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)
    assert ask(player, CASTLES) == ["e1c1"]
    player.close()


def test_two_threads_may_ask_one_player(fake, monkeypatch):
    monkeypatch.setattr(uci, "cores", lambda: 2)
    player = uci.uci_player(f"uci:{fake()},nodes=7", CHESS, 0)
    states = np.concatenate([np.atleast_1d(CHESS.parse_position(text)) for text in [START] * 12])
    zeros = np.zeros(12, np.uint64), np.zeros(12, np.int32)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(player.choose, states, *zeros) for _ in range(4)]
        names = {CHESS.action_name(states[0], int(a)) for job in jobs for a in job.result()}
    assert names == {"a2a3"}
    assert len(player._engines.pids) == 2
    player.close()


@pytest.mark.parametrize(
    "bad_day", ["time.sleep(60)", "signal.signal(2, 1); signal.signal(15, 1); time.sleep(60)"]
)
def test_an_engine_that_hangs_is_late_and_killed(fake, bad_day):
    player = uci.uci_player(f"uci:{fake('import signal; ' + bad_day)},nodes=7", CHESS, 0)
    pids, player._seconds = player._engines.pids, 0.3
    begin = time.monotonic()
    with pytest.raises(PlayerError, match=r"gave no move within 0\.3 s; .*in position"):
        ask(player, BLACK)
    assert time.monotonic() - begin < 0.3 + uci_engine.LEAVE_SECONDS + 2
    assert not any(map(alive, pids))


def test_one_failure_in_a_batch_ends_all_processes(fake, monkeypatch):
    monkeypatch.setattr(uci, "cores", lambda: 3)
    bad_day = "go() if BOARD.turn else say('bestmove 0000')"
    player = uci.uci_player(f"uci:{fake(bad_day)},nodes=7", CHESS, 0)
    # Each process takes its own first ten searches for its proof, so play those.
    for _ in range(4):
        assert ask(player, *[START] * 12) == ["a2a3"] * 12
    pids = player._engines.pids
    assert len(pids) == 3
    with pytest.raises(PlayerError, match="answered 'bestmove 0000'"):
        ask(player, *[START] * 5, *[BLACK] * 30)
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "import time; time.sleep(60)",
            "did not answer 'uci' in 0.5 s; it said nothing. Is it a UCI engine?",
        ),
        ("print('Hello', flush=True); import time; time.sleep(60)", "it said: Hello. Is it a UCI engine?"),
        ("print('xboard', flush=True)", "failed at 'uci': engine process died unexpectedly"),
        ("raise SystemExit(7)", "exit code: 7"),
        ("input(); print('option name A type spin default b', 'uciok', sep=chr(10))", "failed at 'uci'"),
        ("input(); print('uciok', flush=True); import time; time.sleep(60)", "did not answer 'isready'"),
    ],
)
def test_a_wrong_handshake_is_refused(tmp_path, monkeypatch, body, says):
    monkeypatch.setattr(uci_engine, "HANDSHAKE_SECONDS", 0.5)
    program = write_program(tmp_path / "wrong", f"#!{sys.executable} -S\n{body}\n")
    with pytest.raises(PlayerError) as caught:
        uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)
    assert says in str(caught.value)


def test_a_program_that_cannot_be_run_is_refused(tmp_path):
    with pytest.raises(PlayerError, match="cannot be run: Exec format error"):
        uci.uci_player(f"uci:{write_program(tmp_path / 'text', 'no program')},nodes=7", CHESS, 0)
    (tmp_path / "text").chmod(0o644)
    with pytest.raises(PlayerError, match="there is no program"):
        uci.uci_player(f"uci:{tmp_path / 'text'},nodes=7", CHESS, 0)


def test_an_option_that_the_engine_has_not_is_refused(fake):
    program = fake()
    for key, option in (("skill=3", "Skill Level"), ("elo=1500", "UCI_Elo")):
        with pytest.raises(
            PlayerError, match=f"has no option '{option}', so leave {key.partition('=')[0]} out"
        ):
            uci.uci_player(f"uci:{program},nodes=7,{key}", CHESS, 0)
    with pytest.raises(PlayerError, match="has no option UCI_Chess960"):
        uci.uci_player(f"uci:{program},nodes=7", CHESS960, 0)


# The proof before the first game.


def test_an_engine_that_misreads_en_passant_fails_its_proof(fake):
    program = fake("say('bestmove e5d6')")
    program.write_text(program.read_text().replace("if GAMES > len(PROOF)", "if BOARD.ep_square is not None"))
    with pytest.raises(
        PlayerError, match="'bestmove e5d6'.*rnbqkbnr/ppp1p1pp/8/3pPp2/8/8/PPPP1PPP/RNBQKBNR w"
    ):
        uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)


def test_a_game_that_names_a_move_otherwise_fails_the_proof(fake, monkeypatch):
    program, right = fake(), CHESS._action_name

    def wrong(state, action):
        return right(state, action).replace("e1c1", "e1b1")

    monkeypatch.setattr(CHESS, "_action_name", wrong)
    with pytest.raises(PlayerError, match=r"r3k2r/.* the moves \['e1b1', 'e1c1'\] are legal either"):
        uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)


def test_a_game_that_writes_positions_otherwise_fails_the_proof(fake, monkeypatch):
    program, right = fake(), CHESS._position
    monkeypatch.setattr(CHESS, "_position", lambda state: right(state).replace(" f6 ", " - "))
    with pytest.raises(PlayerError, match=r"fails its proof: \S+ w KQkq f6 0 3 is"):
        uci.uci_player(f"uci:{program},nodes=7", CHESS, 0)


# No process is left behind.

SCRIPT = """
import sys, numpy as np
from zeroloop.games import make
from zeroloop.players.uci import uci_player
game = make("chess")
player = uci_player(sys.argv[1], game, 0)
print(*player._engines.pids, flush=True)
{rest}
"""
CHOOSE = "player.choose(np.atleast_1d(game.initial_state()), np.zeros(1, np.uint64), np.zeros(1, np.int32))"


def run_script(program, rest):
    command = [sys.executable, "-c", SCRIPT.format(rest=rest), f"uci:{program},nodes=7"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.slow
def test_a_player_that_nobody_closed_ends_with_the_program(fake):
    process, pids = run_script(fake(), "raise SystemExit(5)")
    process.communicate(timeout=20)
    assert process.returncode == 5
    assert pids
    assert not any(map(alive, pids))


def test_ctrl_c_in_a_terminal_is_not_for_the_engine(stockfish):
    player = stockfish("stockfish:nodes=60")
    assert all(os.getpgid(pid) == pid for pid in player._engines.pids)


@pytest.mark.slow
def test_ctrl_c_ends_a_hanging_engine(fake):
    process, pids = run_script(fake("time.sleep(60)"), CHOOSE)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=20)[1]
    # On a busy machine the interruption may meet the engine's start, which then says that the match is void.
    assert process.returncode != 0 and ("KeyboardInterrupt" in errors or "void" in errors)
    assert pids
    assert not any(map(alive, pids))


def test_a_forgotten_player_is_collected_with_its_processes(fake):
    player = uci.uci_player(f"uci:{fake()},nodes=7", CHESS, 0)
    pids = player._engines.pids
    del player
    assert not any(map(alive, pids))


def test_close_from_another_thread_stops_a_choice(fake):
    import threading

    player = uci.uci_player(f"uci:{fake('time.sleep(60)')},nodes=7", CHESS, 0)
    threading.Timer(0.3, player.close).start()
    with pytest.raises(PlayerError, match="ended: engine process died|was closed"):
        ask(player, START)
    player.close()


# Stockfish.


@pytest.fixture(scope="module")
def stockfish():
    need_program("stockfish", "stockfish")
    players = {}

    def made(text, game=CHESS):
        key = text, game.id
        if key not in players:
            players[key] = uci.uci_player(text, game, 0)
        return players[key]

    yield made
    for player in players.values():
        player.close()


def test_stockfish_tells_what_it_is(stockfish):
    told = stockfish("stockfish:nodes=60").settings
    assert told["engine"]["name"].startswith("Stockfish")
    assert len(told["sha256"]) == 64
    assert told["options"].items() >= {"Threads": 1, "Hash": 16, "Ponder": False, "Skill Level": 20}.items()
    assert told["options"]["UCI_Chess960"] is False
    assert set(uci.TOLD) <= set(told["options"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stockfish:nodes=9,skill=21", "skill is 21; this engine takes 0 to 20 ('Skill Level')"),
        ("stockfish:nodes=9,elo=100", "elo is 100; this engine takes"),
    ],
)
def test_a_number_beyond_the_engines_own_range_is_refused(stockfish, text, says):
    with pytest.raises(PlayerError) as caught:
        stockfish(text)
    assert says in str(caught.value)


def test_elo_switches_the_limited_strength_on(stockfish):
    options = stockfish("stockfish:nodes=9,elo=1500").settings["options"]
    assert options["UCI_LimitStrength"] is True
    assert options["UCI_Elo"] == 1500


MATES = {
    "6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1": {"a1a8"},
    "r5k1/5ppp/8/8/8/8/5PPP/6K1 b - - 0 1": {"a8a1"},
    "7k/P7/6K1/8/8/8/8/8 w - - 0 1": {"a7a8q", "a7a8r"},
}


def test_stockfish_finds_mates_in_one(stockfish):
    moves = ask(stockfish("stockfish:nodes=2000"), *MATES)
    assert all(move in mates for move, mates in zip(moves, MATES.values(), strict=True)), moves


def test_stockfish_castles_to_its_rook_in_chess960(stockfish):
    player = stockfish("stockfish:nodes=2000", CHESS960)
    assert player.settings["options"]["UCI_Chess960"] is True
    # Castling alone mates: the rook jumps over its king to the open file.
    assert ask(player, "5k2/R7/8/8/8/8/4R1RP/6KR w K - 0 1", game=CHESS960) == ["g1h1"]


def test_stockfish_is_told_what_has_occurred_before(stockfish):
    state = after(CHESS, "7k/8/8/8/8/8/8/1Q2K3 w - - 0 1", "b1b2 h8g8 b2b1 g8h8 b1b2 h8g8 b2b1")
    board = stockfish("stockfish:nodes=60").board(state)
    assert len(board.move_stack) == 7
    assert board.is_repetition(2)


def test_answers_do_not_depend_on_how_positions_are_shared_out(stockfish, monkeypatch):
    states = openings(CHESS, 24, 12, seed=4)
    keys, plies = np.zeros(24, np.uint64), np.zeros(24, np.int32)
    player = stockfish("stockfish:nodes=300")
    monkeypatch.setattr(uci, "cores", lambda: 2)
    together = player.choose(states, keys, plies)
    assert len(player._engines.pids) == 2
    backwards = player.choose(states[::-1], keys, plies)[::-1]
    alone = np.concatenate([player.choose(states[i : i + 1], keys[:1], plies[:1]) for i in range(24)])
    assert together.tolist() == backwards.tolist() == alone.tolist()
    assert together.dtype == np.int32


def test_no_positions_are_no_moves(stockfish):
    empty = stockfish("stockfish:nodes=60").choose(
        CHESS.states(0), np.zeros(0, np.uint64), np.zeros(0, np.int32)
    )
    assert empty.shape == (0,)
    assert empty.dtype == np.int32


@pytest.mark.slow
def test_stockfish_beats_random_play_without_a_failed_move(stockfish):
    player = stockfish("stockfish:nodes=60")
    result = play_match(CHESS, player, RandomPlayer(CHESS, 1), starts=openings(CHESS, 2, 4, seed=1), seed=1)
    assert result.score >= 0.75


@pytest.mark.slow
def test_ten_thousand_moves_without_a_failed_one(stockfish):
    player, moves, begin = stockfish("stockfish:nodes=50"), 0, time.monotonic()
    for number in range(20):
        starts = openings(CHESS, 16, 6, seed=100 + number)
        result = play_match(CHESS, player, player, starts=starts, seed=number)
        moves += int(result.plies.sum())
        if moves >= 10_000:
            break
    print(f"\n{moves} moves of {player.settings['engine']['name']} in {time.monotonic() - begin:.1f} s")
    assert moves >= 10_000
