"""Self-play: many games in one forest, finished games out. Knows nothing of training.

The forest ticks: a game whose search is finished moves and begins its next search while the others go on,
so every batch of the network is full.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import draws
from ..config import Config
from ..episode import Episode
from ..errors import PlayerError, ResumeError
from ..games import rules_identity
from ..games.game import Game
from ..schedule import Schedule
from ..search.forest import Evaluator, Forest, nodes_for
from ..search.tree import NUMBERS as SEARCH_NUMBERS
from ..search.tree import Array, cache_entry_bytes, record
from . import kernels
from .hard import HardPositions


class Chooser(Protocol):
    """A player that may sit in a seat of a self-play game."""

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return an action id per state, a pure function of state, key and ply."""


class Games(NamedTuple):
    """What is recorded of B games in flight; T rows and X policy entries each."""

    games: Array  # kernels.GAME [B]
    seats: Array  # i4 [B, P], 0 or 1 + index of a label
    rows: Array  # kernels.ROW [B, T]
    row_states: Array  # state_dtype [B, ceil(T / E)], the keyframes
    values: Array  # f4 [B, T, P]
    ids: Array  # i4 [B, X]
    probs: Array  # f4 [B, X]


def number_table(config: Any, dtype: np.dtype[Any], plies: int, progress: float) -> Array:
    """Return the numbers of a config section, one row per ply (one row where none depends on the ply)."""
    schedules: dict[str, Schedule] = {name: getattr(config, name) for name in dtype.names or ()}
    rows = plies if any(s.over == "ply" for s in schedules.values()) else 1
    table = np.zeros(rows, record(dtype))
    for name, schedule in schedules.items():
        column = schedule.table(rows, progress)
        table[name] = np.rint(column) if dtype[name].kind == "i" else column
    return table


class _Numbers:
    """Self-play's numbers, gathered from the two sections that hold them."""

    def __init__(self, config: Config) -> None:
        self.simulations = config.search.simulations
        for name in kernels.NUMBERS.names or ():
            if name != "simulations":
                setattr(self, name, getattr(config.selfplay, name))


class SelfPlay:
    """One group of games in one forest, driven by one thread.

    Args:
      group, groups: this group's number among all; its games have the keys group + k * groups.
      on_episode: called with each finished game, in the order in which this group finishes them.
      make_player: gives the player of a label, for seats that the newest model does not take.
      opponent_label: gives the label to seat for a configured opponent's name (a past model has its hash).
    """

    def __init__(
        self,
        game: Game,
        config: Config,
        *,
        group: int = 0,
        groups: int = 1,
        on_episode: Callable[[Episode], None],
        make_player: Callable[[str], Chooser] | None = None,
        opponent_label: Callable[[str, int], str] | None = None,
    ) -> None:
        self.game, self.config, self.group, self.groups = game, config, group, groups
        self.on_episode = on_episode
        self._make_player, self._opponent_label = make_player, opponent_label
        self.seed = config.run.seed
        size, search = config.selfplay.games, config.search
        cache_bytes = config.selfplay.cache_megabytes << 20
        self.forest = Forest(
            game,
            size,
            max_nodes=search.max_nodes or needed_nodes(game, config),
            rule=search.rule,
            interior=search.interior,
            chance=search.chance,
            cache_entries=cache_bytes // cache_entry_bytes(game),
            seed=self.seed,
        )
        width = max(game.max_legal, game.max_chance)
        self.games = Games(
            np.zeros(size, record(kernels.GAME)),
            np.zeros((size, game.num_players), np.int32),
            np.zeros((size, game.max_plies + 1), record(kernels.ROW)),
            np.zeros((size, game.max_plies // game.keyframe_every + 1), game.state_dtype),
            np.zeros((size, game.max_plies + 1, game.num_players), np.float32),
            np.zeros((size, 16 * width), np.int32),
            np.zeros((size, 16 * width), np.float32),
        )
        self._target = np.zeros(width, np.float32)
        self._numbers = _Numbers(config)
        file = config.selfplay.hard_positions
        self._hard = HardPositions(game, pathlib.Path(file)) if file else None
        self.labels: list[str] = []
        self._players: dict[str, Chooser] = {}
        self.next_game = 0
        self.moves = 0
        """Moves searched since the group was made."""
        self.model = ""
        self._evaluator: Evaluator | None = None
        self._ticket: Any = None
        self._started = False
        self.inference_seconds = self.transfer_seconds = 0.0
        """Seconds spent in asking the evaluator, and in handing out finished games, since it was made."""
        self.set_progress(0.0)

    def publish(self, evaluator: Evaluator, model: str, keep_cache: bool = False) -> None:
        """Play on with this model; evaluations of the last one are forgotten, and players are made anew."""
        self._evaluator, self.model = evaluator, model
        self._players.clear()  # `policy` is the newest model, and past ones would pile up
        if not keep_cache:
            self.forest.clear_cache()

    def set_progress(self, progress: float) -> None:
        """Resolve all schedules at this progress of the run, 0..1."""
        plies = self.game.max_plies
        self.forest.numbers = number_table(self.config.search, SEARCH_NUMBERS, plies, progress)
        self._own = number_table(self._numbers, kernels.NUMBERS, plies, progress)

    def turn(self, quota: int) -> bool:
        """Take the last batch's answer, play on, and submit the next batch unless `quota` moves are made.

        Returns:
          False once `moves >= quota`; nothing is in flight then.
        """
        assert self._evaluator is not None, "publish a model first"
        if not self._started:
            self._started = True
            self._start(self.forest.all)
        if self._ticket is not None:
            begun = time.perf_counter()
            answer = self._evaluator.result(self._ticket)
            self.inference_seconds += time.perf_counter() - begun
            self.forest.absorb(answer)
            self._ticket = None
        if self.forest.rows == 0:
            self._play_on()
        if self.moves >= quota:
            return False
        begun = time.perf_counter()
        self._ticket = self._evaluator.submit(self.forest.waiting())
        self.inference_seconds += time.perf_counter() - begun
        return True

    def _play_on(self) -> None:
        while True:
            self.forest.select()
            done = self.forest.done()
            if not len(done):
                return
            self._reserve()
            self.moves += len(done)
            self._call(kernels.move_games, done.copy(), self._target)

    def _call(self, kernel: Callable[..., None], ids: Array, *extra: Array) -> None:
        """Run a kernel over games, then end, restart or hand over those that wait for something else."""
        f, reuse = self.forest, self.config.search.tree_reuse
        head = (self.game, f.rule, f.seed, f.trees, self.games, f.numbers, self._own, ids)
        kernel(*head, *extra, self.game.max_plies, reuse)
        waits = self.games.games["waits"][ids]
        over = ids[waits >= kernels.OVER]
        if len(over):
            for b in over:
                self._finish(int(b))
            self._start(over)
        others = ids[waits == kernels.OTHER_PLAYER]
        if len(others):
            self._call(kernels.play_others, others, self._choose(others))

    def _choose(self, ids: Array) -> Array:
        """Ask the other players for their moves, all games of one player at once."""
        self._reserve()
        trees = self.forest.trees
        seats = self.games.seats[ids, trees.nodes[ids, 0]["to_play"]]
        actions = np.zeros(len(ids), np.int32)
        for seat in np.unique(seats):
            mine = np.flatnonzero(seats == seat)
            label = self.labels[seat - 1]
            if label not in self._players:
                assert self._make_player is not None
                self._players[label] = self._make_player(label)
            t = trees.trees[ids[mine]]
            states = trees.states[ids[mine], 0]
            actions[mine] = self._players[label].choose(states, t["game"], t["ply"])
            for i in mine:
                self._check_legal(label, int(ids[i]), int(actions[i]))
        return actions

    def _check_legal(self, label: str, b: int, action: int) -> None:
        trees = self.forest.trees
        root = trees.nodes[b, 0]
        first = int(root["edge_start"])
        if action not in trees.edges[b, first : first + int(root["edge_count"])]["action"]:
            position = self.game.position(trees.states[b, 0])
            raise PlayerError(
                f"{label} chose action {action} in position {position} of {self.game.id}, "
                "which is not legal. The game is void; no move was substituted."
            )

    def _start(self, ids: Array) -> None:
        keys = np.zeros(len(ids), np.uint64)
        for i, b in enumerate(ids):
            key = self.group + self.next_game * self.groups
            self.next_game += 1
            keys[i] = key
            self._seat(int(b), key)
        if self._hard is None:
            self._call(kernels.start_games, ids, keys)
            return
        lines = self._hard.lines_of(self.forest.seed, keys, self.config.selfplay.hard_position_share)
        usual, hard = np.flatnonzero(lines < 0), np.flatnonzero(lines >= 0)
        if len(usual):
            self._call(kernels.start_games, ids[usual], keys[usual])
        if len(hard):
            self._place(ids[hard], keys[hard], self._hard.states[lines[hard]], self._hard.plies[lines[hard]])

    def _place(self, ids: Array, keys: Array, states: Array, plies: Array) -> None:
        """Begin games at given decisions with a choice: what `start_games` does, from its setup on."""
        self.forest.plant(ids, states, keys, plies)
        games, full = self.games.games, np.ones(len(ids), np.int32)
        budgets, own = np.zeros(len(ids), np.int32), self._own
        for i, (key, ply) in enumerate(zip(keys, plies, strict=True)):
            mine = own[min(int(ply), len(own) - 1)]
            share = mine["full_search_fraction"]
            if share < 1:
                full[i] = draws.uniform(self.forest.seed, draws.BUDGET, key, ply, 0) < share
            budgets[i] = mine["simulations" if full[i] else "cheap_simulations"]
        other = self.games.seats[ids, self.forest.trees.nodes[ids, 0]["to_play"]] > 0
        games["key"][ids], games["rows"][ids], games["entries"][ids] = keys, 0, 0
        games["waits"][ids] = np.where(other, kernels.OTHER_PLAYER, kernels.SEARCH)
        games["full"][ids] = full
        if not other.all():
            self.forest.begin(ids[~other], budgets[~other], full[~other])
        if other.any():
            self._call(kernels.play_others, ids[other], self._choose(ids[other]))

    def _seat(self, b: int, key: int) -> None:
        seats = self.games.seats[b]
        seats[:] = 0
        if not self.config.selfplay.opponents:
            return
        u = float(draws.uniform(self.forest.seed, draws.SEATING, key, 0, 0))
        for opponent in self.config.selfplay.opponents:
            u -= opponent.share
            if u < 0:
                assert self._opponent_label is not None
                label = self._opponent_label(opponent.player, key)
                if label not in self.labels:
                    self.labels.append(label)
                players = self.game.num_players
                seat = draws.integer(self.forest.seed, draws.SEATING, key, 1, 0, players)
                seats[seat] = 1 + self.labels.index(label)
                return

    def _finish(self, b: int) -> None:
        """Hand out the game in tree b as an episode; a game without a single row is none."""
        g, here = self.games, self.games.games[b]
        n, entries = int(here["rows"]), int(here["entries"])
        if n == 0:
            return
        rows = g.rows[b, :n]
        state = self.forest.trees.states[b, 0]
        outcome, values = -1, g.values[b, :n].copy()
        if here["waits"] == kernels.OVER:
            outcome = int(self.game.rules["outcome"](state))
            final = self.game.outcomes[outcome] / np.float32(self.game.scale)
        else:
            searched = np.flatnonzero(rows["simulations"] > 0)
            final = values[searched[-1]] if len(searched) else np.zeros_like(values[0])
        others = [self.labels[s - 1] for s in g.seats[b] if s]
        begun = time.perf_counter()
        self.on_episode(
            Episode(
                game=self.game.id,
                rules_identity=rules_identity(self.game),
                observation_version=self.game.observation.version,
                seed=self.seed,
                game_id=int(here["key"]),
                source="selfplay" if not others else f"selfplay:{others[0]}",
                seats=tuple(self._seated(int(s)) for s in g.seats[b]),
                outcome=outcome,
                final_value=np.array(final, np.float32),
                states=g.row_states[b, : -(-n // self.game.keyframe_every)].copy(),
                action=np.array(rows["action"], np.int32),
                to_play=rows["to_play"].astype(np.int8),
                policy_weight=np.array(rows["policy_weight"], np.float32),
                value_weight=np.array(rows["value_weight"], np.float32),
                simulations=np.array(rows["simulations"], np.int32),
                root_value=values,
                surprise=np.array(rows["surprise"], np.float32),
                offsets=np.append(rows["start"], np.int32(entries)).astype(np.int32),
                policy_ids=g.ids[b, :entries].copy(),
                policy_probs=g.probs[b, :entries].astype(np.float16),
            )
        )
        self.transfer_seconds += time.perf_counter() - begun

    def _seated(self, seat: int) -> str:
        """Return who sits in a seat as the game ends: a model by its hash, or a player by its name."""
        label = self.labels[seat - 1] if seat else ""
        return {"": self.model, "policy": f"policy:{self.model}"}.get(label, label)

    def _reserve(self) -> None:
        """Make room for one more policy target in every game."""
        g = self.games
        if int(g.games["entries"].max()) + self.game.max_legal > g.ids.shape[1]:
            self.games = g._replace(
                ids=np.concatenate([g.ids, np.zeros_like(g.ids)], 1),
                probs=np.concatenate([g.probs, np.zeros_like(g.probs)], 1),
            )

    def snapshot(self) -> dict[str, Array]:
        """Return every array that the games in flight consist of; valid between phases only."""
        assert self._ticket is None
        t = self.forest.trees._asdict()
        arrays = {f"tree.{k}": v for k, v in t.items()}
        arrays |= {f"game.{k}": v for k, v in self.games._asdict().items()}
        if self._hard is not None:
            arrays["hard"] = np.frombuffer(self._hard.fingerprint.encode(), np.uint8)
        arrays["rows"] = np.array([self.forest.rows, self.next_game, self.moves, int(self._started)])
        return arrays

    def restore(self, arrays: dict[str, Array], labels: list[str], finished: Iterable[int]) -> None:
        """Continue from a snapshot; games whose keys are in `finished` are replaced by new ones.

        Raises:
          ResumeError: the file of hard positions is not the one that the run has had.
        """
        if self._hard is not None and arrays["hard"].tobytes() != self._hard.fingerprint.encode():
            raise ResumeError(
                f"selfplay.hard_positions: {self._hard.path} has changed since the run began; restore it, or "
                "start a new run."
            )
        for name, mine in self.forest.trees._asdict().items():
            mine[...] = arrays[f"tree.{name}"]
        self.games = Games(**{k: arrays[f"game.{k}"].copy() for k in Games._fields})
        rows, self.next_game, self.moves, started = (int(x) for x in arrays["rows"])
        self._started = bool(started)
        self.forest.rows = rows
        self.labels = list(labels)
        again = np.isin(self.games.games["key"], np.array(sorted(finished), np.uint64))
        self.skip(finished)
        if self._started and again.any():
            self._drop(np.flatnonzero(again).astype(np.int32))

    def skip(self, finished: Iterable[int]) -> None:
        """Give no new game a key up to those of these finished games."""
        mine = [(key - self.group) // self.groups for key in finished if key % self.groups == self.group]
        self.next_game = max([self.next_game, *(k + 1 for k in mine)])

    def _drop(self, ids: Array) -> None:
        """Forget these games and their waiting leaves, and begin new ones in their place."""
        t, rows = self.forest.trees, self.forest.rows
        keep = np.flatnonzero(~np.isin(t.leaves["tree"][:rows], ids))
        for name in ("leaves", "paths", "leaf_states", "leaf_legal", "leaf_count"):
            array = getattr(t, name)
            array[: len(keep)] = array[keep]
        self.forest.rows = len(keep)
        self._start(ids)


def needed_nodes(game: Game, config: Config) -> int:
    """Return the nodes that a tree needs for its largest budget (with reuse: as much again, inherited)."""
    search, own = config.search, config.selfplay
    budget = int(max(search.simulations.maximum, own.cheap_simulations.maximum))
    inherited = budget if search.tree_reuse else 0
    return nodes_for(game, budget + inherited, search.chance)
