"""Tournaments: what is played, that nothing finished is lost, and tables whose numbers are known by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from tests.games.trails_slow import game as trails
from tests.material import CONNECT4, GAMMON, ORDERS, TICTACTOE, Scripted, highest, lowest
from tests.toy_games import WIN_NOW
from zeroloop.cli import main
from zeroloop.crosstable import anchors_of, check_result, crosstable, picture, text
from zeroloop.errors import ConfigError, InvalidState, PlayerError, ResumeError, StoreError
from zeroloop.notation import replay
from zeroloop.players.random import RandomPlayer
from zeroloop.rating import score_interval
from zeroloop.tournament import Plan, Tournament, pairs_of

PLAN = Plan(games=24, opening_plies=3, seed=5)


def silent(line):
    """Tell nobody."""


def named(game, name, seed=0):
    player = RandomPlayer(game, seed)
    player.name = name
    return player


def random_players(game, names="abc"):
    return [named(game, name, seed) for seed, name in enumerate(names)]


def played(out, game, players, plan=PLAN, chunk=8):
    """Play a tournament to its end and return it, its directory free again."""
    t = Tournament(out, game, players, plan, chunk)
    try:
        t.play(silent)
    finally:
        t.close()
    return t


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_date(rows):
    return sorted(({**row, "date": ""} for row in rows), key=lambda r: (r["opening"], r["seat"], r["seats"]))


class Failing:
    """Plays like another player until it has been asked so many times, then fails."""

    def __init__(self, player, times, error):
        self.player, self.left, self.error, self.name = player, times, error, player.name

    def choose(self, states, keys, plies):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.player.choose(states, keys, plies)


# --- what is played -----------------------------------------------------------------------------


def test_every_pair_plays_the_same_openings_in_every_seating(tmp_path):
    t = played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    rows = lines(tmp_path / "games.jsonl")
    assert len(rows) == 3 * 24 and t.finished
    openings = {}
    for row in rows:
        openings.setdefault(tuple(sorted(row["seats"])), []).append((row["start"], tuple(row["seats"])))
    assert set(openings) == {("a", "b"), ("a", "c"), ("b", "c")}
    starts = [sorted(start for start, _ in found) for found in openings.values()]
    assert starts[0] == starts[1] == starts[2] and len(set(starts[0])) == 12
    for (one, other), found in openings.items():
        for start in {start for start, _ in found}:
            assert sorted(seats for s, seats in found if s == start) == [(one, other), (other, one)]


def test_every_row_replays_to_its_points(tmp_path):
    t = played(tmp_path, CONNECT4, random_players(CONNECT4, "ab"))
    for row in t.rows.values():
        assert CONNECT4.points(replay(CONNECT4, row)) == row["points"]


def test_three_seats_give_every_pair_both_ways_and_every_seat(tmp_path):
    game = trails()
    t = played(tmp_path, game, random_players(game, "ab"), PLAN._replace(games=13))
    assert t.pairs == [("a", "b"), ("b", "a")] and len(t.rows) == 2 * 12
    for row in t.rows.values():
        first = row["seats"][row["seat"]]
        assert row["seats"].count(first) == 1 and len(row["seats"]) == 3
        assert game.points(replay(game, row)) == row["points"]
    assert [row["seat"] for row in t.games_of(("b", "a"))] == [0, 1, 2] * 4


def test_pairs_of_the_kinds():
    assert pairs_of("abc", "round-robin", 2) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs_of("abc", "gauntlet", 2) == [("a", "b"), ("a", "c")]
    assert pairs_of("abc", "gauntlet", 4) == [("a", "b"), ("a", "c")]
    assert len(pairs_of("abc", "round-robin", 3)) == 6


def test_tournament_that_cannot_be_is_refused(tmp_path):
    for names, kind, seats, message in (
        ("a", "round-robin", 2, "at least two players, but got a"),
        ("", "round-robin", 2, "got none"),
        ("aba", "gauntlet", 2, "player a is named more than once"),
        ("ab", "knockout", 2, "--kind is knockout; allowed: round-robin, gauntlet"),
        ("ab", "gauntlet", 1, "one seat"),
    ):
        with pytest.raises(ConfigError, match=message):
            pairs_of(list(names), kind, seats)
    for change, message in (
        ({"games": 1}, "--games is 1; give at least 2"),
        ({"opening_plies": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Tournament(tmp_path / "t", TICTACTOE, random_players(TICTACTOE), PLAN._replace(**change))
    assert not (tmp_path / "t").exists()


# --- nothing finished is lost -------------------------------------------------------------------


def test_interrupted_tournament_goes_on_to_the_games_of_an_uninterrupted_one(tmp_path):
    whole = played(tmp_path / "whole", TICTACTOE, random_players(TICTACTOE))
    kept = []
    for times in (3, 9, 9):
        players = random_players(TICTACTOE)
        players[2] = Failing(players[2], times, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            played(tmp_path / "cut", TICTACTOE, players)
        kept.append(len(lines(tmp_path / "cut" / "games.jsonl")))
    assert 0 < kept[0] <= kept[1] <= kept[2] < 72
    played(tmp_path / "cut", TICTACTOE, random_players(TICTACTOE))
    assert without_date(lines(tmp_path / "cut/games.jsonl")) == without_date(whole.rows.values())


def test_line_cut_short_is_removed_and_its_game_played_again(tmp_path):
    whole = played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    path = tmp_path / "games.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    t = played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    assert len(t.rows) == 72 and without_date(lines(path)) == without_date(whole.rows.values())


def test_missing_game_alone_is_appended(tmp_path):
    played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    path = tmp_path / "games.jsonl"
    before = path.read_text().splitlines()
    path.write_text("\n".join(before[:10] + before[11:]) + "\n")
    played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    after = path.read_text().splitlines()
    assert after[:-1] == before[:10] + before[11:]
    assert without_date([json.loads(after[-1])]) == without_date([json.loads(before[10])])


def test_finished_tournament_plays_nothing_more(tmp_path):
    played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    sides = [Failing(p, 0, AssertionError()) for p in random_players(TICTACTOE)]
    assert played(tmp_path, TICTACTOE, sides).finished


def test_damaged_line_is_named_with_its_number(tmp_path):
    played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    path = tmp_path / "games.jsonl"
    good = path.read_text().splitlines()
    row = json.loads(good[4])
    for bad, message in (
        ("{", "damaged"),
        (json.dumps({**row, "points": None}), "needs 'points'"),
        (json.dumps({**row, "seats": ["a", "z"]}), "is in the plan"),
        (json.dumps({**row, "opening": 99}), "opening 99"),
        (json.dumps({**row, "seat": 7}), "damaged"),
        (json.dumps({**row, "seat": row["seat"] - 2}), "is no seating of"),
        (json.dumps({**row, "points": [1.0, 1.0]}), "no result of a game of tictactoe that is over"),
        (json.dumps({**row, "points": [1.0]}), "no result"),
        (json.dumps({**row, "points": [2.0, -2.0]}), "no result"),
        (json.dumps({**row, "points": [float("nan"), 0.0]}), "no result"),
        (json.dumps({**row, "points": [1.0, -1.0], "ended": "cut"}), "no result of .* that is cut"),
        (json.dumps({**row, "ended": "lost"}), "ended 'lost'; allowed: over, cut"),
        (json.dumps({**row, "models": ["a" * 64, None]}), "its models are .* the players are"),
    ):
        path.write_text("\n".join([*good[:4], bad, *good[5:]]) + "\n")
        with pytest.raises(StoreError, match=rf"games.jsonl:5 .*{message}"):
            Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)


def test_line_of_void_attempts_cut_short_is_removed_and_a_damaged_one_named(tmp_path):
    whole = json.dumps({"players": ["a", "b"], "openings": [0, 4], "message": "m", "time": "t"}) + "\n"
    path = tmp_path / "void.jsonl"
    path.write_text(whole + whole[:30])
    t = played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    assert len(t.table({"a": 0.0})["voids"]) == 1 and path.read_text() == whole
    path.write_text(whole + "{\n")
    with pytest.raises(StoreError, match=r"void.jsonl:2 is damaged"):
        Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)


def test_games_cut_at_the_ply_bound_are_read_again(tmp_path):
    row = {"points": [0.0, 0.0], "ended": "cut"}
    check_result(TICTACTOE, row)
    with pytest.raises(InvalidState, match="that is cut"):
        check_result(GAMMON, {**row, "points": [1.0, -1.0]})
    check_result(ORDERS, {"points": [1.0, 1.0, 1.0], "ended": "cut"})


def test_other_plan_or_players_are_refused_by_name(tmp_path):
    def again(message, players=None, plan=PLAN, game=TICTACTOE):
        with pytest.raises(ResumeError, match=message):
            Tournament(tmp_path, game, players or random_players(game), plan)

    played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    again("its players are a, b, c; now they are a, b, d", random_players(TICTACTOE, "abd"))
    again("its players are a, b, c; now they are a, b", random_players(TICTACTOE, "ab"))
    again("its seed is 5, now it is 6", plan=PLAN._replace(seed=6))
    again("its games is 24, now it is 26", plan=PLAN._replace(games=26))
    again("its kind is round-robin, now it is gauntlet", plan=PLAN._replace(kind="gauntlet"))
    again("its game is tictactoe, now it is connect4", game=CONNECT4)


def test_changed_model_or_settings_under_one_name_are_refused_by_name(tmp_path):
    def players(model, settings=None):
        made = random_players(TICTACTOE)
        made[1].model_hash, made[1].settings = model, settings or {}
        return made

    played(tmp_path, TICTACTOE, players("aaaa"))
    played(tmp_path, TICTACTOE, players("aaaa"))
    assert {
        r["models"][r["seats"].index("b")] for r in lines(tmp_path / "games.jsonl") if "b" in r["seats"]
    } == {"aaaa"}
    with pytest.raises(ResumeError, match="player b was model aaaa and is now bbbb"):
        Tournament(tmp_path, TICTACTOE, players("bbbb"), PLAN)
    with pytest.raises(ResumeError, match=r"player b was .* and is now .*'skill': 3"):
        Tournament(tmp_path, TICTACTOE, players("aaaa", {"skill": 3}), PLAN)


def test_damaged_plan_and_games_without_a_plan_are_refused(tmp_path):
    played(tmp_path, TICTACTOE, random_players(TICTACTOE))
    path = tmp_path / "tournament.json"
    for bad in ("{", "[]", "{}", '{"players": [1]}'):
        path.write_text(bad)
        with pytest.raises(StoreError, match=r"tournament.json is damaged"):
            Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)
    path.unlink()
    with pytest.raises(ResumeError, match=r"holds games but no tournament.json"):
        Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)


def test_second_process_in_the_directory_is_refused(tmp_path):
    t = Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)
    with pytest.raises(ResumeError, match="is in use by process"):
        Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)
    t.close()
    Tournament(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN).close()


# --- void matches -------------------------------------------------------------------------------


def test_failed_player_voids_its_chunk_and_the_same_tournament_goes_on(tmp_path):
    whole = played(tmp_path / "whole", TICTACTOE, random_players(TICTACTOE))
    players = random_players(TICTACTOE)
    players[1] = Failing(players[1], 30, PlayerError("b hung in position X."))
    with pytest.raises(PlayerError, match=r"b.*openings \d+ to \d+: b hung in position X\. \d+ finish"):
        played(tmp_path / "t", TICTACTOE, players)
    kept = lines(tmp_path / "t/games.jsonl")
    assert 0 < len(kept) < 72 and len(kept) % 8 == 0
    (void,) = lines(tmp_path / "t/void.jsonl")
    assert "b" in void["players"] and void["message"] == "b hung in position X."
    assert void["openings"][1] - void["openings"][0] == 4
    t = played(tmp_path / "t", TICTACTOE, random_players(TICTACTOE))
    assert without_date(t.rows.values()) == without_date(whole.rows.values())
    table = t.table({"a": 0.0})
    assert len(table["voids"]) == 1 and "played again (void.jsonl): 1" in text(table)


def test_illegal_move_voids_the_chunk_with_the_position(tmp_path):
    cheat = Scripted(TICTACTOE, lambda state, legal, key, ply: 99, "cheat")
    with pytest.raises(PlayerError, match=r"cheat chose action 99 in position .* of tictactoe, which is"):
        played(tmp_path, TICTACTOE, [named(TICTACTOE, "a"), cheat])
    assert "action 99 in position" in lines(tmp_path / "void.jsonl")[0]["message"]
    assert not (tmp_path / "games.jsonl").exists()


def test_void_tournament_counts_the_attempt_in_its_table_and_writes_no_empty_file(tmp_path, monkeypatch):
    """The player fails at once, then as soon as there are games; only then is there a table."""
    words = ["random", "heuristic", "--game", "hex", "--set", "game.options.size=3", "--games", 24]
    words += ["--out", tmp_path, "--chunk", 8]
    path, whole, patient = tmp_path / "games.jsonl", RandomPlayer.choose, [False]

    def choose(self, *asked):
        if path.exists() or not patient[0]:
            raise PlayerError("random hung.")
        return whole(self, *asked)

    monkeypatch.setattr(RandomPlayer, "choose", choose)
    assert invoke(*words).exit_code == 1
    assert {p.name for p in tmp_path.iterdir()} == {"lock", "tournament.json", "void.jsonl"}
    patient[0] = True
    assert invoke(*words).exit_code == 1 and len(lines(path)) == 8
    assert "(NOT COMPLETE)" in (tmp_path / "crosstable.txt").read_text()
    assert "void attempts, played again (void.jsonl): 2" in (tmp_path / "crosstable.txt").read_text()
    assert len(json.loads((tmp_path / "crosstable.json").read_text())["voids"]) == 2
    assert (tmp_path / "games.sgf").read_text().count("FF[4]") == len(lines(tmp_path / "games.jsonl"))


# --- numbers known by hand ----------------------------------------------------------------------


def master(state, legal, key, ply):
    """WinNow: win at once with seat 0 by action 2; with seat 1 win by action 0 where 0 was played."""
    return 2 if len(legal) == 4 else 0


def rows_by(game, pair, results):
    """Return records of a pair from [(opening, seat of the first side, points)]."""
    return [
        {
            "seats": [pair[s != seat] for s in range(game.num_players)],
            "seat": seat,
            "opening": opening,
            "opening_moves": 1,
            "initial": "i",
            "start": f"after {opening}",
            "moves": ["x", str(opening), str(seat)],
            "points": points,
            "ended": "over",
        }
        for opening, seat, points in results
    ]


FACTS = {"kind": "round-robin", "games": 4, "opening_plies": 1, "seed": 0, "complete": True, "openings": 2}


def table_of(game, parts, names, anchors=None):
    about = {name: {"name": name, "model": None} for name in names}
    return {**crosstable(game, FACTS, about, parts, anchors or {names[0]: 0.0}), "voids": []}


def test_table_counts_wins_draws_losses_seats_and_openings():
    won, drawn, lost = [1, -1], [0, 0], [-1, 1]
    parts = {
        ("a", "b"): rows_by(TICTACTOE, ("a", "b"), [(0, 0, won), (0, 1, won), (1, 0, won), (1, 1, drawn)]),
    }
    table = table_of(TICTACTOE, parts, ["a", "b"])
    (pair,) = table["pairs"]
    # Seat 0 wins, seat 1 loses where White has won: a has 1, 0, 1, 1/2.
    assert (pair["wins"], pair["draws"], pair["losses"], pair["games"]) == (2, 1, 1, 4)
    assert pair["score"] == 0.625 and pair["interval"] == list(score_interval([0.5, 0.75]))
    assert pair["by_seat"]["0"]["score"] == 1.0 and pair["by_seat"]["1"]["score"] == 0.25
    assert pair["by_seat"]["1"]["losses"] == 1 and pair["by_seat"]["0"]["interval"][1] == 1.0
    assert [o["opening"] for o in pair["worst_openings"]["a"]] == [0, 1]
    assert [(o["opening"], o["score"]) for o in pair["worst_openings"]["b"]] == [(1, 0.75), (0, 0.5)]
    assert pair["worst_openings"]["a"][0]["position"] == "after 0"
    assert pair["worst_openings"]["a"][0]["moves"] == ["x"]
    assert pair["distinct_openings"] == 2 and pair["distinct_games"] == 4
    players = {row["name"]: row for row in table["players"]}
    assert players["a"]["score"] == 0.625 and players["b"]["score"] == 0.375
    assert players["b"]["elo"] < players["a"]["elo"] == 0.0 and players["a"]["anchor"]
    assert not table["graded"]
    parts["a", "b"][3]["points"] = lost
    assert table_of(TICTACTOE, parts, ["a", "b"])["pairs"][0]["score"] == 0.75


def test_points_a_game_and_their_split_are_shown_where_games_are_graded():
    results = [(0, 0, [3, -3]), (0, 1, [-2, 2]), (1, 0, [-1, 1]), (1, 1, [1, -1])]
    table = table_of(GAMMON, {("a", "b"): rows_by(GAMMON, ("a", "b"), results)}, ["a", "b"])
    (pair,) = table["pairs"]
    assert table["graded"] and pair["points_per_game"] == (3 + 2 - 1 - 1) / 4
    assert pair["points"] == {"-1": 2, "2": 1, "3": 1}
    assert (pair["wins"], pair["losses"]) == (2, 2)
    low, high = pair["points_interval"]
    assert -3 <= low < 0.75 < high <= 3
    # Elo counts games won: two each.
    assert abs(table["players"][0]["elo"] - table["players"][1]["elo"]) < 1e-6
    assert "+0.750" in text(table)


def test_three_seats_score_one_against_the_others():
    """Orders: 2 points for the first place, 1 for the second; a is first, second and last."""
    results = [(0, 0, [2, 1, 0]), (0, 1, [2, 1, 0]), (0, 2, [2, 1, 0])]
    parts = {
        ("a", "b"): rows_by(ORDERS, ("a", "b"), results),
        ("b", "a"): rows_by(ORDERS, ("b", "a"), results),
    }
    table = table_of(ORDERS, parts, ["a", "b"])
    pair = table["pairs"][0]
    assert pair["score"] == 0.5 and (pair["wins"], pair["draws"], pair["losses"]) == (1, 0, 2)
    assert pair["by_seat"]["0"]["score"] == 0.5 + 0.5 * (1 - 0.25)
    assert table["seatings"] == 3 and "50 % where equal" in text(table)
    assert abs(table["players"][0]["elo"] - table["players"][1]["elo"]) < 1e-6


def test_tournament_of_known_players_has_the_known_score(tmp_path):
    """From WinNow's openings seat 1 is to move, and the master's 0 and the fool's 1 end as the table says."""
    players = [Scripted(WIN_NOW, rule, name) for name, rule in (("low", lowest), ("high", highest))]
    t = played(tmp_path, WIN_NOW, players, Plan(games=6, opening_plies=1, seed=1))
    for row in t.rows.values():
        assert WIN_NOW.points(replay(WIN_NOW, row)) == row["points"]
    found = t.table({"low": 0.0})["pairs"][0]
    assert found["score"] == np.mean([0.5 + (r["points"][r["seat"]]) / 2 for r in t.rows.values()])


def test_strong_player_is_rated_above_a_weak_one_within_its_interval(tmp_path):
    from zeroloop.players.minimax import MinimaxPlayer

    players = [named(CONNECT4, "random"), MinimaxPlayer(CONNECT4, 2, 1)]
    t = played(tmp_path, CONNECT4, players, Plan(games=40, seed=2), 64)
    strong, weak = t.table({"random": 1000.0})["players"]
    assert (strong["name"], weak["name"], weak["elo"]) == ("minimax:2", "random", 1000.0)
    assert 1000 < strong["elo_interval"][0] < strong["elo"] < strong["elo_interval"][1]


def test_pair_without_a_game_has_no_table():
    with pytest.raises(ConfigError, match="a against b has no finished game"):
        table_of(TICTACTOE, {("a", "b"): []}, ["a", "b"])


def test_anchors_are_players_with_numbers():
    names = ["a", "stockfish:nodes=1,skill=0"]
    assert anchors_of([], names) == {"a": 0.0}
    assert anchors_of(["stockfish:nodes=1,skill=0"], names) == {names[1]: 0.0}
    assert anchors_of(["stockfish:nodes=1,skill=0=1320", "a=-5.5"], names) == {names[1]: 1320.0, "a": -5.5}
    for bad, message in (
        ("b", "names no player of this tournament; .* with one of a, stockfish:nodes=1,skill=0"),
        ("b=5", "names no player"),
        ("=5", "names no player"),
        ("stockfish:nodes=1", "names no player"),
        ("a=", "has '' for an Elo, which is no number; write a=1500"),
        ("a=x", "has 'x' for an Elo, which is no number"),
        ("a=nan", "fixes an Elo that is not finite"),
        ("a=-inf", "fixes an Elo that is not finite"),
    ):
        with pytest.raises(ConfigError, match=f"^--anchor {bad} {message}"):
            anchors_of([bad], names)
    with pytest.raises(ConfigError, match="names a more than once"):
        anchors_of(["a", "a=3"], names)


def test_an_anchor_may_have_the_name_as_it_was_typed():
    names, typed = ["random", "minimax:1"], ["random", "heuristic"]
    for word in ("heuristic", "minimax:1"):
        assert anchors_of([f"{word}=1200"], names, typed) == {"minimax:1": 1200.0}
        assert anchors_of([word], names, typed) == {"minimax:1": 0.0}
    with pytest.raises(ConfigError, match="more than once"):
        anchors_of(["heuristic", "minimax:1=3"], names, typed)


def test_text_and_picture_show_every_player(tmp_path):
    t = played(tmp_path, TICTACTOE, random_players(TICTACTOE), PLAN)
    table = t.table({"a": 0.0})
    shown = text(table)
    for name in ("a against b", "a against c", "b against c", "round-robin of 3 players", "seat 0 is worth"):
        assert name in shown
    assert picture(table)[:8] == b"\x89PNG\r\n\x1a\n"
    json.dumps(table, allow_nan=False)


# --- the command --------------------------------------------------------------------------------


def invoke(*words):
    return CliRunner().invoke(main, ["tournament", *map(str, words)], catch_exceptions=False)


def test_command_plays_writes_and_prints_one_json_object(tmp_path):
    words = ["random", "heuristic", "--game", "hex", "--set", "game.options.size=3", "--games", 8]
    words += ["--out", tmp_path / "t", "--anchor", "heuristic=100", "--json"]
    found = invoke(*words)
    assert found.exit_code == 0, found.stderr
    table = json.loads(found.stdout)
    assert table["complete"] and {r["name"]: r["anchor"] for r in table["players"]} == {
        "random": False,
        "minimax:1": True,
    }
    assert "16 of 16 games" not in found.stderr and "8 of 8 games finished" in found.stderr
    files = {p.name for p in (tmp_path / "t").iterdir()}
    assert {"games.jsonl", "games.sgf", "crosstable.json", "crosstable.txt", "crosstable.png"} <= files
    assert json.loads((tmp_path / "t/crosstable.json").read_text()) == table
    again = invoke(*words)
    assert again.exit_code == 0 and json.loads(again.stdout) == table


def test_command_refuses_in_one_sentence_before_a_game_is_played(tmp_path):
    out = tmp_path / "t"
    for words, message in (
        (["demo:connect4@4", "random", "--game", "hex"], "demo.*connect4.* plays connect4, not hex"),
        (["random", "nobody", "--game", "hex"], "there is no player 'nobody'"),
        (["random", "random", "--game", "hex"], "player random is named more than once"),
        (
            ["random", "heuristic", "--game", "hex", "--format", "pgn"],
            "pgn writes games of chess, not",
        ),
        (["random", "heuristic", "--game", "hex", "--anchor", "solver"], "--anchor solver names no player"),
        (["random", "heuristic", "--game", "hex", "--games", 1], "--games is 1"),
    ):
        found = invoke(*words, "--out", out)
        assert found.exit_code == 1 and not found.stdout

        assert re.search(message, found.stderr), found.stderr
        assert "Traceback" not in found.stderr and not (out / "games.jsonl").exists()


@pytest.mark.slow
def test_killed_process_loses_no_finished_game(tmp_path):
    """SIGKILL at three moments; the same command then ends with every game once, as if never killed."""
    words = [sys.executable, "-m", "zeroloop", "tournament", "random", "minimax:3", "--game", "connect4"]
    words += ["--games", "200", "--chunk", "10", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "t"
    path = out / "games.jsonl"
    kept = 0
    for _ in range(3):
        running = subprocess.Popen([*words, str(out)], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and running.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") > kept:
                break
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        found = path.read_bytes().count(b"\n")
        assert found >= kept
        kept = found
    for folder in (out, tmp_path / "whole"):
        subprocess.run([*words, str(folder)], env=environment, check=True, capture_output=True)
    assert without_date(lines(path)) == without_date(lines(tmp_path / "whole" / "games.jsonl"))
    assert len(lines(path)) == 200
