"""The likelihood of a table of games: arrays of results, the Bradley-Terry and Davidson model, its maximum.

Everything here is in nats of strength; `elo` turns it into ratings with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, ZeroloopError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

# Elo points per natural-log unit of strength: 400 / ln 10.
ELO_PER_NAT = 400.0 / math.log(10.0)


class Outcomes(NamedTuple):
    """What games of one seating came to, counted from `first`'s side.

    Games of equal `group` may depend on each other (the seatings of one opening, dealt the same dice);
    different groups are independent, and with None every game is a group of its own. A game of three or
    four is one record for each pair of its players, all of one group.
    """

    first: str
    second: str
    wins: float
    draws: float
    losses: float
    group: Hashable = None
    seats: tuple[int, int] = (0, 1)
    """Of first and second; White, or who moves first, is 0."""


class Table:
    """The results as arrays: R rows, K parameters (free players, seats but the last, log of nu)."""

    def __init__(
        self,
        results: Sequence[Outcomes],
        anchors: Mapping[str, float],
        davidson: bool,
        seats: bool,
        players: Sequence[str] = (),
    ) -> None:
        for result in results:
            _check_outcomes(result)
        named = [*players, *(name for r in results for name in (r.first, r.second))]
        self.players = list(dict.fromkeys(named))
        if not anchors:
            raise ConfigError("anchors is empty; Elo differences need a player whose Elo is fixed, such as 0")
        for name, elo in anchors.items():
            if name not in self.players or not math.isfinite(elo):
                raise ConfigError(f"anchors has {name!r} at {elo}; allowed is a number for {self.players}")
        self.davidson = davidson
        index = {name: i for i, name in enumerate(self.players)}
        self.pairs = np.array([[index[r.first], index[r.second]] for r in results], np.int64).reshape(-1, 2)
        self._require_connected(anchors)
        free = [i for i, name in enumerate(self.players) if name not in anchors]
        self.column = np.full(len(self.players), -1)
        self.column[free] = np.arange(len(free))
        self.seats = max((s for r in results for s in r.seats), default=1) + 1 if seats else 0
        self.seat_columns = len(free) + np.arange(max(self.seats - 1, 0))
        self.linear = len(free) + len(self.seat_columns)  # parameters of d
        self.size = self.linear + davidson
        self.offset = np.zeros(len(results))
        self.design = np.zeros((len(results), self.linear))
        for row, result in enumerate(results):
            for name, seat, sign in zip(
                (result.first, result.second), result.seats, (1.0, -1.0), strict=True
            ):
                if name in anchors:
                    self.offset[row] += sign * anchors[name] / ELO_PER_NAT
                else:
                    self.design[row, self.column[index[name]]] += sign
                if seat < self.seats - 1:
                    self.design[row, self.seat_columns[seat]] += sign
        self.counts = np.array([r[2:5] for r in results], np.float64).reshape(-1, 3)
        self.total = self.counts.sum(axis=1)
        self._number_groups(results)
        self._require_seats()

    def _number_groups(self, results: Sequence[Outcomes]) -> None:
        """Set `group`, `i8 [R]`: numbers from 0, or -1 where every game is a group of its own."""
        numbers: dict[Hashable, int] = {}
        own = [-1 if r.group is None else numbers.setdefault(r.group, len(numbers)) for r in results]
        self.group: Index = np.array(own, np.int64)
        self.shared = len(numbers)
        self.groups = len(numbers) + int(round(self.total[self.group < 0].sum()))

    def _require_seats(self) -> None:
        if self.seats and np.linalg.matrix_rank(self.design) < self.linear:
            raise ConfigError(
                "seats cannot be told from strengths in these results, because players always sat in "
                "the same ones; let them change seats, or leave seats out"
            )

    def _require_connected(self, anchors: Mapping[str, float]) -> None:
        """Raise unless a chain of opponents links every player to an anchor."""
        root = list(range(len(self.players)))

        def find(i: int) -> int:
            while root[i] != i:
                i = root[i]
            return i

        fixed = [i for i, name in enumerate(self.players) if name in anchors]
        for a, b in [*self.pairs.tolist(), *([fixed[0], i] for i in fixed)]:
            low, high = sorted((find(a), find(b)))
            root[high] = low
        components: dict[int, list[str]] = {}
        for i, name in enumerate(self.players):
            components.setdefault(find(i), []).append(name)
        if len(components) > 1:
            groups = " and ".join(str(component) for component in components.values())
            raise ConfigError(
                f"results leave the players in {len(components)} unconnected components, {groups};"
                " Elo differences need a chain of games between them"
            )

    def games_of(self, player: int) -> float:
        """Return the games of a player."""
        return float(self.total[(self.pairs == player).any(axis=1)].sum())

    def difference(self, x: Array) -> Array:
        """Return d of each row."""
        d: Array = self.offset + self.design @ x[: self.linear]
        return d

    def chances(self, x: Array) -> tuple[Array, Array]:
        """Return the chances of win, draw and loss, and their logarithms, `f8 [R, 3]`."""
        d = self.difference(x)
        nu = x[-1] if self.davidson else -np.inf
        logits = np.stack([d / 2, np.full_like(d, nu), -d / 2], axis=1)
        top = logits.max(axis=1, keepdims=True)
        logs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        return np.exp(logs), logs

    def information(self, x: Array) -> tuple[Array, Array, Array]:
        """Return the Fisher information of the games `[K, K]`, and that of the Bradley-Terry model.

        The latter as `[L, L]` for the L parameters of d, with the weight of one game of each row `[R]`.
        """
        p, _ = self.chances(x)
        draw = p[:, 1]
        score = p[:, 0] - p[:, 2]
        of_d = 0.25 * (p[:, 0] + p[:, 2] - score**2)  # variance of (win - loss) / 2
        full = np.zeros((self.size, self.size))
        n = self.linear
        full[:n, :n] = (self.design * (self.total * of_d)[:, None]).T @ self.design
        if self.davidson:
            cross = -0.5 * self.design.T @ (self.total * score * draw)
            full[:n, n] = full[n, :n] = cross
            full[n, n] = float(self.total @ (draw * (1.0 - draw)))
        half = 0.5 * np.tanh(0.5 * self.difference(x))
        weight = 0.25 - half**2
        plain = (self.design * (self.total * weight)[:, None]).T @ self.design
        return full, plain, weight


def _check_outcomes(result: Outcomes) -> None:
    counts = result[2:5]
    if result.first == result.second:
        raise ConfigError(f"{result} must name two different players")
    if not all(math.isfinite(n) and n >= 0 for n in counts) or sum(counts) <= 0:
        raise ConfigError(f"{result} needs counts of games from 0, and at least one game")
    if result.seats[0] == result.seats[1] or min(result.seats) < 0:
        raise ConfigError(f"{result} needs two different seats from 0")


def objective(table: Table, x: Array) -> float:
    """Return the penalized log-likelihood."""
    _, logs = table.chances(x)
    decisive = table.counts[:, 0] @ logs[:, 0] + table.counts[:, 2] @ logs[:, 2]
    # Without a draw model half of each draw is a win and half a loss.
    drawn = logs[:, 1] if table.davidson else 0.5 * (logs[:, 0] + logs[:, 2])
    total = float(decisive + table.counts[:, 1] @ drawn)
    if table.linear:
        _, plain, _ = table.information(x)
        total += 0.5 * float(np.linalg.slogdet(plain)[1])
    if table.davidson:
        rate = x[-1] - math.log(2.0)
        total -= 0.5 * float(np.logaddexp(0.0, rate) + np.logaddexp(0.0, -rate))
    return total


def virtual_games(table: Table, x: Array) -> tuple[Array, Array]:
    """Return the virtual drawn games of each row that stand for Jeffreys' prior, and the weight of each."""
    if not table.linear:
        return np.zeros(len(table.total)), np.zeros(len(table.total))
    _, plain, weight = table.information(x)
    leverage = np.einsum("rk,rk->r", table.design, np.linalg.solve(plain, table.design.T).T)
    return table.total * weight * leverage, weight


def maximum(table: Table, start: Array, pseudo: float = 1.0, fixed: int = -1) -> Array:
    """Return the parameters of the largest penalized likelihood, with component `fixed` left as it is.

    Newton's method, with Jeffreys' prior as virtual drawn games that are counted anew at each
    step. If a step changes no logit by more than r, the third derivative along it is at most r times
    the second; the factor ln(1 + r) / r then improves the likelihood with those virtual games from any
    start (Sun and Tran-Dinh 2019, "Generalized self-concordant functions: a recipe for Newton-type
    methods"), and tends to 1 as r falls.
    """
    x = start.copy()
    n = table.linear
    free = np.flatnonzero(np.arange(table.size) != fixed)
    reach = 0.0
    if not len(free):
        return x
    for _ in range(500):
        gradient, curvature = slope(table, x, pseudo)
        step = np.zeros(table.size)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        reach = float(np.abs(table.design @ step[:n]).max(initial=0.0))
        if table.davidson:
            reach += abs(float(step[-1]))
        if reach <= 1e-7:  # 0.00002 Elo
            return x
        x += step * (math.log1p(reach) / reach)
    raise ZeroloopError(f"Elo did not settle in 500 steps; the last one was {reach:.3g} nats")


def slope(table: Table, x: Array, pseudo: float) -> tuple[Array, Array]:
    """Return the gradient `[K]` of the penalized likelihood, and its curvature with the virtual games."""
    p, _ = table.chances(x)
    virtual, weight = virtual_games(table, x)
    half = 0.5 * np.tanh(0.5 * table.difference(x))
    excess = 0.5 * (table.counts[:, 0] - table.counts[:, 2] - table.total * (p[:, 0] - p[:, 2]))
    curvature = table.information(x)[0]
    n = table.linear
    gradient = np.zeros(table.size)
    gradient[:n] = table.design.T @ (excess - pseudo * virtual * half)
    curvature[:n, :n] += (table.design * (pseudo * virtual * weight)[:, None]).T @ table.design
    if table.davidson:
        rate = 0.5 + 0.5 * math.tanh(0.5 * (float(x[-1]) - math.log(2.0)))
        gradient[-1] = float((table.counts[:, 1] - table.total * p[:, 1]).sum()) + pseudo * (0.5 - rate)
        curvature[-1, -1] += pseudo * rate * (1.0 - rate)
    return gradient, curvature
