"""Metrics: only declared names, one JSON object a line, and a torn last line that does no harm."""

from __future__ import annotations

import errno
import json
import os

import pytest

from zeroloop.errors import StoreError
from zeroloop.metrics import METRICS, Events, read_events

ROW = {"iteration": 3, "seconds": 1.5, "loss/policy": 2.25}


@pytest.fixture
def events(tmp_path):
    made = Events(tmp_path)
    yield made
    made.close()


def written(folder, rows=2):
    """Write rows and return the path of the file."""
    events = Events(folder)
    for i in range(rows):
        events.scalars({**ROW, "iteration": i})
    events.close()
    return folder / "metrics.jsonl"


def test_rows_are_lines_of_json_in_their_order(events, tmp_path):
    events.scalars(ROW)
    events.event("note", {"text": "ein Satz\nmit Umbruch"})
    events.scalars({**ROW, "iteration": 4}, kind="evaluation")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["kind"] for x in lines] == ["metrics", "note", "evaluation"]
    assert read_events(tmp_path, "metrics") == [{"kind": "metrics", **ROW}]
    assert read_events(tmp_path, "note")[0]["text"] == "ein Satz\nmit Umbruch"
    assert read_events(tmp_path, "evaluation")[0]["iteration"] == 4
    assert read_events(tmp_path, "other") == []


def test_undeclared_metric_is_refused_and_nothing_is_written(events, tmp_path):
    with pytest.raises(KeyError, match=r"'loss/unheard_of' is not declared"):
        events.scalars({**ROW, "loss/unheard_of": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_every_declared_metric_may_be_written_and_has_a_meaning(events, tmp_path):
    events.scalars(dict.fromkeys(METRICS, 1))
    assert read_events(tmp_path, "metrics")[0] == {"kind": "metrics", **dict.fromkeys(METRICS, 1)}
    assert all(len(meaning) > 10 for meaning in METRICS.values())


def test_numbers_that_json_does_not_know_are_refused(events, tmp_path):
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            events.scalars({**ROW, "elo": bad})
    assert read_events(tmp_path, "metrics") == []


def test_torn_last_line_of_every_length_is_cut(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    for end in range(begin, len(whole)):
        path.write_bytes(whole[:end])
        Events(tmp_path).close()
        assert path.read_bytes() == whole[:begin]
    path.write_bytes(whole)
    Events(tmp_path).close()
    assert path.read_bytes() == whole


def test_writing_goes_on_behind_a_cut_line(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    events = Events(tmp_path)
    events.scalars({**ROW, "iteration": 9})
    events.close()
    assert [row["iteration"] for row in read_events(tmp_path, "metrics")] == [0, 9]


def test_torn_last_line_is_left_out_while_reading_and_stays_in_the_file(tmp_path):
    """A reader may look at a run that is being written."""
    path = written(tmp_path)
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    for end in range(begin, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [row["iteration"] for row in read_events(tmp_path, "metrics")] == [0]
        assert path.read_bytes() == whole[:end]


def test_damaged_line_before_the_last_is_named(tmp_path):
    path = written(tmp_path)
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(StoreError, match=r"metrics\.jsonl:1 is damaged"):
        read_events(tmp_path, "metrics")


def test_run_without_events_has_none(tmp_path):
    assert read_events(tmp_path, "metrics") == []


def test_full_disk_is_told(events, tmp_path):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real, events._file = events._file, Full()
    with pytest.raises(StoreError, match=r"metrics\.jsonl could not be written \(No space left"):
        events.scalars(ROW)
    events._file = real


def test_scalars_reach_tensorboard_with_step_and_time(events, tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events.scalars(ROW)
    events.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = [e for e in EventFileLoader(str(path)).Load() if e.HasField("summary")]
    assert [(e.step, e.wall_time) for e in found] == [(3, 1.5)]
    assert {v.tag for v in found[0].summary.value} == set(ROW)
