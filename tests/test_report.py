"""The report of a run: every figure is one that the run wrote, and what it did not write is missing."""

from __future__ import annotations

import io
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from zeroloop import configfile
from zeroloop.cli import main
from zeroloop.config import Config
from zeroloop.errors import StoreError
from zeroloop.files import pack
from zeroloop.games import make
from zeroloop.metrics import METRICS
from zeroloop.players.solvers import ILLEGAL
from zeroloop.rating import wilson
from zeroloop.report import markdown, percent, read_facts, write_report
from zeroloop.session import _finish

START, FIRST, SECOND = (digit * 64 for digit in "abc")


def label(model):
    return f"{model[:12]}@64"


def match(first, second, score, games, interval=None):
    return {
        "players": [first, second],
        "games": games,
        "pairs": games // 2,
        "score": score,
        "interval": interval or [score - 0.05, min(score + 0.04, 1.0)],
        "by_seat": {
            "0": {"games": games // 2, "score": score + 0.125},
            "1": {"games": games // 2, "score": score - 0.125},
        },
    }


def evaluation(model, against, score, *, promoted, seconds, **values):
    """Return a line of matches.jsonl: 100 games against the champion, 40 against minimax:3."""
    return {
        "iteration": 1,
        "positions": 12_000,
        "seconds": seconds,
        "model": model,
        "promoted": promoted,
        "reason": f"{'' if promoted else 'not '}promoted: {100 * score:.1f} %.",
        "candidate": label(model),
        "champion": label(against),
        "versus_champion": match(label(model), label(against), score, 100),
        "fixed": {"minimax:3": match(label(model), "minimax:3", 0.75, 40, [0.6, 0.86])},
        **values,
    }


def iteration(number, **values):
    """Return a line of metrics.jsonl: 30 seconds of self-play and 20 of learning in each minute."""
    return {
        "kind": "metrics",
        "iteration": number,
        "seconds": 60.0 * (number + 1),
        "games": 100 * (number + 1),
        "positions": 6000 * (number + 1),
        "steps": 10 * (number + 1),
        "simulations_per_second": 1000.0 * (number + 1),
        "play_seconds": 30.0,
        "learn_seconds": 20.0,
        "evaluate_seconds": 0.0,
        "loss/policy": 1.5,
        "loss/value": 1.0,
        **values,
    }


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def begun(tmp_path):
    """Return a run directory as it is before its first iteration ends."""
    config = configfile.load(
        Config,
        *configfile.assignment_layers(["game.name=tictactoe", "budget.minutes=10", "run.seed=7"]),
    )
    (tmp_path / "config.yaml").write_text(configfile.dump(config))
    about = {
        "game": "tictactoe",
        "config_hash": "0123abcd",
        "rules_identity": "fedc",
        "versions": {"zeroloop": "0.1.0", "torch": "2.0"},
        "python": "3.11.7",
    }
    (tmp_path / "run.json").write_text(json.dumps(about))
    return tmp_path


@pytest.fixture
def run(begun):
    """Return a run directory with three iterations and two evaluations, the second of them last."""
    (begun / "champion").write_text(FIRST)
    rows = [iteration(0), iteration(1), iteration(2, evaluate_seconds=5.0)]
    write_lines(begun / "metrics.jsonl", rows)
    found = {"accuracy": 0.8, "accuracy_searched": 0.9, "accuracy_choice": 0.5}
    lines = [
        evaluation(FIRST, START, 0.65, promoted=True, seconds=125.0),
        evaluation(SECOND, FIRST, 0.5, promoted=False, seconds=184.0, **found),
    ]
    write_lines(begun / "matches.jsonl", lines)
    return begun


def text_of(folder):
    return markdown(read_facts(folder))


def section(folder, title):
    """Return the text under a heading."""
    return text_of(folder).split(f"## {title}\n")[1].split("\n## ")[0]


def row_of(text, word):
    """Return the cells of the first table row that holds a word."""
    line = next(line for line in text.splitlines() if line.startswith("|") and word in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def size_of(png):
    """Return width and height of PNG bytes."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    return struct.unpack(">II", png[16:24])


def test_the_report_and_its_picture_are_written_beside_the_run(run):
    path = write_report(run)
    assert path == run / "report.md"
    assert path.read_text() == text_of(run)
    width, height = size_of((run / "report.png").read_bytes())
    assert width >= 800
    assert height >= 800
    assert "(report.png)" in path.read_text()


def test_the_title_names_game_and_champion_and_the_evidence(run):
    text = text_of(run)
    assert text.startswith(f"# tictactoe: champion {FIRST[:12]}\n")
    assert f"Champion `{FIRST}`: promoted: 65.0 %." in text
    assert "So far: 3.1 minutes, 300 games, 18,000 positions, 30 steps." in text


def test_a_champion_without_evidence_is_the_random_start(run):
    (run / "champion").write_text(START)
    assert f"Champion `{START}`: the random start, never promoted." in text_of(run)


def test_what_was_run_shows_versions_settings_and_the_machine(run):
    text = section(run, "What was run")
    assert row_of(text, "hash of the keys fixed at the start")[1] == "0123abcd"
    assert row_of(text, "versions")[1] == "zeroloop 0.1.0, torch 2.0, python 3.11.7"
    assert row_of(text, "run.seed")[1] == "7"
    assert row_of(text, "budget.minutes")[1] == "10.0"
    assert row_of(text, "game.name")[1] == "tictactoe"  # not a main setting, but no default
    assert " cores, " in row_of(text, "machine")[1]


def test_each_evaluation_is_a_row_with_score_interval_and_games(run):
    text = section(run, "Evaluations")
    first, second = row_of(text, FIRST[:12]), row_of(text, SECOND[:12])
    assert first[:5] == ["2.1", "12,000", f"`{FIRST[:12]}`", "65.0 % [60.0, 69.0]", "100"]
    assert second[:5] == ["3.1", "12,000", f"`{SECOND[:12]}`", "50.0 % [45.0, 54.0]", "100"]
    assert second[5] == "seat 0: 62.5 %, n 50; seat 1: 37.5 %, n 50"
    assert (first[6], second[6]) == ("yes", "no")
    assert first[7].endswith(", n 240")  # against the start, minimax:3 and the next candidate
    assert float(first[7].split(" ")[0]) == pytest.approx(107, abs=10)  # 65 % is 107.5 Elo


def test_accuracy_that_was_not_measured_is_missing(run):
    assert row_of(section(run, "Evaluations"), FIRST[:12])[8:] == ["missing", "missing"]


def test_accuracy_whose_positions_are_not_on_record_has_no_interval(run):
    cells = row_of(section(run, "Evaluations"), SECOND[:12])
    assert cells[8] == "80.0 %, n and interval missing"


def test_accuracy_carries_the_number_of_judged_positions(run):
    values = np.full((400, 9), 1, np.int32)
    values[:100, 0] = -1  # a choice in 100 of 400
    values[:, 8] = ILLEGAL
    states = make("tictactoe").states(400)
    (run / "judged-400.npz").write_bytes(pack({"states": states, "values": values}))
    assert row_of(section(run, "Evaluations"), SECOND[:12])[8:] == [
        percent(0.8, wilson(320, 400)) + ", n 400",
        percent(0.9, wilson(360, 400)) + ", n 400",
    ]
    text = section(run, "Strength")
    expected = f"Accuracy with a choice, raw policy: {percent(0.5, wilson(50, 100))}, n 100."
    assert expected in text
    assert "Accuracy with a choice, searched: missing." in text


def test_strength_shows_the_latest_evaluation_and_then_the_champions(run):
    text = section(run, "Strength")
    latest, champion = text.split("The champion, when it was promoted:")
    assert f"Latest evaluation: `{SECOND[:12]}`, minute 3.1, not promoted: 50.0 %." in latest
    seats = "seat 0: 87.5 %, n 20; seat 1: 62.5 %, n 20"
    assert row_of(latest, "minimax:3") == ["minimax:3", "75.0 % [60.0, 86.0]", "40", seats, "64"]
    assert row_of(champion, "the champion then")[1] == "65.0 % [60.0, 69.0]"


def test_a_split_by_seat_that_is_not_on_record_is_missing(run):
    lines = [json.loads(line) for line in (run / "matches.jsonl").read_text().splitlines()]
    del lines[-1]["versus_champion"]["by_seat"]
    lines[-1]["fixed"]["minimax:3"]["by_seat"]["0"] = {"games": 0, "score": None}
    write_lines(run / "matches.jsonl", lines)
    assert row_of(section(run, "Evaluations"), SECOND[:12])[5] == "missing"
    assert row_of(section(run, "Strength"), "minimax:3")[3] == "seat 1: 62.5 %, n 20"


def test_the_closing_table_of_a_session_shows_the_split_by_seat(run):
    told = io.StringIO()
    outcome = SimpleNamespace(finished=True, champion=FIRST)
    _finish(Console(file=told, width=120), run, read_facts(run).config, outcome)
    text = told.getvalue()
    assert "by seat" in text and "75.0%" in text
    assert "seat 0: 87.5 %, n 20" in text and "seat 1: 62.5 %, n 20" in text


def test_speed_gives_the_median_the_middle_half_and_the_iterations(run):
    text = section(run, "Speed")
    assert row_of(text, METRICS["simulations_per_second"])[1:] == ["2,000", "1,500 to 2,500", "3"]
    assert row_of(text, METRICS["trained_per_second"])[1:] == ["missing", "missing", "0"]


def test_shares_of_time_count_the_evaluation_after_the_last_metrics(run):
    text = section(run, "Where the time went")
    assert row_of(text, "self-play")[1:] == ["90.0", "48.9 %"]  # of 184 seconds
    assert row_of(text, "learning")[1:] == ["60.0", "32.6 %"]
    assert row_of(text, "evaluation")[1:] == ["9.0", "4.9 %"]  # 5 by then, and 4 after it
    assert row_of(text, "the rest")[1:] == ["25.0", "13.6 %"]


def test_rows_of_a_session_that_was_killed_are_replaced_by_the_next_one(run):
    rows = [iteration(0), iteration(1, games=999), iteration(2, games=999), iteration(1)]
    write_lines(run / "metrics.jsonl", rows)
    assert [row["games"] for row in read_facts(run).metrics] == [100, 200]


def test_the_next_commands_go_on_with_this_run(run):
    text = section(run, "Next")
    assert f"zeroloop play {run}\n" in text
    assert f"zeroloop match {run}@128 mcts:400 --games 100\n" in text
    assert f"tensorboard --logdir {run}/tensorboard\n" in text
    assert f"zeroloop train tictactoe --run {run}\n" in text


def test_a_spent_budget_is_doubled_in_the_command_that_goes_on(run):
    write_lines(run / "metrics.jsonl", [iteration(9)])
    assert f"zeroloop train tictactoe --run {run} --set budget.minutes=20\n" in text_of(run)


def test_elo_is_missing_where_no_games_connect_the_models(run):
    lines = [
        evaluation(FIRST, START, 0.65, promoted=True, seconds=125.0) | {"fixed": {}},
        evaluation(SECOND, "d" * 64, 0.5, promoted=False, seconds=184.0) | {"fixed": {}},
    ]
    write_lines(run / "matches.jsonl", lines)
    text = section(run, "Evaluations")
    assert row_of(text, FIRST[:12])[7] == "missing"
    assert "Elo is missing: the games on record do not connect the models." in text
    assert "It met no fixed opponent." in section(run, "Strength")


def test_a_model_that_met_itself_is_rated_by_its_other_games(run):
    with open(run / "matches.jsonl", "a") as file:
        line = evaluation(FIRST, FIRST, 0.5, promoted=False, seconds=190.0)
        file.write(json.dumps(line) + "\n")
    assert row_of(section(run, "Evaluations"), FIRST[:12])[7].endswith(", n 280")


def test_a_torn_last_line_is_left_out(run):
    for name in ("matches.jsonl", "metrics.jsonl"):
        with open(run / name, "a") as file:
            file.write('{"kind": "met')
    facts = read_facts(run)
    assert (len(facts.evaluations), len(facts.metrics)) == (2, 3)


def test_a_damaged_line_names_file_and_line(run):
    path = run / "matches.jsonl"
    path.write_text("not JSON\n" + path.read_text())
    with pytest.raises(StoreError, match=r"matches\.jsonl:1 is damaged"):
        write_report(run)


def test_a_run_that_has_only_begun_says_so(begun):
    text = write_report(begun).read_text()
    assert text.startswith("# tictactoe: champion missing\n")
    assert "The run has no model yet." in text
    assert "There are no metrics yet: no iteration is finished." in text
    assert "There has been no evaluation yet." in text
    assert "Not measured yet." in section(begun, "Strength")
    times = section(begun, "Where the time went")
    assert row_of(times, "self-play") == ["self-play", "missing", "missing"]
    assert "the rest" not in times
    size_of((begun / "report.png").read_bytes())


def test_a_run_without_evaluations_still_shows_its_metrics(begun):
    write_lines(begun / "metrics.jsonl", [iteration(0)])
    text = text_of(begun)
    assert "There has been no evaluation yet." in text
    assert row_of(text, METRICS["simulations_per_second"])[1:] == ["1,000", "1,000 to 1,000", "1"]


def test_a_run_without_its_description_shows_it_as_missing(begun):
    (begun / "run.json").unlink()
    text = section(begun, "What was run")
    for name in ("hash of the keys fixed at the start", "rules identity", "versions at the start"):
        assert row_of(text, name)[1] == "missing"


def test_a_metric_that_is_missing_in_every_row_is_missing_in_the_report(begun):
    write_lines(begun / "metrics.jsonl", [{"kind": "metrics", "iteration": 0, "seconds": 60.0}])
    text = write_report(begun).read_text()
    assert "So far: 1.0 minutes, missing games, missing positions, missing steps." in text
    times = section(begun, "Where the time went")
    assert row_of(times, "learning") == ["learning", "missing", "missing"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is not a run"):
        write_report(tmp_path)


@pytest.mark.slow
def test_the_command_tells_where_the_report_is(run):
    done = CliRunner().invoke(main, ["report", str(run)])
    assert (done.exit_code, done.output) == (0, f"wrote {run / 'report.md'}\n")
