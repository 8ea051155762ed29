"""MLflow gets every row and model once, a dead or hanging server holds up nobody, and nothing is lost."""

from __future__ import annotations

import json
import pathlib
import socket
import threading
import time
import urllib.parse
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.games.oracles import need
from tests.material import TICTACTOE, run_config, session
from zeroloop import configfile
from zeroloop.errors import BackendError, ConfigError, StoreError
from zeroloop.games import rules_identity
from zeroloop.metrics import Events

need("mlflow")

from zeroloop.distributed import mlflow as tracking  # noqa: E402
from zeroloop.distributed.mlflow import Tracker  # noqa: E402

CONFIG = run_config(gauges={"mlflow": True})


@pytest.fixture
def run(tmp_path):
    """A run directory that a learner writes."""
    folder = tmp_path / "runs" / "a"
    (folder / "models").mkdir(parents=True)
    (folder / "config.yaml").write_text(configfile.dump(CONFIG))
    return folder


@pytest.fixture
def said():
    return []


def open_tracker(run, said, uri="", **gauges):
    config = replace(CONFIG, gauges=replace(CONFIG.gauges, mlflow_uri=uri, **gauges))
    return Tracker(run, config, TICTACTOE, said.append)


def write_rows(run, first, count):
    events = Events(run)
    for i in range(first, first + count):
        events.scalars({"iteration": i, "seconds": 2.0 * i, "loss/policy": 1.0 / (i + 1), "games": 10 * i})
        events.event("warning", {"iteration": i, "warning": "w", "state": "begins", "text": "t"})
    events.close()


def write_model(run, letter, tracker=None):
    path = run / "models" / f"{letter * 64}.safetensors"
    path.write_bytes(letter.encode() * 100)
    if tracker is not None:
        tracker.model(path, letter * 64)


def client(run):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(run.parent / "mlflow").as_uri())


def state(run):
    return json.loads((run / "mlflow.json").read_text())


def eventually(wanted, seconds=20):
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_parameters_metrics_and_models_lie_in_a_folder_beside_the_run(run, said):
    tracker = open_tracker(run, said)
    write_rows(run, 0, 5)
    tracker.log()
    write_model(run, "a", tracker)
    tracker.close("finished")
    assert said == []
    there = client(run)
    found = there.get_run(state(run)["run_id"])
    assert found.info.status == "FINISHED" and found.info.run_name == "a"
    assert found.data.params["search.simulations"] == "8" and found.data.params["game.name"] == "tictactoe"
    assert json.loads(found.data.params["promote.floors"]) == {"heuristic": None, "random": None}
    assert found.data.tags["game"] == "tictactoe" and found.data.tags["model"] == "a" * 64
    assert found.data.tags["rules_identity"] == rules_identity(TICTACTOE)
    history = there.get_metric_history(found.info.run_id, "loss/policy")
    assert [(m.step, m.value) for m in history] == [(i, pytest.approx(1 / (i + 1))) for i in range(5)]
    assert [m.timestamp - history[0].timestamp for m in history] == [0, 2000, 4000, 6000, 8000]
    names = [a.path for a in there.list_artifacts(found.info.run_id, "models")]
    assert names == [f"models/{'a' * 64}.json", f"models/{'a' * 64}.safetensors"]
    folder = pathlib.Path(urllib.parse.urlsplit(found.info.artifact_uri).path)
    assert (folder / names[1]).read_bytes() == b"a" * 100
    about = json.loads((folder / names[0]).read_text())
    assert about["hash"] == "a" * 64 and about["game"] == "tictactoe"
    assert (folder / "config.yaml").exists()


def test_a_resumed_run_goes_on_in_the_same_mlflow_run_and_sends_each_row_once(run, said):
    ids = []
    for session_number in range(3):
        tracker = open_tracker(run, said)
        write_rows(run, 4 * session_number, 4)
        write_model(run, "abc"[session_number], tracker)
        tracker.close("stopped")
        ids.append(state(run)["run_id"])
        assert client(run).get_run(ids[0]).info.status == "KILLED"
    assert len(set(ids)) == 1 and said == []
    history = client(run).get_metric_history(ids[0], "games")
    assert [m.step for m in history] == list(range(12))
    assert len(client(run).list_artifacts(ids[0], "models")) == 6
    assert len(client(run).search_runs([client(run).get_experiment_by_name("zeroloop").experiment_id])) == 1


def test_a_live_run_is_running_and_never_finished_early(run, said):
    open_tracker(run, said).close("finished")
    tracker = open_tracker(run, said)
    eventually(lambda: client(run).get_run(state(run)["run_id"]).info.status == "RUNNING")
    tracker.close("finished")
    assert client(run).get_run(state(run)["run_id"]).info.status == "FINISHED"


def test_a_row_that_is_being_written_is_sent_when_it_is_whole(run, said):
    write_rows(run, 0, 1)
    line = json.dumps({"kind": "metrics", "iteration": 1, "seconds": 1.0, "games": 5}) + "\n"
    with open(run / "metrics.jsonl", "a") as file:
        tracker = open_tracker(run, said)
        file.write(line[:20])
        file.flush()
        tracker.log()
        eventually(lambda: (run / "mlflow.json").exists() and state(run)["sent"])
        file.write(line[20:])
    tracker.close("stopped")
    assert [m.step for m in client(run).get_metric_history(state(run)["run_id"], "games")] == [0, 1]


def test_what_another_session_did_not_send_is_sent(run, said):
    write_rows(run, 0, 3)  # no tracker was there, or it was killed
    write_model(run, "a")
    open_tracker(run, said).close("stopped")
    found = client(run).get_metric_history(state(run)["run_id"], "games")
    assert [m.step for m in found] == [0, 1, 2] and state(run)["models"] == ["a" * 64]


def test_a_changed_key_is_a_tag_for_parameters_are_fixed(run, said):
    open_tracker(run, said).close("stopped")
    tracker = open_tracker(run, said, port=9999)
    tracker.close("stopped")
    found = client(run).get_run(state(run)["run_id"]).data
    assert found.params["gauges.port"] == "0" and found.tags["changed.gauges.port"] == "9999"
    assert [k for k in found.tags if k.startswith("changed")] == ["changed.gauges.port"]


def test_a_promised_model_that_is_gone_is_named(run, said):
    tracker = open_tracker(run, said)
    tracker.model(run / "models" / "gone", "d" * 64)
    tracker.close("stopped")
    assert len(said) == 1 and "dddddddddddd is gone" in said[0]


def test_runs_that_begin_together_share_one_experiment(run, said):
    folders = [run.parent / name for name in "abcd"]
    trackers = []
    for folder in folders:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(configfile.dump(CONFIG))
        trackers.append(open_tracker(folder, said))
    for tracker in trackers:
        tracker.close("stopped")
    found = [e for e in client(run).search_experiments() if e.name == "zeroloop"]
    assert len(found) == 1 and said == []
    assert len(client(run).search_runs([found[0].experiment_id])) == 4


class FakeServer:
    """As much of MLflow's REST interface as a tracker uses; it can hang."""

    def __init__(self, folder, port=0):
        self.folder, self.hang = folder, threading.Event()
        self.batches, self.metrics, self.params, self.tags = [], [], {}, {}
        self.status, self.runs = "RUNNING", 0
        fake = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(
                    {
                        k: v[0]
                        for k, v in urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).items()
                    }
                )

            def do_POST(self):
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, given):
                while fake.hang.is_set():
                    time.sleep(0.02)
                code, found = fake.take(urllib.parse.urlsplit(self.path).path.split("/mlflow/")[-1], given)
                data = json.dumps(found).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Page)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, name, given):
        if name == "experiments/get-by-name":
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        if name == "experiments/create":
            return 200, {"experiment_id": "1"}
        if name == "runs/create":
            self.runs += 1
        if name == "runs/log-batch":
            self.metrics += [(m["key"], m["step"], m["value"]) for m in given.get("metrics", [])]
            self.params |= {p["key"]: p["value"] for p in given.get("params", [])}
        if name == "runs/set-tag":
            self.tags[given["key"]] = given["value"]
        if name == "runs/update":
            self.status = given["status"]
        info = {
            "run_id": "r1",
            "run_uuid": "r1",
            "experiment_id": "1",
            "status": self.status,
            "artifact_uri": (self.folder / "artifacts").as_uri(),
            "start_time": 1,
            "lifecycle_stage": "active",
        }
        params = [{"key": k, "value": v} for k, v in self.params.items()]
        return 200, {"run": {"info": info, "data": {"params": params}}, "run_info": info}

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "LONGEST_WAIT", 0.1)


def test_a_server_that_is_away_is_told_once_and_gets_every_row_when_it_is_back(
    run, said, free_port, quick, tmp_path, capsys
):
    tracker = open_tracker(run, said, f"http://127.0.0.1:{free_port}")
    slowest = 0.0
    for i in range(20):
        write_rows(run, i, 1)
        begun = time.monotonic()
        tracker.log()
        slowest = max(slowest, time.monotonic() - begun)
        time.sleep(0.02)
    write_model(run, "a", tracker)
    assert slowest < 0.05
    eventually(lambda: said)
    time.sleep(0.3)
    assert len(said) == 1 and "does not take" in said[0] and "metrics.jsonl" in said[0]
    server = FakeServer(tmp_path, free_port)
    try:
        eventually(lambda: len(said) == 2)
        tracker.close("finished")
        assert "again; 20 rows" in said[1] and len(said) == 2
        assert [step for key, step, _ in server.metrics if key == "games"] == list(range(20))
        assert server.params["game.name"] == "tictactoe" and server.tags["model"] == "a" * 64
        assert server.status == "FINISHED"
        assert capsys.readouterr().out == ""  # which `--json` has for itself
        assert (tmp_path / "artifacts" / "models" / f"{'a' * 64}.safetensors").exists()
    finally:
        server.stop()


def test_a_server_that_dies_in_the_middle_gets_the_rest_later_in_the_same_run(run, said, quick, tmp_path):
    server = FakeServer(tmp_path)
    tracker = open_tracker(run, said, f"http://127.0.0.1:{server.port}")
    write_rows(run, 0, 5)
    tracker.log()
    eventually(lambda: len(server.metrics) >= 10)
    eventually(lambda: state(run)["sent"] == (run / "metrics.jsonl").stat().st_size)
    server.stop()
    write_rows(run, 5, 5)
    tracker.log()
    eventually(lambda: said)
    tracker.close("stopped")  # the session ends while the server is away
    assert "has not taken everything" in said[-1]
    again = FakeServer(tmp_path, server.port)
    try:
        tracker = open_tracker(run, said, f"http://127.0.0.1:{server.port}")
        tracker.close("stopped")
        steps = [step for key, step, _ in server.metrics + again.metrics if key == "games"]
        assert steps == list(range(10)) and again.runs == 0
    finally:
        again.stop()


def test_a_server_that_hangs_holds_up_neither_training_nor_the_end(run, said, quick, tmp_path):
    server = FakeServer(tmp_path)
    server.hang.set()
    try:
        begun = time.monotonic()
        tracker = open_tracker(run, said, f"http://127.0.0.1:{server.port}")
        for i in range(10):
            write_rows(run, i, 1)
            tracker.log()
            tracker.model(run / "x", "e" * 64)
        assert time.monotonic() - begun < 1.0
        tracker.close("stopped", seconds=0.3)
        assert time.monotonic() - begun < 2.0
        assert "has not taken everything" in said[-1]
    finally:
        server.hang.clear()
        tracker._thread.join(10)
        server.stop()


def test_another_server_gets_the_whole_run(run, said, tmp_path):
    write_rows(run, 0, 3)
    open_tracker(run, said).close("stopped")
    server = FakeServer(tmp_path)
    try:
        open_tracker(run, said, f"http://127.0.0.1:{server.port}").close("stopped")
        assert [step for key, step, _ in server.metrics if key == "games"] == [0, 1, 2] and server.runs == 1
    finally:
        server.stop()


def test_a_thousand_rows_go_in_requests_of_bounded_size(run, said, tmp_path):
    write_rows(run, 0, 1000)
    server = FakeServer(tmp_path)
    sizes, take = [], server.take

    def counted(name, given):
        sizes.append(len(given.get("metrics", [])))
        return take(name, given)

    server.take = counted
    try:
        open_tracker(run, said, f"http://127.0.0.1:{server.port}").close("stopped")
        assert len([1 for key, *_ in server.metrics if key == "games"]) == 1000 and max(sizes) <= 1000
        assert sum(s > 0 for s in sizes) < 20
    finally:
        server.stop()


@pytest.mark.parametrize("uri", ["127.0.0.1", "http://", "ftp://somewhere", "nonsense://a"])
def test_an_address_that_is_none_is_one_sentence(run, said, uri):
    with pytest.raises(ConfigError, match="gauges.mlflow_uri is .*give http://HOST:PORT") as caught:
        open_tracker(run, said, uri)
    assert "\n" not in str(caught.value)


def test_an_absent_package_is_the_line_to_type(run, said, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(BackendError, match=r"pip install 'zeroloop\[mlflow\]'"):
        open_tracker(run, said)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format": 2}', b"[]"])
def test_a_damaged_note_of_what_was_sent_is_named(run, said, data):
    (run / "mlflow.json").write_bytes(data)
    with pytest.raises(StoreError, match="mlflow.json is .*damaged.*Delete it"):
        open_tracker(run, said)


@pytest.mark.slow
def test_a_real_run_is_sent_whole(tmp_path, said):
    folder = tmp_path / "runs" / "real"
    config = run_config(budget={"positions": 300})
    session(folder, config)
    tracker = Tracker(folder, config, TICTACTOE, said.append)
    tracker.close("finished")
    found = client(folder).get_run(state(folder)["run_id"])
    assert found.data.metrics.keys() >= {"loss/policy", "loss/value", "games", "elo"}
    models = {p.stem for p in (folder / "models").glob("*.safetensors")}
    assert set(state(folder)["models"]) == models and said == []
