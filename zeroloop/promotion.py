"""Promotion: evidence about a candidate, and the decision that reads it, told in one sentence."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from .config import Config
from .errors import StoreError
from .games.game import Game
from .match import MatchResult, joined, openings, play_match
from .players import Player
from .rating import Result, SprtResult, score_from_elo, sprt

CHUNK = 32
"""Pairs between two looks at the sequential test."""


class Evidence(NamedTuple):
    """What was measured about a candidate."""

    candidate: str
    champion: str
    versus_champion: MatchResult
    test: SprtResult
    fixed: dict[str, MatchResult]
    """Matches against fixed opponents, by name."""


class Decision(NamedTuple):
    """Whether the candidate becomes the champion, and why."""

    promoted: bool
    reason: str
    evidence: Evidence

    def summary(self) -> dict[str, Any]:
        """Return the decision as plain data."""
        e = self.evidence
        return {
            "promoted": self.promoted,
            "reason": self.reason,
            "candidate": e.candidate,
            "champion": e.champion,
            "llr": e.test.llr,
            "llr_bounds": [e.test.lower, e.test.upper],
            "versus_champion": e.versus_champion.summary(),
            "fixed": {name: result.summary() for name, result in e.fixed.items()},
        }


def gather(
    game: Game,
    config: Config,
    candidate: Player,
    champion: Player,
    opponents: dict[str, Player],
    *,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Evidence:
    """Play the sequential test against the champion, then every fixed opponent.

    Args:
      seed: of openings; give each evaluation its own.

    Raises:
      PlayerError: a player failed; there is no evidence then.
    """
    rules = config.promote
    score0, score1 = score_from_elo(rules.elo0), score_from_elo(rules.elo1)
    starts = openings(game, rules.max_pairs, config.match.opening_plies, seed)
    parts: list[MatchResult] = []
    for begin in range(0, rules.max_pairs, CHUNK):
        part = starts[begin : begin + CHUNK]
        parts.append(play_match(game, candidate, champion, starts=part, seed=seed, first_opening=begin))
        match = joined(parts)
        test = sprt(match.pairs, score0, score1, rules.alpha, rules.beta)
        if progress is not None:
            progress(f"{candidate.name} vs champion: {match.score:.3f} over {len(match.seat)} games")
        if test.decision != "undecided":
            break
    fixed = {}
    for name, player in opponents.items():
        count = max(1, config.evaluate.opponents[name] // game.num_players)
        part = openings(game, count, config.match.opening_plies, seed + 1)
        fixed[name] = play_match(game, candidate, player, starts=part, seed=seed + 1)
        if progress is not None:
            progress(f"{candidate.name} vs {name}: {fixed[name].score:.3f}")
    return Evidence(candidate.name, champion.name, match, test, fixed)


def decide(config: Config, evidence: Evidence) -> Decision:
    """Judge the evidence: the sequential test must accept, and every floor must hold."""
    match, test = evidence.versus_champion, evidence.test
    low, high = match.interval
    told = (
        f"{100 * match.score:.1f} % [{100 * low:.1f}, {100 * high:.1f}] "
        f"against the champion over {len(match.seat)} games"
    )
    for name, floor in config.promote.floors.items():
        if evidence.fixed[name].score < floor:
            score = evidence.fixed[name].score
            reason = (
                f"not promoted: {100 * score:.1f} % against {name} is below the floor of {100 * floor:.0f} %"
            )
            return Decision(False, f"{reason} ({told}).", evidence)
    if test.decision == "accept":
        return Decision(True, f"promoted: {told}.", evidence)
    if test.decision == "reject":
        return Decision(False, f"not promoted: {told}, no better than it.", evidence)
    return Decision(False, f"not promoted: {told}, undecided after {len(match.pairs)} pairs.", evidence)


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
        for found in (row["versus_champion"], *row["fixed"].values()):
            a, b = found["players"]
            if a == b:
                continue  # a model that met itself says nothing about its strength
            players |= {a: None, b: None}
            results.append(Result(a, b, found["score"] * found["games"], found["games"]))
    return list(players), results
