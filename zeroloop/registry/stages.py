"""Stages of models: promotion on evidence, rollback by hand and by rule, and what may be pruned."""

from __future__ import annotations

import json
import sqlite3

from ..errors import StoreError
from ..files import write_file
from . import SHORT, STAGES, Registry, Row, now

ENOUGH_GAMES = 100
"""A match of fixed length with fewer games lifts no model to a stage, and takes none out of production."""


def too_few(summary: Row) -> str:
    """Return why a decision that passed rests on too few games to be evidence for a stage, or ''.

    Each floor, and the rule `threshold` against the champion, needs ENOUGH_GAMES; the sequential test
    knows itself when it has seen enough.
    """
    met = {name: summary["fixed"][name]["games"] for name in summary["floors"]}
    versus = summary["versus_champion"]
    if versus is not None and summary["rule"] == "threshold":
        met["the champion"] = versus["games"]
    short = [f"{games} against {name}" for name, games in met.items() if games < ENOUGH_GAMES]
    if short:
        return f"not enough games: {', '.join(short)}; a stage needs {ENOUGH_GAMES} each"
    if versus is None and not met:
        return "not enough games: there is no champion to beat and no floor to reach"
    return ""


def promote(registry: Registry, name: str, to: str | None = None, force: str = "") -> Row:
    """Lift a model to staging or production and return it; exactly one of several at once succeeds.

    It needs evidence: the newest decision about it passed, on enough games (`too_few`); for production,
    against the model that is in production now. The former one becomes staging. A rolled-back model needs
    newer evidence. Of the decisions about it that failed before, the history tells the number.

    Args:
      to: `staging` or `production`; None: the next stage. force: a reason to do without evidence.

    Raises:
      StoreError: no evidence, already there, or its file is damaged; nothing is changed.
    """
    name = registry.model(name)["hash"]
    with registry.change() as db:
        row = registry.model(name)
        target = to or STAGES[min(STAGES.index(row["stage"]) + 1, 2)]
        if target not in STAGES[1:]:
            raise StoreError(f"stage '{target}' is unknown; give staging or production.")
        if STAGES.index(row["stage"]) >= STAGES.index(target):
            raise StoreError(f"model {name[:SHORT]} of {row['game']} is in {row['stage']} already.")
        reigning = registry.production(row["game"])
        decision = None if force.strip() else _evidence(registry, row, target, reigning)
        reason = _reason(registry, decision) if decision else force.strip()
        _keep_file(registry, db, row)
        replaced = reigning if target == "production" else None
        if replaced:
            _move(db, replaced, "staging", "replaced", f"replaced by {name[:SHORT]}: {reason}")
        _move(
            db,
            name,
            target,
            "promote",
            reason,
            forced=decision is None,
            decision=decision["id"] if decision else None,
            replaced=replaced,
        )
    return registry.model(name)


def _evidence(registry: Registry, row: Row, target: str, reigning: str | None) -> Row:
    """Return the decision that allows the promotion, or refuse."""
    name = row["hash"]
    what = f"model {name[:SHORT]} of {row['game']}"
    again = f"run: zeroloop gauntlet {name[:SHORT]}, or promote it with --force REASON."
    after = registry.rows(
        "SELECT max(last_decision) AS id FROM history WHERE hash = ? AND kind = 'rollback'", name
    )[0]["id"]
    found = registry.rows(
        "SELECT id, hash, champion, passed, reason, summary FROM decisions WHERE hash = ? AND id > ? "
        "ORDER BY id DESC",
        name,
        after or 0,
    )
    if found and target == "production" and reigning:
        found = [d for d in found if d["champion"] == reigning]
        if not found:
            raise StoreError(
                f"{what} has no evidence against {reigning[:SHORT]}, which is in production now; {again}"
            )
    if not found:
        rolled = "" if after is None else " since it was rolled back"
        raise StoreError(f"{what} has no evidence{rolled}; {again}")
    if not found[0]["passed"]:
        raise StoreError(f"the newest evidence about {what} says: {found[0]['reason']} Else {again}")
    few = too_few(json.loads(found[0]["summary"]))
    if few:
        raise StoreError(f"the newest evidence about {what} is none for a stage: {few}; {again}")
    return found[0]


def _reason(registry: Registry, decision: Row) -> str:
    """Return the reason of a decision, with the number of those before it that failed: one may try seeds."""
    failed = registry.rows(
        "SELECT count(*) AS n FROM decisions WHERE hash = ? AND id < ? AND NOT passed",
        decision["hash"],
        decision["id"],
    )[0]["n"]
    if not failed:
        return str(decision["reason"])
    what = "decision about it before this one" if failed == 1 else "decisions about it before this one"
    return f"{decision['reason']} {failed} {what} had failed."


def _keep_file(registry: Registry, db: sqlite3.Connection, row: Row) -> None:
    """Copy the model's file into the registry, so that no run's removal can lose it."""
    data = registry.verified(row)
    path = registry.kept / f"{row['hash']}.safetensors"
    try:
        registry.kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{registry.kept} cannot be made ({error.strerror}).") from error
    write_file(path, data)
    db.execute("UPDATE models SET path = ? WHERE hash = ?", (registry.relative(path), row["hash"]))


def _move(
    db: sqlite3.Connection,
    name: str,
    stage: str,
    kind: str,
    reason: str,
    *,
    forced: bool = False,
    decision: int | None = None,
    replaced: str | None = None,
) -> None:
    before = db.execute("SELECT stage FROM models WHERE hash = ?", (name,)).fetchone()["stage"]
    last = db.execute("SELECT coalesce(max(id), 0) AS id FROM decisions").fetchone()["id"]
    db.execute("UPDATE models SET stage = ? WHERE hash = ?", (stage, name))
    db.execute(
        'INSERT INTO history (hash, at, kind, "before", "after", reason, forced, decision, last_decision, '
        "replaced) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (name, now(), kind, before, stage, reason, int(forced), decision, last, replaced),
    )


def rollback(registry: Registry, game: str, reason: str) -> Row:
    """Put back the model that was in production before the present one, and return it.

    The present one becomes staging, and needs newer evidence to come back.

    Raises:
      StoreError: there is none, no reason is given, or its file is damaged; nothing is changed.
    """
    if not reason.strip():
        raise StoreError("a rollback needs a reason; give --reason TEXT.")
    with registry.change() as db:
        restored = _roll_back(registry, db, game, reason.strip(), None)
    return registry.model(restored)


def _former(registry: Registry, game: str) -> tuple[str, str | None]:
    """Return the model in production and the one that it replaced."""
    reigning = registry.production(game)
    if reigning is None:
        games = sorted({r["game"] for r in registry.models(stage="production")})
        raise StoreError(
            f"{game} has no model in production; these games have one: {', '.join(games) or '-'}."
        )
    rows = registry.rows(
        "SELECT replaced FROM history WHERE hash = ? AND kind = 'promote' AND \"after\" = 'production' "
        "ORDER BY id DESC LIMIT 1",
        reigning,
    )
    return reigning, rows[0]["replaced"]


def former_of(registry: Registry, game: str) -> str | None:
    """Return the model that the one in production replaced, or None."""
    return _former(registry, game)[1]


def _roll_back(
    registry: Registry, db: sqlite3.Connection, game: str, reason: str, decision: int | None
) -> str:
    reigning, former = _former(registry, game)
    if former is None:
        raise StoreError(f"model {reigning[:SHORT]} of {game} replaced none: there is nothing to go back to.")
    registry.verified(registry.model(former))
    _move(db, reigning, "staging", "rollback", reason, decision=decision)
    _move(db, former, "production", "restored", reason, decision=decision)
    return former


def roll_back_beaten(
    registry: Registry, db: sqlite3.Connection, game: str, summary: Row, decision: int
) -> None:
    """Apply the rule: the model that was replaced shows itself better than the one in production.

    Either it challenges the one in production and the sequential test accepts it; or one of them has met
    the other in a match of fixed length, of at least ENOUGH_GAMES games, whose 95 % interval lies on the
    former one's side of one half.
    """
    if registry.production(game) is None or summary["versus_champion"] is None:
        return
    reigning, former = _former(registry, game)
    sides = [summary["players"][key]["model"] for key in ("candidate", "champion")]
    if former is None or sorted(sides) != sorted((reigning, former)):
        return
    met = summary["versus_champion"]
    low, high = met["interval"]
    challenged = sides == [former, reigning]
    fixed = summary["rule"] == "threshold" and met["games"] >= ENOUGH_GAMES
    beaten = fixed and (low > 0.5 if challenged else high < 0.5)
    if beaten or (challenged and summary["test"] == "accept"):
        score = f"{100 * met['score']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] over {met['games']} games"
        told = f"its predecessor {former[:SHORT]} scores {score} against it"
        if not challenged:
            told = f"it scores {score} against its predecessor {former[:SHORT]}"
        _roll_back(registry, db, game, f"automatic: {told}.", decision)


def promote_passed(registry: Registry, name: str, stage: str) -> str:
    """Lift a model whose newest decision passed, by rule, and return what was done in a sentence.

    Args:
      stage: `none`, `staging` or `production`; where production is held by a model that it has not met,
        it goes to staging.
    """
    row = registry.model(name)
    if stage == "none" or row["stage"] == stage or row["stage"] == "production":
        return f"it stays in {row['stage']}"
    newest = registry.rows(
        "SELECT summary FROM decisions WHERE hash = ? ORDER BY id DESC LIMIT 1", row["hash"]
    )
    few = too_few(json.loads(newest[0]["summary"])) if newest else ""
    if few:
        return f"it stays in {row['stage']}: {few}"
    if stage == "production":
        reigning = registry.production(row["game"])
        newest = registry.rows(
            "SELECT champion FROM decisions WHERE hash = ? ORDER BY id DESC LIMIT 1", row["hash"]
        )
        if reigning and (not newest or newest[0]["champion"] != reigning):
            if row["stage"] == "staging":
                return f"it stays in staging: {reigning[:SHORT]} is in production, and it has not met it"
            stage = "staging"
    return f"it is in {promote(registry, row['hash'], stage)['stage']} now"
