"""Endpoints for Prometheus: conventional names, bounded series, nothing that was not measured."""

from __future__ import annotations

import json
import pathlib
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.games.oracles import need, need_program
from tests.material import run_config, session
from zeroloop.errors import BackendError, ConfigError
from zeroloop.metrics import METRICS
from zeroloop.status import LEARNER, SERVER, WORKER

need("prometheus_client")

from zeroloop.distributed import gauges as table  # noqa: E402
from zeroloop.distributed.gauges import Gauges  # noqa: E402

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "gauges"
DASHBOARD = DOCS / "grafana" / "zeroloop.json"
HASH = "cd" * 32

WORKER_ROW = {
    "host": "box",
    "pid": 7,
    "gauges": "127.0.0.1:1",
    "model": HASH,
    "updates_behind": 1,
    "games": 10,
    "moves": 100,
    "simulations": 5000,
    "evaluations": 4000,
    "cache_hits": 900,
    "overflows": 0,
    "terminals": 5,
    "waiting": 2,
    "resent": 0,
    "threads": 1,
    "search_seconds": 1.0,
    "inference_seconds": 2.0,
    "transfer_seconds": 0.5,
    "wait_seconds": 0.25,
    "alive_seconds": 4.0,
}
LEARNER_ROW = {
    "iteration": 3,
    "progress": 0.5,
    "positions": 900,
    "games": 80,
    "steps": 60,
    "window": 800,
    "seconds": 12.5,
    "learn_seconds": 4.0,
    "receive_seconds": 1.0,
    "evaluate_seconds": 2.0,
    "wait_seconds": 3.0,
    "play_seconds": 0.0,
    "model": HASH,
    "updates": 5,
    "refused": 0,
    "missed": 0,
    "restarts": 1,
    "phase": "learn",
}
STORE_ROW = {
    "waiting": 4,
    "capacity": 256,
    "games": 90,
    "positions": 1000,
    "evicted_games": 0,
    "unread_evicted": 0,
    "duplicates": 1,
}
SERVER_ROW = {
    "requests": 100,
    "batches": 20,
    "positions": 6000,
    "evaluations": 5900,
    "refused": 0,
    "stale": 0,
    "bytes_received": 10_000,
    "bytes_sent": 9_000,
    "wait_seconds": 0.2,
    "busy_seconds": 1.5,
    "clients": 2,
    "askers": 2,
    "waiting": 12,
    "lanes": 1,
}
DEVICE_ROW = {"learning": 3.0, "inference": 6.0}
EVERY_METRIC = {name: 0.5 for name in METRICS}


@pytest.fixture
def made():
    opened = []

    def make(kind, port=0):
        opened.append(Gauges(port, "127.0.0.1", kind))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def full(gauges, workers=()):
    gauges.show(LEARNER_ROW, workers or [{**WORKER_ROW, "worker": 1}], STORE_ROW, SERVER_ROW, DEVICE_ROW)
    gauges.metrics(EVERY_METRIC)
    return gauges


def page(gauges, path="/metrics", **headers):
    request = urllib.request.Request(f"http://{gauges.address()}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def series(gauges):
    """Return {name and labels as in the text: value} of everything exposed."""
    lines = page(gauges)[0].splitlines()
    return {a: float(b) for a, b in (x.rsplit(" ", 1) for x in lines if x and not x.startswith("#"))}


def test_worker_shows_its_totals_as_counters_with_its_phases(made):
    gauges = made("worker")
    gauges.set(WORKER_ROW)
    found = series(gauges)
    assert found["zeroloop_simulations_total"] == 5000
    assert found["zeroloop_games_total"] == 10
    assert found['zeroloop_phase_seconds_total{phase="inference"}'] == 2.0
    assert found["zeroloop_spool_games"] == 2
    gauges.set({**WORKER_ROW, "simulations": 6000})
    assert series(gauges)["zeroloop_simulations_total"] == 6000


def test_nothing_is_shown_before_it_was_measured(made):
    gauges = made("learner")
    assert series(gauges) == {}
    gauges.show({"iteration": 0, "games": 0})
    found = series(gauges)
    assert set(found) == {"zeroloop_iteration", "zeroloop_replay_games_total", "zeroloop_workers"}
    gauges.metrics({"iteration": 0, "loss/policy": 1.5})
    assert "zeroloop_elo" not in series(gauges) and 'zeroloop_loss{head="policy"}' in series(gauges)


def test_what_is_measured_no_more_is_not_shown_any_more(made):
    gauges = made("worker")
    gauges.set({"updates_behind": 3})
    gauges.set({"updates_behind": None})
    assert series(gauges) == {}
    gauges.set({"updates_behind": float("nan")})
    assert series(gauges) == {}


def test_series_are_bounded_after_a_thousand_models_and_a_thousand_workers(made):
    gauges, worker = full(made("learner")), made("worker")
    worker.set(WORKER_ROW)
    before, before_worker = set(series(gauges)), set(series(worker))
    for i in range(1000):
        name = f"{i:064x}"
        worker.set({**WORKER_ROW, "model": name, "pid": i, "host": f"box{i}"})
        rows = [{**WORKER_ROW, "worker": i + k, "model": name, "gauges": f"box{i}:{k + 1}"} for k in range(2)]
        gauges.show({**LEARNER_ROW, "model": name, "updates": i}, rows, STORE_ROW, SERVER_ROW, DEVICE_ROW)
        gauges.metrics({**EVERY_METRIC, "iteration": i})
    assert set(series(gauges)) == before and set(series(worker)) == before_worker
    assert len(before) < 120


def test_no_label_holds_a_model_a_worker_or_a_host(made):
    text = page(full(made("learner")))[0]
    allowed = {
        "phase": {"play", "receive", "learn", "evaluate", "wait", "search", "inference", "transfer"},
        "head": {"policy", "value", "reply"},
        "work": {"learning", "inference"},
    }
    for label, value in re.findall(r'(\w+)="([^"]*)"', text):
        assert value in allowed[label]
    assert HASH not in text and "box" not in text


def test_every_family_has_help_with_a_conventional_name(made):
    worker = made("worker")
    worker.set(WORKER_ROW)
    for text in (page(full(made("learner")))[0], page(worker)[0]):
        kinds = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
        helps = dict(re.findall(r"# HELP (\S+) (.+)", text))
        assert kinds and kinds.keys() == helps.keys()
        for name, kind in kinds.items():
            assert re.fullmatch(r"zeroloop_[a-z_]+", name), name
            assert (kind == "counter") == name.endswith("_total"), name
            assert len(helps[name]) > 5 and helps[name].endswith(".")


def test_promtool_finds_nothing_to_criticise(made):
    promtool = need_program("promtool", "prometheus")
    worker = made("worker")
    worker.set(WORKER_ROW)
    for gauges in (full(made("learner")), worker):
        text = page(gauges)[0]
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_every_key_of_the_rows_and_every_metric_has_a_place():
    assert LEARNER.keys() <= table.LEARNER.keys() | table.TEXTS
    assert WORKER.keys() <= table.WORKER.keys()
    assert SERVER.keys() <= table.SERVER.keys()
    assert METRICS.keys() == table.EVENTS.keys() | table.COUNTED
    assert not table.EVENTS.keys() & table.COUNTED


def test_a_key_that_nobody_declared_is_refused(made):
    with pytest.raises(KeyError, match="model_version"):
        made("worker").set({"model_version": 3})


@pytest.mark.slow
def test_the_rows_of_a_real_run_with_workers_are_all_declared(made, tmp_path):
    sections = {"collect": {"workers": 1}, "inference": {"server": "learner"}, "budget": {"positions": 600}}
    session(tmp_path / "run", run_config(**sections))
    found = json.loads((tmp_path / "run" / "status.json").read_text())
    assert found["workers"] and found["inference"]["batches"] > 0
    learner, worker = made("learner"), made("worker")
    learner.show(*(found[k] for k in ("learner", "workers", "store", "inference", "devices")))
    worker.set(found["workers"][0])
    assert len(series(learner)) > 20 and len(series(worker)) > 10


def test_openmetrics_is_spoken_to_whom_asks_for_it(made):
    gauges = made("worker")
    gauges.set(WORKER_ROW)
    text, kind = page(gauges, Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")


def test_targets_list_the_workers_that_have_an_endpoint(made):
    gauges = made("learner")
    assert json.loads(page(gauges, "/targets")[0]) == []
    rows = [{"worker": n, "gauges": a} for n, a in ((3, "b:9"), (4, ""), (5, "a:9"), (6, "a:9"))] + [
        {"worker": 7}
    ]
    gauges.show({}, rows)
    text, kind = page(gauges, "/targets")
    assert kind == "application/json"
    assert json.loads(text) == [{"targets": ["a:9", "b:9"], "labels": {}}]
    gauges.show({}, [])
    assert json.loads(page(gauges, "/targets")[0]) == []


def test_other_pages_and_a_workers_targets_are_not_found(made):
    for kind, path in (("learner", "/"), ("worker", "/targets")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            page(made(kind), path)
        assert caught.value.code == 404
        caught.value.close()


def test_a_port_in_use_is_one_sentence(made):
    taken = made("learner")
    with pytest.raises(
        ConfigError, match=rf"127.0.0.1:{taken.port}: another program listens there.*gauges.port"
    ):
        Gauges(taken.port, "127.0.0.1", "learner")


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_one_sentence(host):
    with pytest.raises(ConfigError, match=f"gauges cannot listen at {host}:0: .*gauges.host") as caught:
        Gauges(0, host, "worker")
    assert "\n" not in str(caught.value)


def test_an_absent_package_is_the_line_to_type(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(BackendError, match=r"pip install 'zeroloop\[gauges\]'"):
        Gauges(0, "127.0.0.1", "worker")


def test_an_endpoint_at_every_address_names_the_one_on_the_way_to_the_store():
    gauges = Gauges(0, "0.0.0.0", "worker")
    try:
        assert gauges.address("127.0.0.1:6390") == f"127.0.0.1:{gauges.port}"
    finally:
        gauges.close()


def test_a_closed_endpoint_frees_its_port():
    first = Gauges(0, "127.0.0.1", "worker")
    first.close()
    Gauges(first.port, "127.0.0.1", "worker").close()


# The dashboard and the configuration that are shipped.


def expressions():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(p["title"], t["expr"].replace("$__rate_interval", "5s")) for p in panels for t in p["targets"]]


def test_every_name_on_the_dashboard_is_exposed(made):
    worker = made("worker")
    worker.set(WORKER_ROW)
    known = {re.split(r"[{ ]", name)[0] for g in (full(made("learner")), worker) for name in series(g)}
    named = {name for _, text in expressions() for name in re.findall(r"zeroloop_\w+", text)}
    assert named and named <= known
    assert "zeroloop_model_version" not in known  # the check can fail
    wanted = "simulations evaluations games positions queue staleness phase losses window elo batch device"
    titles = " ".join(title for title, _ in expressions()).lower()
    assert all(word in titles for word in wanted.split())


def test_promtool_accepts_the_scrape_configuration_and_every_expression(tmp_path):
    promtool = need_program("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "config", DOCS / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rules = [{"record": f"r{i}", "expr": text} for i, (_, text) in enumerate(expressions())]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", tmp_path / "rules.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_provisioning_names_the_dashboards_data_source():
    import yaml

    source = yaml.safe_load((DOCS / "grafana/provisioning/datasources/zeroloop.yaml").read_text())
    uid = source["datasources"][0]["uid"]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert {t["datasource"]["uid"] for p in panels for t in p["targets"]} == {uid}
    provider = yaml.safe_load((DOCS / "grafana/provisioning/dashboards/zeroloop.yaml").read_text())
    assert provider["providers"][0]["type"] == "file"


@pytest.mark.slow
def test_a_real_prometheus_discovers_a_worker_through_the_learner(made, tmp_path):
    program = need_program("prometheus", "prometheus")
    learner, worker = made("learner"), made("worker")
    worker.set(WORKER_ROW)
    full(learner, [{**WORKER_ROW, "worker": 1, "gauges": worker.address()}])
    text = (DOCS / "prometheus.yml").read_text().replace("127.0.0.1:9190", learner.address())
    text = re.sub(r"scrape_interval: \S+", "scrape_interval: 500ms", text)
    text = re.sub(r"scrape_timeout: \S+", "scrape_timeout: 400ms", text)
    text = re.sub(r"refresh_interval: \S+", "refresh_interval: 500ms", text)
    (tmp_path / "prometheus.yml").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = (f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}")
    log = open(tmp_path / "log", "wb")  # noqa: SIM115 - closed below
    process = subprocess.Popen([program, f"--config.file={tmp_path / 'prometheus.yml'}", *flags], stderr=log)

    def query(expression):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.loads(answer.read())
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:  # not ready
                raise
            return []
        assert found["status"] == "success"
        return [(row["metric"], float(row["value"][1])) for row in found["data"]["result"]]

    def eventually(expression, wanted):
        end = time.monotonic() + 30
        while not wanted(found := query(expression)):
            assert time.monotonic() < end, (expression, found, (tmp_path / "log").read_text()[-2000:])
            time.sleep(0.2)
        return found

    try:
        up = eventually("up", lambda rows: len(rows) == 2 and all(v == 1 for _, v in rows))
        assert {m["job"]: m["instance"] for m, _ in up} == {
            "learner": learner.address(),
            "workers": worker.address(),
        }
        total = eventually("zeroloop_simulations_total", lambda rows: len(rows) == 1)
        assert total[0][1] == 5000 and total[0][0]["job"] == "workers"
        for title, expression in expressions():
            found = eventually(expression, bool)
            assert all(0 <= v < 1e9 or v != v for _, v in found), title
    finally:
        process.terminate()
        process.wait(20)
        log.close()
