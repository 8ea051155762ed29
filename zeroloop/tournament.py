"""Tournament: every pair of players from the same openings in every seating; it goes on after any stop.

Its directory holds `tournament.json` (what is played), `games.jsonl` (every finished game, append-only),
`void.jsonl` (attempts that a failed player made void), and the tables and notations that follow from them.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, permutations
from typing import NamedTuple

from . import notation
from .crosstable import Pair, Row, anchors_of, check_result, crosstable, result_of, write_tables
from .errors import ConfigError, InvalidState, PlayerError, ResumeError, StoreError
from .files import DirectoryLock, write_file
from .games import rules_identity
from .games.game import Game
from .match import MatchResult, play_match
from .openings import Openings, drawn_openings
from .players import Player, close, describe, parse_all

KINDS = ("round-robin", "gauntlet")
REPORT_SECONDS = 10.0
"""Least time between two lines of progress inside a chunk."""


class Plan(NamedTuple):
    """What is played; a directory holds the games of one plan."""

    kind: str = "round-robin"
    """Or `gauntlet`: the first player against each of the others."""
    games: int = 200
    """Of each pair; rounded down to whole openings."""
    opening_plies: int = 4
    """Random plies of an opening, at most."""
    seed: int = 0


class Tournament:
    """A plan, its players, and the directory that its games go to; `play()` plays what is missing.

    In games for three and more seats a pair is one seat of the first player against the second in all
    others, as in `play_match`; a round-robin then plays every pair both ways.

    Args:
      players: made for this game, each under its own name; the caller closes them.
      chunk: games that are played together and kept together.

    Raises:
      ConfigError: a plan that cannot be played. ResumeError: the directory holds another tournament, or is
      in use. StoreError: a file of it is damaged.
    """

    def __init__(
        self, out: pathlib.Path, game: Game, players: Sequence[Player], plan: Plan, chunk: int = 64
    ) -> None:
        self.out, self.game, self.plan = out, game, plan
        self.players = {player.name: player for player in players}
        self.openings = self._opening_count()
        self.chunk = max(chunk // game.num_players, 1)
        self.pairs = pairs_of([p.name for p in players], plan.kind, game.num_players)
        self.about = {player.name: describe(player) for player in players}
        make_directory(out)
        try:
            self._lock = DirectoryLock(out)
        except ResumeError as error:
            raise ResumeError(f"{error} A tournament's directory is given by --out.") from error
        try:
            self._settle()
            self.rows = self._read()
            self.voids()  # whole before the next one is appended
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory; the players stay open."""
        self._lock.release()

    def _opening_count(self) -> int:
        seats, plan = self.game.num_players, self.plan
        if plan.games < seats:
            raise ConfigError(f"--games is {plan.games}; give at least {seats}, one for each seating.")
        if plan.opening_plies < 1:
            raise ConfigError(f"--opening-plies is {plan.opening_plies}; it must be at least 1.")
        return plan.games // seats

    # --- the directory --------------------------------------------------------------------------

    def _settle(self) -> None:
        """Write what is played, or compare it with what the directory says."""
        path = self.out / "tournament.json"
        plan = {
            "game": self.game.name,
            "options": self.game.options,
            "rules_identity": rules_identity(self.game),
            **self.plan._asdict(),
            "players": list(self.about.values()),
        }
        now = json.loads(json.dumps(plan))
        if not path.exists():
            if (self.out / "games.jsonl").exists():
                raise ResumeError(f"{self.out} holds games but no tournament.json; give another --out.")
            write_file(path, json.dumps(now, indent=1).encode())
            return
        try:
            before = json.loads(path.read_bytes())
            differences = _differences(before, now)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} is damaged ({error}); give another --out.") from error
        if differences:
            raise ResumeError(
                f"{self.out} holds another tournament: {differences}. "
                "Give what it began with, or another --out."
            )

    def _read(self) -> dict[tuple[Pair, int, int], Row]:
        """Return the finished games by pair, opening and seat; a line cut short by a kill is removed."""
        path = self.out / "games.jsonl"
        found: dict[tuple[Pair, int, int], Row] = {}
        for number, line in enumerate(whole_lines(path), 1):
            try:
                row = notation.check_row(json.loads(line))
                key = self._key(row)
                check_result(self.game, row)
            except (ValueError, IndexError, RecursionError, InvalidState) as error:
                raise StoreError(
                    f"{path}:{number} is damaged: {error}. Take the line out, and the game is played again."
                ) from error
            found.setdefault(key, row)
        return found

    def _key(self, row: Row) -> tuple[Pair, int, int]:
        seats, seat, number = row["seats"], row["seat"], self.game.num_players
        pair = (seats[seat], seats[(seat + 1) % len(seats)])
        if pair not in self.pairs or not 0 <= row["opening"] < self.openings:
            raise InvalidState(f"no game of opening {row['opening']} between {pair} is in the plan")
        if not 0 <= seat < number or seats != [pair[s != seat] for s in range(number)]:
            raise InvalidState(f"seat {seat} of {seats} is no seating of {pair}")
        models = [self.about[name]["model"] for name in seats]
        if row["models"] != models:
            raise InvalidState(f"its models are {row['models']}, but the players are {models}")
        return pair, row["opening"], seat

    # --- play -----------------------------------------------------------------------------------

    def play(self, tell: Callable[[str], None], each_round: Callable[[], None] = lambda: None) -> None:
        """Play what is missing, a chunk of every pair in turn, so that all pairs are measured alike.

        Args:
          each_round: called when every pair has played the same openings.

        Raises:
          PlayerError: a player failed. Its chunk is void and noted in `void.jsonl`; all chunks before it
          are kept, and the next `play` begins with the void one. No move is substituted.
        """
        starts = drawn_openings(self.game, self.openings, self.plan.opening_plies, self.plan.seed)
        total = len(self.pairs) * self.openings * self.game.num_players
        if self.rows:
            tell(f"{self.out} has {len(self.rows)} of {total} games already")
        for low in range(0, self.openings, self.chunk):
            numbers = range(low, min(low + self.chunk, self.openings))
            played = [self._chunk(pair, starts, numbers, tell) for pair in self.pairs]
            if any(played):
                tell(f"{len(self.rows)} of {total} games finished")
                each_round()

    def _chunk(self, pair: Pair, starts: Openings, numbers: range, tell: Callable[[str], None]) -> bool:
        """Play a pair's games from these openings where one is missing; return whether it was so."""
        seats = range(self.game.num_players)
        missing = {(k, s) for k in numbers for s in seats if (pair, k, s) not in self.rows}
        if not missing:
            return False
        shown = [time.monotonic()]

        def progress(done: int, games: int) -> None:
            if time.monotonic() - shown[0] >= REPORT_SECONDS:
                shown[0] = time.monotonic()
                tell(f"  {pair[0]} against {pair[1]}: {done} of these {games} games finished")

        try:
            result = play_match(
                self.game,
                self.players[pair[0]],
                self.players[pair[1]],
                starts=starts.states[numbers.start : numbers.stop],
                seed=self.plan.seed,
                first_opening=numbers.start,
                progress=progress,
            )
        except PlayerError as error:
            self._note_void(pair, numbers, error)
            raise PlayerError(
                f"{pair[0]} against {pair[1]}, openings {numbers.start + 1} to {numbers.stop}: {error} "
                f"{len(self.rows)} finished games are kept in {self.out}; the same command goes on."
            ) from error
        self._keep(pair, starts, result, missing)
        score = self.result(pair).score
        tell(
            f"  {pair[0]} against {pair[1]}: {len(result.seat)} games more, score so far {100 * score:.1f} %"
        )
        return True

    def _keep(self, pair: Pair, starts: Openings, result: MatchResult, missing: set[tuple[int, int]]) -> None:
        """Append the games of a chunk, all at once."""
        rows = {}
        for g, (number, seat) in enumerate(zip(result.opening.tolist(), result.seat.tolist(), strict=True)):
            if (number, seat) not in missing:
                continue
            seats = [pair[s != seat] for s in range(self.game.num_players)]
            rows[pair, number, seat] = notation.record(
                self.game,
                starts.initial[number],
                starts.moves[number].tolist(),
                result.moves[g].tolist(),
                number=number,
                seat=seat,
                seats=seats,
                models=[self.about[name]["model"] for name in seats],
                points=result.points[g].tolist(),
                date=time.strftime("%Y.%m.%d"),
            )
        append_lines(self.out / "games.jsonl", [json.dumps(row) for row in rows.values()])
        self.rows |= rows

    def _note_void(self, pair: Pair, numbers: range, error: PlayerError) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        openings = [numbers.start, numbers.stop]
        row = {"players": list(pair), "openings": openings, "message": str(error), "time": when}
        append_lines(self.out / "void.jsonl", [json.dumps(row)])

    # --- what it came to ------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True where no game is missing."""
        return len(self.rows) == len(self.pairs) * self.openings * self.game.num_players

    def games_of(self, pair: Pair) -> list[Row]:
        """Return the pair's games in the order of openings and seats."""
        return [row for key, row in sorted(self.rows.items(), key=lambda item: item[0][1:]) if key[0] == pair]

    def result(self, pair: Pair) -> MatchResult:
        """Return the pair's games as the result of one match."""
        return result_of(self.game, pair, self.games_of(pair))

    def table(self, anchors: Mapping[str, float]) -> Row:
        """Return what the finished games say, as plain data.

        Raises:
          ConfigError: some pair has no finished game.
        """
        facts = {**self.plan._asdict(), "complete": self.finished, "openings": self.openings}
        parts = {pair: self.games_of(pair) for pair in self.pairs}
        return {**crosstable(self.game, facts, self.about, parts, anchors), "voids": self.voids()}

    def voids(self) -> list[Row]:
        """Return the void attempts on record; a line cut short by a kill is removed."""
        path = self.out / "void.jsonl"
        found = []
        for number, line in enumerate(whole_lines(path), 1):
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise StoreError(f"{path}:{number} is damaged: {error}. Take the line out.") from error
        return found

    def write(self, formats: Sequence[str], anchors: Mapping[str, float]) -> None:
        """Write the notations of all games, and the tables where every pair has one.

        PGN and SGF hold all games; MAT is a session of two players, so every pair has a file.
        """
        for name in formats:
            files = {f"games-{n}.mat": self.games_of(pair) for n, pair in enumerate(self.pairs, 1)}
            if name != "mat":
                files = {f"games.{name}": [row for rows in files.values() for row in rows]}
            for file, rows in files.items():
                if rows:
                    write_file(self.out / file, notation.FORMATS[name][1](self.game, rows).encode())
        if all(self.games_of(pair) for pair in self.pairs):
            write_tables(self.out, self.table(anchors))


def run_tournament(
    names: Sequence[str],
    out: pathlib.Path,
    plan: Plan,
    game: Game | None,
    anchors: Sequence[str],
    formats: Sequence[str] | None,
    chunk: int,
    tell: Callable[[str], None],
) -> Row:
    """Make the players, play what is missing, write tables and notations, and return the cross table.

    Args:
      game: None for that of the models named. anchors: `NAME` or `NAME=ELO`. formats: None for the usual.

    Raises:
      PlayerError: an unknown player, one of another game, or one that failed; finished games are kept.
      ConfigError, ResumeError, StoreError: see `Tournament`.
    """
    try:
        made, players = parse_all(names, game, seed=plan.seed)
    except ResumeError as error:
        raise PlayerError(f"a player cannot enter: {error} No game was played.") from error
    try:
        wanted = notation.formats_for(made, formats)
        fixed = anchors_of(anchors, [player.name for player in players], names)
        t = Tournament(out, made, players, plan, chunk)
        try:
            t.play(tell, lambda: write_tables(out, t.table(fixed)))
            t.write(wanted, fixed)
            return t.table(fixed)
        except PlayerError:
            t.write(wanted, fixed)
            raise
        finally:
            t.close()
    finally:
        close(*players)


def pairs_of(names: Sequence[str], kind: str, seats: int) -> list[Pair]:
    """Return (first side, second side) of every match of a tournament.

    Raises:
      ConfigError: fewer than two players, one name twice, an unknown kind, or a game for one seat.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind is {kind}; allowed: {', '.join(KINDS)}.")
    if len(names) < 2:
        raise ConfigError(f"a tournament needs at least two players, but got {', '.join(names) or 'none'}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"player {twice[0]} is named more than once; every player enters once.")
    if seats < 2:
        raise ConfigError("a game for one seat has no tournament; see zeroloop evaluate.")
    if kind == "gauntlet":
        return [(names[0], name) for name in names[1:]]
    return list(combinations(names, 2) if seats == 2 else permutations(names, 2))


def make_directory(path: pathlib.Path) -> None:
    """Make the directory; StoreError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be made ({error.strerror}); give another --out.") from error


def whole_lines(path: pathlib.Path) -> list[bytes]:
    """Return the lines of a file, none where there is no file; a last one cut short is removed from it."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return data[:whole].splitlines()


def append_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
    """Append lines and see them on the disk; StoreError where they cannot be written."""
    try:
        with open(path, "ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"{path} could not be written ({error.strerror}). Free some space and run the same command "
            "again: finished games are kept."
        ) from error


def _differences(before: Row, now: Row) -> str:
    """Return in words the first thing in which two plans differ; nothing where they do not."""
    names = [[about["name"] for about in plan["players"]] for plan in (before, now)]
    if names[0] != names[1]:
        return f"its players are {', '.join(names[0])}; now they are {', '.join(names[1])}"
    for key, value in now.items():
        if key != "players" and before.get(key) != value:
            return f"its {key} is {before.get(key)}, now it is {value}"
    for old, new in zip(before["players"], now["players"], strict=True):
        if old["model"] != new["model"]:
            return (
                f"player {old['name']} was model {old['model']} and is now {new['model']}, and games of two "
                "models under one name prove nothing (name a model by its hash to hold it fast)"
            )
        if old != new:
            return f"player {old['name']} was {old} and is now {new}"
    return ""
