"""The status of a live run: rates from totals, staleness as an order, one screen, and who is alive."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.material import run_config, session
from zeroloop.cli import main
from zeroloop.errors import StoreError
from zeroloop.files import DirectoryLock
from zeroloop.metrics import Events
from zeroloop.run import set_paused
from zeroloop.status import Status, holder, read
from zeroloop.status.screen import screen
from zeroloop.status.summary import summarise

HASH = "ab" * 32


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").write_text("game:\n  name: tictactoe\n")
    return path


@pytest.fixture
def lock(folder):
    found = DirectoryLock(folder)
    yield found
    found.release()


def learner(seconds, **given):
    return {
        "iteration": 3,
        "progress": 0.25,
        "positions": int(100 * seconds),
        "games": int(10 * seconds),
        "steps": int(2 * seconds),
        "window": 5000,
        "seconds": seconds,
        "learn_seconds": 0.5 * seconds,
        "receive_seconds": 0.1 * seconds,
        "evaluate_seconds": 0.0,
        "wait_seconds": 0.2 * seconds,
        "play_seconds": 0.0,
        "model": HASH,
        "updates": 7,
        "phase": "learn",
        **given,
    }


def worker(number, alive, **given):
    return {
        "worker": number,
        "host": "box",
        "pid": 100 + number,
        "gauges": "",
        "model": HASH,
        "updates_behind": 0,
        "games": int(2 * alive),
        "moves": int(20 * alive),
        "simulations": int(1000 * alive),
        "evaluations": int(800 * alive),
        "cache_hits": int(100 * alive),
        "overflows": 0,
        "waiting": 3,
        "search_seconds": 0.3 * alive,
        "inference_seconds": 0.4 * alive,
        "transfer_seconds": 0.1 * alive,
        "wait_seconds": 0.1 * alive,
        "alive_seconds": alive,
        "silent_seconds": 0.1,
        **given,
    }


def written(folder, *moments, **given):
    """Write the status at these moments: (clock, learner, workers)."""
    clock = Clock()
    status = Status(folder, clock=clock, **given)
    for now, row, workers in moments:
        clock.now = now
        status.write(row, workers, {"waiting": 12, "capacity": 256, "duplicates": 0})
    return status


def shown(found, height=24):
    console = Console(width=100, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen(found, height), highlight=False)
    console.file.close()
    return console.export_text()


def test_rates_are_differences_of_totals_over_the_process_own_seconds(folder, lock):
    # The worker's clock runs twice as fast as the learner's: its rates are per second of its own.
    written(
        folder,
        (0, learner(100.0), [worker(1, 1000.0)]),
        (10, learner(110.0), [worker(1, 1020.0, simulations=1_000_000 + 5000)]),
    )
    found = summarise(folder)
    assert found["state"] == "running"
    assert found["rates"]["simulations"] == pytest.approx(5000 / 20)
    assert found["rates"]["positions"] == pytest.approx(100)
    assert found["rates"]["games_received"] == pytest.approx(10)
    assert found["shares"] == pytest.approx(
        {"play": 0, "receive": 0.1, "learn": 0.5, "evaluate": 0, "wait": 0.2, "other": 0.2}
    )
    shares = {"search": 0.3, "inference": 0.4, "transfer": 0.1, "wait": 0.1, "other": 0.1}
    assert found["worker_shares"] == pytest.approx(shares)
    assert found["eta_seconds"] == pytest.approx(330)


def test_totals_are_the_sum_of_present_workers(folder, lock):
    rows = [[worker(n, alive + n) for n in range(1, 4)] for alive in (50.0, 60.0)]
    written(folder, (0, learner(50.0), rows[0]), (10, learner(60.0), rows[1]))
    found = summarise(folder)
    assert found["rates"]["simulations"] == pytest.approx(3000)
    assert found["rates"]["games"] == pytest.approx(6, rel=0.06)
    assert found["present"] == 3 and found["queues"]["spools"] == 9 and found["queues"]["waiting"] == 12


def test_seconds_of_several_threads_are_shares_of_thread_time(folder, lock):
    row = worker(1, 10.0, threads=4, search_seconds=20.0, inference_seconds=10.0, wait_seconds=10.0)
    written(folder, (0, learner(5.0), [row]))
    found = summarise(folder)["worker_shares"]
    assert found["search"] == pytest.approx(20 / 41) or found["search"] == pytest.approx(0.5, abs=0.02)
    assert sum(found.values()) == pytest.approx(1)


def test_a_worker_that_began_again_under_its_number_counts_from_its_start(folder, lock):
    written(
        folder,
        (0, learner(100.0), [worker(1, 1000.0)]),
        (10, learner(110.0), [worker(1, 5.0)]),
    )
    assert summarise(folder)["rates"]["simulations"] == pytest.approx(1000)


def test_what_was_not_measured_is_none_and_never_zero(folder, lock):
    written(folder, (0, learner(1.0), [{"worker": 1, "silent_seconds": 0.0}]))  # joined, not reported yet
    found = summarise(folder)
    assert found["rates"]["simulations"] is None and found["rates"]["positions"] is None
    assert found["workers"][0]["updates_behind"] is None and found["staleness"]["most"] is None
    assert found["shares"] == {} and found["worker_shares"] == {}
    assert "0 simulations/s" not in shown(found)


def test_a_worker_that_reports_no_more_is_silent_and_adds_no_rate(folder, lock):
    same = worker(2, 30.0)
    written(
        folder,
        (0, learner(30.0), [worker(1, 30.0), same, worker(3, 30.0)]),
        (
            10,
            learner(40.0),
            [worker(1, 40.0), {**same, "silent_seconds": 10.1}, worker(3, 34.0, silent_seconds=6.0)],
        ),
    )
    found = summarise(folder)
    assert (found["present"], found["silent"], found["gone"]) == (1, 2, 0)
    assert found["rates"]["simulations"] == pytest.approx(1000)
    assert found["workers"][1]["rates"]["simulations"] is None
    assert "2 silent" in shown(found)


def test_workers_that_left_are_counted_as_gone(folder, lock):
    written(folder, (0, learner(1.0), [worker(1, 1.0), worker(2, 1.0)]), (2, learner(3.0), [worker(2, 3.0)]))
    found = summarise(folder)
    assert (found["present"], found["gone"]) == (1, 1)


def test_staleness_is_how_many_models_a_worker_is_behind(folder, lock):
    rows = [worker(1, 9.0), worker(2, 9.0, updates_behind=4), worker(3, 9.0, updates_behind=None)]
    written(folder, (0, learner(9.0), rows))
    assert summarise(folder)["staleness"] == {"most": 4, "mean": 2.0, "behind": 1, "known": 2}


def test_rates_are_taken_over_ten_seconds_and_not_over_the_whole_run(folder, lock):
    clock, rows = Clock(), []
    status = Status(folder, clock=clock)
    for second in range(0, 100, 2):
        clock.now = 1000.0 + second
        speed = 10 if second < 60 else 500
        rows.append(speed)
        status.write(learner(10.0 + second, positions=sum(rows) * 2))
    assert summarise(folder)["rates"]["positions"] == pytest.approx(500)
    assert len(status._past) <= 8  # and keeps no more than it needs


def test_it_is_due_every_two_seconds(folder):
    clock = Clock()
    status = Status(folder, every=2.0, clock=clock)
    assert status.due()
    status.write(learner(1.0))
    assert not status.due()
    clock.now += 2.0
    assert status.due()


def test_inference_server_tells_batch_and_wait_since_the_last_seconds(folder, lock):
    clock = Clock()
    status = Status(folder, clock=clock)
    for at, batches in ((0, 10), (20, 30)):
        clock.now = at
        totals = {
            "batches": batches,
            "positions": batches**2,
            "requests": batches,
            "wait_seconds": 0.002 * batches,
        }
        busy = {"inference": 0.6 * (100 + at), "learning": 0.3 * (50 + at)}
        status.write(learner(1.0 + at), inference=totals, devices=busy)
    found = summarise(folder)
    assert found["inference"]["mean_batch"] == pytest.approx(800 / 20)
    assert found["inference"]["mean_wait_seconds"] == pytest.approx(0.002)
    text = shown(found)
    assert "40.0 positions a batch" in text and "2.00 ms" in text and "inference 60%" in text


def test_a_learner_that_plays_in_its_own_threads_has_one_line_for_itself(folder, lock):
    def own(seconds):
        return learner(
            seconds, simulations=int(500 * seconds), evaluations=int(400 * seconds), moves=int(9 * seconds)
        )

    written(folder, (0, own(20.0), []), (10, own(30.0), []))
    found = summarise(folder)
    assert found["rates"]["simulations"] == pytest.approx(500)
    assert [row["worker"] for row in found["workers"]] == [None]
    text = shown(found)
    assert "itself" in text and "spools" not in text


def test_own_threads_tell_their_phases_where_they_are_measured(folder, lock):
    def own(seconds):
        spent = {"search_seconds": 0.5 * seconds, "inference_seconds": 0.3 * seconds, "threads": 2}
        return learner(seconds, simulations=int(500 * seconds), **spent)

    written(folder, (0, own(20.0), []), (10, own(30.0), []))
    assert summarise(folder)["worker_shares"] == pytest.approx(
        {"search": 0.25, "inference": 0.15, "other": 0.6}
    )


def test_games_refused_or_missed_and_restarts_are_shown_where_there_were_any(folder, lock):
    written(folder, (0, learner(9.0, refused=2, missed=0, restarts=3), [worker(1, 9.0)]))
    text = shown(summarise(folder))
    assert "2 refused" in text and " missed" not in text and "3 restarts" in text


def test_a_run_whose_self_play_was_told_to_wait_is_shown_as_paused(folder, lock):
    written(folder, (0, learner(9.0), [worker(1, 9.0)]))
    assert summarise(folder)["paused"] is False and "PAUSED" not in shown(summarise(folder))
    set_paused(folder, True)
    assert summarise(folder)["paused"] is True and "PAUSED" in shown(summarise(folder))
    set_paused(folder, False)
    assert summarise(folder)["paused"] is False


@pytest.mark.parametrize("count", [0, 1, 4, 1000])
def test_the_screen_has_24_lines_of_100_columns_with_any_number_of_workers(folder, lock, count):
    events = Events(folder)
    events.scalars({"iteration": 3, "seconds": 5.0, "loss/policy": 1.25, "loss/value": 0.5})
    for i in range(6):
        row = {"iteration": 3, "seconds": 5.0, "state": "begins", "warning": f"w{i}", "text": "long " * 40}
        events.event("warning", row)
    events.close()
    rows = [[worker(n, alive, host="a-host-of-a-long-name") for n in range(count)] for alive in (50.0, 60.0)]
    written(folder, (0, learner(50.0), rows[0]), (10, learner(60.0), rows[1]))
    lines = shown(summarise(folder)).rstrip("\n").split("\n")
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "policy 1.250" in text and "WARNING  w0" in text and "learn 50%" in text
    if count:
        assert "a-host-of" in text and "search 30%" in text
    assert any(line.startswith("...") for line in lines[1:]) == (count == 1000)


def test_trouble_is_shown_first(folder, lock):
    rows = [worker(n, 60.0) for n in range(100)]
    rows[70]["silent_seconds"] = 8.0
    rows[71]["updates_behind"] = 5
    written(folder, (0, learner(60.0), rows))
    lines = shown(summarise(folder)).split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("worker ") and "sims/s" in line)
    assert lines[first + 1].startswith("70") and "silent" in lines[first + 1]
    assert lines[first + 2].startswith("71")


def test_a_run_nobody_began_a_stopped_a_finished_and_a_killed_one_are_told_apart(folder):
    assert summarise(folder)["state"] == "never begun"
    status = written(folder, (0, learner(1.0), []))
    assert summarise(folder)["state"] == "broken off"
    assert "killed" in shown(summarise(folder))
    status.close("stopped")
    assert summarise(folder)["state"] == "stopped"
    status.close("finished")
    assert summarise(folder)["state"] == "finished"


def test_a_run_that_has_ended_has_no_rates_and_no_estimate(folder):
    written(folder, (0, learner(1.0), [worker(1, 1.0)]), (10, learner(11.0), [worker(1, 11.0)])).close(
        "stopped"
    )
    found = summarise(folder)
    assert set(found["rates"].values()) == {None} and found["eta_seconds"] is None and found["shares"] == {}
    assert found["shares_session"]["learn"] == pytest.approx(0.5)


def test_a_session_that_has_not_written_yet_is_starting_and_shows_nothing_old(folder, lock):
    status = written(folder, (0, learner(1.0), [worker(1, 1.0)]))
    status.close("stopped")  # an earlier session's last word
    found = summarise(folder)
    assert found["state"] == "starting" and "rates" not in found


def test_a_run_of_before_this_file_existed_is_stopped(folder):
    events = Events(folder)
    events.scalars({"iteration": 0, "seconds": 1.0})
    events.close()
    assert summarise(folder)["state"] == "stopped"


def test_asking_who_holds_the_run_disturbs_nobody(folder):
    code = textwrap.dedent(
        f"""
        import pathlib, sys
        from zeroloop.files import DirectoryLock
        lock = DirectoryLock(pathlib.Path({str(folder)!r}))
        print("held", flush=True)
        sys.stdin.read()
        """
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        assert holder(folder) == f"process {other.pid}"
        assert holder(folder) == f"process {other.pid}"  # and the answer is still there
    finally:
        other.communicate()
    assert holder(folder) is None
    DirectoryLock(folder).release()
    assert (folder / "lock").read_text() == f"process {os.getpid()}"


def test_the_file_is_replaced_whole(folder, monkeypatch):
    status = written(folder, (0, learner(1.0), []))
    before = (folder / "status.json").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        status.write(learner(2.0))
    assert (folder / "status.json").read_bytes() == before


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b'{"format": 1', "not JSON"),
        (b"[]", "status format None"),
        (b'{"format": 9}', "format 9"),
    ],
)
def test_a_damaged_file_is_one_sentence(folder, data, told):
    (folder / "status.json").write_bytes(data)
    with pytest.raises(StoreError, match=told):
        read(folder)


def test_a_number_that_is_none_is_never_written_as_nan(folder):
    with pytest.raises(ValueError):
        written(folder, (0, learner(float("nan")), []))


def test_command_shows_a_screen_and_json(folder, lock):
    written(folder, (0, learner(50.0), [worker(1, 50.0)]), (10, learner(60.0), [worker(1, 60.0)]))
    done = CliRunner().invoke(main, ["status", str(folder)])
    assert done.exit_code == 0 and "running" in done.output and "simulations/s" in done.output
    done = CliRunner().invoke(main, ["status", str(folder), "--json"])
    found = json.loads(done.stdout)
    assert found["rates"]["simulations"] == pytest.approx(1000)
    assert found["workers"][0]["shares"]["search"] == pytest.approx(0.3)


def test_command_names_what_is_no_run(tmp_path):
    done = CliRunner().invoke(main, ["status", str(tmp_path / "nothing")])
    assert done.exit_code == 1 and "is not a run" in done.output and "Traceback" not in done.output
    done = CliRunner().invoke(main, ["status", str(tmp_path), "--watch", "--json"])
    assert done.exit_code == 1 and "--watch" in done.output


def test_a_real_run_that_ended_can_be_shown(tmp_path):
    folder = tmp_path / "run"
    session(folder, run_config(budget={"positions": 200}))
    found = summarise(folder)
    assert found["state"] in ("stopped", "finished")
    assert found["losses"].keys() >= {"policy", "value"}
    assert "Traceback" not in shown(found)
    assert isinstance(folder, pathlib.Path)
