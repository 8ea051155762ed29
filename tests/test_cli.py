"""Every command as a stranger types it: standard output, exit code, and one clear sentence for bad input."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from zeroloop import bench
from zeroloop.cli import main

TINY = {
    "network.blocks": 1,
    "network.channels": 8,
    "search.simulations": 4,
    "selfplay.games": 8,
    "selfplay.threads": 1,
    "selfplay.cache_megabytes": 1,
    "learn.batch_size": 32,
    "learn.threads": 1,
    "match.simulations": 4,
    "match.opening_plies": 2,
    "promote.max_pairs": 10,
    "promote.floors": "{}",
    "evaluate.opponents": "{random: 4}",
    "evaluate.positions": 0,
    "evaluate.every_positions": 150,
    "budget.positions": 300,
    "run.iteration_positions": 100,
}
NIM = pathlib.Path(__file__).parent.parent / "examples" / "lucky_nim.py"
SETS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]


def invoke(*words, stdin=None):
    return CliRunner().invoke(main, [str(w) for w in words], input=stdin, catch_exceptions=False)


def answer(*words, stdin=None):
    """Return the one JSON object that a command prints."""
    found = invoke(*words, "--json", stdin=stdin)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.count("\n") == 1
    return json.loads(found.stdout)


def refused(*words, code=1):
    """Return the sentence with which a command refuses."""
    found = invoke(*words)
    assert found.exit_code == code, found.output
    assert not found.stdout
    assert "Traceback" not in found.stderr
    return found.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    summary = answer("train", "connect4", "--run", folder, "--seed", "3", *SETS)
    assert summary["finished"] is True
    assert len(summary["champion"]) == 64
    return folder


@pytest.fixture
def lines(tmp_path):
    """Positions whose exact values are plain: a win at hand, and a threat that must be met."""
    path = tmp_path / "positions.txt"
    # 1 1 1 against 2 2 2: the mover wins in column 1 (18 = the score of a win with the 4th stone).
    path.write_text("121212 18\n")
    return path


# Training and the run.


@pytest.mark.slow
def test_a_first_session_of_the_program_says_what_its_budget_takes(tmp_path):
    command = [sys.executable, "-m", "zeroloop", "train", "connect4", "--run", str(tmp_path / "run"), *SETS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())  # lines are broken where the terminal ends
    assert "measured: " in said and "estimate for the budget: " in said


def test_training_again_with_the_budget_spent_changes_nothing(run):
    before = answer("digest", run)
    again = answer("train", "connect4", "--run", run)
    assert again["finished"] is True
    assert answer("digest", run) == before


@pytest.mark.slow
def test_training_goes_on_with_a_larger_budget(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = answer("digest", copy)
    answer("train", "connect4", "--run", copy, "--set", "budget.positions=500")
    after = answer("digest", copy)
    assert after["positions"] >= 500 > before["positions"]
    assert after["weights"] != before["weights"]


def test_digest_names_every_part(run):
    found = answer("digest", run)
    assert {"weights", "optimiser", "replay", "random_state", "unfinished_games", "counters"} <= set(found)


def test_digest_of_no_run_is_refused(tmp_path):
    assert str(tmp_path) in refused("digest", tmp_path)


def test_report_is_written(run):
    assert invoke("report", run).exit_code == 0
    assert (run / "report.md").exists() and (run / "report.png").exists()


# Positions.


def test_state_of_backgammon_with_dice_tells_what_the_turn_can_lead_to():
    found = answer("state", "backgammon", "--position", "4HPwATDgc/ABMA 0 -", "--dice", "31")
    assert found["position"] == "4HPwATDgc/ABMA 0 31" and found["to_play"] == 0
    assert len(found["turn_results"]) == len(set(found["turn_results"])) == 16
    assert "turn_results" not in answer("state", "backgammon", "--position", "4HPwATDgc/ABMA 0 31")
    bare = answer("state", "backgammon", "--position", "4HPwATDgc/ABMA", "--dice", "31")
    assert bare["turn_results"] == found["turn_results"]


def test_dice_where_none_are_due_are_refused():
    told = refused("state", "backgammon", "--position", "4HPwATDgc/ABMA 0 31", "--dice", "31")
    assert "31" in told and "not before a roll" in told
    assert "allowed" in refused("state", "backgammon", "--position", "4HPwATDgc/ABMA 0 -", "--dice", "71")


def test_state_of_chess_counts_repetitions():
    moves = "g1f3 g8f6 f3g1 f6g8"
    assert answer("state", "chess", "--moves", moves)["repetitions"] == 2
    third = answer("state", "chess", "--moves", f"{moves} {moves}")
    assert third["terminal"] and third["repetitions"] == 3 and third["points"] == [0, 0]


def test_perft_counts_the_moves_of_the_start():
    assert answer("perft", "start", "3")["nodes"] == 8902
    assert "king" in refused("perft", "8/8/8/8/8/8/8/4K3 w - - 0 1", "1")


def test_a_bearoff_is_judged_by_the_exact_table():
    found = answer("evaluate", "bearoff", "--bearoff", "50", "--game", "backgammon")
    assert found["points_lost_per_decision"] == 0 and found["best_move_rate"] == 1


def test_drawn_positions_are_judged_by_the_solver():
    flags = "--drawn", "40", "--game", "hex", "--set", "game.options.size=3"
    assert answer("evaluate", "solver", *flags)["value_preserving_rate"] == 1
    assert "one of" in refused("evaluate", "random")


def test_a_game_of_other_options_is_played_in_a_match():
    found = answer(
        "match", "solver", "random", "--game", "hex", "--set", "game.options.size=3", "--games", "4"
    )
    assert found["settings"]["game"] == "hex(size=3, swap=False)"


def test_state_of_the_start():
    found = answer("state", "connect4")
    assert found["to_play"] == 0 and found["terminal"] is False and found["points"] is None
    assert [a["name"] for a in found["legal"]] == list("1234567")
    assert len({a["id"] for a in found["legal"]}) == 7
    assert found["chance"] == []
    assert found["rules_identity"]


def test_state_after_a_win():
    found = answer("state", "connect4", "--moves", "1 2 1 2 1 2 1")
    assert found["terminal"] is True and found["legal"] == []
    assert found["points"] == [1, -1]


def test_a_position_text_leads_back_to_the_position():
    first = answer("state", "connect4", "--moves", "4 4 3")
    assert answer("state", "connect4", "--position", first["position"]) == first


def test_state_answers_one_query_per_line():
    queries = '4 4\n{"moves": "1 1"}\n9\n{"plies": 3}\n'
    found = invoke("state", "connect4", "--stdin", "--json", stdin=queries)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(rows) == 4
    assert rows[0]["to_play"] == rows[1]["to_play"] == 0
    assert "9" in rows[2]["error"] and "plies" in rows[3]["error"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ('{"moves": 4}', "'moves' is 4"),
        ('{"moves": ["4"]}', "'moves' is a list"),
        ('{"moves": null}', "'moves' is null"),
        ('{"moves": NaN}', "'moves' is NaN"),
        ('{"position": 5}', "'position' is 5"),
        ('{"position": {}}', "'position' is an object"),
        ('{"moves": ' + 900 * "[" + 900 * "]" + "}", "'moves' is a list"),
        ('{"moves": ' + 10**5 * "[", "is not JSON"),
        ('{"moves": ' + 5000 * "9" + "}", "is not JSON"),
        ('{"moves": "4"', "is not JSON"),
        (b"\xff", "not a legal move"),
    ],
    ids=lambda x: x[:20],
)
def test_a_bad_query_gets_an_error_and_the_next_its_answer(query, told):
    line = query if isinstance(query, bytes) else query.encode()
    found = invoke("state", "connect4", "--stdin", "--json", stdin=line + b"\n4\n")
    first, second = (json.loads(row) for row in found.stdout.splitlines())
    assert found.exit_code == 0 and list(first) == ["error"]
    assert told in first["error"] and second["to_play"] == 1


def test_a_null_position_is_the_start():
    found = invoke("state", "connect4", "--stdin", stdin='{"position": null, "moves": "4"}\n')
    assert json.loads(found.stdout)["to_play"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["state", "connect4", "--moves", "8"], ["8", "1"]),
        (["state", "connect4", "--moves", "1 1 1 1 1 1 1"], ["1"]),
        (["state", "conect4"], ["conect4", "connect4"]),
        (["check", "absent.py"], ["absent.py"]),
        (["train", "connect4", "--preset", "laptp"], ["laptp", "laptop"]),
        (["train", "connect4", "--set", "search.simulation=3"], ["search.simulation", "simulations"]),
        (["train", "connect4", "--set", "search.simulations=many"], ["search.simulations", "many"]),
        (["train", "connect4", "--set", "search.simulations=0"], ["search.simulations", "0"]),
        (["train", "connect4", "--device", "tpu"], ["device", "tpu"]),
        (["match", "random", "minimax"], ["minimax"]),
        (["match", "random", "mcts:0"], ["mcts"]),
        (["match", "random", "nobody"], ["nobody"]),
        (["match", "random", "nobody@"], ["nobody@"]),
        (["match", "random", "mcts:²"], ["mcts:²", "mcts:400"]),
        (["match", "random", "minimax:²"], ["minimax:²", "minimax:4"]),
        (["match", "random", "mcts:" + 5000 * "9"], ["mcts:99", "..."]),
        (["match", "random", "demo:connect4@²"], ["demo:connect4@²", "NAME@128"]),
        (["match", "random", "demo:connect4@1000001"], ["demo:connect4@1000001", "1,000,000"]),
        (["match", "random", "demo:connect4@" + 5000 * "9"], ["demo:connect4@99", "1,000,000"]),
        (["play", "demo:connect4@100000000"], ["100000000", "1,000,000"]),
        (
            ["evaluate", "demo:connect4", "--simulations", "1000001", "--positions", "absent.txt"],
            ["1000001", "1,000,000"],
        ),
        (["match", "random@5", "random"], ["random@5", "takes no simulations", "write random."]),
        (["match", "random", "solver@4"], ["solver@4", "takes no simulations", "write solver."]),
        (["match", "random", "minimax:3@5"], ["minimax:3@5", "no simulations", "write minimax:3."]),
        (["match", "random", "mcts@5"], ["mcts@5", "write mcts:400."]),
        (["match", "random", "mcts:30@5"], ["mcts:30@5", "write mcts:30."]),
        (["match", "", "random"], ["FIRST", "empty"]),
        (["match", "random", " "], ["SECOND", "empty"]),
        (["match", "random", "random", "--game", ""], ["--game", "empty"]),
        (["play", ""], ["PLAYER", "empty"]),
        (["state", ""], ["GAME", "empty"]),
        (["train", ""], ["GAME", "empty"]),
        (["check", "tictactoe", "--seed", str(2**63 - 1)], ["--seed", "2^63"]),
        (["match", "random", "solver", "--game", str(NIM)], ["solver", "lucky_nim"]),
        (["match", "random", "random", "--games", "1"], ["--games", "1", "2"]),
        (["evaluate", "random", "--positions", "absent.txt"], ["absent.txt"]),
        (["solve", "connect4", "--positions", "absent.txt"], ["absent.txt"]),
        (["solve", "tictactoe", "--positions", "absent.txt"], ["tictactoe", "solver"]),
        (["bench", "search", "connect4", "--threads", "0"], ["threads", "0"]),
        (
            ["bench", "learn", "connect4", "--threads", "3", "--set", "learn.threads=5"],
            ["learn.threads is 5", "--threads is 3"],
        ),
        (["evaluate", "random@4", "--positions", "absent.txt"], ["random@4", "takes no simulations"]),
        (["play", "absent-run"], ["absent-run"]),
        (["report", "absent-run"], ["absent-run"]),
        (["config", "show", "absent-run"], ["absent-run"]),
    ],
)
def test_bad_input_gets_one_sentence(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = refused(*words)
    for word in told:
        assert word in sentence
    assert list(tmp_path.iterdir()) == []  # and nothing is left behind


def test_wrong_usage_has_a_code_of_its_own():
    assert refused("train", "connect4", "--speed", "9", code=2)
    assert refused("frobnicate", code=2)


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
@pytest.mark.parametrize(
    "words",
    [
        ["match", "random", "random"],
        ["evaluate", "random", "--positions", "absent.txt"],
        ["check", "tictactoe"],
        ["play", "tictactoe"],
        ["train", "tictactoe"],
    ],
    ids=lambda words: words[0],
)
def test_a_seed_out_of_range_is_wrong_usage(words, seed):
    sentence = refused(*words, "--seed", seed, code=2)
    assert "--seed" in sentence and seed in sentence


@pytest.mark.parametrize(
    ("words", "flag", "value"),
    [
        (["solve", "connect4", "--positions", "absent.txt"], "--threads", "-1"),
        (["evaluate", "random", "--positions", "absent.txt"], "--limit", "-1"),
        (["match", "random", "random"], "--opening-plies", "-1"),
        (["match", "random", "random"], "--opening-plies", "99999999999999999999"),
        (["check", "tictactoe"], "--games", "0"),
    ],
)
def test_a_number_out_of_range_is_wrong_usage(words, flag, value):
    sentence = refused(*words, flag, value, code=2)
    assert flag in sentence and value in sentence


@pytest.mark.parametrize("raised", [KeyboardInterrupt, click.Abort])
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["match", "random", "random"], "query.match_players"),
        (["evaluate", "random", "--positions", "absent.txt"], "query.evaluate_files"),
        (["check", "tictactoe"], "games.check.check_game"),
        (["bench", "search", "tictactoe"], "query.run_bench"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_an_interruption_is_told_in_one_sentence(words, part, raised, monkeypatch):
    def interrupted(*_, **__):
        raise raised

    monkeypatch.setattr(f"zeroloop.{part}", interrupted)
    assert refused(*words, code=130) == "zeroloop: interrupted.\n"


# Judging.


def test_solve_compares_with_the_file(lines):
    found = answer("solve", "connect4", "--positions", lines)
    assert found["scores"] == [18] and found["mismatches"] == 0 and found["seconds"] >= 0


def test_solve_counts_a_wrong_score(lines):
    lines.write_text("121212 17\n")
    found = answer("solve", "connect4", "--positions", lines)
    assert found["scores"] == [18] and found["mismatches"] == 1


def test_weak_solving_compares_signs(lines):
    lines.write_text("121212 3\n")
    found = answer("solve", "connect4", "--positions", lines, "--weak")
    assert found["scores"] == [1] and found["mismatches"] == 0


def test_a_bad_line_is_named(lines):
    lines.write_text("121212 18\n12121281 3\n")
    sentence = refused("evaluate", "random", "--positions", lines)
    assert f"{lines.name}:2" in sentence


@pytest.mark.parametrize("line", ["121212 99999999999", "121212" + 7 * " -1000"])
def test_a_score_that_no_game_has_is_a_bad_line(line, lines):
    lines.write_text(line + "\n")
    for words in (["evaluate", "random"], ["solve", "connect4"]):
        assert f"{lines.name}:1: " in refused(*words, "--positions", lines)


@pytest.mark.parametrize("player", ["random", "minimax:3", "solver", "mcts:50"])
def test_fixed_players_are_evaluated(player, lines):
    found = answer("evaluate", player, "--positions", lines)
    assert found["positions"] == 1 and found["positions_with_a_choice"] == 1
    low, high = found["interval"]
    assert 0 <= low <= found["value_preserving_rate"] <= high <= 1
    if player != "random":
        assert found["rate_with_a_choice"] == 1


@pytest.mark.parametrize("simulations", [0, 4])
def test_a_run_is_evaluated_with_its_model_hash(run, simulations, lines):
    found = answer("evaluate", run, "--positions", lines, "--simulations", simulations)
    assert found["simulations"] == simulations
    assert len(found["model"]) == 64


@pytest.mark.parametrize(
    ("at", "flag", "played"),
    [("@6", None, 6), ("@0", None, 0), ("@6", 6, 6), ("@0", 0, 0), ("", 6, 6), ("", None, 128)],
)
def test_an_evaluation_reports_the_simulations_that_were_played(run, lines, at, flag, played):
    words = [] if flag is None else ["--simulations", flag]
    found = answer("evaluate", f"{run}{at}", "--positions", lines, *words)
    assert found["simulations"] == played and found["player"] == f"{run}@{played}"


@pytest.mark.parametrize(("at", "flag"), [(6, 0), (0, 6), (6, 128)])
def test_two_numbers_of_simulations_are_refused(run, lines, at, flag):
    sentence = refused("evaluate", f"{run}@{at}", "--positions", lines, "--simulations", flag)
    assert f"{run}@{at}" in sentence and f"--simulations is {flag}" in sentence
    assert sentence.count("\n") == 1


def test_columns_with_scores_give_an_optimal_rate(tmp_path):
    path = tmp_path / "columns.txt"
    # After 1 2 1 2 1 2 the mover wins at once in column 1.
    path.write_text("121212 18 1 1 1 1 1 1\n")
    found = answer("evaluate", "minimax:2", "--positions", path)
    assert found["optimal_rate"] == 1


def test_several_files_give_each_and_a_total(lines):
    found = answer("evaluate", "minimax:2", "--positions", lines, "--positions", lines)
    assert [row["positions"] for row in found["files"]] == [1, 1]
    assert found["total"]["positions"] == 2


# Matches.


def test_a_match_carries_what_a_figure_needs(run):
    found = answer("match", f"{run}@4", "random", "--games", 8)
    assert found["games"] == 8 and found["pairs"] == 4
    low, high = found["interval"]
    assert 0 <= low <= found["score"] <= high <= 1
    assert found["distinct_openings"] == 4 and found["voided"] == 0
    assert len(found["models"][0]) == 64 and found["models"][1] is None
    assert found["settings"]["simulations"][0] == 4
    assert len(found["by_seat"]) == 2
    assert "elo" in found


@pytest.mark.parametrize(("asked", "played"), [(3, 2), (4, 4)])
def test_a_match_tells_where_it_plays_fewer_games_than_asked_for(asked, played):
    found = invoke("match", "random", "random", "--games", asked, "--json")
    assert json.loads(found.stdout)["games"] == played
    told = f"--games is {asked}; {played} are played, because each opening is played in every one of 2"
    assert (told in found.stderr) == (asked != played)


def test_the_newest_model_and_a_hash_are_players(run):
    name = next((run / "models").glob("*.safetensors"))
    assert answer("match", f"{run}:newest@0", f"{name}@2", "--games", 4)["games"] == 4


def test_players_of_different_games_do_not_meet(run):
    assert "connect4" in refused("match", f"{run}@2", "random", "--game", "tictactoe", "--games", "4")


# Configuration.


def test_layers_win_in_their_order(monkeypatch, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("search: {simulations: 11, c_visit: 12}\nlearn: {reuse: 1.5}\n")
    monkeypatch.setenv("ZEROLOOP_SEARCH__SIMULATIONS", "13")
    found = answer("config", "show", "--preset", path, "--set", "search.c_visit=14")["config"]
    assert found["search"]["simulations"] == 13
    assert found["search"]["c_visit"] == 14
    assert found["learn"]["reuse"] == 1.5


def test_an_unknown_key_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("ZEROLOOP_SEARCH__SIMULATION", "13")
    assert "simulations" in refused("config", "show")


def test_a_key_with_one_underscore_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("ZEROLOOP_SEARCH_SIMULATIONS", "4")
    for words in (["config", "show"], ["state", "connect4"], ["train", "connect4"]):
        assert "ZEROLOOP_SEARCH__SIMULATIONS" in refused(*words)


def test_the_configuration_of_a_run_can_be_read_back(run, tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(invoke("config", "show", run).stdout)
    first, second = answer("config", "show", run), answer("config", "show", "--preset", path)
    assert first == second
    assert len(first["hash"]) == 64


def test_diff_names_what_differs(run):
    rows = answer("config", "diff", "smoke", "laptop")["differences"]
    keys = {row["key"] for row in rows}
    assert "network.blocks" in keys and "run.seed" not in keys


def test_every_key_is_explained():
    text = invoke("config", "show", "--docs").stdout
    for key in ("search.simulations", "learn.reuse", "promote.mode"):
        assert f"{key} = " in text
    rows = {row["key"]: row for row in answer("config", "show", "--docs")["keys"]}
    assert len(rows) == sum(not line.startswith(" ") for line in text.splitlines() if " = " in line)
    assert set(rows["learn.reuse"]) == {"key", "default", "type", "doc"}
    assert rows["search.simulations"]["type"] == "Schedule" and rows["search.simulations"]["doc"]


# Files of games, benchmarks.


def test_a_game_file_is_checked():
    found = answer("check", NIM, "--games", 20)
    assert found["games"] == 20 and found["plies"] > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_learning_is_measured_on_the_threads_asked_for(threads, monkeypatch):
    made = []

    class Noted(bench.learn.Learner):
        def __init__(self, network, config, *given):
            super().__init__(network, config, *given)
            made.append((config.threads, len(self._gradients.replicas)))

    def brief(*given, measure=bench.bench_learn):
        return measure(*given, seconds=0.1, rounds=1)

    monkeypatch.setattr(bench.learn, "Learner", Noted)
    monkeypatch.setattr(bench, "bench_learn", brief)
    words = [w for w in SETS if "threads" not in w]
    sets = [w for word in words if word != "--set" for w in ("--set", word)]
    found = answer("bench", "learn", "tictactoe", "--device", "cpu", "--threads", threads, *sets)
    assert found["threads"] == threads and made == [(threads, threads)]


def test_every_command_has_help():
    for words in (
        [],
        *([name] for name in main.commands),
        *(["bench", name] for name in main.commands["bench"].commands),
    ):
        found = invoke(*words, "--help")
        assert found.exit_code == 0 and "Usage" in found.stdout


def test_a_match_is_told_in_words():
    found = invoke("match", "random", "random", "--game", "tictactoe", "--games", 8)
    assert found.exit_code == 0
    assert found.stdout.startswith("random (first) against random (second): ")
    assert "8, 4 distinct openings of up to 4 random plies, each from every seat" in found.stdout
    assert "{" not in found.stdout


def test_a_bad_file_of_hard_positions_leaves_no_run_behind(tmp_path):
    bad = tmp_path / "hard.jsonl"
    bad.write_text('{"game": "connect4", "position": ""}\n')
    run = tmp_path / "run"
    words = ["train", "tictactoe", "--run", run, "--set", f"selfplay.hard_positions={bad}"]
    found = invoke(*words)
    assert found.exit_code == 1 and "hard.jsonl:1: a position of connect4" in found.stderr
    assert not run.exists()
