"""GNU Backgammon as a player: boards of the FIBS protocol, whole turns, the proof, and planted faults."""

from __future__ import annotations

import functools
import gc
import os
import pathlib
import stat
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests.games import backgammon_slow as slow
from tests.games.backgammon_slow import BAR, START, Board, dice_of, side
from tests.games.gnubg import Gnubg, pair, played_move
from tests.games.oracles import need_program
from zeroloop.errors import PlayerError
from zeroloop.games import make
from zeroloop.games.backgammon import position_id, with_dice
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players import backgammon_turns, gnubg, gnubg_program, gnubg_proof
from zeroloop.players.gnubg import GnubgPlayer, gnubg_player
from zeroloop.players.gnubg_program import Asked, GnubgProgram, after, fibs_board, read_move
from zeroloop.players.random import RandomPlayer

GAME = make("backgammon")
NO_KEY, NO_PLY = np.zeros(1, np.uint64), np.zeros(1, np.int32)


def state_of(board, dice=(), seat=0):
    """Return the game's state of a board seen by the seat on roll."""
    return GAME.parse_position(f"{slow.position_id(board)} {seat} {''.join(map(str, dice)) or '-'}")


def board_of(state, seat):
    """Return the board of a state as the seat sees it."""
    mine, theirs = (
        side({(BAR if p == 24 else p + 1): int(n) for p, n in enumerate(state.checkers[s]) if n})
        for s in (seat, 1 - seat)
    )
    return Board(mine, theirs)


def asked(board, dice=(0, 0)):
    """Return a question about a board."""
    mine, theirs = ([one[slot] for slot in slow.SLOTS] for one in board)
    return Asked(mine, theirs, dice, slow.position_id(board))


@functools.cache
def sample(count):
    """Return (board, roll) of random games and synthetic ones."""
    return slow.sample(seed=77, count=count)


def turn_of(player, state, key=1):
    """Return the state after the whole turn that a player plays, asked action by action."""
    seat, now, ply = int(state.seat), GAME.copy(state), 10
    while GAME.rules["to_play"](now) == seat:
        one = np.array([now], GAME.state_dtype)
        action = player.choose(one, np.array([key], np.uint64), np.array([ply], np.int32))[0]
        GAME.play(now, int(action))
        ply += 1
    return now


@pytest.fixture(scope="module")
def player():
    need_program("gnubg", "gnubg")
    found = gnubg_player("gnubg:0", GAME, seed=0)
    yield found
    found.close()


def proved(ply=0, *extra):
    """Return a started program, with commands that plant faults after its own."""
    need_program("gnubg", "gnubg")
    return GnubgProgram(ply, gnubg_proof.questions(), extra=extra)


# Boards and moves as text.


def test_the_opening_is_the_board_string_of_the_fibs_protocol():
    # X plays down to point 1 and has two checkers on 24, five on 13, three on 8, five on 6; O mirrors that.
    points = "0:-2:0:0:0:0:5:0:3:0:0:0:-5:5:0:0:0:-3:0:-5:0:0:0:0:2:0"
    rest = "1:3:1:0:0:1:1:1:0:1:-1:0:25:0:0:0:0:0:0:0:0"
    assert fibs_board(asked(START, (3, 1))) == f"board:a:b:0:0:0:{points}:{rest}"


def test_the_same_position_as_o_has_all_points_and_signs_turned():
    board = Board(side({BAR: 1, 6: 3, 2: 2}), side({BAR: 2, 20: 1, 4: 2}))
    as_x = [int(x) for x in fibs_board(asked(board, (6, 2))).split(":")[6:32]]
    as_o = [int(x) for x in fibs_board(asked(board, (6, 2)), as_o=True).split(":")[6:32]]
    assert (as_x[25], as_x[0], as_x[6], as_x[5], as_x[21]) == (1, -2, 3, -1, -2), "X on 6, O's 20 is X's 5"
    assert as_o == [-n for n in reversed(as_x)]


def test_gnubgs_movements_are_read_and_anything_else_is_refused():
    assert read_move("8/4* 4/1") == [(8, 4), (4, 1)]
    assert read_move("bar/20 25/24* 3/off 5/0") == [(25, 20), (25, 24), (3, 0), (5, 0)]
    assert read_move("") == []
    for wrong in ("8-4", "8/4(2)", "roll", "Cannot move", "8/4/1"):
        with pytest.raises(ValueError, match="is no movement"):
            read_move(wrong)


def test_movements_change_the_points_as_the_rules_say():
    board = Board(side({BAR: 1, 6: 2, 1: 1}), side({24: 2, 21: 1, 5: 1, 1: 1}))
    mine, theirs = after(asked(board), [(25, 20), (6, 4), (1, 0)])
    assert mine == asked(Board(side({20: 1, 6: 1, 4: 1}), START.mine)).mine
    assert theirs == asked(Board(side({24: 2, 1: 1, BAR: 2}), START.mine)).mine, "5 and 21 were hit"
    for wrong in ([(8, 4)], [(6, 1)], [(4, 6)], [(26, 20)], [(6, -1)]):
        held = Board(board.mine, side({24: 2}))
        with pytest.raises(ValueError):
            after(asked(held), wrong)


def test_the_ends_of_turns_are_those_of_the_slow_rules():
    for number, (board, roll) in enumerate(sample(120)):
        state = state_of(board, dice_of(roll), seat=number % 2)
        found = backgammon_turns.turns(state)
        reached = {board_of(end, number % 2) for end in found.ends}
        assert reached == slow.results(board, dice_of(roll)) and len(reached) == len(found.ends)
        few = slice(None, None, 1 + len(found.ends) // 20)
        for end, way in zip(found.ends[few], found.actions[few], strict=True):
            now = GAME.copy(state)
            for action in way[way >= 0]:
                GAME.play(now, int(action))  # raises where it is not legal
            assert now.tobytes() == end.tobytes()


def test_the_ends_of_turns_in_mid_turn_are_those_of_the_slow_rules():
    for board, roll in sample(60):
        for dice in (dice_of(roll)[:1], dice_of(roll)[-1:], dice_of(roll)[:3] if roll[0] == roll[1] else ()):
            if dice:
                ends = backgammon_turns.turns(state_of(board, dice)).ends
                assert {board_of(end, 0) for end in ends} == slow.results(board, dice)


# Names.


def test_names_of_another_form_are_refused_with_what_is_allowed():
    for wrong in ("gnubg", "gnubg:", "gnubg:4", "gnubg:-1", "gnubg:x", "gnubg:00", "gnubg:1.0"):
        with pytest.raises(PlayerError, match="PLY from 0 to 3"):
            gnubg_player(wrong, GAME, 0)
    with pytest.raises(PlayerError, match="plays backgammon, not connect4"):
        gnubg_player("gnubg:0", make("connect4"), 0)


def test_a_missing_program_names_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gnubg_program, "FOLDERS", ())
    with pytest.raises(PlayerError, match="apt install gnubg"):
        gnubg_player("gnubg:0", GAME, 0)


# The proof.


def test_the_rules_are_asked_back_and_stored(player):
    needed = {"ply": 0, "cubeful": False, "jacoby": False, "beavers": 0, "noise": 0.0, "cube": "disabled"}
    assert needed.items() <= player.settings.items()
    assert player.settings["version"] and player.settings["met"] and player.settings["match_length"] == 0
    assert "best end within reach" in player.settings["mid_turn"]


def test_the_proof_covers_every_sort_of_position():
    assert len(gnubg_proof.POSITIONS) >= 20
    kinds = set()
    for name, dice, _ in gnubg_proof.POSITIONS:
        board = slow.from_position_id(name)
        assert slow.is_possible(board)
        ends = slow.results(board, dice_of([int(d) for d in dice]))
        kinds |= {"bar"} if board.mine[BAR] else set()
        kinds |= {"doubles"} if dice[0] == dice[1] else set()
        kinds |= {"blocked bar"} if board.mine[BAR] and ends == {board} else set()
        kinds |= {"bear-off"} if any(end.mine[0] > board.mine[0] for end in ends) else set()
        kinds |= {"hit"} if any(end.theirs[BAR] > board.theirs[BAR] for end in ends) else set()
        kinds |= {"opening"} if board == START else set()
    assert kinds == {"bar", "doubles", "blocked bar", "bear-off", "hit", "opening"}


@pytest.mark.parametrize(
    "command, told",
    [
        ("set jacoby on", "its setting jacoby must be False, but is True"),
        ("set evaluation chequerplay evaluation cubeful on", "cubeful must be False, but is True"),
        ("set evaluation chequerplay evaluation noise 0.1", "noise must be 0.0, but is 0.1"),
        ("set evaluation chequerplay evaluation plies 1", "ply must be 0, but is 1"),
        ("set beavers 3", "beavers must be 0, but is 3"),
        ("set cube use on", "cube must be disabled, but is in use"),
        ("new match 5", "match_length must be 0, but is 5"),
    ],
)
def test_a_wrong_rule_fails_the_proof(command, told):
    program = proved(0, command)
    with pytest.raises(PlayerError, match=told):
        gnubg_proof.prove(program)
    program.close()


def test_gammons_that_do_not_count_fail_the_proof_by_the_moves_alone():
    """Under the Jacoby rule with the cube in the middle, cubeful play gives gammons up."""
    program = proved(0, "set jacoby on", "set evaluation chequerplay evaluation cubeful on")
    with pytest.raises(PlayerError, match="without the Jacoby rule"):
        gnubg_proof.prove_gammons_count(program)
    program.close()


def test_the_jacoby_rule_alone_is_seen_in_the_questions_themselves():
    program = proved(0, "set jacoby on")
    with pytest.raises(PlayerError, match="the Jacoby rule in the question about .* must be False"):
        gnubg_proof.prove_moves(program)
    program.close()


def test_noise_fails_the_proof_by_the_moves_alone():
    program = proved(0, "set evaluation chequerplay evaluation noise 0.3")
    with pytest.raises(PlayerError):
        gnubg_proof.prove_moves(program)
    program.close()


def shifted(asked, as_o=False):
    """Put every checker one point further, a fault that once made gnubg play nonsense."""
    turned = [asked.mine[23], *asked.mine[:23], asked.mine[24]]
    return fibs_board(asked._replace(mine=turned), as_o)


def from_one_side(asked, as_o=False):
    """Number both sides' points from the mover's view, another such fault."""
    return fibs_board(asked._replace(theirs=[*asked.theirs[23::-1], asked.theirs[24]]), as_o)


def bar_first(asked, as_o=False):
    """Take the first number for the bar."""
    return fibs_board(asked._replace(mine=[asked.mine[24], *asked.mine[:24]]), as_o)


def without_the_other_colour(asked, as_o=False):
    """Send O's questions with the points as X has them."""
    text = fibs_board(asked, as_o).split(":")
    return ":".join([*text[:6], *fibs_board(asked).split(":")[6:32], *text[32:]]) if as_o else ":".join(text)


@pytest.mark.parametrize("fault", [shifted, from_one_side, bar_first, without_the_other_colour])
def test_a_wrong_board_fails_the_proof(monkeypatch, fault):
    program = proved()
    monkeypatch.setattr(gnubg_program, "fibs_board", fault)
    with pytest.raises(PlayerError, match="before the first move: the board read of position"):
        gnubg_proof.prove(program)
    program.close()


def test_a_missing_legal_move_fails_the_proof():
    program = proved()
    program.facts["legal"][0]["moves"].pop()
    with pytest.raises(PlayerError, match=r"4HPwATDgc/ABMA 0 31 must be 16, but is 15"):
        gnubg_proof.prove(program)
    program.close()


def test_a_move_that_is_not_the_best_fails_the_proof(monkeypatch):
    program = proved()
    echoed = program.echoed

    def worse(asked, ply, as_o=False):
        echo = echoed(asked, ply, as_o)
        return echo._replace(answer="24/23 24/21") if ply is None and asked.dice == (3, 1) else echo

    monkeypatch.setattr(program, "echoed", worse)
    with pytest.raises(PlayerError, match="'24/23 24/21' in position 4HPwATDgc/ABMA 0 31"):
        gnubg_proof.prove(program)
    program.close()


# Play.


def test_whole_turns_are_the_first_hint_of_gnubgs_own_list(player):
    """The list comes by another way, gnubg's embedded Python; its notation is read by the slow rules."""
    with Gnubg(need_program("gnubg", "gnubg")) as oracle:
        for number, (board, roll) in enumerate(sample(150)):
            hints = oracle.ask("moves", pair(board), list(roll))["hint"]["hint"]
            seat = number % 2
            reached = board_of(turn_of(player, state_of(board, dice_of(roll), seat), key=number), seat)
            best = [h for h in hints if h["equity"] >= hints[0]["equity"] - 1e-6]
            allowed = {played_move(board, h["move"]) for h in best} if hints else {board}
            assert reached in allowed, (slow.position_id(board), roll)


def test_both_seats_play_the_same_in_the_same_position(player):
    for board, roll in sample(60):
        ends = [turn_of(player, state_of(board, dice_of(roll), seat)) for seat in (0, 1)]
        assert position_id(ends[0]) == position_id(ends[1])


def test_a_turn_goes_on_the_same_where_nobody_remembers_its_beginning(player):
    """At 0-ply the best end by gnubg's evaluation is the end of its move."""
    for number, (board, roll) in enumerate(sample(60)):
        state = state_of(board, dice_of(roll))
        end = turn_of(player, state, key=5000 + number)
        first = player.choose(np.array([state], GAME.state_dtype), NO_KEY + 9000, NO_PLY)[0]
        GAME.play(state, int(first))
        if GAME.rules["to_play"](state) == 0:
            again = turn_of(player, state, key=7000 + number)
            found = backgammon_turns.turns(state)
            worth = gnubg_proof.evaluate_ends(player._programs[0], state, found, 0).equity
            rows = [e.tobytes() for e in found.ends]
            assert worth[rows.index(again.tobytes())] - worth[rows.index(end.tobytes())] <= 5e-6


def test_a_match_is_the_same_twice_and_gnubg_wins_it_in_both_seats(player):
    starts = openings(GAME, 12, 2, seed=4)
    first, again = (play_match(GAME, player, RandomPlayer(GAME, 1), starts=starts, seed=2) for _ in range(2))
    for a, b in zip(first.moves, again.moves, strict=True):
        np.testing.assert_array_equal(a, b)
    for seat in (0, 1):
        assert first.own_points[first.seat == seat].mean() > 2


@pytest.mark.slow
def test_several_programs_answer_as_one_does():
    need_program("gnubg", "gnubg")
    two, one = GnubgPlayer(1, programs=2), GnubgPlayer(1, programs=1)
    states = np.array([state_of(board, dice_of(roll)) for board, roll in sample(24)], GAME.state_dtype)
    keys, plies = np.arange(24, dtype=np.uint64), np.zeros(24, np.int32)
    np.testing.assert_array_equal(two.choose(states, keys, plies), one.choose(states, keys, plies))
    assert len(two._programs) == 2
    processes = [program.process for program in (*two._programs, *one._programs)]
    two.close()
    one.close()
    assert all(process.poll() is not None for process in processes)


# Failures.


def opening_state():
    return np.array([with_dice(GAME.initial_state(), "31")], GAME.state_dtype)


@pytest.mark.parametrize("answer", ["24/18 13/11", "8/5", "9/5", "", "8/5 6/5 13/12", "double", "8/5(2)"])
def test_an_illegal_answer_is_an_error_with_the_position_and_nothing_is_played(player, monkeypatch, answer):
    monkeypatch.setattr(player._programs[0], "move", lambda asked: answer)
    with pytest.raises(PlayerError, match=r"4HPwATDgc/ABMA 0 31.*no move was substituted"):
        player.choose(opening_state(), NO_KEY + 12345, NO_PLY)


def fake_gnubg(folder, answers):
    """Write a program that starts as gnubg does and then answers each line by the given Python."""
    path = folder / "gnubg"
    path.write_text(
        textwrap.dedent(f"""\
        #!/usr/bin/env python3
        import json, os, socket, time
        ask = json.load(open("ask.json"))
        open("facts.json", "w").write("{{}}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(ask["socket"])
        listener.listen()
        channel, _ = listener.accept()
        for line in channel.makefile("r"):
            if line == "version\\n":
                channel.sendall(b"Interface: 2\\nSoftware: 1\\n")
            else:
                {answers}
        """)
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    "answers, told",
    [
        ("time.sleep(60)", "gave no answer within 0.3 seconds to 4HPwATDgc/ABMA"),
        ("os._exit(3)", "gnubg ended at 4HPwATDgc/ABMA"),
        ("channel.sendall(b'Error: badly formed board\\n')", "answered 'Error: badly formed board"),
        ("channel.sendall(b'8/5 6/5\\n24/20\\n')", "answered '8/5 6/5 24/20"),
        ("channel.sendall(b'8/5 6'); time.sleep(60)", "gave no answer within 0.3 seconds"),
    ],
)
def test_a_program_that_fails_voids_the_match_and_is_reaped(tmp_path, answers, told):
    program = GnubgProgram(0, path=fake_gnubg(tmp_path, answers))
    program.patience = 0.3
    with pytest.raises(PlayerError, match=f"{told}.*(?s:.*)no move was substituted"):
        program.move(asked(START, (3, 1)))
    assert program.process.poll() is not None, "an answer that comes later must not reach the next question"
    with pytest.raises(PlayerError, match="after it had been closed"):
        program.move(asked(START, (3, 1)))


@pytest.mark.parametrize(
    "numbers",
    [
        "0.5 0.6 0.0 0.1 0.0 0.5",  # more gammons than wins
        "0.5 0.1 0.0 0.6 0.0 -0.5",  # more gammons lost than games
        "1.2 0.1 0.0 0.0 0.0 1.5",
        "0.5 0.1 0.0 0.1 0.0 0.3",  # another equity than the five say
        "0.5 0.1 0.0 0.1 0.0",
        "nan 0.1 0.0 0.1 0.0 0.0",
        "roll",
    ],
)
def test_numbers_that_are_no_probabilities_are_refused(tmp_path, numbers):
    program = GnubgProgram(0, path=fake_gnubg(tmp_path, f"channel.sendall(b'{numbers}\\n')"))
    with pytest.raises(PlayerError, match="expected are win, gammon"):
        program.evaluation(asked(START), 0)
    assert program.process.poll() is not None


def test_a_program_that_does_not_start_is_told_and_reaped(tmp_path):
    path = tmp_path / "gnubg"
    path.write_text("#!/bin/sh\necho no python in this build\nexit 1\n")
    path.chmod(0o755)
    with pytest.raises(PlayerError, match="ended before it listened; it said: no python in this build"):
        GnubgProgram(0, path=str(path))


def test_a_forgotten_player_leaves_no_process():
    need_program("gnubg", "gnubg")
    process = GnubgProgram(0).process
    gc.collect()
    assert process.poll() is not None


def test_a_failed_proof_leaves_no_process(monkeypatch):
    need_program("gnubg", "gnubg")
    made = []
    monkeypatch.setattr(gnubg, "prove", lambda program: made.append(program.process) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gnubg.started(0)
    assert made[0].poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize("ply", [1, 2, 3])
def test_every_depth_proves_itself_and_keeps_its_rules(ply):
    need_program("gnubg", "gnubg")
    player = gnubg_player(f"gnubg:{ply}", GAME, seed=0)
    assert player.settings["ply"] == ply and player.settings["move_filter"]
    player.close()


@pytest.mark.slow
def test_ten_thousand_moves_without_a_failed_one(monkeypatch):
    need_program("gnubg", "gnubg")
    asked_for = []
    move = GnubgProgram.move
    monkeypatch.setattr(GnubgProgram, "move", lambda *a: asked_for.append(1) or move(*a))
    sides = [gnubg_player("gnubg:0", GAME, seed=0) for _ in range(2)]
    play_match(GAME, *sides, starts=openings(GAME, 120, 2, seed=3), seed=4)
    assert len(asked_for) >= 10_000
    for side_ in sides:
        side_.close()


@pytest.mark.slow
def test_gnubg_does_not_outlive_a_killed_process():
    need_program("gnubg", "gnubg")
    code = (
        "import sys, time; from zeroloop.players.gnubg_program import GnubgProgram; "
        "g = GnubgProgram(0); print(g.process.pid, flush=True); time.sleep(60)"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    number = int(asker.stdout.readline())
    os.kill(number, 0)  # it lives
    asker.kill()
    asker.wait()
    asker.stdout.close()
    end = time.monotonic() + 10
    while pathlib.Path(f"/proc/{number}").exists() and time.monotonic() < end:
        if " Z " in pathlib.Path(f"/proc/{number}/stat").read_text():
            break  # ended; whoever adopted it has not looked yet
        time.sleep(0.05)
    else:
        assert not pathlib.Path(f"/proc/{number}").exists()
