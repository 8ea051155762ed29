"""Replay: a window over the newest positions, and every statistic of how it is sampled.

The window keeps states and sparse targets, not planes; observations are made at sampling time under a
random symmetry. Draws are keyed by (seed, step), so a resumed run samples the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import ReplayConfig
from ..episode import Episode
from ..errors import ConfigError
from ..games.game import Game
from ..search.tree import record
from . import kernels

Array = npt.NDArray[Any]


class Batch(NamedTuple):
    """n sampled positions, observed; targets and weights by head."""

    planes: npt.NDArray[np.float32]
    """`f4 [n, C, H, W]`."""
    global_facts: npt.NDArray[np.float32]
    """`f4 [n, G]`."""
    legal: npt.NDArray[np.int64]
    """`i8 [n, L]`, padded with the first legal id."""
    legal_mask: npt.NDArray[np.bool_]
    """`bool [n, L]`."""
    targets: dict[str, npt.NDArray[np.float32]]
    """`policy f4 [n, L]` over legal ids; `value f4 [n, R]` over outcomes seen from the seat to move;
    other heads `f4 [n, A]`."""
    weights: dict[str, npt.NDArray[np.float32]]
    """`f4 [n]` per head."""
    importance: npt.NDArray[np.float32]
    """`f4 [n]`, mean 1 over the window: corrects for non-uniform sampling."""
    position_id: npt.NDArray[np.int64]
    """`i8 [n]`: number of the position in the run."""


def surprise_weights(surprise: Array, surprise_weight: float) -> Array:
    """Return sampling weights with mean 1: (1 - w) * 1 + w * surprise / mean surprise.

    Uniform where there is no surprise at all. Source: policy-surprise weighting of KataGo (2019).
    """
    mean = float(surprise.mean()) if len(surprise) else 0.0
    if surprise_weight == 0.0 or mean <= 0.0:
        return np.ones(len(surprise))
    return (1 - surprise_weight) + surprise_weight * np.asarray(surprise, np.float64) / mean


POOLS = {"frame": ("_frames",), "first": ("_actions",), "start": ("_ids", "_probs")}
"""Arrays that positions point into, by the field that does."""


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Every float16 by its bits: compiled code has no float16."""


class Replay:
    """The newest positions of a run and how they are drawn.

    Args:
      root_value_weight: share of the search's root value in the value target.
      reply: also make targets for the `reply` head, the policy of the next ply.
    """

    def __init__(
        self,
        game: Game,
        config: ReplayConfig,
        *,
        seed: int = 0,
        root_value_weight: float = 0.0,
        reply: bool = False,
    ) -> None:
        self.game, self.config, self.seed, self.reply = game, config, np.uint64(seed), reply
        self.root_value_weight = root_value_weight
        self.total = 0
        """Positions ever added; only grows."""
        self.games = 0
        """Episodes ever added; only grows."""
        outcomes = len(game.relative_outcomes)
        self._points = np.ascontiguousarray(game.relative_outcomes / np.float32(game.scale))
        self._positions = np.zeros(1024, record(kernels.position_dtype(outcomes)))
        ids = np.uint16 if game.num_actions <= 1 << 16 else np.int32
        self._frames = np.zeros(1024, game.state_dtype)
        self._actions = np.zeros(8192, np.int32)
        self._ids = np.zeros(8192, ids)
        self._probs = np.zeros(8192, np.uint16)
        self._first = self._end = 0
        self._used = {"frame": 0, "first": 0, "start": 0}
        """Entries in use of the pools, by the field that points into each."""
        self._sources: list[str] = []
        self._cumulative: Array | None = None
        self._weights: Array = np.zeros(0)
        self._surprise: Array = np.zeros(0)
        self._mean_surprise = 1.0

    def __len__(self) -> int:
        """Positions in the window."""
        return self._end - self._first

    def add(self, episodes: Iterable[Episode]) -> int:
        """Append episodes in order, let the window slide, and return the number of new positions."""
        before = self.total
        for episode in episodes:
            self._append(episode)
        window = min(
            self.config.window_max,
            max(self.config.window_min, int(self.config.window_fraction * self.total)),
        )
        self._first = max(self._first, self._end - window)
        self._cumulative = None
        return self.total - before

    def _append(self, episode: Episode) -> None:
        keep = np.flatnonzero((episode.policy_weight > 0) | (episode.value_weight > 0))
        every = self.game.keyframe_every
        frames = episode.states[keep] if every == 1 else episode.states
        actions = episode.action if every > 1 else episode.action[:0]
        n, entries = len(keep), len(episode.policy_ids)
        self._reserve(n, {"frame": len(frames), "first": len(actions), "start": entries})
        if episode.source not in self._sources:
            self._sources.append(episode.source)
        rows = self._positions[self._end : self._end + n]
        frame, first, start = self._used.values()
        self._frames[frame : frame + len(frames)] = frames
        self._actions[first : first + len(actions)] = actions
        self._ids[start : start + entries] = episode.policy_ids
        self._probs[start : start + entries] = episode.policy_probs.astype(np.float16).view(np.uint16)
        rows["frame"] = frame + (keep // every if every > 1 else np.arange(n))
        rows["first"] = first + keep // every * every
        rows["plies"] = keep % every
        rows["start"] = start + episode.offsets[keep]
        rows["count"] = episode.offsets[keep + 1] - episode.offsets[keep]
        rows["policy_weight"] = episode.policy_weight[keep]
        rows["value_weight"] = episode.value_weight[keep]
        rows["source"] = self._sources.index(episode.source)
        rows["number"] = self.total + np.arange(n)
        rows["followed"] = np.diff(keep, append=-1) == 1
        movers = episode.to_play[keep]
        values = episode.root_value[keep]
        ends = np.broadcast_to(episode.final_value, values.shape)
        each = np.arange(n)
        if self.config.surprise == "policy":
            rows["surprise"] = episode.surprise[keep]
        else:
            rows["surprise"] = np.abs(values[each, movers] - ends[each, movers])
        row = np.full(n, -1, np.int32)
        if not episode.truncated:
            row = self.game.relative_row[movers, episode.outcome].astype(np.int32)
        kernels.value_targets(
            self._points,
            movers.astype(np.int32),
            row,
            np.ascontiguousarray(values),
            np.ascontiguousarray(ends),
            self.root_value_weight,
            np.zeros(self.game.num_players),
            np.zeros(len(self._points)),
            rows,
        )
        self._end += n
        self._used = {"frame": frame + len(frames), "first": first + len(actions), "start": start + entries}
        self.total += n
        self.games += 1

    def _reserve(self, positions: int, more: dict[str, int]) -> None:
        """Make room at the end: slide what is live to the front, and grow where that is not enough."""
        if self._end + positions > len(self._positions):
            new = np.zeros(max(1024, 2 * (len(self) + positions)), self._positions.dtype)
            new[: len(self)] = self._positions[self._first : self._end]
            self._positions = new
            self._first, self._end = 0, len(self)
        for field, pools in POOLS.items():
            used = self._used[field]
            if used + more[field] <= len(getattr(self, pools[0])):
                continue
            base = int(self._positions[field][self._first]) if len(self) else used
            for name in pools:
                old = getattr(self, name)
                new = np.zeros(max(1024, 2 * (used - base + more[field])), old.dtype)
                new[: used - base] = old[base:used]
                setattr(self, name, new)
            self._positions[field][self._first : self._end] -= base
            self._used[field] = used - base

    @property
    def bytes_per_position(self) -> float:
        """Memory that a position takes, its share of keyframes, actions and targets included."""
        if not len(self):
            return 0.0
        total = len(self) * self._positions.itemsize
        for field, pools in POOLS.items():
            live = self._used[field] - int(self._positions[field][self._first])
            total += sum(live * getattr(self, name).itemsize for name in pools)
        return total / len(self)

    def _weigh(self) -> None:
        rows = self._positions[self._first : self._end]
        surprise = weights = surprise_weights(rows["surprise"], self.config.surprise_weight)
        factor = np.ones(len(rows))
        if self.config.sources:
            factor = np.array([self.config.sources.get(s, 1.0) for s in self._sources])[rows["source"]]
            weights = weights * factor
        if not weights.sum() > 0:
            raise ConfigError(
                f"replay.sources gives every source in the window weight 0 ({', '.join(self._sources)}); "
                "give at least one a positive weight."
            )
        self._cumulative = np.cumsum(weights)
        self._weights, self._surprise = weights, surprise
        self._mean_surprise = float(weights.sum() / factor.sum())

    def weights(self) -> Array:
        """Return the sampling weight of each position in the window, `f8 [len]`."""
        if self._cumulative is None:
            self._weigh()
        return self._weights

    def sample(self, n: int, step: int) -> Batch:
        """Draw n positions with replacement; a pure function of the window, the seed and the step.

        Raises:
          ConfigError: the window is empty, or no source in it has a weight.
        """
        if not len(self):
            raise ConfigError("replay is empty: nothing has been played yet.")
        if self._cumulative is None:
            self._weigh()
        assert self._cumulative is not None
        game = self.game
        picks = np.zeros(n, np.int64)
        turns = np.zeros(n, np.int32)
        symmetries = game.num_symmetries if self.config.symmetries else 1
        kernels.draw(self.seed, step, self._cumulative, symmetries, picks, turns)
        index = picks + self._first
        width = game.max_legal
        planes = np.zeros((n, *game.observation.planes), np.float32)
        facts = np.zeros((n, game.observation.globals), np.float32)
        legal = np.zeros((n, width), np.int64)
        count = np.zeros(n, np.int32)
        policy = np.zeros((n, width), np.float32)
        reply = np.zeros((n if self.reply else 0, game.num_actions), np.float32)
        kernels.assemble(
            game,
            self._frames,
            self._actions,
            self._positions,
            self._ids,
            self._probs,
            HALVES,
            index,
            turns,
            game.states(1),
            np.zeros(width, np.int32),
            np.zeros(game.num_actions, np.float32),
            planes,
            facts,
            legal,
            count,
            policy,
            reply,
            self._end,
        )
        rows = self._positions[index]
        targets = {"policy": policy, "value": np.ascontiguousarray(rows["value"])}
        weights = {
            "policy": np.array(rows["policy_weight"], np.float32),
            "value": np.array(rows["value_weight"], np.float32),
        }
        if self.reply:
            targets["reply"] = reply
            weights["reply"] = (reply.sum(1) > 0).astype(np.float32)
        return Batch(
            planes=planes,
            global_facts=facts,
            legal=legal,
            legal_mask=np.arange(width) < count[:, None],
            targets=targets,
            weights=weights,
            importance=self._importance(picks),
            position_id=np.array(rows["number"], np.int64),
        )

    def _importance(self, picks: Array) -> npt.NDArray[np.float32]:
        """Return (mean / weight by surprise)^exponent; at exponent 1 only the source mix remains."""
        ratio = self._mean_surprise / self._surprise[picks]
        return (ratio**self.config.correction_exponent).astype(np.float32)


class Limiter:
    """The train-to-data ratio: says how many optimiser steps new positions have earned.

    Steps never exceed `reuse * positions / batch_size`; what is owed and not done stays owed.
    """

    def __init__(self, reuse: float, batch_size: int) -> None:
        self.reuse, self.batch_size = reuse, batch_size

    def owed(self, positions: int, steps_done: int) -> int:
        """Return the whole steps owed after `positions` ever added and `steps_done` ever made."""
        return max(0, int(self.reuse * positions / self.batch_size) - steps_done)
