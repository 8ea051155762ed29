"""What the registry knows of strength: decisions about models, the matches behind them, and ratings."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import StoreError
from ..files import sha256
from ..rating import EloEstimate, Result, maximum_likelihood_elo
from . import SHORT, Registry, Row, now
from .stages import roll_back_beaten

ANCHOR = "random"
"""The player whose Elo is 0."""


class Rating(NamedTuple):
    """A player's Elo with the matches behind it, or why there is none."""

    estimate: EloEstimate | None
    reason: str
    matches: list[int]
    """Ids of the matches that it played."""

    def plain(self) -> Row:
        """Return it as plain data."""
        e = self.estimate
        known = {"elo": e.elo, "low": e.low, "high": e.high, "games": e.games} if e else {}
        return {**(known or {"elo": None, "reason": self.reason}), "matches": self.matches}


def record(registry: Registry, game: str, summary: Row) -> int:
    """Store a decision with its matches and return its id; stored twice it is there once.

    A former production model that beats the one in production takes its place again
    (`stages.roll_back_beaten`), in the same transaction.

    Args:
      game: name with options. summary: `promotion.Decision.summary()`.

    Raises:
      StoreError: a model among the players is not entered, or plays another game.
    """
    players = summary["players"]
    with registry.change() as db:
        for name in filter(None, (p["model"] for p in players.values())):
            known = db.execute("SELECT game FROM models WHERE hash = ?", (name,)).fetchone()
            if known is None or known["game"] != game:
                what = f"plays {known['game']}" if known else "is not entered"
                raise StoreError(
                    f"{registry.file}: evidence about {game} names model {name[:SHORT]}, which {what}."
                )
        fingerprint = sha256(json.dumps([game, summary], sort_keys=True).encode())
        known = db.execute("SELECT id FROM decisions WHERE fingerprint = ?", (fingerprint,)).fetchone()
        if known is not None:
            return int(known["id"])
        played = [*(["champion"] if summary["versus_champion"] else []), *summary["fixed"]]
        ids = [_record_match(db, game, summary, key) for key in played]
        row = {
            "fingerprint": fingerprint,
            "hash": players["candidate"]["model"],
            "champion": players["champion"]["model"] if "champion" in played else None,
            "passed": int(summary["promoted"]),
            "reason": summary["reason"],
            "matches": json.dumps(ids),
            "at": now(),
            "summary": json.dumps(summary),
        }
        number = insert(db, "decisions", row)
        roll_back_beaten(registry, db, game, summary, number)
        return number


def _record_match(db: sqlite3.Connection, game: str, summary: Row, key: str) -> int:
    """Insert one match of a decision, or find it, and return its id."""
    found = summary["versus_champion"] if key == "champion" else summary["fixed"][key]
    row: Row = {"game": game, "seed": summary["seed"]}
    for side, name in (("a", "candidate"), ("b", key)):
        player = summary["players"][name]
        row |= {
            side: label(player),
            f"{side}_hash": player["model"],
            f"{side}_settings": json.dumps(player, sort_keys=True),
        }
    low, high = found["interval"]
    row |= {
        "games": found["games"],
        "pairs": found["pairs"],
        "score": found["score"],
        "low": low,
        "high": high,
    }
    fingerprint = sha256(json.dumps(row, sort_keys=True).encode())
    known = db.execute("SELECT id FROM matches WHERE fingerprint = ?", (fingerprint,)).fetchone()
    if known is not None:
        return int(known["id"])
    row |= {"fingerprint": fingerprint, "at": now(), "summary": json.dumps(found)}
    return insert(db, "matches", row)


def label(player: Row) -> str:
    """Return what a player is rated as: the hash of a model with its simulations, or its name."""
    if player["model"]:
        return f"{player['model'][:SHORT]}@{player['simulations']}"
    return str(player["name"])


def insert(db: sqlite3.Connection, table: str, row: Row) -> int:
    """Insert a row and return its id."""
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    return int(db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row).lastrowid or 0)


def ratings(registry: Registry, game: str) -> dict[str, Rating]:
    """Return the Elo of every player of a game over all its matches; `random` has 0.

    Of matches that differ by their number of games alone the longest counts: openings of equal seeds begin
    alike, so the shorter ones are part of it. Players that no chain of games links to `random` have a
    reason instead.
    """
    longest: dict[tuple[object, ...], Row] = {}
    for row in registry.rows("SELECT * FROM matches WHERE game = ? ORDER BY games, id", game):
        if row["a"] != row["b"]:  # a model that met itself says nothing about its strength
            longest[tuple(row[key] for key in ("a", "a_settings", "b", "b_settings", "seed"))] = row
    rows = sorted(longest.values(), key=lambda row: int(row["id"]))
    played: dict[str, list[int]] = {}
    for row in rows:
        for side in (row["a"], row["b"]):
            played.setdefault(side, []).append(row["id"])
    linked = _linked(rows)
    found: dict[str, EloEstimate] = {}
    if linked:
        results = [
            Result(r["a"], r["b"], r["score"] * r["games"], r["games"]) for r in rows if r["a"] in linked
        ]
        found = maximum_likelihood_elo([p for p in played if p in linked], results, ANCHOR)
    reason = f"no chain of games links it to {ANCHOR}"
    return {p: Rating(found.get(p), "" if p in found else reason, ids) for p, ids in played.items()}


def _linked(rows: Sequence[Row]) -> set[str]:
    """Return the players that a chain of games links to the anchor; empty where it has not played."""
    pairs = [(r["a"], r["b"]) for r in rows]
    linked = {ANCHOR} if any(ANCHOR in pair for pair in pairs) else set()
    size = -1
    while len(linked) != size:
        size = len(linked)
        linked |= {p for pair in pairs if linked & set(pair) for p in pair}
    return linked


def elo_of(name: str, found: dict[str, Rating]) -> EloEstimate | None:
    """Return the Elo of a model (its hash) at the number of simulations at which it played most games."""
    mine = [r for player, r in found.items() if player.startswith(f"{name[:SHORT]}@")]
    known = [r.estimate for r in mine if r.estimate]
    return max(known, key=lambda e: e.games) if known else None


def listed(registry: Registry, game: str | None = None, stage: str | None = None) -> list[Row]:
    """Return the models, newest first, each with its Elo and interval, None where there is none."""
    rows = registry.models(game, stage)
    found = {name: ratings(registry, name) for name in {row["game"] for row in rows}}
    estimates = ((row, elo_of(row["hash"], found[row["game"]])) for row in rows)
    return [{**row, "elo": e._asdict() if e else None} for row, e in estimates]


def show(registry: Registry, name: str) -> Row:
    """Return all that is known of a model as plain data: lineage, history, decisions, Elo, matches."""
    row = registry.model(name)
    found = ratings(registry, row["game"])
    prefix = f"{row['hash'][:SHORT]}@"
    return {
        **row,
        "file": str(registry.path(row)),
        "elo": {player: r.plain() for player, r in found.items() if player.startswith(prefix)},
        "history": registry.rows("SELECT * FROM history WHERE hash = ? ORDER BY id", row["hash"]),
        "decisions": registry.rows(
            "SELECT id, champion, passed, reason, matches, at FROM decisions WHERE hash = ? ORDER BY id",
            row["hash"],
        ),
        "matches": registry.rows(
            "SELECT id, a, b, games, pairs, score, low, high, seed, at FROM matches "
            "WHERE a_hash = ?1 OR b_hash = ?1 ORDER BY id",
            row["hash"],
        ),
    }
