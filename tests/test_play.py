"""A person at the board: what each line does, what is said, and how the conversation ends."""

from __future__ import annotations

import io

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.toy_games import COIN_FLIP, FORCED, THREE_WAY_VOTE, random_tree
from zeroloop import model, play
from zeroloop.cli import main
from zeroloop.config import NetworkConfig
from zeroloop.errors import ConfigError, PlayerError, StoreError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.games import make
from zeroloop.games.game import CHANCE, TERMINAL
from zeroloop.networks import build
from zeroloop.search.forest import SearchResult

GAME = make("tictactoe")


class FirstMove:
    """An agent that plays the first legal move after ten visits to it, and likes its own seat."""

    name = "first"

    def __init__(self, game, visits=10):
        self.game, self.visits = game, visits
        self.asked = []

    def search(self, states, keys, plies):
        legal = self.game.legal(states[0])
        self.asked.append((int(keys[0]), int(plies[0])))
        seat, count = int(self.game.rules["to_play"](states[0])), len(legal)
        value = np.full((1, self.game.num_players), -0.5, np.float32)
        value[0, seat] = 0.5
        row = np.zeros((1, count), np.float32)
        visits = row.astype(np.int32)
        visits[0, 0] = self.visits
        return SearchResult(
            action=np.array([legal[0]], np.int32),
            legal=np.array([legal], np.int32),
            count=np.array([count], np.int32),
            policy_target=row,
            visit_count=visits,
            q=row - 0.001,
            prior=np.full((1, count), 1 / count, np.float32),
            root_value=value,
            network_value=value,
            simulations=np.array([self.visits], np.int32),
            overflow=np.zeros(1, np.int32),
        )


@pytest.fixture
def piped(monkeypatch, capsys):
    """Return a function that plays piped lines against FirstMove and returns the transcript."""

    def run(text, seat=0, game=GAME):
        agent = FirstMove(game)
        monkeypatch.setattr(play, "_model", lambda player: model.Model("0" * 64, None, game))
        monkeypatch.setattr(play, "model_player", lambda *args, **named: agent)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        play.play_terminal("tictactoe", 10, seat, 0)
        return capsys.readouterr().out

    return run


def obeyed(dialogue, *lines):
    """Return the last effect of several lines."""
    return [dialogue.obey(line) for line in lines][-1]


def drawn(dialogue):
    return GAME.position(dialogue.state)


# The rules of the conversation.


def test_a_move_is_played_in_the_notation_of_the_game():
    dialogue = play.Dialogue(GAME)
    assert dialogue.obey(" b2\n") == ("changed", "You play b2.")
    assert drawn(dialogue) == ".../.X./..."


def test_a_move_in_capitals_is_understood():
    assert play.Dialogue(GAME).obey("B2").text == "You play b2."


def test_an_illegal_move_gives_one_sentence_and_changes_nothing():
    dialogue = play.Dialogue(GAME)
    dialogue.play(4)
    dialogue.seat = 1
    found = dialogue.obey("b2")
    assert found.kind == "refused"
    assert found.text == (
        "'b2' is no legal move here and no command; legal: a3, b3, c3, a2, c2, a1, b1, c1; "
        "type one of them, or help."
    )
    assert dialogue.plies == 1


def test_an_empty_line_does_nothing():
    assert play.Dialogue(GAME).obey("  \n") == ("told", "")


def test_undo_goes_back_to_the_decision_before_the_last_answer():
    dialogue = play.Dialogue(GAME)
    for action in (4, 0, 8, 2):
        dialogue.play(action)
    assert obeyed(dialogue, "undo").kind == "changed"
    assert drawn(dialogue) == "O../.X./..."
    obeyed(dialogue, "undo")
    assert drawn(dialogue) == ".../.../..."


def test_undo_before_the_first_move_is_refused():
    dialogue = play.Dialogue(GAME, seat=1)
    dialogue.play(0)
    assert dialogue.obey("undo").text.startswith("There is nothing to undo: you have not moved yet")
    assert dialogue.plies == 1


def test_undo_takes_back_the_move_that_lost():
    dialogue = play.Dialogue(GAME, seat=1)
    for action in (0, 3, 1, 4, 2):
        dialogue.play(action)
    assert dialogue.mover == TERMINAL
    dialogue.obey("undo")
    assert dialogue.mover == 1
    assert dialogue.plies == 3


def test_flip_takes_the_next_seat_round_the_table():
    dialogue = play.Dialogue(THREE_WAY_VOTE)
    seats = [dialogue.seat for _ in range(3) if dialogue.obey("flip")]
    assert seats == [1, 2, 0]


def test_after_flip_undo_gives_the_last_decision_of_the_new_seat():
    dialogue = play.Dialogue(GAME)
    for action in (4, 0):
        dialogue.play(action)
    obeyed(dialogue, "flip", "undo")
    assert drawn(dialogue) == ".../.X./..."
    assert dialogue.mover == dialogue.seat == 1


def test_new_begins_a_game_with_a_number_of_its_own():
    dialogue = play.Dialogue(GAME)
    obeyed(dialogue, "b2", "new")
    assert (dialogue.plies, dialogue.number) == (0, 1)


def test_moves_lists_what_is_legal():
    assert play.Dialogue(GAME).obey("moves").text == "Legal moves: a3 b3 c3 a2 b2 c2 a1 b1 c1"


def test_a_finished_game_takes_no_moves():
    dialogue = play.Dialogue(GAME)
    for action in (0, 3, 1, 4, 2):
        dialogue.play(action)
    for line in ("c1", "moves", "hint"):
        found = dialogue.obey(line)
        assert found.kind == "refused"
        assert "the game is over; type new, undo, flip or quit." in found.text


def test_a_command_with_a_slash_is_the_same():
    assert play.Dialogue(GAME).obey("/quit").kind == "quit"


def test_dice_fall_alike_after_an_undo_and_follow_the_seed():
    def rolls(seed):
        dialogue = play.Dialogue(COIN_FLIP, seed=seed)
        found = []
        for _ in range(2):
            dialogue.obey("1")
            assert dialogue.mover == CHANCE
            found.append(dialogue.roll())
            dialogue.obey("undo")
        assert found[0] == found[1]
        return found[0]

    counts = [rolls(seed)[0] for seed in range(200)]
    assert 0.4 < counts.count("0") / 200 < 0.6  # its probability is 0.5
    assert set(counts) == {"0", "1", "2"}


def test_a_game_is_cut_at_its_longest_length(monkeypatch):
    monkeypatch.setattr(FORCED, "max_plies", 2)
    dialogue = play.Dialogue(FORCED)
    obeyed(dialogue, "0")
    dialogue.play(1)
    assert dialogue.mover == TERMINAL
    assert play.ending(dialogue) == "The game was cut after 2 plies, the most of forced: no result."


# What is said.


@pytest.mark.parametrize(
    "actions, seat, told",
    [
        ((0, 3, 1, 4, 2), 0, "You win. Points: seat 0 (you) 1, seat 1 -1."),
        ((0, 3, 1, 4, 2), 1, "You lose. Points: seat 0 1, seat 1 (you) -1."),
        ((0, 1, 2, 4, 3, 5, 7, 6, 8), 0, "It is a draw. Points: seat 0 (you) 0, seat 1 0."),
    ],
)
def test_the_end_is_told_from_the_seat_of_the_person(actions, seat, told):
    dialogue = play.Dialogue(GAME, seat)
    for action in actions:
        dialogue.play(action)
    assert play.ending(dialogue) == told


def test_two_of_three_seats_share_the_first_place():
    dialogue = play.Dialogue(THREE_WAY_VOTE, seat=1)
    for action in (0, 1, 1):
        dialogue.play(action)
    assert play.ending(dialogue).startswith("You lose.")
    obeyed(dialogue, "undo", "0")
    dialogue.play(1)
    assert play.ending(dialogue).startswith("You share the first place. Points: seat 0 0,")


@pytest.mark.parametrize(
    "value, words",
    [
        (0.0, "even: your expected score is 50%"),
        (0.2, "slightly in your favour: your expected score is 60%"),
        (-0.5, "clearly against you: your expected score is 25%"),
        (0.9, "almost surely in your favour: your expected score is 95%"),
    ],
)
def test_the_evaluation_is_told_in_words_and_as_a_score(value, words):
    values = np.array([-value, value], np.float32)
    assert play.assessment(GAME, values, 1) == f"The agent finds this {words}."


def test_three_seats_are_each_told():
    values = np.array([1.0, 0.5, -0.5], np.float32)
    told = play.assessment(THREE_WAY_VOTE, values, 1)  # points run from -1 to 2
    assert told.endswith("score is 67% (seat 0 100%, seat 1 (you) 67%, seat 2 0%).")


def test_each_legal_move_has_a_bar():
    dialogue = play.Dialogue(GAME)
    found = FirstMove(GAME).search([dialogue.state], [0], [0])
    rows = play.bars(dialogue, found)
    assert " ".join(row.name for row in rows) == "a3 b3 c3 a2 b2 c2 a1 b1 c1"
    assert (rows[0].visits, rows[0].share, rows[0].chosen) == (10, 1.0, True)
    assert not any(row.visits or row.share or row.chosen for row in rows[1:])


def test_bars_show_the_priors_where_nothing_was_searched():
    dialogue = play.Dialogue(GAME)
    found = FirstMove(GAME, visits=0).search([dialogue.state], [0], [0])
    assert [row.share for row in play.bars(dialogue, found)] == pytest.approx([1 / 9] * 9)


def test_bars_of_very_many_moves_count_those_left_out():
    file = io.StringIO()
    rows = [play.Bar(f"m{i}", i, i / 780, 0.0, False) for i in range(40)]
    play.Screen(Console(file=file)).bars(rows)
    lines = file.getvalue().splitlines()
    assert len(lines) == 1 + play.SHOWN + 1
    assert lines[1].split()[0] == "m16"
    assert lines[-1] == "  and 16 more moves with 120 visits together"


def test_the_letters_of_the_seats_are_read_off_the_board():
    assert play.marks(GAME) == {0: "X", 1: "O"}
    assert play.marks(make("connect4")) == {0: "X", 1: "O"}
    assert play.marks(THREE_WAY_VOTE) == {}


def test_the_board_is_coloured_on_a_terminal_only():
    dialogue = play.Dialogue(GAME)
    obeyed(dialogue, "b2")
    text = {}
    for terminal in (True, False):
        file = io.StringIO()
        colours = "standard" if terminal else "auto"
        console = Console(file=file, force_terminal=terminal, color_system=colours, _environ={})
        play.Screen(console).board(dialogue)
        text[terminal] = file.getvalue()
    assert "\x1b[1;31mX" in text[True]
    assert text[False] == "\n. . .\n. X .\n. . .\n\n"


# The conversation through a pipe.


def test_a_piped_game_is_played_to_its_end(piped):
    text = piped("b2\nhint\nzz\nb3\nb1\nquit\nb2\n")
    assert text.startswith("tictactoe against first. You play seat 0 (X); the agent plays seat 1.")
    assert "your move> b2\nYou play b2.\nThe agent plays a3.\n" in text
    assert "The agent finds this clearly against you: your expected score is 25%." in text
    assert "The agent would play b3." in text
    assert "'zz' is no legal move here and no command;" in text
    assert "You win. Points: seat 0 (you) 1, seat 1 -1. Type new, undo, flip or quit.\n" in text
    assert text.endswith("> quit\nGood bye.\n")
    assert "\x1b" not in text


def test_undo_and_flip_through_a_pipe(piped):
    text = piped("b2\nundo\nflip\nundo\nquit\n")
    assert "Back to your last decision.\n\n. . .\n. . .\n. . .\n\n" in text
    assert "You play seat 1 (O); the agent plays seat 0.\nThe agent plays a3.\n" in text
    assert "There is nothing to undo: you have not moved yet; type a move.\n" in text


def test_the_agent_begins_where_the_person_takes_the_second_seat(piped):
    assert "Type a move, or help.\nThe agent plays a3.\n" in piped("", seat=1)


def test_the_end_of_input_leaves_politely(piped):
    assert piped("b2\n").endswith("\nGood bye.\n")


def test_the_agent_plays_all_other_seats_of_three(piped):
    text = piped("0\nquit\n", seat=1, game=THREE_WAY_VOTE)
    assert "You play seat 1; the agent plays seat 0 and seat 2." in text
    assert "The agent in seat 0 plays 0." in text
    assert "The agent in seat 2 plays 0." in text
    assert "It is a draw." in text


def test_dice_are_shown(piped):
    text = piped("1\nquit\n", game=COIN_FLIP)
    assert "You play 1.\nChance gives " in text
    assert "Points: seat 0 (you) " in text


def test_any_tree_of_three_seats_and_dice_can_be_played(piped):
    for seed in range(5):
        text = piped("\n".join(str(i) for i in range(12)) * 8, game=random_tree(seed, 3))
        assert "Good bye." in text


def test_the_command_ends_with_code_0_at_the_end_of_input(monkeypatch):
    monkeypatch.setattr(play, "_model", lambda player: model.Model("0" * 64, None, GAME))
    monkeypatch.setattr(play, "model_player", lambda *args, **named: FirstMove(GAME))
    done = CliRunner().invoke(main, ["play", "tictactoe"], input="b2\n")
    assert done.exit_code == 0
    assert "You play b2." in done.output


def test_ctrl_c_leaves_politely(monkeypatch, capsys):
    def press(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(play, "_model", lambda player: model.Model("0" * 64, None, GAME))
    monkeypatch.setattr(play, "model_player", press)
    play.play_terminal("tictactoe", 10, 0, 0)
    assert capsys.readouterr().out == "\nGood bye.\n"


# Names and numbers.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run directory with one untrained model."""
    folder = tmp_path_factory.mktemp("runs") / "ttt"
    small = NetworkConfig(blocks=1, channels=8, policy_channels=2, value_channels=2, value_hidden=8)
    network = build(small, shapes_of(GAME), 1)
    (folder / "models").mkdir(parents=True)
    (folder / "champion").write_text(model.save(network, GAME, folder / "models"))
    return folder


@pytest.mark.parametrize("simulations", [0, 16])
def test_a_run_is_played_with_a_real_search(run, monkeypatch, capsys, simulations):
    monkeypatch.setattr("sys.stdin", io.StringIO("b2\nhint\nquit\n"))
    play.play_terminal(str(run), simulations, 0, 0)
    text = capsys.readouterr().out
    assert "The agent plays " in text
    assert "The agent would play " in text
    assert text.endswith("Good bye.\n")


def test_a_seat_out_of_range_is_refused(run):
    with pytest.raises(ConfigError, match="--seat is 2, but tictactoe has seats 0 to 1"):
        play.play_terminal(str(run), 8, 2, 0)


@pytest.mark.parametrize("simulations, seed", [(-1, 0), (8, -1), (8, 2**63)])
def test_numbers_out_of_range_are_refused(run, simulations, seed):
    with pytest.raises(ConfigError, match=r"--(simulations|seed) is "):
        play.play_terminal(str(run), simulations, 0, seed)


@pytest.mark.parametrize("name", ["tictactoe", "demo:tictactoe"])
def test_a_game_without_a_demo_says_how_to_train_one(name, monkeypatch, tmp_path):
    monkeypatch.setattr(model, "__file__", str(tmp_path / "model.py"))
    with pytest.raises(StoreError, match="Train one: zeroloop train tictactoe --run runs/tictactoe"):
        play.play_terminal(name, 8, 0, 0)


def test_a_game_file_says_how_to_train_it():
    with pytest.raises(PlayerError, match=r"zeroloop train games/nim.py --run runs/nim, and then"):
        play.play_terminal("games/nim.py", 8, 0, 0)


def test_an_unknown_name_is_refused():
    with pytest.raises(PlayerError, match="there is no player 'nobody'"):
        play.play_terminal("nobody", 8, 0, 0)
