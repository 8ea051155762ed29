"""Experience: the finished games of a run - on disk first, then in the window, and counted."""

from __future__ import annotations

import pathlib
from collections import deque
from typing import Any

import numpy as np

from .config import Config
from .episode import Episode
from .evaluator import Backend
from .games.game import Game
from .health import Health
from .replay import Replay
from .replay.log import EpisodeLog


class Experience:
    """The log of episodes and the window of a run that is open.

    Args:
      folder: the run directory. health: takes every game, and the probes of the network.
    """

    def __init__(self, folder: pathlib.Path, game: Game, config: Config, health: Health) -> None:
        self.game, self._health = game, health
        self.replay = Replay(
            game,
            config.replay,
            seed=config.run.seed,
            root_value_weight=config.learn.root_value_weight,
            reply="reply" in config.network.heads,
        )
        self.log = EpisodeLog(folder / "episodes.log")
        self._offsets: deque[tuple[int, int]] = deque()
        """(number of its first position, offset in the log) of each episode that the window may hold."""
        self._sums: dict[str, float] = {}
        self._clear()

    def _clear(self) -> None:
        self._sums = {"points": 0.0, "draws": 0, "truncated": 0, "plies": 0, "games": 0}

    def keep(self, episode: Episode) -> None:
        """Store a game that has just ended: first on disk, then in the window."""
        offset = self.log.append(episode.to_bytes())
        self._count(episode, offset)
        self._health.add(episode)

    def _count(self, episode: Episode, offset: int) -> None:
        self._offsets.append((self.replay.total, offset))
        self.replay.add([episode])
        oldest = self.replay.total - len(self.replay)
        while len(self._offsets) > 1 and self._offsets[1][0] <= oldest:
            self._offsets.popleft()
        self._health.keep(episode, len(self._offsets))
        s = self._sums
        s["games"] += 1
        s["plies"] += episode.plies
        s["points"] += float(episode.final_value[0]) * self.game.scale
        s["draws"] += int(np.ptp(episode.final_value) == 0)
        s["truncated"] += int(episode.truncated)

    def close_iteration(self) -> dict[str, float]:
        """Return the metrics of the window and of the games since the last call."""
        s = self._sums
        values = {
            "replay_bytes_per_position": self.replay.bytes_per_position,
            "truncated_games": s["truncated"],
        }
        if s["games"]:
            values["plies_per_game"] = s["plies"] / s["games"]
            values["first_seat_points"] = s["points"] / s["games"]
            values["draw_rate"] = s["draws"] / s["games"]
        self._clear()
        return values

    def probe(self, backend: Backend, step: int) -> None:
        """Show the network that has just played a few positions of the window, for its raw policy."""
        batch = self.replay.sample(backend.batch, step)
        legal = np.zeros((backend.batch, max(self.game.max_legal, self.game.max_chance)), np.int32)
        legal[:, : self.game.max_legal] = batch.legal
        logits = backend.result(backend.submit(batch.planes, batch.global_facts, legal)).logits
        if not backend.gathers:
            logits = np.take_along_axis(logits, batch.legal, 1)
        self._health.probe(logits[:, : self.game.max_legal], batch.legal_mask)

    # What a checkpoint holds.

    def state(self) -> dict[str, Any]:
        """Return where the log and the window end, once everything appended so far is safe on disk."""
        self.log.sync()
        first, offset = self._offsets[0] if self._offsets else (0, 0)
        return {
            "games": self.replay.games,
            "positions": self.replay.total,
            "log_size": self.log.size,
            "window_first": first,
            "window_offset": offset,
            "window_games": len(self._offsets),
        }

    def restore(self, state: dict[str, Any] | None, cut: bool) -> set[int]:
        """Fill the window from the log; return the keys of games that were finished after `state()`.

        Args:
          state: None: there is no checkpoint; every game of the log was finished after it.
          cut: drop those games instead; a deterministic run plays them again.
        """
        known = state["log_size"] if state else 0
        if cut:
            self.log.cut(known)
        if state:
            self.replay.total = state["window_first"]
            self.replay.games = state["games"] - state["window_games"]
        finished = set()
        for at, payload in self.log.open_at(state["window_offset"] if state else 0, known):
            episode = Episode.from_bytes(payload, self.game)
            self._count(episode, at)
            if at >= known:
                finished.add(episode.game_id)
        self._clear()
        return finished
