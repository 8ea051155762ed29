"""Cross table of a tournament: scores, seats, openings, points and Elo, as data, text and a picture."""

from __future__ import annotations

import io
import json
import math
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .elo import Outcomes, Ratings, fit_elo
from .errors import ConfigError, InvalidState
from .files import write_file
from .games.game import Game
from .match import MatchResult
from .rating import grouped_interval, score_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
Pair = tuple[str, str]
"""First and second side of a match."""
WORST = 5
"""Openings listed as a player's worst."""
ENDS = ("losses", "draws", "wins")


def anchors_of(texts: Sequence[str], names: Sequence[str], typed: Sequence[str] = ()) -> dict[str, float]:
    """Return the fixed Elo of anchors `NAME` (0) or `NAME=ELO`; without any, the first player has 0.

    Args:
      typed: the names with which the players were entered; an anchor may use either.

    Raises:
      ConfigError: an anchor that is no player of the tournament, is given twice, or has no number.
    """
    own = dict(zip(typed, names, strict=False)) | {name: name for name in names}
    found: dict[str, float] = {}
    for text in texts:
        word, _, number = (text, "", "0") if text in own else text.rpartition("=")
        if word not in own:
            raise ConfigError(
                f"--anchor {text} names no player of this tournament; write NAME or NAME=1500 with one of "
                f"{', '.join(own)}."
            )
        try:
            elo = float(number)
        except ValueError:
            raise ConfigError(
                f"--anchor {text} has '{number}' for an Elo, which is no number; write {word}=1500."
            ) from None
        if not math.isfinite(elo):
            raise ConfigError(f"--anchor {text} fixes an Elo that is not finite; write {word}=1500.")
        if own[word] in found:
            raise ConfigError(f"--anchor names {word} more than once; a player has one fixed Elo.")
        found[own[word]] = elo
    return found or {names[0]: 0.0}


def crosstable(
    game: Game,
    facts: Row,
    about: Mapping[str, Row],
    parts: Mapping[Pair, Sequence[Row]],
    anchors: Mapping[str, float],
) -> Row:
    """Return what the games of all pairs say, as plain data; docs/matches.md explains it.

    Args:
      facts: of the plan, taken over. about: the players by name. parts: records of each pair's games.

    Raises:
      ConfigError: a pair without a game.
    """
    for pair, rows in parts.items():
        if not rows:
            raise ConfigError(
                f"{pair[0]} against {pair[1]} has no finished game, so there is no cross table."
            )
    rated = ratings(game, parts, anchors)
    players = [
        {**row, **_standing(game, name, parts), **_rated(rated, name, anchors)} for name, row in about.items()
    ]
    players.sort(key=lambda row: (-row["elo"], -row["score"]))
    return {
        "game": game.id,
        **facts,
        "seatings": game.num_players,
        "graded": graded(game),
        "players": players,
        "pairs": [_pair(game, pair, rows) for pair, rows in parts.items()],
        "elo_model": _draw_model(game),
        "seat_advantage_elo": {str(seat): list(e) for seat, e in rated.seat_advantage.items()},
        "draw_rate_of_equals": list(rated.draw_rate) if rated.draw_rate else None,
    }


def result_of(game: Game, pair: Pair, rows: Sequence[Row]) -> MatchResult:
    """Return recorded games of a pair as the result of one match."""
    none = np.zeros(0, np.int32)
    return MatchResult(
        players=pair,
        points=np.array([row["points"] for row in rows], np.float32).reshape(-1, game.num_players),
        seat=np.array([row["seat"] for row in rows], np.int32),
        opening=np.array([row["opening"] for row in rows], np.int32),
        plies=np.array([len(row["moves"]) - row["opening_moves"] for row in rows], np.int32),
        moves=(none,) * len(rows),
        truncated=sum(row["ended"] == "cut" for row in rows),
        worst=float(game.outcomes.min()),
        best=float(game.outcomes.max()),
    )


def check_result(game: Game, row: Row) -> None:
    """Refuse a record whose points no such game can have; `notation.replay` says whether this one has them.

    Raises:
      InvalidState: points that are no outcome, or a cut game's that are not the mean of worst and best.
    """
    points, ended = row["points"], row["ended"]
    mean = [float((game.outcomes.min() + game.outcomes.max()) / 2)] * game.num_players
    possible = {"over": game.outcomes.tolist(), "cut": [mean]}
    if ended not in possible:
        raise InvalidState(f"the game has ended '{ended}'; allowed: over, cut")
    if points not in possible[ended]:
        raise InvalidState(f"points {points} are no result of a game of {game.id} that is {ended}")


def graded(game: Game) -> bool:
    """Return whether a game can end in more ways than win, draw and loss, so that points tell more."""
    return game.num_players > 2 or len(np.unique(game.outcomes)) > 3


def _draw_model(game: Game) -> Literal["half", "davidson"]:
    return "davidson" if game.name == "chess" else "half"


def outcomes_of(game: Game, parts: Mapping[Pair, Sequence[Row]]) -> Iterator[Outcomes]:
    """Yield the games as the rating takes them: the first side against each other seat, more points winning.

    All pairs play the same openings with the same dice, so the games of one opening are one group.
    """
    for pair, rows in parts.items():
        for row in rows:
            seat, points = row["seat"], row["points"]
            for other in range(game.num_players):
                if other != seat:
                    lead = points[seat] - points[other]
                    won = (float(lead > 0), float(lead == 0), float(lead < 0))
                    yield Outcomes(*pair, *won, group=row["opening"], seats=(seat, other))


def ratings(game: Game, parts: Mapping[Pair, Sequence[Row]], anchors: Mapping[str, float]) -> Ratings:
    """Return maximum-likelihood Elo; in backgammon a gammon counts as one win, as in any Elo."""
    rows = list(outcomes_of(game, parts))
    return fit_elo(rows, anchors, draws=_draw_model(game), seats=game.num_players == 2)


def _rated(rated: Ratings, name: str, anchors: Mapping[str, float]) -> Row:
    found = rated.players[name]
    return {"elo": found.elo, "elo_interval": [found.low, found.high], "anchor": name in anchors}


def _standing(game: Game, name: str, parts: Mapping[Pair, Sequence[Row]]) -> Row:
    """Return a player's score over all its games; those of one opening may depend on each other."""
    scores, groups = [], []
    for pair, rows in parts.items():
        if name in pair:
            result = result_of(game, pair, rows)
            scores.append(result.scores if pair[0] == name else 1 - result.scores)
            groups.append(result.opening)
    samples, openings = np.concatenate(scores).clip(0, 1), np.concatenate(groups)
    return {
        "games": len(samples),
        "score": float(samples.mean()),
        "interval": list(grouped_interval(samples, openings.astype(np.int64))),
    }


def _pair(game: Game, pair: Pair, rows: Sequence[Row]) -> Row:
    """Return the summary of a pair with the splits by end, seat and opening, from the first side's view."""
    result = result_of(game, pair, rows)
    found = result.summary()
    ends = _ends(result)
    found |= {name: int((ends == k).sum()) for k, name in enumerate(ENDS)}
    points = Counter(result.own_points.tolist())
    found["points"] = {f"{x:g}": points[x] for x in sorted(points)}
    for seat, split in found["by_seat"].items():
        mine = result.seat == int(seat)
        if mine.any():
            split["interval"] = list(score_interval(result.scores[mine].clip(0, 1)))
            split |= {name: int((ends[mine] == k).sum()) for k, name in enumerate(ENDS)}
    found["distinct_games"] = len({(tuple(row["seats"]), row["initial"], *row["moves"]) for row in rows})
    worst = _worst_openings(result, rows)
    found["worst_openings"] = {pair[0]: worst[:WORST], pair[1]: worst[::-1][:WORST]}
    return found


def _ends(result: MatchResult) -> npt.NDArray[np.int64]:
    """Return 2, 1 or 0 of each game: the first side alone was first, shared that place, or was beaten."""
    own = result.own_points
    best = result.points == result.points.max(1, keepdims=True)
    first = own == result.points.max(1)
    return np.where(first, np.where(best.sum(1) == 1, 2, 1), 0)


def _worst_openings(result: MatchResult, rows: Sequence[Row]) -> list[Row]:
    """Return the openings with their mean score over the seatings, the first side's worst ones first."""
    about = {row["opening"]: row for row in rows}
    scores: dict[int, list[float]] = {}
    for number, score in zip(result.opening.tolist(), result.scores.tolist(), strict=True):
        scores.setdefault(number, []).append(score)
    found = [
        {
            "opening": number,
            "score": float(np.mean(mine)),
            "games": len(mine),
            "position": about[number]["start"],
            "moves": about[number]["moves"][: about[number]["opening_moves"]],
        }
        for number, mine in scores.items()
    ]
    return sorted(found, key=lambda row: (row["score"], row["opening"]))


# --- text ---------------------------------------------------------------------------------------


def text(table: Row) -> str:
    """Return the cross table for people."""
    names = [row["name"] for row in table["players"]]
    cells = scores_between(table)
    head = ["", "player", "Elo", "95 %", "score", "95 %", "games", *map(str, range(1, len(names) + 1))]
    lines = []
    for n, row in enumerate(table["players"]):
        elo = (
            f"{row['elo']:+.0f}",
            "fixed" if row["anchor"] else "{:+.0f}..{:+.0f}".format(*row["elo_interval"]),
        )
        against = ["." if c is None else f"{100 * c:.1f}" for c in cells[n]]
        score = f"{100 * row['score']:.1f} %", _percents(row["interval"])
        lines.append([str(n + 1), row["name"], *elo, *score, str(row["games"]), *against])
    pairs = [["pair", "score", "95 %", "games", "+", "=", "-", *_seat_heads(table), *_point_heads(table)]]
    pairs += [_pair_line(table, row) for row in table["pairs"]]
    told = [_headline(table), "", *columns([head, *lines]), "", *columns(pairs), "", *_remarks(table)]
    return "\n".join(told)


def _headline(table: Row) -> str:
    told = (
        f"{table['game']}: {table['kind']} of {len(table['players'])} players, {table['openings']} distinct "
    )
    told += f"openings of up to {table['opening_plies']} random plies, each in {table['seatings']} seatings, "
    return told + f"seed {table['seed']}" + ("" if table["complete"] else " (NOT COMPLETE)")


def _percents(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f}..{100 * interval[1]:.1f}"


def _seat_heads(table: Row) -> list[str]:
    return [f"seat {seat}" for seat in range(table["seatings"])]


def _point_heads(table: Row) -> list[str]:
    return ["points a game", "95 %"] if table["graded"] else []


def _pair_line(table: Row, row: Row) -> list[str]:
    name = " against ".join(row["players"])
    found = [name, f"{100 * row['score']:.1f} %", _percents(row["interval"]), str(row["games"])]
    found += [str(row[end]) for end in reversed(ENDS)]
    found += [f"{100 * split['score']:.1f}" if split["games"] else "." for split in row["by_seat"].values()]
    if table["graded"]:
        found += [f"{row['points_per_game']:+.3f}", "{:+.3f}..{:+.3f}".format(*row["points_interval"])]
    return found


def _remarks(table: Row) -> list[str]:
    found = []
    for row in table["pairs"]:
        for name, worst in row["worst_openings"].items():
            other = next(n for n in row["players"] if n != name)
            own = row["score"], worst[0]["score"]
            mean, score = own if name == row["players"][0] else (1 - x for x in own)
            if score >= mean:
                continue
            found.append(
                f"worst opening of {name} against {other}: {worst[0]['opening'] + 1}, "
                f"score {100 * score:.0f} %, {worst[0]['position']}"
            )
        if row["distinct_games"] < row["games"]:
            found.append(f"{' against '.join(row['players'])}: different games: {row['distinct_games']} only")
        if row["truncated"]:
            found.append(
                f"{' against '.join(row['players'])}: games cut at the ply bound: {row['truncated']}"
            )
    if table["seat_advantage_elo"]:
        elo, low, high = table["seat_advantage_elo"]["0"]
        found.append(f"seat 0 is worth {elo:+.0f} Elo over seat 1, 95 % {low:+.0f}..{high:+.0f}")
    if table["seatings"] > 2:
        found.append("a score is that of one seat against the other player in all others; 50 % where equal")
    if table["voids"]:
        found.append(f"void attempts, played again (void.jsonl): {len(table['voids'])}")
    return found


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns: names to the left, all else to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    left = {rows[0].index(name) for name in ("player", "pair") if name in rows[0]}
    found = []
    for row in rows:
        cells = [c.ljust(widths[k]) if k in left else c.rjust(widths[k]) for k, c in enumerate(row)]
        found.append("  ".join(cells).rstrip())
    return found


def scores_between(table: Row) -> list[list[float | None]]:
    """Return the score of each player against each, in the order of the table; None without games."""
    place = {row["name"]: n for n, row in enumerate(table["players"])}
    cells: list[list[float | None]] = [[None] * len(place) for _ in place]
    for row in table["pairs"]:
        a, b = (place[name] for name in row["players"])
        cells[a][b] = row["score"]
        if table["seatings"] == 2:
            cells[b][a] = 1 - row["score"]
    return cells


# --- files --------------------------------------------------------------------------------------


def write_tables(out: pathlib.Path, table: Row) -> None:
    """Write `crosstable.json`, `crosstable.txt` and `crosstable.png`; StoreError where they cannot be."""
    write_file(out / "crosstable.json", json.dumps(table, indent=1).encode())
    write_file(out / "crosstable.txt", (text(table) + "\n").encode())
    write_file(out / "crosstable.png", picture(table))


def picture(table: Row) -> bytes:
    """Return a PNG: the scores of all against all, and Elo with 95 % intervals."""
    from matplotlib.figure import Figure  # without pyplot: no window, Agg draws the PNG

    size = max(4.0, 0.8 * len(table["players"]) + 2)
    figure = Figure(figsize=(2 * size + 2, size), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_scores(left, table)
    _draw_ratings(right, table)
    figure.suptitle(_headline(table), fontsize="small", wrap=True)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def _draw_scores(axes: Axes, table: Row) -> None:
    names = [row["name"] for row in table["players"]]
    cells = scores_between(table)
    shown = np.array([[math.nan if c is None else c for c in row] for row in cells])
    axes.imshow(shown, cmap="RdYlGn", vmin=0, vmax=1)
    for a, row in enumerate(cells):
        for b, cell in enumerate(row):
            if cell is not None:
                axes.text(b, a, f"{100 * cell:.0f}", ha="center", va="center", fontsize="small")
    axes.set_xticks(range(len(names)), [str(n + 1) for n in range(len(names))])
    axes.set_yticks(range(len(names)), [f"{n}. {name[-24:]}" for n, name in enumerate(names, 1)])
    axes.set_title("score of the row against the column, %")


def _draw_ratings(axes: Axes, table: Row) -> None:
    rows = table["players"][::-1]
    elo = np.array([row["elo"] for row in rows])
    low, high = np.array([row["elo_interval"] for row in rows]).T
    axes.errorbar(elo, range(len(rows)), xerr=np.maximum([elo - low, high - elo], 0), fmt="o", capsize=3)
    axes.set_yticks(range(len(rows)), [row["name"][-24:] for row in rows])
    axes.set_title("Elo, 95 % intervals")
    axes.grid(alpha=0.3)
