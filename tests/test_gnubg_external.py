"""Our agent as gnubg's external player: board strings, takes, and whole games driven by a real gnubg."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.games import backgammon_slow as slow
from tests.games.backgammon_slow import BAR, START, Board, dice_of, moved, side
from tests.games.oracles import need_program
from zeroloop.cli import main
from zeroloop.errors import InvalidState, PlayerError
from zeroloop.games import make
from zeroloop.games.backgammon import position_id
from zeroloop.gnubg_player import (
    ExternalPlayer,
    GnubgServer,
    expected_points,
    follows,
    move_text,
    read_board,
    serve_gnubg,
)
from zeroloop.players.random import RandomPlayer

GAME = make("backgammon")

# What gnubg 1.07 sent at the start of a game to its player 1, who is X, and to its player 0, who is O.
TO_X = (
    "board:gnubg:root:0:0:0:0:-2:0:0:0:0:5:0:3:0:0:0:-5:5:0:0:0:-3:0:-5:0:0:0:0:2:0:"
    "1:3:1:3:1:1:1:1:0:1:-1:0:25:0:0:0:0:0:0:0:1"
)
TO_O = (
    "board:gnubg:root:0:0:0:0:-2:0:0:0:0:5:0:3:0:0:1:-5:4:0:0:0:-3:0:-5:0:1:0:0:1:0:"
    "-1:6:5:6:5:1:1:1:0:1:-1:0:25:0:0:0:0:0:0:0:1"
)
# What it sent when X, its player 1, had doubled; O decides.
DOUBLED = (
    "board:root:gnubg:0:0:0:0:-2:0:0:0:0:5:3:4:0:0:1:-1:-1:0:-1:2:0:0:-2:0:-3:-1:-2:-2:0:1:0:"
    "0:0:0:0:1:1:1:1:1:-1:0:25:0:0:0:0:0:0:0:1"
)


def board_of(state, seat=0):
    """Return the board of a state as the seat sees it."""
    mine, theirs = (
        side({(BAR if p == 24 else p + 1): int(n) for p, n in enumerate(state.checkers[s]) if n})
        for s in (seat, 1 - seat)
    )
    return Board(mine, theirs)


def fails(*_):
    raise AssertionError("nobody asked for this")


def external(worth=fails, player=None):
    return ExternalPlayer(player or RandomPlayer(GAME, 3), worth, fails, fails)


# Board strings.


def test_the_board_sent_to_x_is_read():
    question = read_board(TO_X)
    assert GAME.position(question.state) == "4HPwATDgc/ABMA 0 31" and not question.doubled


def test_the_board_sent_to_o_is_read_from_its_own_side():
    # X has played 24/21 and 13/11.
    board = slow.turned(Board(side({24: 1, 21: 1, 13: 4, 11: 1, 8: 3, 6: 5}), START.theirs))
    question = read_board(TO_O)
    assert board_of(question.state) == board and GAME.position(question.state).endswith(" 0 65")


def test_a_board_is_the_same_read_by_either_colour_and_direction():
    fields = TO_O.split(":")
    numbers = [int(n) for n in fields[6:32]]
    turned = [-n for n in reversed(numbers)]
    other = [*fields[:6], *map(str, turned), "1", *fields[33:]]
    assert read_board(":".join(other)).state.tobytes() == read_board(TO_O).state.tobytes()
    # The player named first may play up the board instead; then all points are numbered from the other end.
    up = [*fields[:6], *map(str, reversed(numbers)), *fields[32:42], "1", *fields[43:]]
    assert read_board(":".join(up)).state.tobytes() == read_board(TO_O).state.tobytes()


def test_dice_that_stand_only_with_the_opponent_are_read():
    fields = TO_X.split(":")
    fields[33:37] = "0", "0", "2", "2"
    assert GAME.position(read_board(":".join(fields)).state) == "4HPwATDgc/ABMA 0 2222"


def test_the_side_on_roll_has_doubled_and_the_other_decides():
    question = read_board(DOUBLED)
    assert question.doubled and question.state.die == 0
    # O, the decider, has two checkers on its 24-point, X's ace point.
    assert board_of(question.state, seat=1).mine[24] == 2


@pytest.mark.parametrize(
    "fault, told",
    [
        (lambda f: ["hello"], "is no FIBS board string"),
        (lambda f: f[:40], "is no FIBS board string"),
        (lambda f: [*f[:6], "x", *f[7:]], "a field that is no number"),
        (lambda f: [*f[:12], "6", *f[13:]], "more than 15 checkers"),
        (lambda f: [*f[:32], "0", *f[33:]], "each must be 1 or -1"),
        (lambda f: [*f[:42], "2", *f[43:]], "each must be 1 or -1"),
        (lambda f: [*f[:33], "7", *f[34:]], "two from 1 to 6"),
        (lambda f: [*f[:33], "0", "3", "0", "0", *f[37:]], "two from 1 to 6"),
        (lambda f: [*f[:6], "1", *f[7:]], "more than 15 checkers"),
        (lambda f: [*f[:6], *["0"] * 26, *f[32:]], "over"),
    ],
)
def test_a_board_that_cannot_be_is_refused(fault, told):
    with pytest.raises(InvalidState, match=told):
        read_board(":".join(fault(TO_X.split(":"))))


def test_turns_are_told_in_gnubgs_notation():
    assert move_text([6 * 24 + 4, 6 * 5 + 5, 6 * 1 + 5, 150]) == "bar/20 6/off 2/off"
    assert move_text([150]) == ""


# Decisions.


def test_before_the_roll_it_rolls_and_never_doubles():
    fields = TO_X.split(":")
    fields[33:37] = ["0"] * 4
    assert external().answer(":".join(fields)) == "roll"


@pytest.mark.parametrize("mine, answer", [(-0.49, "take"), (-0.5, "take"), (-0.51, "drop"), (1.0, "take")])
def test_a_double_is_taken_from_half_a_point_down(mine, answer):
    assert external(worth=lambda state: (-mine, mine)).answer(DOUBLED) == answer


def test_points_before_the_roll_are_the_mean_over_the_rolls():
    class Searched:
        simulations = 8

        def search(self, states, keys, plies):
            doubles = states["other"] == -3
            first = np.where(doubles, 1.0, np.where(states["die"] == 6, -0.5, 0.0))
            return SimpleNamespace(root_value=np.stack([first, -first], 1).astype(np.float32))

    before = GAME.parse_position("4HPwATDgc/ABMA 0 -")
    # 6 of 36 rolls are doubles, 10 have a six and are none; a value of 1 is three points.
    points = 3 * (6 * 1.0 - 10 * 0.5) / 36
    assert expected_points(Searched(), before) == pytest.approx((points, -points))


def test_a_move_is_a_legal_turn_of_the_slow_rules():
    for line in (TO_X, TO_O):
        board, dice = board_of(read_board(line).state), [int(d) for d in line.split(":")[33:35]]
        for seed in range(20):
            text = external(player=RandomPlayer(GAME, seed)).answer(line)
            assert played(board, text) in slow.results(board, dice_of(dice))


def test_an_illegal_choice_is_never_sent():
    class Wrong:
        name = "wrong"

        def choose(self, states, keys, plies):
            return np.zeros(len(states), np.int32)

    with pytest.raises(PlayerError, match="wrong chose action 0 in position 4HPwATDgc/ABMA 0 31"):
        external(player=Wrong()).answer(TO_X)


def test_only_lone_checkers_can_have_gone_to_the_bar():
    before = np.zeros(25, np.int8)
    before[[5, 7, 12]] = 5, 1, 1
    hit = before.copy()
    hit[[7, 24]] = 0, 1
    assert follows(before, before) and follows(before, hit)
    for place, gone in ((5, 1), (12, -1), (24, 1)):
        wrong = hit.copy()
        wrong[place] -= gone
        assert not follows(before, wrong)


def test_a_board_that_does_not_follow_is_told():
    told = []
    player = ExternalPlayer(RandomPlayer(GAME, 0), fails, told.append, fails)
    player.answer(TO_O)
    player.answer(TO_X)
    assert not told, "a new game"
    fields = TO_X.split(":")
    fields[6 + 6], fields[6 + 8] = "8", "0"
    player.answer(":".join(fields))
    assert len(told) == 1 and "does not follow" in told[0]


# A real gnubg.


@contextlib.contextmanager
def serving(player, worth, told, finished=None):
    """Run a server on a free port; yield it."""
    finished = [] if finished is None else finished
    with GnubgServer(player, worth, "127.0.0.1", 0, told.append, finished.append) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def play_games(folder, port, seat, games, cube):
    """Let gnubg play games against its external player; return what it printed and the games it saved."""
    rival = 1 - seat
    lines = [
        "set automatic game off",
        "set automatic roll on",
        "set automatic doubles 0",
        "set automatic bearoff off",
        "set automatic move off",
        "set rng mersenne",
        f"set seed {seat + 1}",
        f"set cube use {cube}",
        "set jacoby off",
        "set display off",
        f"set player {rival} gnubg",
        f"set player {rival} chequerplay evaluation plies 0",
        f"set player {rival} cubedecision evaluation plies 0",
        f"set player {seat} external localhost:{port}",
        "new session",
        *["new game"] * (games - 1),
        "export match mat games.mat",
    ]
    done = subprocess.run(
        [need_program("gnubg", "gnubg"), "-t", "-q", "-r"],
        input="\n".join(lines) + "\n",
        text=True,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "LC_ALL": "C"},
        timeout=120,
    )
    return done.stdout, (folder / "games.mat").read_text()


STEP = re.compile(r"(bar|\d+)/(off|\d+)\*?")


def played(board, text):
    """Return the board after a turn told movement by movement."""
    for source, target in STEP.findall(text):
        source = BAR if source == "bar" else int(source)
        board = moved(board, source, 0 if target == "off" else int(target))
    return board


ROLL = re.compile(r"(\d)(\d):((?: (?:bar|\d+)/(?:off|\d+)\*?)*)")
"""Dice and movements of a turn in a saved game."""


def check_games(text, games):
    """Replay what gnubg saved by the slow rules; every turn must be legal. Return how many there were."""
    whole = text.split(" Game ")[1:]
    assert len(whole) == games
    total = 0
    for game in whole:
        board = START
        for high, low, movements in ROLL.findall(game):
            end = played(board, movements)
            dice = dice_of((int(high), int(low)))
            assert end in slow.results(board, dice), (slow.position_id(board), dice, movements)
            board = slow.turned(end)
            total += 1
        assert slow.points_won(slow.turned(board)) or " Drops" in game
    return total


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("games", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_gnubg_plays_whole_money_games_against_us_and_no_move_is_illegal(tmp_path, seat, games):
    told, finished = [], []
    with serving(RandomPlayer(GAME, 5), fails, told, finished) as server:
        said, saved = play_games(tmp_path, server.server_address[1], seat, games, "off")
        while "closed" not in "".join(finished):
            time.sleep(0.01)
    assert said.count(" wins a ") == games and not told
    # Every game but the last is told, with the points that gnubg printed after its end.
    won = re.findall(r"(\w+) wins a .*? and (\d) point", said)
    score = {"gnubg": 0, "root": 0}
    for (name, points), line in zip(won[:-1], finished, strict=False):
        score[name] += int(points)
        assert line == f"a game is finished; points so far: gnubg {score['gnubg']}, root {score['root']}."
    assert len(finished) == games and "closed the connection" in finished[-1]
    assert check_games(saved, games) > 20 * games
    assert server.answers["move"] > 10 * games and server.answers["take"] == 0


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("take", [True, False])
def test_gnubg_doubles_and_we_take_or_drop(tmp_path, seat, take):
    """The position that `worth` sees is the one that we left, or the server tells that it is not."""
    told, seen = [], []

    def worth(state):
        seen.append(position_id(state))
        return (0.0, 0.0) if take else (2.0, -2.0)

    with serving(RandomPlayer(GAME, 5), worth, told) as server:
        said, saved = play_games(tmp_path, server.server_address[1], seat, 3, "on")
    assert said.count(" wins a ") == 3 and not told and seen
    assert server.answers["take" if take else "drop"] == len(seen)
    assert (" Takes" if take else " Drops") in saved
    check_games(saved, 3)


def test_an_answer_that_gnubg_refuses_in_silence_is_seen(tmp_path, monkeypatch):
    """gnubg plays no move instead; both the replay and the server's own look at the next board tell."""
    answer = ExternalPlayer._turn

    def wrong(self, state):
        return f"{answer(self, state)} 24/1"

    monkeypatch.setattr(ExternalPlayer, "_turn", wrong)
    told = []
    with serving(RandomPlayer(GAME, 5), fails, told) as server:
        _, saved = play_games(tmp_path, server.server_address[1], 0, 1, "off")
    assert told and "gnubg plays an answer that it does not accept as no move" in told[0]
    with pytest.raises(AssertionError):
        check_games(saved, 1)


def conversation(server, data):
    """Send bytes and return all that comes back until the server hangs up."""
    with socket.create_connection(server.server_address[:2], timeout=10) as channel:
        channel.sendall(data)
        channel.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: channel.recv(65536), b"")).decode()


def test_lines_that_are_no_questions_get_an_error_and_the_others_go_on():
    told = []
    with serving(RandomPlayer(GAME, 1), fails, told) as server:
        assert conversation(server, b"hello\n").startswith("Error: 'hello' is no FIBS board string")
        assert conversation(server, b"x" * 5000 + b"\n").startswith("Error: a line has at most 1000 bytes")
        assert conversation(server, b"\xff\xfe\n").startswith("Error:")
        assert conversation(server, b"") == ""
        both = conversation(server, f"\0{TO_X}\n\0{TO_O}\n\0".encode())
        assert len(both.splitlines()) == 2 and "Error" not in both
    assert len(told) == 2


def test_more_connections_than_allowed_are_refused():
    with serving(RandomPlayer(GAME, 1), fails, []) as server, contextlib.ExitStack() as stack:
        for _ in range(8):
            channel = stack.enter_context(socket.create_connection(server.server_address[:2], timeout=10))
            channel.sendall(TO_X.encode() + b"\n")
            assert b"/" in channel.recv(1000)
        assert conversation(server, b"").startswith("Error: 8 connections are open already")


def test_a_taken_port_and_a_player_without_a_model_are_refused():
    with serving(RandomPlayer(GAME, 1), fails, []) as server:
        port = server.server_address[1]
        with pytest.raises(PlayerError, match="give another port"):
            GnubgServer(RandomPlayer(GAME, 1), fails, "127.0.0.1", port, fails)
    with pytest.raises(PlayerError, match="needs a backgammon model"):
        serve_gnubg(RandomPlayer(GAME, 1), "127.0.0.1", 0, fails, fails)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_leaves_the_handlers_as_they_were(number, monkeypatch):
    monkeypatch.setattr("zeroloop.gnubg_player.SearchPlayer", RandomPlayer)
    before = signal.getsignal(number)
    ports = []

    def listening(port):
        ports.append(port)
        os.kill(os.getpid(), number)

    serve_gnubg(RandomPlayer(GAME, 1), "127.0.0.1", 0, listening, fails)
    assert signal.getsignal(number) is before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=10)


def test_the_command_refuses_a_model_of_another_game(capsys):
    with pytest.raises(SystemExit) as end:
        main(["gnubg-player", "demo:connect4@1"])
    assert end.value.code == 1 and "backgammon" in capsys.readouterr().err
