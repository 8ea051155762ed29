"""Outside: what a live run shows to whoever looks: a person, its event log, status file, gauges, MLflow."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Callable
from typing import Any, Literal

from .config import Config
from .distributed.crew import Crew
from .distributed.gauges import Gauges
from .distributed.mlflow import Tracker
from .games.game import Game
from .health import Warned
from .metrics import Events
from .status import Status

Row = dict[str, Any]
Report = Callable[[str, Row], None]
"""Called with (kind, values) as the run goes on: `say`, `phase`, `note`, `metrics`, `decision`, `warning`."""


class Outside:
    """Opened and closed with a session of training.

    Args:
      folder: the run directory. report: takes what a person sees, from other threads too.

    Raises:
      BackendError, ConfigError, StoreError: a package is absent, a port in use, an address wrong.
    """

    def __init__(self, folder: pathlib.Path, config: Config, game: Game, report: Report) -> None:
        self._folder, self.report = folder, report
        self._status, self._lock = Status(folder), threading.Lock()
        g = config.gauges
        with contextlib.ExitStack() as opened:
            self._events = opened.enter_context(contextlib.closing(Events(folder)))
            self._gauges = Gauges(g.port, g.host, "learner") if g.port else None
            if self._gauges is not None:
                opened.callback(self._gauges.close)
            self._tracker = Tracker(folder, config, game, self.say) if g.mlflow else None
            self._opened = opened.pop_all()

    def say(self, text: str) -> None:
        """Tell a person a sentence."""
        self.report("say", {"text": text})

    def show(self, row: Callable[[], Row], crew: Crew | None) -> None:
        """Show the state of the run, unless that was done a moment ago; threads of self-play call this too.

        Args:
          row: returns the learner's row, see `Status`. crew: whose workers play, where it has some.
        """
        if not self._status.due() or not self._lock.acquire(blocking=False):
            return
        try:
            self.show_at_once(row(), crew)
        finally:
            self._lock.release()

    def show_at_once(self, row: Row, crew: Crew | None) -> None:
        """Do the same, however long ago the last time was."""
        shown = (row, [], None, None, None) if crew is None else _with_workers(row, crew)
        self._status.write(*shown)
        if self._gauges is not None:
            self._gauges.show(*shown)

    def metrics(self, values: dict[str, float], kind: str = "metrics") -> None:
        """Write a row of metrics; `kind` is `metrics` or `evaluation`."""
        self._events.scalars(values, kind)
        if self._gauges is not None:
            self._gauges.metrics(values)
        if self._tracker is not None:
            self._tracker.log()

    def warn(self, turned: list[Warned], iteration: int, seconds: float) -> None:
        """Write the warnings that begin or end, and show them."""
        for warned in turned:
            row = {"iteration": iteration, "seconds": seconds, **warned.plain()}
            self._events.event("warning", row)
            self.report("warning", row)

    def model(self, name: str) -> None:
        """Tell of a model that was just saved."""
        if self._tracker is not None:
            self._tracker.model(self._folder / "models" / f"{name}.safetensors", name)

    def close(self, how: Literal["finished", "stopped"]) -> None:
        """Say how the session ended, and let go of everything."""
        self._status.close(how)
        if self._tracker is not None:
            self._tracker.close(how)
        self._opened.close()


def _with_workers(row: Row, crew: Crew) -> tuple[Row, list[Row], Row, Row | None, Row | None]:
    """Return the arguments of `Status.write` where workers play."""
    there = crew.collector
    row = row | {
        "receive_seconds": there.receive_seconds,
        "wait_seconds": there.wait_seconds,
        "updates": len(there.published),
        "refused": there.refused,
        "missed": there.missed,
        "model": there.published[-1] if there.published else "",
        "restarts": crew.producers.restarts if crew.producers else 0,
    }
    served = crew.inference.counters() if crew.inference else None
    shared = crew.share.busy_seconds if crew.share else None
    return row, there.present(), there.queue(), served, shared
