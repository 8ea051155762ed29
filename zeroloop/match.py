"""Match: players against each other from distinct openings, every opening in every seating.

A failed, illegal or late move voids the match with the position in the message; nothing is substituted.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import draws
from .compiled import kernel
from .errors import PlayerError
from .games.game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    legal_actions,
    to_play,
)
from .players import Player, SearchPlayer
from .rating import Interval, elo_from_score, normalised_score, score_interval

Array = npt.NDArray[Any]


Progress = Callable[[int, int], None]
"""Called with (games finished, games)."""


class MatchResult(NamedTuple):
    """What G games between two sides showed; the first side takes one seat, the second all others."""

    players: tuple[str, str]
    points: npt.NDArray[np.float32]
    """`f4 [G, P]`, by seat."""
    seat: npt.NDArray[np.int32]
    """`i4 [G]`: the first side's seat."""
    opening: npt.NDArray[np.int32]
    """`i4 [G]`: games with the same number began alike."""
    plies: npt.NDArray[np.int32]
    """`i4 [G]`, those of the opening left out."""
    moves: tuple[npt.NDArray[np.int32], ...]
    """G arrays `i4 [plies]`: actions and chance outcomes from the start state on."""
    truncated: int
    """Games cut at the ply bound; every seat has the mean of worst and best points, so they score 0.5."""
    worst: float
    best: float

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The first side's score of each game, 0..1: one half plus half its lead over the others' mean.

        Points count on a scale from worst (0) to best (1). Identical play scores 0.5 on average over the
        seatings; where two players share a fixed sum, the score is the first side's place on the scale.
        """
        games, seats = self.points.shape
        flat = [normalised_score(float(x), self.worst, self.best) for x in self.points.flat]
        scaled: npt.NDArray[np.float64] = np.array(flat).reshape(games, seats)
        own = scaled[np.arange(games), self.seat]
        if seats == 1:
            return own
        others: npt.NDArray[np.float64] = (scaled.sum(1) - own) / (seats - 1)
        return 0.5 + (own - others) / 2

    @property
    def pairs(self) -> npt.NDArray[np.float64]:
        """The mean score of each opening over its seatings: independent samples."""
        scores = self.scores
        return self._per_opening(scores)

    @property
    def score(self) -> float:
        """The first side's mean score, 0..1; 0.5 where the sides are equal."""
        return float(self.scores.mean())

    @property
    def interval(self) -> Interval:
        """95 % interval of the score."""
        return score_interval(self.pairs)

    @property
    def own_points(self) -> npt.NDArray[np.float64]:
        """The first side's points of each game."""
        return self.points[np.arange(len(self.seat)), self.seat].astype(np.float64)

    @property
    def first_places(self) -> npt.NDArray[np.float64]:
        """The first side's share of the first place of each game: 1, 1/k where k seats share it, or 0."""
        best = self.points == self.points.max(1, keepdims=True)
        own = best[np.arange(len(self.seat)), self.seat]
        return np.asarray(own / best.sum(1), np.float64)

    def _per_opening(self, samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.array([samples[self.opening == k].mean() for k in np.unique(self.opening)])

    def summary(self) -> dict[str, Any]:
        """Return the result as plain data; infinite Elo is None."""
        finite = 0 < self.score < 1
        by_seat = {}
        span = self.best - self.worst
        points = score_interval(self._per_opening((self.own_points - self.worst) / span))
        for seat in range(self.points.shape[1]):
            mine = self.scores[self.seat == seat]
            by_seat[str(seat)] = {
                "games": len(mine),
                "score": float(mine.mean()) if len(mine) else None,
            }
        return {
            "players": list(self.players),
            "games": len(self.seat),
            "pairs": len(self.pairs),
            "score": self.score,
            "interval": list(self.interval),
            "points_per_game": float(self.own_points.mean()),
            "points_interval": [self.worst + span * x for x in points],
            "first_place_rate": float(self.first_places.mean()),
            "first_place_interval": list(score_interval(self._per_opening(self.first_places))),
            "elo": elo_from_score(self.score) if finite else None,
            "by_seat": by_seat,
            "distinct_openings": len(np.unique(self.opening)),
            "mean_plies": float(self.plies.mean()),
            "truncated": self.truncated,
            "voided": 0,
        }


def play_match(
    game: Game,
    first: Player,
    second: Player,
    *,
    starts: Array,
    seed: int = 0,
    first_opening: int = 0,
    progress: Progress | None = None,
) -> MatchResult:
    """Play every start once for each seat of the first side; dice are the same in all seatings of a start.

    Args:
      starts: `state_dtype [k]`, see `openings`. first_opening: number of the first one, for keys.

    Raises:
      PlayerError: a player failed or chose an illegal action; the match is void.
    """
    numbers = np.arange(len(starts), dtype=np.int32) + first_opening
    report = progress or (lambda finished, games: None)
    if isinstance(first, SearchPlayer) and isinstance(second, SearchPlayer) and first is not second:
        tables = _in_lanes(game, (first, second), starts, numbers, seed, report)
    else:
        tables = [_Table(game, starts, numbers, seed)]
        with ThreadPoolExecutor(2) as pool:
            _by_rounds(tables[0], (first, second), pool, report)
    parts = [table.result((first.name, second.name)) for table in tables]
    return parts[0] if len(parts) == 1 else _sorted(joined(parts))


def _by_rounds(
    table: _Table, sides: tuple[Player, Player], pool: ThreadPoolExecutor, report: Progress
) -> None:
    """Let both sides choose in all games at once, one thread each, until every game is over."""
    while len(rows := table.turn(table.games)):
        report(table.finished, len(table.games))
        jobs = []
        for side, player in enumerate(sides):
            mine = table.of_side(rows, side)
            if len(mine):
                jobs.append((player, mine, pool.submit(player.choose, *table.asked(mine))))
        for player, mine, job in jobs:
            table.play(player, mine, _answer(player, job.result(), len(mine)))
    report(table.finished, len(table.games))


LANE_OPENINGS = 16
"""Openings that are worth a thread of their own."""


def _in_lanes(
    game: Game,
    sides: tuple[SearchPlayer, SearchPlayer],
    starts: Array,
    numbers: Array,
    seed: int,
    report: Progress,
) -> list[_Table]:
    """Share the openings out to threads, each with both networks for itself, and play them all."""
    lanes = list(zip(*(player.lanes(len(starts) // LANE_OPENINGS) for player in sides), strict=False))
    tables = [
        _Table(game, starts[k :: len(lanes)], numbers[k :: len(lanes)], seed) for k in range(len(lanes))
    ]
    lock, stopped = Lock(), Event()

    def tell() -> None:
        with lock:
            report(sum(t.finished for t in tables), sum(len(t.games) for t in tables))

    def play(table: _Table, lane: tuple[SearchPlayer, SearchPlayer]) -> None:
        try:
            _by_ticks(table, lane, tell, stopped)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(len(lanes)) as pool:
        jobs = [pool.submit(play, table, lane) for table, lane in zip(tables, lanes, strict=True)]
    for job in jobs:
        job.result()
    return tables


def _by_ticks(
    table: _Table, sides: tuple[SearchPlayer, SearchPlayer], tell: Callable[[], None], stopped: Event
) -> None:
    """Tick both networks' searches in turn; a game goes to its next side as soon as its search ends.

    So batches stay full, no thread waits for another, and what is in a batch follows from the games alone.
    """
    streams = [player.stream(len(table.games)) for player in sides]
    rows = table.turn(table.games, forced=True)
    while table.finished < len(table.games) and not stopped.is_set():
        ended = [table.games[:0]]
        for side, (player, stream) in enumerate(zip(sides, streams, strict=True)):
            mine = table.of_side(rows, side)
            stream.add(mine, *table.asked(mine))
            if stream.busy:
                done, found = stream.tick()
                if found is not None:
                    table.play(player, done, found.action.astype(np.int64))
                    ended.append(done)
        rows = table.turn(np.concatenate(ended), forced=True)
        if len(ended) > 1:
            tell()


class _Table:
    """The games of a match while they are played."""

    def __init__(self, game: Game, starts: Array, numbers: Array, seed: int) -> None:
        seats, k = game.num_players, len(starts)
        self.game, self._seed = game, np.uint64(seed)
        self.states = np.repeat(starts, seats)
        self.games = np.arange(len(self.states))
        self._seat = np.tile(np.arange(seats, dtype=np.int32), k)
        self._opening = np.repeat(numbers, seats)
        self._plies, self._rolls, self._mover = (np.zeros(len(self.states), np.int32) for _ in range(3))
        self._record = np.zeros(
            (len(self.states), game.max_plies), np.int32
        )  # untouched pages cost no memory
        self._legal = np.zeros(max(game.max_legal, game.max_chance), np.int32)
        self._chance = np.zeros(max(game.max_chance, 1), np.float32)
        self._live = np.ones(len(self.states), bool)

    @property
    def finished(self) -> int:
        """Games that are over, or were cut at the ply bound."""
        return int((~self._live).sum())

    def turn(self, rows: Array, forced: bool = False) -> Array:
        """Roll the dice that these games wait for, play moves without a choice where `forced`; return those
        in which a seat is to move now."""
        rows = rows[self._live[rows]]
        roll(
            *(self.game, self._seed, self.states, rows, self._opening, self._plies, self._rolls),
            *(self._legal, self._chance, self._mover, self._record, forced),
        )
        self._live[rows] = (self._mover[rows] != TERMINAL) & (self._plies[rows] < self.game.max_plies)
        return rows[self._live[rows]]

    def of_side(self, rows: Array, side: int) -> Array:
        """Return those of the games in which this side is to move."""
        mine: Array = rows[(self._mover[rows] == self._seat[rows]) == (side == 0)]
        return mine

    def asked(self, rows: Array) -> tuple[Array, Array, Array]:
        """Return states, keys and plies for `Player.choose`."""
        return self.states[rows], self._opening[rows].astype(np.uint64), self._plies[rows]

    def play(self, player: Player, rows: Array, actions: npt.NDArray[np.int64]) -> None:
        """Play a side's actions; PlayerError where one is not legal."""
        illegal = play_moves(self.game, self.states, rows, actions, self._legal, self._plies, self._record)
        if illegal >= 0:
            raise PlayerError(
                f"{player.name} chose action {actions[illegal]} in position "
                f"{self.game.position(self.states[rows[illegal]])} of {self.game.id}, "
                "which is not legal. The match is void; no move was substituted."
            )

    def result(self, players: tuple[str, str]) -> MatchResult:
        """Return what the finished games showed."""
        game = self.game
        worst, best = float(game.outcomes.min()), float(game.outcomes.max())
        points = np.full((len(self.states), game.num_players), (worst + best) / 2, np.float32)
        for b in np.flatnonzero(self._mover == TERMINAL):
            points[b] = game.outcomes[game.rules["outcome"](self.states[b])]
        cut = int((self._mover != TERMINAL).sum())
        moves = tuple(row[:count].copy() for row, count in zip(self._record, self._plies, strict=True))
        return MatchResult(players, points, self._seat, self._opening, self._plies, moves, cut, worst, best)


def _answer(player: Player, answer: Any, count: int) -> npt.NDArray[np.int64]:
    """Return a player's actions as they are, one a state; PlayerError where they are anything else."""
    actions = np.asarray(answer)
    if actions.shape != (count,) or actions.dtype.kind not in "iu":
        raise PlayerError(
            f"{player.name} answered {count} positions with an array {actions.dtype}{list(actions.shape)}; "
            f"it must give {count} whole numbers. The match is void; no move was substituted."
        )
    return actions.astype(np.int64)


@kernel
def play_moves(game, states, rows, actions, legal, plies, record):
    """Play an action in each state of `rows`; stop at the first illegal one and return its place, else -1."""
    for i in range(rows.shape[0]):
        state = states[rows[i]]
        found = False
        for k in range(legal_actions(game, state, legal)):
            found = found or legal[k] == actions[i]
        if not found:
            return i
        apply_action(game, state, actions[i])
        record[rows[i], plies[rows[i]]] = actions[i]
        plies[rows[i]] += 1
    return -1


@kernel
def roll(game, seed, states, rows, opening, plies, rolls, legal, chance, mover, record, forced):
    """Play the chance outcomes that these games wait for, and only moves where `forced`; say who is to move.

    The n-th roll of a game is keyed by opening and n, not by ply: games of one opening keep the same dice
    when one of them has spent more plies on its turns.
    """
    for i in range(rows.shape[0]):
        b = rows[i]
        state = states[b]
        mover[b] = to_play(game, state)
        while mover[b] != TERMINAL and plies[b] < record.shape[1]:
            if mover[b] == CHANCE:
                k = chance_outcomes(game, state, legal, chance)
                action = legal[
                    draws.pick(chance, k, draws.uniform(seed, draws.CHANCE, opening[b], rolls[b], 0))
                ]
                rolls[b] += 1
            elif forced and legal_actions(game, state, legal) == 1:
                action = legal[0]
            else:
                break
            apply_action(game, state, action)
            record[b, plies[b]] = action
            plies[b] += 1
            mover[b] = to_play(game, state)


def _sorted(result: MatchResult) -> MatchResult:
    """Return the same games by opening and seat."""
    order = np.lexsort((result.seat, result.opening))
    arrays = {name: getattr(result, name)[order] for name in ("points", "seat", "opening", "plies")}
    return result._replace(moves=tuple(result.moves[i] for i in order), **arrays)


def joined(parts: list[MatchResult]) -> MatchResult:
    """Return several parts of one match as one result."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("points", "seat", "opening", "plies")
    }
    moves = tuple(m for p in parts for m in p.moves)
    return parts[0]._replace(truncated=sum(p.truncated for p in parts), moves=moves, **arrays)
