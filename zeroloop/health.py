"""Health: what a run's games, losses and matches say of its condition, as warnings that begin and end.

A warning never stops training and changes nothing. A measurement with too few games is absent, not guessed.
Everything that a resumed run needs is plain data (`state`); the window's keys come back with its games.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .config import HealthConfig
from .episode import Episode
from .games.game import Game
from .symptoms import (
    LEAST_GAMES,
    Reading,
    calibration,
    calibration_reading,
    effective_number,
    match_seats,
    promotions,
    seat_reading,
    seat_surprises,
    state_keys,
)

Array = npt.NDArray[Any]
Row = dict[str, Any]

OPENING_PLY = 8
"""Ply (chance plies included) at which openings are told apart."""
BINS = 10
"""Bins of equal width of a value in -1..1."""
REMEMBERED = 16
"""Iterations that a loss is compared with."""
LEAST_RISE = 0.1
"""Rise of a loss, in its unit, that counts; a loss near 0 doubles by noise."""
POOLED_ITERATIONS = 64
"""Iterations judged as one at most, where hardly a game ends."""


class Warned(NamedTuple):
    """A warning that begins or ends."""

    name: str
    begins: bool
    reading: Reading

    def plain(self) -> Row:
        """Return it as plain data, as events have it."""
        r = self.reading
        state = "begins" if self.begins else "ends"
        told = {"n": r.n, "value": r.value, "limit": r.limit, "text": r.text}
        return {"warning": self.name, "state": state, **told}


class Health:
    """Takes a run's finished games, probes and losses; says what is wrong at the end of each iteration."""

    def __init__(self, game: Game, config: HealthConfig) -> None:
        self.game, self.config = game, config
        self.active: dict[str, str] = {}
        """Text of each warning that has begun and not ended."""
        self.begun = 0
        """Warnings that ever began."""
        self._streaks: dict[str, int] = {}
        self._now = self._empty()
        self._pool: list[Row] = []
        self._losses: dict[str, list[float]] = {}
        self._most_openings = 0.0
        self._next_count = 0
        self._start = _fixed_start(game)
        self._keys: deque[Array] = deque()
        self._waiting: list[Array] = []
        self._held = 0

    def _empty(self) -> Row:
        seats = [0.0] * self.game.num_players
        return {
            "games": 0,
            "draws": 0,
            "truncated": 0,
            "points": seats,
            "squares": list(seats),
            "bins": [[0.0] * 4 for _ in range(BINS)],
            "moments": [0.0] * 6,
            "openings": [],
            "target_entropy": [0.0, 0],
            "surprise": [[0.0, 0] for _ in seats],
            "probe": [0.0, 0.0, 0],
            "losses": {},
            "searched": [0, 0],
        }

    def keep(self, episode: Episode, held: int) -> None:
        """Take the positions of an episode that enters the window, which now holds `held` episodes."""
        if self.game.keyframe_every == 1:
            learnt = (episode.policy_weight > 0) | (episode.value_weight > 0)
            self._waiting.append(episode.states[learnt])
        else:
            self._waiting.append(episode.states.copy())  # without the bytes that it may be a view of
        self._held = held
        if len(self._waiting) >= 64:
            self._hash()

    def _hash(self) -> None:
        if self._waiting:
            keys = state_keys(np.concatenate(self._waiting))
            self._keys.extend(np.split(keys, np.cumsum([len(s) for s in self._waiting])[:-1]))
            self._waiting.clear()
        while len(self._keys) > self._held:
            self._keys.popleft()

    def add(self, episode: Episode) -> None:
        """Take a game that has just ended; games with other players in a seat tell nothing of the model."""
        if episode.source != "selfplay":
            return
        now = self._now
        now["games"] += 1
        if episode.game_id % 4 == 0:  # a fourth is enough, and costs a fourth
            probability = np.maximum(episode.policy_probs.astype(np.float32), 1e-9)
            now["target_entropy"][0] -= float(probability @ np.log(probability))
            now["target_entropy"][1] += int(np.count_nonzero(np.diff(episode.offsets)))
            for seat, sums in enumerate(now["surprise"]):
                mine = episode.surprise[(episode.to_play == seat) & (episode.policy_weight > 0)]
                sums[0] += float(mine.sum())
                sums[1] += len(mine)
        self._add_opening(episode)
        if episode.truncated:
            now["truncated"] += 1
            return
        points = episode.final_value.tolist()
        now["draws"] += int(min(points) == max(points))
        for seat, x in enumerate(points):
            now["points"][seat] += x
            now["squares"][seat] += x * x
        searched = np.flatnonzero(episode.simulations)
        if len(searched):  # one position a game: its others share the outcome
            ply = searched[(episode.game_id * 2654435761 >> 7) % len(searched)]
            mover = episode.to_play[ply]
            self._add_value(float(episode.root_value[ply, mover]), points[mover])

    def _add_value(self, value: float, outcome: float) -> None:
        chosen = self._now["bins"][min(max(int((value + 1) / 2 * BINS), 0), BINS - 1)]
        squares = (value * value, value * outcome, outcome * outcome)
        for i, x in enumerate((1.0, value, outcome, outcome * outcome)):
            chosen[i] += x
        for i, x in enumerate((1.0, value, outcome, *squares)):
            self._now["moments"][i] += x

    def _add_opening(self, episode: Episode) -> None:
        frame = -(-OPENING_PLY // self.game.keyframe_every)
        if self._start and len(episode.states) > frame and episode.states[0].tobytes() == self._start:
            self._now["openings"].append(int(state_keys(episode.states[frame : frame + 1])[0]))

    def probe(self, logits: Array, legal_mask: Array) -> None:
        """Take the raw policy's logits at n positions, `f4 [n, L]` over legal actions, `bool [n, L]`."""
        several = legal_mask.sum(1) > 1
        mask, x = legal_mask[several], logits[several].astype(np.float64)
        x = np.where(mask, x, -np.inf)
        x -= x.max(1, keepdims=True, initial=-1e300)
        weight = np.exp(x)
        total = weight.sum(1, keepdims=True)
        entropy = np.log(total[:, 0]) - (weight * np.where(mask, x, 0.0)).sum(1) / total[:, 0]
        probe = self._now["probe"]
        probe[0] += float(entropy.sum())
        probe[1] += float(np.log(mask.sum(1)).sum())
        probe[2] += int(several.sum())

    def loss(self, head: str, value: float) -> None:
        """Take the loss of one optimiser step."""
        sums = self._now["losses"].setdefault(head, [0.0, 0])
        sums[0] += value
        sums[1] += 1

    def searched(self, simulations: int, overflows: int) -> None:
        """Take the counters of the searches."""
        self._now["searched"][0] += simulations
        self._now["searched"][1] += overflows

    def close_iteration(self, positions: int, window: int) -> tuple[dict[str, float], list[Warned]]:
        """End an iteration: return what was measured, by metric name, and the warnings that turn.

        Args:
          positions: ever added to replay; window: positions in it.
        """
        self._pool.append(self._now)
        self._now = self._empty()
        games = [row["games"] for row in self._pool]
        while len(games) > 1 and (sum(games[1:]) >= self.config.games or len(games) > POOLED_ITERATIONS):
            self._pool.pop(0)
            games.pop(0)
        values: dict[str, float] = {}
        readings = [
            *self._seats(),
            *self._surprises(values),
            *self._ends(),
            *self._entropies(values),
            *self._calibration(values),
            *self._openings(values),
            *self._duplicates(values, positions, window),
            *self._exploding(),
            *self._overflows(),
        ]
        return values, self.judge(readings, self.config.patience)

    def judge(self, readings: Iterable[Reading], patience: int = 1) -> list[Warned]:
        """Begin a warning after `patience` bad readings in a row; end it after as many good ones."""
        turned = []
        for r in readings:
            streak, on = self._streaks.get(r.name, 0), r.name in self.active
            changes = r.good if on else r.bad
            streak = streak + 1 if changes else 0
            if streak >= patience:
                streak = 0
                turned.append(Warned(r.name, not on, r))
                if on:
                    del self.active[r.name]
                else:
                    self.begun += 1
                    self.active[r.name] = r.text
            elif on and r.bad:
                self.active[r.name] = r.text
            self._streaks[r.name] = streak
        return turned

    def failed(self, reason: str) -> list[Warned]:
        """Return the warning of a learner that gave up."""
        limit = self.config.loss_ratio
        text = f"learning failed: {reason}"
        return self.judge([Reading("loss_failed", True, False, 1, 0.0, limit, text)]) if limit else []

    def _sum(self, name: str) -> Array:
        return np.asarray(np.sum([row[name] for row in self._pool], axis=0))

    def _seats(self) -> Iterator[Reading]:
        n = int(self._sum("games") - self._sum("truncated"))
        if n < LEAST_GAMES:
            return
        mean, squares = self._sum("points") / n, self._sum("squares") / n
        for name, most in self.config.seat_most.items():
            if int(name) >= self.game.num_players:
                continue
            seat = int(name)
            error = math.sqrt(max(squares[seat] - mean[seat] ** 2, 0) / n)
            yield seat_reading("self-play", seat, float(mean[seat]), error, n, most)

    def _surprises(self, values: dict[str, float]) -> Iterator[Reading]:
        found = list(seat_surprises(self._sum("surprise"), self.config.seat_surprise))
        if found:
            values["seat_surprise"] = max(r.value for r in found)
        yield from found if self.config.seat_surprise else ()

    def _ends(self) -> Iterator[Reading]:
        games = int(self._sum("games"))
        if games < LEAST_GAMES:
            return
        for name, limit, told in (
            ("draws", self.config.draws, "ended in a draw"),
            ("truncated", self.config.truncated, "were cut at the ply bound"),
        ):
            if limit:
                share = float(self._sum(name) / games)
                text = f"{share:.0%} of the last {games} games {told}; the limit is {limit:.0%}."
                yield Reading(name, share > limit, share < 0.95 * limit, games, share, limit, text)

    def _entropies(self, values: dict[str, float]) -> Iterator[Reading]:
        total, possible, n = self._sum("probe")
        played, targets = self._sum("target_entropy")
        if not n or not possible:
            return
        found = {"policy_entropy": (float(total / possible), int(n), "the raw policy")}
        if targets:
            share = float(played / targets / (possible / n))
            found["target_entropy"] = (share, int(targets), "the policy targets")
        limit = self.config.entropy
        for name, (share, count, told) in found.items():
            values[name] = share
            if limit and count >= LEAST_GAMES:
                text = (
                    f"the mean entropy of {told} is {share:.3f} of the log of the legal moves over {count} "
                    f"positions; the limit is {limit:g}."
                )
                yield Reading(name, share < limit, share > 1.2 * limit, count, share, limit, text)

    def _calibration(self, values: dict[str, float]) -> Iterator[Reading]:
        found = calibration(self._sum("bins"), self._sum("moments"))
        if found is None or found.n < LEAST_GAMES:
            return
        values |= {"calibration_error": found.error, "calibration_floor": found.floor}
        values["calibration_slope"] = found.slope
        limit = self.config.calibration
        if limit:
            yield calibration_reading(found, limit)

    def _openings(self, values: dict[str, float]) -> Iterator[Reading]:
        keys = [key for row in self._pool for key in row["openings"]]
        n, limit = len(keys), self.config.openings
        if n < LEAST_GAMES:
            return
        distinct = effective_number(np.array(keys, np.uint64))
        values["openings"] = distinct
        self._most_openings = max(self._most_openings, distinct)
        if limit:
            least = max(2.0, limit * self._most_openings)
            text = (
                f"{n} games from the start reach {distinct:.1f} different positions (effective number) "
                f"at ply {OPENING_PLY}; the most was {self._most_openings:.0f}, the limit is {least:.1f}."
            )
            yield Reading("openings", distinct < least, distinct > 1.5 * least, n, distinct, least, text)

    def _duplicates(self, values: dict[str, float], positions: int, window: int) -> Iterator[Reading]:
        limit = self.config.duplicates
        if not limit or positions < self._next_count:
            return
        self._hash()
        if not self._keys:
            return
        self._next_count = positions + max(window // 4, 1)
        keys = np.sort(np.concatenate(list(self._keys)))
        n = len(keys)
        if n < 10 * LEAST_GAMES:
            return
        share = float(np.count_nonzero(keys[1:] == keys[:-1]) / n)
        values["duplicates"] = share
        text = f"{share:.1%} of {n} positions in the window repeat another; the limit is {limit:.0%}."
        yield Reading("duplicates", share > limit, share < 0.9 * limit, n, share, limit, text)

    def _exploding(self) -> Iterator[Reading]:
        ratio = self.config.loss_ratio
        for head, (total, steps) in self._pool[-1]["losses"].items():
            past, mean = self._losses.setdefault(head, []), total / steps
            if ratio and len(past) >= 4:
                usual, name = float(np.median(past)), f"loss_{head}"
                limit = max(ratio * usual, usual + LEAST_RISE)
                text = (
                    f"the {head} loss is {mean:.3f} over {steps} steps, where it was {usual:.3f} in the "
                    f"{len(past)} iterations before; the limit is {limit:.3f}."
                )
                yield Reading(name, mean > limit, mean < 0.9 * limit, steps, mean, limit, text)
                if mean > limit or name in self.active:
                    continue  # what is wrong is no measure of what is usual
            past.append(mean)
            del past[:-REMEMBERED]

    def _overflows(self) -> Iterator[Reading]:
        simulations, full = (int(x) for x in self._sum("searched"))
        limit = self.config.overflows
        if limit and simulations:
            share = full / simulations
            text = (
                f"{share:.1%} of {simulations} simulations found their tree full; the limit is {limit:.0%}: "
                "raise search.max_nodes, or lower search.simulations."
            )
            yield Reading("overflows", share > limit, share < 0.8 * limit, simulations, share, limit, text)

    def close_evaluation(self, rows: Sequence[Row]) -> list[Warned]:
        """Judge the evaluations of the run, oldest first, as `matches.jsonl` has them."""
        readings = [*match_seats(rows[-1], self.config.seat_most)] if rows else []
        if self.config.evaluations:
            readings += promotions(rows, self.config.evaluations)
        return self.judge(readings)

    STATE = ("active", "begun", "_streaks", "_now", "_pool", "_losses", "_most_openings", "_next_count")

    def state(self) -> Row:
        """Return everything but the window as plain data."""
        return {name.lstrip("_"): getattr(self, name) for name in self.STATE}

    def restore(self, state: Row) -> None:
        """Go on from `state()`."""
        for name in self.STATE:
            setattr(self, name, state[name.lstrip("_")])


def _fixed_start(game: Game) -> bytes:
    """Return the state in which every game begins; empty where the setup is drawn."""
    starts = {game.initial_state(seed).tobytes() for seed in range(8)}
    return starts.pop() if len(starts) == 1 else b""


def spans(rows: Iterable[Row]) -> list[Row]:
    """Return each warning of a run's events with its `end`, the iteration, where it has ended.

    A session that was killed may have told a beginning twice: the later one counts.
    """
    found: list[Row] = []
    for row in rows:
        open_ones = [w for w in found if w["warning"] == row["warning"] and "end" not in w]
        if row["state"] == "begins":
            found = [w for w in found if w not in open_ones] + [dict(row)]
        for began in open_ones if row["state"] == "ends" else ():
            began["end"] = row["iteration"]
    return found
