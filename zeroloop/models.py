"""Models: those of a run, oldest first - saved, entered in the registry, seated as opponents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import draws, model
from .errors import BusyError
from .evaluator.choice import Choice, make_evaluator
from .networks import Network
from .outside import Outside, Row
from .players import PlaySettings, PolicyPlayer, SearchPlayer, model_player, parse
from .registry import Lineage, Registry
from .run import Run, read_json
from .selfplay import Chooser

WAIT = 5.0
"""Seconds between two questions whether to stop, while another process holds the registry."""


class Models:
    """What an open run knows of its models.

    Args:
      newest: returns the network that self-play gets next.
      stop: asked while another process holds the registry.
    """

    def __init__(
        self,
        run: Run,
        choice: Choice,
        outside: Outside,
        newest: Callable[[], Network],
        stop: Callable[[], bool],
    ) -> None:
        self._run, self._choice, self._outside = run, choice, outside
        self._newest, self._stop = newest, stop
        self.past: list[str] = []
        """Hashes of the models saved so far, oldest first."""

    def save(self, network: Network, facts: Row) -> str:
        """Save a network as the newest model, enter it in the registry, and return its hash.

        Args:
          facts: the run's `positions`, `steps` and `games`.

        Raises:
          BusyError: as `register`.
        """
        name = self._run.save_model(network)
        self._outside.model(name)
        lineage = Lineage(
            run=str(self._run.folder.resolve()),
            parent=next((past for past in reversed(self.past) if past != name), None),
            config_hash=read_json(self._run.folder / "run.json", "config_hash")["config_hash"],
            positions=facts["positions"],
            steps=facts["steps"],
            games=facts["games"],
        )
        self.register(lambda registry: self._enter(registry, name, lineage))
        if name not in self.past:
            self.past.append(name)
        return name

    def _enter(self, registry: Registry, name: str, lineage: Lineage) -> None:
        path = self._run.models / f"{name}.safetensors"
        registry.add(name, self._run.game, self._run.config.game.name, path, lineage)

    def register(self, change: Callable[[Registry], None]) -> None:
        """Change the registry; while another process holds it, try again until that is done.

        Raises:
          BusyError: a stop is asked for meanwhile.
        """
        told = False
        while True:
            try:
                with Registry(self._run.folder.parent, timeout=WAIT) as registry:
                    return change(registry)
            except BusyError as error:
                if self._stop():
                    raise
                if not told:
                    self._outside.say(f"{error} This run waits for it.")
                told = True

    def enter_past(self) -> None:
        """Enter earlier models that the registry does not find, for the run was moved, or is older."""

        def enter(registry: Registry) -> None:
            rows = registry.models(self._run.game.id)
            known = {r["hash"] for r in rows if registry.path(r).exists() and registry.run_of(r) is not None}
            for name in self.past:
                if name not in known and (self._run.models / f"{name}.safetensors").exists():
                    self._enter(registry, name, Lineage(run=str(self._run.folder.resolve())))

        self.register(enter)

    # Players.

    def player(self, loaded: model.Model, settings: PlaySettings | None = None) -> SearchPlayer:
        """Return a model as a player of matches."""
        budget, seed = self._run.config.match.simulations, self._run.config.run.seed
        return model_player(loaded, budget, choice=self._choice, seed=seed, settings=settings)

    def label(self, player: str, key: int) -> str:
        """Return whom self-play seats in game `key`: a past model by its hash, or the player itself."""
        if player != "past":
            return player
        seed = np.uint64(self._run.config.run.seed)
        return self.past[int(draws.integer(seed, draws.SEATING, key, 2, 0, len(self.past)))]

    def opponent(self, label: str) -> Chooser:
        """Return the player of a label: a past model, the newest one's raw policy, or any by its name."""
        game, seed, size = self._run.game, self._run.config.run.seed, self._run.config.selfplay.games
        if label == "policy":
            evaluator = make_evaluator(game, self._newest(), self._choice, [size])
            return PolicyPlayer(game, evaluator, name=label, seed=seed)
        if (self._run.models / f"{label}.safetensors").exists():
            settings = PlaySettings(batch=size, one_batch=True, cache_megabytes=4)
            return self.player(self._run.load_model(label), settings)
        return parse(label, game, seed=seed)
