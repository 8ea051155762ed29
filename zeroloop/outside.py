"""Outside: what a live run shows to whoever looks: its status file, Prometheus gauges, and MLflow."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, Literal

from .config import Config
from .distributed.gauges import Gauges
from .distributed.mlflow import Tracker
from .games.game import Game
from .status import Status

Row = dict[str, Any]


class Outside:
    """Opened and closed with a session of training.

    Args:
      folder: the run directory. say: takes a sentence for a person, from other threads too.

    Raises:
      BackendError, ConfigError, StoreError: a package is absent, a port in use, an address wrong.
    """

    def __init__(self, folder: pathlib.Path, config: Config, game: Game, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._status = Status(folder)
        g = config.gauges
        self._gauges = Gauges(g.port, g.host, "learner") if g.port else None
        try:
            self._tracker = Tracker(folder, config, game, say) if g.mlflow else None
        except BaseException:
            self._close_gauges()
            raise

    def due(self) -> bool:
        """Return whether it is time to call `show` again."""
        return self._status.due()

    def show(
        self, learner: Row, workers: list[Row], store: Row | None, inference: Row | None, devices: Row | None
    ) -> None:
        """Show the state of the run; the arguments are `Status.write`'s."""
        self._status.write(learner, workers, store, inference, devices)
        if self._gauges is not None:
            self._gauges.show(learner, workers, store, inference, devices)

    def metrics(self, values: dict[str, float]) -> None:
        """Show a row that was just written to the run's events."""
        if self._gauges is not None:
            self._gauges.metrics(values)
        if self._tracker is not None:
            self._tracker.log()

    def model(self, name: str) -> None:
        """Tell of a model that was just saved."""
        if self._tracker is not None:
            self._tracker.model(self._folder / "models" / f"{name}.safetensors", name)

    def close(self, how: Literal["finished", "stopped"]) -> None:
        """Say how the session ended, and let go of everything."""
        self._status.close(how)
        if self._tracker is not None:
            self._tracker.close(how)
        self._close_gauges()

    def _close_gauges(self) -> None:
        if self._gauges is not None:
            self._gauges.close()
