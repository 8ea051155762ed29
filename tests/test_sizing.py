"""The sizing model: each formula by hand, what is full and why, and the command."""

from __future__ import annotations

import json
import pathlib
import re
from dataclasses import fields, replace

import pytest
from click.testing import CliRunner

from zeroloop.cli import main
from zeroloop.errors import ConfigError
from zeroloop.sizing import ADVICE, SERVED, SERVERS, Sizes, draw, predict, read_bench, saturations, stages

ROUND = Sizes(
    cores=4,
    games=100,
    search_us=10,
    evaluations=0.5,
    core_rate=10_000,
    scaling=0.8,
    request_us=4,
    answer_us=6,
    server_rate=50_000,
    batch_ms=1,
    max_batch=500,
    deadline_ms=3,
    rtt_ms=1,
    gigabits=0.8,
    up_bytes=97,
    down_bytes=37,
    game_bytes=64,
    model_bytes=1e6,
    publish_seconds=10,
    simulations=32,
    store_rate=5000,
    trained_rate=3000,
    learner_share=0.5,
    reuse=3,
)
"""Numbers that make the sums easy."""


def run(*words):
    return CliRunner().invoke(main, ["size", *map(str, words)])


def test_each_stage_is_the_formula_of_the_page_by_hand():
    here = stages(ROUND, 3, "none")
    # 12 cores; 10 us and half an evaluation of 1 / 8,000 s
    assert here["workers"] == pytest.approx(12 / (10e-6 + 0.5 / 8000))
    assert here["network"] == pytest.approx(1e8 / 2)  # 2 bytes of a game per simulation
    assert here["store"] == pytest.approx(160_000)
    assert here["learner"] == pytest.approx(16_000)  # 3,000 a second, half the device, each three times
    assert set(here) == {"workers", "network", "store", "learner"}
    shared = stages(ROUND, 3, "shared")
    assert shared["workers"] == pytest.approx(12 / (10e-6 + 0.5 * (10e-6 + 1 / 8000)))
    own = stages(ROUND, 3, "own")
    assert own["workers"] == pytest.approx(12 / 12e-6)
    # a request of 50 leaves: 100 and 40 bytes each with their part of the head; 5 ms, computing, transfer
    lag = 5e-3 + 50 / 50_000 + 50 * 140 / 1e8
    assert own["latency"] == pytest.approx(12 * 200 / (100 * 12e-6 + lag))
    assert own["inference"] == pytest.approx(2 * 500 / (1e-3 + 500 / 50_000))
    assert own["network"] == pytest.approx(1e8 / (0.5 * 100 + 2))


def test_a_batch_of_few_workers_is_smaller_than_the_most():
    one = stages(ROUND, 0.5, "own")  # two threads: 100 leaves at a time
    assert one["inference"] == pytest.approx(2 * 100 / (1e-3 + 100 / 50_000))


@pytest.mark.parametrize("server", SERVERS)
def test_the_rate_is_the_least_stage_and_the_advice_is_its_own(server):
    found = predict(ROUND, 50, server)
    given = {name: value for name, value in found["stages"].items() if value is not None}
    assert found["simulations_per_second"] == min(given.values())
    assert given[found["full"]] == min(given.values())
    assert found["advice"] == ADVICE[found["full"]]
    assert found["positions_per_second"] == pytest.approx(found["simulations_per_second"] / 32)


@pytest.mark.parametrize(
    ("change", "full"),
    [
        ({"trained_rate": 1}, "learner"),
        ({"store_rate": 1}, "store"),
        ({"gigabits": 1e-4}, "network"),
        ({"server_rate": 100}, "inference"),
        ({"rtt_ms": 1e6}, "latency"),
        ({"core_rate": 1e9, "search_us": 1e5, "request_us": 0}, "workers"),
    ],
)
def test_each_stage_can_be_the_one_that_is_full(change, full):
    wide = replace(ROUND, trained_rate=1e9, store_rate=1e9, gigabits=1e3, server_rate=1e8, max_batch=1e5)
    assert predict(replace(wide, **change), 2, "own")["full"] == full


@pytest.mark.parametrize("server", SERVERS)
def test_more_workers_never_make_it_slower_and_saturation_is_where_the_line_bends(server):
    rates = [predict(ROUND, n, server)["simulations_per_second"] for n in (1, 2, 5, 10, 100, 1000)]
    assert rates == sorted(rates)
    for name, count in saturations(ROUND, server).items():
        for workers, full in ((count, True), (count - 1, False)):
            if workers > 0:
                found = stages(ROUND, workers, server)
                asked = min(v for k, v in found.items() if k in ("workers", "latency") and k != name)
                assert (found[name] <= asked) is full, (name, workers)


def test_models_that_take_longer_to_hand_out_than_to_make_are_told():
    assert predict(ROUND, 999, "none")["models_in_time"]  # 1 MB each over 100 MB/s: 9.99 s of 10
    assert not predict(ROUND, 1001, "none")["models_in_time"]
    assert predict(ROUND, 1001, "own")["models_in_time"]  # workers get no model


def test_a_model_leaves_the_learner_no_faster_than_its_server_hands_it_out():
    fast = replace(ROUND, gigabits=100)
    assert predict(fast, 1000)["seconds_to_hand_out_a_model"] == pytest.approx(1000 * 1e6 / SERVED)


def test_what_a_crowd_could_not_bring_in_is_the_limit_of_the_store(tmp_path):
    file = tmp_path / "crowd.json"
    row = {"offered_positions_per_second": 600_000, "learner": 0.0, "bytes_per_game": 1200.0}
    row |= {"accepted_positions_per_second": 20_000, "positions_per_game": 12.0}
    file.write_text(json.dumps(row))
    assert read_bench(file) == {"store_rate": 20_000, "game_bytes": 100.0}
    for change in ({"learner": 1500.0}, {"offered_positions_per_second": 20_100}):
        file.write_text(json.dumps(row | change))
        with pytest.raises(ConfigError, match=r"crowd\.json: .* more --workers"):
            read_bench(file)


def test_a_faultless_machine_is_predicted_as_it_was_measured(tmp_path):
    """Sizes read from a self-play benchmark give back that benchmark, whatever its numbers."""
    file = tmp_path / "selfplay.json"
    row = {
        "evaluations_per_second": 19176.0,
        "simulations_per_second": 40066.0,
        "raw_inference_positions_per_second": 20533.0,
        "threads": 2,
        "simulations_per_move": 32,
    }
    file.write_text(json.dumps(row))
    sizes = Sizes(**{**read_bench(file), "trained_rate": 1e9})
    assert predict(sizes, 2)["simulations_per_second"] == pytest.approx(40066)


def test_benchmarks_are_read(tmp_path):
    def read(value):
        file = tmp_path / "bench.json"
        file.write_text(json.dumps(value))
        return read_bench(file)

    assert read({"simulations_per_second": 4e6, "ns_per_simulation": 250.0}) == {"search_us": 0.25}
    assert read({"positions_per_second": 4580.0, "sampling_share": 0.1}) == {"trained_rate": 4580.0}
    assert read({"written_positions_per_second": 7000.0, "bytes_per_position": 90.0}) == {
        "store_rate": 7000.0,
        "game_bytes": 90.0,
    }
    assert read({"store_rate": 8000, "cores": 16}) == {"store_rate": 8000.0, "cores": 16.0}

    def row(device, backend, batch, seconds):
        return {"backend": backend, "device": device, "precision": "bf16", "batch": batch, "threads": 1} | {
            "positions_per_second": batch / seconds
        }

    gpu = [row("cuda", "torch", n, 5e-4 + n / 200_000) for n in (64, 256, 1024)]
    found = read([*gpu, row("cuda", "slow", 64, 1.0)])
    assert found == {"server_rate": pytest.approx(200_000), "batch_ms": pytest.approx(0.5)}
    cpu = [row("cpu", "openvino", n, n / 10_000) for n in (64, 256)]
    assert read(cpu) == {"server_rate": 10_000, "batch_ms": 0, "core_rate": 10_000}

    server = {
        "here_simulations_per_second": 20_000.0,
        "server_simulations_per_second": 16_000.0,
        "workers": 2,
    }
    server |= {
        "simulations_ratio": 0.8,
        "megabytes_per_second": 8_000 * 63 / 1e6,
        "positions_per_request": 150.0,
    }
    server |= {"bytes_per_position_up": 40.0, "bytes_per_position_down": 23.0}
    found = read(server)  # 125 us a simulation instead of 100, at half an evaluation each
    assert found == {
        "request_us": pytest.approx(25),
        "answer_us": pytest.approx(25),
        "up_bytes": 39,
        "down_bytes": 22,
    }


@pytest.mark.parametrize("text", ["", "[]", "[1]", "3", '{"answer": 42}', '{"cores": "two"}', "not json"])
def test_a_file_that_says_nothing_here_is_refused_by_name(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"other\.json"):
        read_bench(file)
    found = run("--from", file)
    assert found.exit_code == 1 and found.stderr.startswith("zeroloop: --from ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gigabits", 0), "--gigabits is 0.0"),
        (("--core-rate", -1), "--core-rate is -1.0"),
        (("--evaluations", "nan"), "--evaluations is nan"),
        (("--workers", 0), "--workers is 0.0"),
        (("--from", "absent.json"), "absent.json"),
    ],
)
def test_bad_input_gets_one_sentence(words, told):
    found = run(*words)
    assert found.exit_code == 1
    assert told in found.stderr and found.stderr.count("\n") == 1


def test_the_command_tells_people_and_programs_the_same(tmp_path):
    picture = tmp_path / "sizes.png"
    found = run("--workers", 1000, "--server", "own", "--store-rate", 5000, "--picture", picture, "--json")
    assert found.exit_code == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer["workers"] == 1000 and answer["full"] in answer["saturations"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = run("--workers", 1000, "--server", "own", "--store-rate", 5000).stdout
    assert f"the least: {answer['full']}, {answer['simulations_per_second']:,.0f} simulations/s" in text


def test_bytes_of_a_position_come_from_the_game():
    found = json.loads(run("--game", "connect4", "--legal", 7, "--server", "own", "--json").stdout)
    twice = json.loads(run("--game", "connect4", "--legal", 14, "--server", "own", "--json").stdout)
    assert twice["stages"]["network"] < found["stages"]["network"]


def test_the_page_names_every_input_and_its_figures_are_the_models():
    page = (pathlib.Path(__file__).resolve().parent.parent / "docs" / "sizing.md").read_text()
    symbols = page.split("## Symbols")[1].split("## Formulas")[0]
    named = re.findall(r"`--([a-z-]+)`", symbols)
    inputs = {each.name.replace("_", "-") for each in fields(Sizes)}
    assert inputs | {"workers", "game", "legal"} >= set(named) >= inputs
    assumed = replace(Sizes(), store_rate=500_000, trained_rate=100_000, server_rate=1_000_000)
    for name, sizes, server in (
        ("all as measured here", replace(Sizes(), store_rate=500_000), "none"),
        ("GPU learner, the network", assumed, "none"),
        ("GPU learner, games in its memory", replace(assumed, store_rate=23_000), "none"),
        ("GPU learner and server", assumed, "own"),
    ):
        row = next(line for line in page.splitlines() if line.startswith(f"| {name}"))
        found = predict(sizes, 1000, server)
        full = {k: v for k, v in found["saturations"].items() if k != "latency"}
        cells = [c.strip().replace(",", "") for c in row.split("|")[2:6]]
        assert cells == [str(full.get(k, "")) for k in ("learner", "inference", "network", "store")]
        assert row.rstrip(" |").endswith(f"the {found['full']}")


def test_a_picture_of_a_set_up_without_a_limit_of_the_store(tmp_path):
    draw(Sizes(), tmp_path / "a.png", most=100)
    assert (tmp_path / "a.png").stat().st_size > 10_000
