"""Metrics: one table of names with units, and the writers of a run's events (JSON Lines, TensorBoard)."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from .errors import StoreError

METRICS = {
    "iteration": "number of the iteration",
    "seconds": "wall-clock seconds of the run so far, all sessions",
    "progress": "share of the budget spent, 0..1",
    "games": "finished self-play games so far",
    "positions": "positions added to replay so far",
    "steps": "optimiser steps so far",
    "window": "positions in the replay window",
    "replay_bytes_per_position": "memory of the replay window, bytes a position",
    "games_per_second": "finished games per second of self-play",
    "positions_per_second": "new positions per second of self-play",
    "simulations_per_second": "simulations per second of self-play, cache hits and terminals included",
    "evaluations_per_second": "rows that the network computed per second of self-play",
    "cache_hit_rate": "evaluations answered from the cache, share",
    "trained_per_second": "positions trained per second of learning",
    "simulations_per_move": "mean budget of the searches made",
    "plies_per_game": "mean recorded plies of the games finished",
    "first_seat_points": "mean points of seat 0 in the games finished",
    "draw_rate": "share of finished games in which all seats got equal points",
    "truncated_games": "games cut at the ply bound, this iteration",
    "overflows": "simulations that stored no node because the tree was full, this iteration",
    "loss/policy": "cross-entropy of the policy head, nats",
    "loss/value": "loss of the value head: nats (cross_entropy) or squared points (mse)",
    "loss/reply": "cross-entropy of the reply head, nats",
    "learning_rate": "learning rate of the last step",
    "play_seconds": "seconds of self-play, this iteration",
    "learn_seconds": "seconds of learning, this iteration",
    "evaluate_seconds": "seconds of evaluation so far",
    "policy_entropy": "mean entropy of the raw policy over the mean log of the legal moves, 0..1",
    "target_entropy": "the same of the policy targets of the newest games",
    "calibration_error": "mean |search value - outcome| by decile of the value, points over the scale",
    "calibration_floor": "what the calibration error would be by chance alone",
    "calibration_slope": "change of the outcome per unit of search value; 1 where values are right",
    "openings": "effective number of positions at ply 8 of games without a random opening",
    "seat_surprise": "mean surprise of a seat's policy targets over that of the others, the largest",
    "duplicates": "share of positions in the window that repeat another",
    "elo": "rating of the newest measured model against the random start, maximum likelihood",
    "accuracy": "share of judged positions whose game value the raw policy keeps",
    "accuracy_searched": "share of judged positions whose game value the search keeps",
    "accuracy_choice": "the same for the raw policy where some legal move changes the value",
    "accuracy_choice_searched": "the same for the search where some legal move changes the value",
}
"""Every metric that a run may write, with its meaning and unit."""


class Events:
    """The events of a run: `metrics.jsonl`, one JSON object a line, and TensorBoard scalars beside it.

    Args:
      folder: the run directory.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._path = folder / "metrics.jsonl"
        _cut_torn_line(self._path)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - kept open
        self._board = EventFileWriter(str(folder / "tensorboard"))

    def scalars(self, values: dict[str, float], kind: str = "metrics") -> None:
        """Write one row of metrics at `values["iteration"]`; `kind` is `metrics` or `evaluation`.

        Raises:
          KeyError: a name is not in the table.
        """
        for name in values:
            if name not in METRICS:
                raise KeyError(f"metric '{name}' is not declared in metrics.METRICS")
        self.event(kind, values)
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items()])
        event = Event(step=int(values["iteration"]), summary=summary)
        event.wall_time = float(values["seconds"])
        self._board.add_event(event)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Write one event of any kind."""
        try:
            self._file.write(json.dumps({"kind": kind, **values}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"{self._path} could not be written ({error.strerror}); free some space and run the "
                "same command again: it goes on from the last checkpoint."
            ) from error

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._board.close()


def _cut_torn_line(path: pathlib.Path) -> None:
    """Drop a last line that a killed process left unfinished."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with open(path, "r+b") as file:
                file.truncate(whole)


def read_events(folder: pathlib.Path, kind: str) -> list[dict[str, Any]]:
    """Return a run's events of one kind, oldest first; a torn last line is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number >= len(lines) - 1:
                break  # the process died while writing it
            raise StoreError(f"{path}:{number + 1} is damaged: not JSON.") from error
        if row["kind"] == kind:
            rows.append(row)
    return rows
