"""Hard positions: a share of games begins from a file, the same ones on resume; bad files are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.material import TICTACTOE, Scripted, lowest, number, small_config
from zeroloop.config import OpponentConfig
from zeroloop.errors import ConfigError, InvalidState, ResumeError, StoreError
from zeroloop.evaluator import UniformEvaluator
from zeroloop.selfplay import SelfPlay
from zeroloop.selfplay.hard import HardPositions


def position_after(*moves):
    state = TICTACTOE.initial_state()
    for move in moves:
        TICTACTOE.play(state, move)
    return TICTACTOE.position(state)


LINES = [(0, 4), (8, 0, 4), (4, 0, 8, 2), (1, 2)]


def write(path, lines=LINES, **changes):
    rows = [{"game": "tictactoe", "position": position_after(*m), "ply": len(m), **changes} for m in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def group(found, *, make_player=None, search=None, **selfplay):
    """Return a group of self-play that appends to `found`."""
    config = small_config(selfplay=selfplay, search=search or {})
    play = SelfPlay(
        TICTACTOE,
        config,
        on_episode=found.append,
        make_player=make_player,
        opponent_label=lambda player, key: player,
    )
    play.publish(UniformEvaluator(TICTACTOE, config.selfplay.games), "model")
    return play


def games_of(count, **options):
    found = []
    play = group(found, **options)
    while len({e.game_id for e in found} & set(range(count))) < count:
        play.turn(1 << 60)
    return sorted((e for e in found if e.game_id < count), key=lambda e: e.game_id)


def start_of(episode):
    return TICTACTOE.position(episode.states[0])


def assert_legal_to_the_end(episode):
    state = TICTACTOE.copy(episode.states[0])
    for t in range(episode.plies):
        assert state.tobytes() == episode.states[t].tobytes()
        TICTACTOE.play(state, int(episode.action[t]))
    assert int(TICTACTOE.rules["outcome"](state)) == episode.outcome


@pytest.mark.parametrize("rule", ["puct", "gumbel"])
def test_every_game_begins_from_the_file_at_share_one_and_is_a_legal_game(tmp_path, rule):
    path = write(tmp_path / "hard.jsonl")
    found = games_of(60, hard_positions=path, hard_position_share=1.0, search={"rule": rule})
    known = {position_after(*moves): moves for moves in LINES}
    starts = [start_of(e) for e in found]
    assert set(starts) == set(known)
    for episode in found:
        assert_legal_to_the_end(episode)
        assert episode.to_play[0] == len(known[start_of(episode)]) % 2
        assert episode.simulations[0] == 8 and episode.policy_weight[0] == 1 and episode.value_weight[0] == 1


def test_the_share_is_respected_and_lines_are_drawn_alike(tmp_path):
    # Of 400 games 100 are expected, sigma 8.7; of each of 4 lines 25, sigma 4.3: both within 4 sigma.
    path = write(tmp_path / "hard.jsonl")
    found = games_of(400, hard_positions=path, hard_position_share=0.25)
    counts = [sum(start_of(e) == position_after(*m) for e in found) for m in LINES]
    empty = sum(start_of(e) == position_after() for e in found)
    assert empty + sum(counts) == 400
    assert abs(sum(counts) - 100) < 35
    assert max(abs(n - 25) for n in counts) < 18


def test_games_without_a_hard_position_are_those_that_a_run_without_the_file_plays(tmp_path):
    path = write(tmp_path / "hard.jsonl")
    options = {"random_opening_share": number(0.5), "random_opening_plies": number(3)}
    plain = games_of(60, **options)
    mixed = games_of(60, hard_positions=path, hard_position_share=0.3, **options)
    same = [a.to_bytes() == b.to_bytes() for a, b in zip(plain, mixed, strict=True)]
    hard = [start_of(e) in {position_after(*m) for m in LINES} for e in mixed]
    assert 25 < sum(same) < 60
    assert all(s or h for s, h in zip(same, hard, strict=True))


def test_a_share_of_zero_changes_nothing(tmp_path):
    path = write(tmp_path / "hard.jsonl")
    plain, none = games_of(30), games_of(30, hard_positions=path, hard_position_share=0.0)
    assert [e.to_bytes() for e in plain] == [e.to_bytes() for e in none]


def test_games_do_not_depend_on_how_many_are_in_flight(tmp_path):
    path = write(tmp_path / "hard.jsonl")
    options = {"hard_positions": path, "hard_position_share": 0.5, "full_search_fraction": number(0.5)}
    few, many = games_of(40, games=3, **options), games_of(40, games=16, **options)
    assert [e.to_bytes() for e in few] == [e.to_bytes() for e in many]
    assert 0 < sum(e.policy_weight[0] == 0 for e in few) < 40  # cheap searches begin as drawn


def test_other_players_move_first_where_a_hard_position_is_theirs(tmp_path):
    path = write(tmp_path / "hard.jsonl", [(0, 4)])
    found = games_of(
        40,
        hard_positions=path,
        hard_position_share=1.0,
        opponents=(OpponentConfig(player="lowest", share=1.0),),
        make_player=lambda label: Scripted(TICTACTOE, lowest, "lowest"),
    )
    theirs = [e for e in found if e.seats[0] == "lowest"]
    assert 5 < len(theirs) < 35
    for episode in found:
        assert_legal_to_the_end(episode)
        own = episode.seats[0] != "lowest"
        assert (episode.policy_weight[0] == 1) == own
        assert own or episode.action[0] == 1  # cells 0 and 4 are taken


def test_a_restored_group_goes_on_bit_for_bit(tmp_path):
    options = {"hard_positions": write(tmp_path / "hard.jsonl"), "hard_position_share": 0.5}
    whole, first, second = [], [], []
    play = group(whole, **options)
    play.turn(100)
    while play.turn(300):
        pass
    play = group(first, **options)
    while play.turn(120):
        pass
    arrays, labels = play.snapshot(), list(play.labels)
    arrays = {k: np.array(v) for k, v in arrays.items()}
    again = group(second, **options)
    again.restore(arrays, labels, [])
    while again.turn(300):
        pass
    assert [e.to_bytes() for e in first + second] == [e.to_bytes() for e in whole]


def test_a_file_that_changed_is_refused_on_resume(tmp_path):
    options = {"hard_positions": write(tmp_path / "hard.jsonl"), "hard_position_share": 0.5}
    play = group([], **options)
    while play.turn(50):
        pass
    arrays = play.snapshot()
    write(tmp_path / "hard.jsonl", LINES[:3])
    with pytest.raises(ResumeError, match=r"hard\.jsonl has changed since the run began"):
        group([], **options).restore(arrays, [], [])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ConfigError, "holds no positions"),
        ("{", InvalidState, r"hard\.jsonl:1: not JSON"),
        ('{"position": "x"}', InvalidState, r":1: expected an object with the texts"),
        (
            '{"game": "hex(size=5)", "position": "x"}',
            InvalidState,
            r"of hex\(size=5\), but this run plays tictactoe",
        ),
        ('{"game": "tictactoe", "position": "nonsense"}', InvalidState, r"hard\.jsonl:1: "),
    ],
)
def test_a_bad_file_is_refused_at_the_start_by_name(tmp_path, text, error, message):
    path = tmp_path / "hard.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=message):
        group([], hard_positions=str(path))


def test_positions_without_a_choice_and_bad_plies_are_refused(tmp_path):
    path = tmp_path / "hard.jsonl"
    write(path, [(0, 4), (0, 3, 1, 4, 2)])  # won
    with pytest.raises(InvalidState, match=r"hard\.jsonl:2: nobody has a choice"):
        HardPositions(TICTACTOE, path)
    for ply in (-1, 10_000, True, "3"):
        write(path, LINES, ply=ply)
        with pytest.raises(InvalidState, match="must be a whole number below"):
            HardPositions(TICTACTOE, path)
    with pytest.raises(StoreError, match="cannot be read"):
        HardPositions(TICTACTOE, tmp_path / "absent")
