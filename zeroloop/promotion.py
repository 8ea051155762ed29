"""Promotion: evidence about a candidate, and the decision that reads it, told in one sentence."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from .config import Config, PromoteConfig
from .errors import StoreError
from .games.game import Game
from .match import MatchResult, joined, play_match
from .openings import openings
from .players import Player, describe, parse
from .rating import Result, SprtResult, score_from_elo, sprt

CHUNK = 32
"""Pairs between two looks at the sequential test."""


class Plan(NamedTuple):
    """Whom a candidate of a game meets beside the champion, and what it must reach there."""

    games: dict[str, int]
    """Opponents with the number of games against each."""
    floors: dict[str, float]
    """Least score against some of them."""
    left_out: dict[str, str]
    """Floors of the configuration that do not bind, with the reason."""


def plan_of(game: Game, config: Config, engines: bool = False) -> Plan:
    """Return whom a candidate of this game meets; of several names of one player, one, with all it asks for.

    Args:
      engines: with all engines of `promote.engines`; else only with those that have a floor.
    """
    rules, defaults = config.promote, PromoteConfig().floors
    floors: dict[str, float] = {}
    left_out: dict[str, str] = {}
    games = dict(config.evaluate.opponents)
    for name, floor in rules.floors.items():
        if name == "heuristic" and not game.has_heuristic:
            left_out[name] = f"{game.id} has no heuristic"
            continue
        games[name] = max(games.get(name, 0), rules.engines.get(name, 0), rules.floor_games)
        if game.num_players > 2 and floor == defaults.get(name):
            left_out[name] = (
                f"{floor} is the default of two players and {game.id} has {game.num_players} seats; "
                f"set promote.floors.{name}, to another value"
            )
        else:
            floors[name] = floor
    if engines:
        games |= {name: count for name, count in rules.engines.items() if name not in games}
    return _merged(game, Plan(games, floors, left_out))


def _merged(game: Game, plan: Plan) -> Plan:
    """Return the plan with each player once: under the name that has a floor, else under the first."""
    names: dict[str, str] = {}
    for name in (*plan.floors, *plan.games):
        names.setdefault(_player_of(game, name), name)
    games: dict[str, int] = {}
    for name, count in plan.games.items():
        kept = names[_player_of(game, name)]
        games[kept] = max(games.get(kept, 0), count)
    floors: dict[str, float] = {}
    for name, floor in plan.floors.items():
        kept = names[_player_of(game, name)]
        floors[kept] = max(floors.get(kept, 0.0), floor)
    return Plan(games, floors, plan.left_out)


def _player_of(game: Game, name: str) -> str:
    """Return the name of the player that a name makes; outside engines are not started for it."""
    searches = name.partition(":")[0] in ("heuristic", "minimax")
    return parse(name, game).name if searches and game.has_heuristic else name


class Evidence(NamedTuple):
    """What was measured about a candidate."""

    candidate: str
    champion: str | None
    """None: there is no model to beat."""
    versus_champion: MatchResult | None
    test: SprtResult | None
    """The sequential test over that match; the rule `threshold` does not stop by it."""
    fixed: dict[str, MatchResult]
    """Matches against fixed opponents, by name."""
    plan: Plan
    seed: int
    """Of the openings."""
    players: dict[str, dict[str, Any]]
    """All that decides their play: `candidate`, `champion` and the fixed opponents by name."""


class Decision(NamedTuple):
    """Whether the candidate becomes the champion, and why."""

    promoted: bool
    reason: str
    rule: str
    evidence: Evidence

    def summary(self) -> dict[str, Any]:
        """Return the decision as plain data."""
        e = self.evidence
        return {
            "promoted": self.promoted,
            "reason": self.reason,
            "rule": self.rule,
            "candidate": e.candidate,
            "champion": e.champion,
            "test": e.test.decision if e.test else None,
            "llr": e.test.llr if e.test else None,
            "llr_bounds": [e.test.lower, e.test.upper] if e.test else None,
            "versus_champion": e.versus_champion.summary() if e.versus_champion else None,
            "fixed": {name: result.summary() for name, result in e.fixed.items()},
            "floors": e.plan.floors,
            "left_out": e.plan.left_out,
            "seed": e.seed,
            "players": e.players,
        }


def gather(
    game: Game,
    config: Config,
    candidate: Player,
    champion: Player | None,
    opponents: dict[str, Player],
    *,
    seed: int,
    plan: Plan | None = None,
    progress: Callable[[str], None] | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Evidence:
    """Play against the champion as `promote.rule` says, then against every fixed opponent.

    Args:
      champion: None where there is no model to beat.
      opponents: a player for each name of the plan.
      seed: of openings; give each evaluation its own.
      plan: default: `plan_of(game, config)`.
      progress: told in words between matches. tick: called with (games finished, games) after every ply.

    Raises:
      PlayerError: a player failed; there is no evidence then.
    """
    plan = plan or plan_of(game, config)
    told = progress or (lambda text: None)
    match, test = None, None
    if champion is not None:
        match, test = _meet_champion(game, config, candidate, champion, seed, told, tick)
    fixed = {}
    for name, player in opponents.items():
        count = max(1, -(-plan.games[name] // game.num_players))
        part = openings(game, count, config.match.opening_plies, seed + 1)
        fixed[name] = play_match(game, candidate, player, starts=part, seed=seed + 1, progress=tick)
        told(f"{candidate.name} vs {name}: {fixed[name].score:.3f}")
    players = {"candidate": describe(candidate), **{name: describe(p) for name, p in opponents.items()}}
    if champion is not None:
        players["champion"] = describe(champion)
    reigning = champion.name if champion is not None else None
    return Evidence(candidate.name, reigning, match, test, fixed, plan, seed, players)


def _meet_champion(
    game: Game,
    config: Config,
    candidate: Player,
    champion: Player,
    seed: int,
    told: Callable[[str], None],
    tick: Callable[[int, int], None] | None,
) -> tuple[MatchResult, SprtResult]:
    """Play pairs until the sequential test decides, or all of them under the rule `threshold`."""
    rules = config.promote
    score0, score1 = score_from_elo(rules.elo0), score_from_elo(rules.elo1)
    starts = openings(game, rules.max_pairs, config.match.opening_plies, seed)
    parts: list[MatchResult] = []
    for begin in range(0, rules.max_pairs, CHUNK):
        part = starts[begin : begin + CHUNK]
        parts.append(
            play_match(game, candidate, champion, starts=part, seed=seed, first_opening=begin, progress=tick)
        )
        match = joined(parts)
        test = sprt(match.pairs, score0, score1, rules.alpha, rules.beta)
        told(f"{candidate.name} vs champion: {match.score:.3f} over {len(match.seat)} games")
        if rules.rule == "sprt" and test.decision != "undecided":
            break
    return match, test


def _told(match: MatchResult) -> str:
    low, high = match.interval
    return f"{100 * match.score:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def decide(config: Config, evidence: Evidence) -> Decision:
    """Judge the evidence: the rule against the champion must accept, and every floor must hold.

    A floor holds where the score is at least the floor; its interval is told beside it.
    """
    passed, against = _against_champion(config.promote, evidence)
    floors = []
    for name, floor in evidence.plan.floors.items():
        match = evidence.fixed[name]
        floors.append(f"{_told(match)} against {name} (floor {100 * floor:.0f} %)")
        if match.score < floor:
            reason = (
                f"not promoted: {_told(match)} against {name} over {len(match.seat)} games is below the "
                f"floor of {100 * floor:.0f} % ({against})."
            )
            return Decision(False, reason, config.promote.rule, evidence)
    if not passed:
        return Decision(False, f"not promoted: {against}.", config.promote.rule, evidence)
    reason = f"promoted: {'; '.join([against, *floors])}."
    return Decision(True, reason, config.promote.rule, evidence)


def _against_champion(rules: PromoteConfig, evidence: Evidence) -> tuple[bool, str]:
    """Return whether the candidate may take the champion's place, and the numbers in words."""
    match, test = evidence.versus_champion, evidence.test
    if match is None or test is None:
        return True, "there is no champion to beat"
    told = f"{_told(match)} against the champion over {len(match.seat)} games"
    if rules.rule == "threshold":
        if match.score < rules.threshold:
            return False, f"{told}, below the threshold of {100 * rules.threshold:.0f} %"
        if match.interval.low <= 0.5:
            return False, f"{told}, which need not be better than it"
        return True, f"{told}, threshold {100 * rules.threshold:.0f} %"
    if test.decision == "accept":
        return True, told
    if test.decision == "reject":
        return False, f"{told}, no better than it"
    return False, f"{told}, undecided after {len(match.pairs)} pairs"


def read_matches(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return a run's evaluations, oldest first; a line that a killed process left unfinished is left out."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise StoreError(f"{path}:{number} is damaged: not JSON.") from error
    return rows


def match_results(path: pathlib.Path) -> tuple[list[str], list[Result]]:
    """Return the players and results of a run's `matches.jsonl`, for ratings."""
    players: dict[str, None] = {}
    results: list[Result] = []
    for row in read_matches(path):
        for found in filter(None, (row["versus_champion"], *row["fixed"].values())):
            a, b = found["players"]
            if a == b:
                continue  # a model that met itself says nothing about its strength
            players |= {a: None, b: None}
            results.append(Result(a, b, found["score"] * found["games"], found["games"]))
    return list(players), results
