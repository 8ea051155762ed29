"""Match: players against each other from distinct openings, every opening in every seating.

A failed, illegal or late move voids the match with the position in the message; nothing is substituted.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import draws
from .compiled import kernel
from .errors import ConfigError, PlayerError
from .games.game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    initial,
    legal_actions,
    to_play,
)
from .players import Player
from .rating import Interval, elo_from_score, normalised_score, score_interval

Array = npt.NDArray[Any]


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


class Openings(NamedTuple):
    """k distinct openings and how they came about."""

    states: Array
    """`state_dtype [k]`: where the players take over."""
    initial: Array
    """`state_dtype [k]`: where the game began."""
    moves: tuple[npt.NDArray[np.int32], ...]
    """k arrays: the random actions and chance outcomes between."""


@kernel
def draw_opening(game, seed, number, attempt, plies, begin, state, legal, chance, played):
    """Play `plies` random decisions from `begin`; return all plies made, -1 where no seat is to move then.

    Args:
      begin, state: filled. played: `i4 [max_plies + 1]`, the actions and chance outcomes.
    """
    key = int(draws.bits(seed, draws.INITIAL, number, 0, attempt) >> np.uint64(1))
    initial(game, begin, key)
    initial(game, state, key)
    made, step = 0, 0
    while step < played.shape[0]:
        mover = to_play(game, state)
        if mover == TERMINAL:
            return -1
        if mover != CHANCE and made == plies:
            return step
        u = draws.uniform(seed, draws.OPENING, number, step, attempt)
        if mover == CHANCE:
            k = chance_outcomes(game, state, legal, chance)
            pick = draws.pick(chance, k, u)
        else:
            k = legal_actions(game, state, legal)
            pick = min(int(u * k), k - 1)
            made += 1
        played[step] = legal[pick]
        step += 1
        apply_action(game, state, legal[pick])
    return -1


def openings(game: Game, count: int, plies: int, seed: int) -> Array:
    """Return `state_dtype [count]`: the states of `drawn_openings`."""
    return drawn_openings(game, count, plies, seed).states


def drawn_openings(game: Game, count: int, plies: int, seed: int) -> Openings:
    """Draw distinct positions after 1 to `plies` random plies, all undecided, with the moves to them.

    Longer openings are taken only when the shorter ones are used up.

    Raises:
      ConfigError: the game does not offer so many.
    """
    found: dict[bytes, tuple[Array, Array, npt.NDArray[np.int32]]] = {}
    width = max(game.max_legal, game.max_chance)
    legal, chance = np.zeros(width, np.int32), np.zeros(max(game.max_chance, 1), np.float32)
    played = np.zeros(game.max_plies + 1, np.int32)
    longest, failures, attempt = plies, 0, 0
    while len(found) < count:
        begin, state = game.states(1), game.states(1)
        number = len(found)
        length = 1 + draws.integer(np.uint64(seed), draws.OPENING, number, 1 << 20, attempt, longest)
        steps = draw_opening(
            game, np.uint64(seed), number, attempt, int(length), begin[0], state[0], legal, chance, played
        )
        attempt += 1
        if steps >= 0 and state.tobytes() not in found:
            found[state.tobytes()] = state, begin, played[:steps].copy()
            failures = attempt = 0
            continue
        failures += 1
        if failures == 300:
            failures, longest = 0, longest + 1
            if longest > game.max_plies:
                raise ConfigError(
                    f"{game.id} has only about {len(found)} distinct openings, but {count} were asked for; "
                    f"ask for at most {len(found) * game.num_players} games."
                )
    states, initials, moves = zip(*found.values(), strict=True) if found else ((), (), ())
    none = game.states(0)
    return Openings(np.concatenate([none, *states]), np.concatenate([none, *initials]), tuple(moves))


def play_match(
    game: Game,
    first: Player,
    second: Player,
    *,
    starts: Array,
    seed: int = 0,
    first_opening: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MatchResult:
    """Play every start once for each seat of the first side; dice are the same in all seatings of a start.

    Args:
      starts: `state_dtype [k]`, see `openings`. first_opening: number of the first one, for keys.
      progress: called with (games finished, games).

    Raises:
      PlayerError: a player failed or chose an illegal action; the match is void.
    """
    seats, k = game.num_players, len(starts)
    states = np.repeat(starts, seats)
    seat = np.tile(np.arange(seats, dtype=np.int32), k)
    opening = np.repeat(np.arange(k, dtype=np.int32) + first_opening, seats)
    plies, rolls = np.zeros(len(states), np.int32), np.zeros(len(states), np.int32)
    live = np.ones(len(states), bool)
    legal = np.zeros(max(game.max_legal, game.max_chance), np.int32)
    chance = np.zeros(max(game.max_chance, 1), np.float32)
    mover = np.zeros(len(states), np.int32)
    record = np.zeros((len(states), game.max_plies), np.int32)  # untouched pages cost no memory
    sides = (first, second)
    with ThreadPoolExecutor(2) as pool:
        while live.any():
            roll(game, np.uint64(seed), states, opening, plies, rolls, live, legal, chance, mover, record)
            live &= (mover != TERMINAL) & (plies < game.max_plies)
            if progress is not None:
                progress(int((~live).sum()), len(live))
            jobs = []
            for side, player in enumerate(sides):
                mine = np.flatnonzero(live & ((mover == seat) == (side == 0)))
                if len(mine):
                    keys = opening[mine].astype(np.uint64)
                    jobs.append((player, mine, pool.submit(player.choose, states[mine], keys, plies[mine])))
            for player, mine, job in jobs:
                actions = _answer(player, job.result(), len(mine))
                illegal = play_moves(game, states, mine, actions, legal, plies, record)
                if illegal >= 0:
                    raise PlayerError(
                        f"{player.name} chose action {actions[illegal]} in position "
                        f"{game.position(states[mine[illegal]])} of {game.id}, "
                        "which is not legal. The match is void; no move was substituted."
                    )
    moves = tuple(row[:count].copy() for row, count in zip(record, plies, strict=True))
    return _result(game, (first.name, second.name), states, seat, opening, plies, moves, mover)


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
def roll(game, seed, states, opening, plies, rolls, live, legal, chance, mover, record):
    """Play the chance outcomes that games wait for and say who is to move.

    The n-th roll of a game is keyed by opening and n, not by ply: games of one opening keep the same dice
    when one of them has spent more plies on its turns.
    """
    max_plies = record.shape[1]
    for b in range(states.shape[0]):
        state = states[b]
        while to_play(game, state) == CHANCE and live[b] and plies[b] < max_plies:
            k = chance_outcomes(game, state, legal, chance)
            u = draws.uniform(seed, draws.CHANCE, opening[b], rolls[b], 0)
            outcome = legal[draws.pick(chance, k, u)]
            apply_action(game, state, outcome)
            record[b, plies[b]] = outcome
            plies[b] += 1
            rolls[b] += 1
        mover[b] = to_play(game, state)


def _result(
    game: Game,
    players: tuple[str, str],
    states: Array,
    seat: Array,
    opening: Array,
    plies: Array,
    moves: tuple[npt.NDArray[np.int32], ...],
    mover: Array,
) -> MatchResult:
    worst, best = float(game.outcomes.min()), float(game.outcomes.max())
    points = np.full((len(states), game.num_players), (worst + best) / 2, np.float32)
    for b in np.flatnonzero(mover == TERMINAL):
        points[b] = game.outcomes[game.rules["outcome"](states[b])]
    cut = int((mover != TERMINAL).sum())
    return MatchResult(players, points, seat, opening, plies, moves, cut, worst, best)


def joined(parts: list[MatchResult]) -> MatchResult:
    """Return several parts of one match as one result."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("points", "seat", "opening", "plies")
    }
    moves = tuple(m for p in parts for m in p.moves)
    return parts[0]._replace(truncated=sum(p.truncated for p in parts), moves=moves, **arrays)
