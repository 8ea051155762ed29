"""A person plays a model in the terminal; knows how to talk and draw a board, not how to search.

`Dialogue` is the pure part: the history of a game and what each line that a person types means.
"""

from __future__ import annotations

import io
import pathlib
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from . import draws
from .errors import ConfigError, PlayerError, StoreError
from .games import BUILT_IN
from .games.game import CHANCE, TERMINAL, Game, State
from .model import Model, find, load
from .players import Array, PlaySettings, SearchPlayer, model_player, split_name
from .search.forest import SearchResult

HELP = {
    "undo": "back to your last decision",
    "hint": "what the agent would play for you",
    "flip": "swap seats with the agent",
    "new": "a new game",
    "moves": "list the legal moves",
    "help": "this list",
    "quit": "leave (so does Ctrl-D)",
}
"""Commands at the prompt; `/undo` means undo even where the game has a move of that name."""

OVER = "the game is over; type new, undo, flip or quit."
SHOWN = 24
"""Rows of bars at most; what is left out is counted."""

STONES = re.compile(r"(?<![^\W_])[XO]+(?![^\W_])")
"""Letters of a drawn board that stand for stones: they belong to no word."""


class Effect(NamedTuple):
    """What a line did, and what to tell the person."""

    kind: Literal["changed", "hint", "told", "refused", "quit"]
    text: str = ""


class Dialogue:
    """One person at the board: the positions so far, the person's seat, what each line means."""

    def __init__(self, game: Game, seat: int = 0, seed: int = 0) -> None:
        self.game, self.seat, self.seed = game, seat, seed
        self.number = -1
        """Number of this game: the dice of each are its own, and the same again after an undo."""
        self.history: list[State] = []
        self.begin()

    def begin(self) -> None:
        """Begin the next game."""
        self.number += 1
        drawn = int(draws.bits(np.uint64(self.seed), draws.INITIAL, self.number, 0, 0))
        self.history = [self.game.initial_state(drawn >> 1)]

    @property
    def state(self) -> State:
        """The position now."""
        return self.history[-1]

    @property
    def plies(self) -> int:
        """Plies so far, chance included."""
        return len(self.history) - 1

    @property
    def mover(self) -> int:
        """Seat to move, `CHANCE`, or `TERMINAL`: over, or cut at the game's longest length."""
        cut = self.plies >= self.game.max_plies
        return TERMINAL if cut else int(self.game.rules["to_play"](self.state))

    def name(self, action: int) -> str:
        """Return an action's or chance outcome's name in the position now."""
        return self.game.action_name(self.state, action)

    def play(self, action: int) -> None:
        """Play an action or chance outcome; IllegalAction where it is not allowed."""
        following = self.game.copy(self.state)
        self.game.play(following, action)
        self.history.append(following)

    def roll(self) -> tuple[str, float]:
        """Play the chance outcome of this game and ply; return its name and probability."""
        u = draws.uniform(np.uint64(self.seed), draws.CHANCE, self.number, self.plies, 0)
        outcomes = self.game.chance(self.state)
        running = np.cumsum([probability for _, probability in outcomes])
        pick = min(int(np.searchsorted(running, u, "right")), len(outcomes) - 1)
        action, probability = outcomes[pick]
        name = self.name(action)
        self.play(action)
        return name, probability

    def obey(self, line: str) -> Effect:
        """Do what a line says, where a seat of the person's is to move or the game is over."""
        text = " ".join(line.split())
        if not text:
            return Effect("told")
        action = self._named(text) if self.mover == self.seat else None
        if action is not None:
            told = f"You play {self.name(action)}."
            self.play(action)
            return Effect("changed", told)
        command = text.lower().removeprefix("/")
        if command in HELP:
            return self._command(command)
        if self.mover == TERMINAL:
            return Effect("refused", f"'{text[:40]}' cannot be played: {OVER}")
        allowed = f"legal: {', '.join(self._names())}; type one of them, or help."
        return Effect("refused", f"'{text[:40]}' is no legal move here and no command; {allowed}")

    def _names(self) -> dict[str, int]:
        return {self.name(a): a for a in self.game.legal(self.state)}

    def _named(self, text: str) -> int | None:
        found = self._names()
        alike = [a for name, a in found.items() if name.lower() == text.lower()]
        return found.get(text, alike[0] if len(alike) == 1 else None)

    def _command(self, command: str) -> Effect:
        if command == "quit":
            return Effect("quit", "Good bye.")
        if command == "help":
            lines = [f"  {name:<6} {what}" for name, what in HELP.items()]
            note = "In the bars, Q is the mean value of a move for the seat to move, -1 to 1."
            return Effect("told", "\n".join(["Type a move, or:", *lines, note]))
        if command == "new":
            self.begin()
            return Effect("changed", f"A new game. {self.seated()}")
        if command == "flip":
            self.seat = (self.seat + 1) % self.game.num_players
            return Effect("changed", self.seated())
        if command == "undo":
            return self._undo()
        if self.mover == TERMINAL:
            return Effect("refused", f"There are no moves: {OVER}")
        if command == "moves":
            return Effect("told", "Legal moves: " + " ".join(self._names()))
        return Effect("hint")

    def _undo(self) -> Effect:
        for ply in reversed(range(self.plies)):
            if self.game.rules["to_play"](self.history[ply]) == self.seat:
                del self.history[ply + 1 :]
                return Effect("changed", "Back to your last decision.")
        return Effect("refused", "There is nothing to undo: you have not moved yet; type a move.")

    def seated(self) -> str:
        """Return where the person sits, as a sentence."""
        letter = marks(self.game).get(self.seat)
        shown = f" ({letter})" if letter else ""
        others = [f"seat {s}" for s in range(self.game.num_players) if s != self.seat]
        agent = f"; the agent plays {' and '.join(others)}" if others else ""
        return f"You play seat {self.seat}{shown}{agent}."


def marks(game: Game) -> dict[int, str]:
    """Return the letter, X or O, that each seat's moves add to the board, where that is clear."""
    found: dict[int, str] = {}
    state = game.initial_state()
    for _ in range(2 * game.num_players):
        seat = int(game.rules["to_play"](state))
        if seat == TERMINAL:
            break
        before = "".join(STONES.findall(game.render(state)))
        game.play(state, (game.legal(state) or [game.chance(state)[0][0]])[0])
        after = "".join(STONES.findall(game.render(state)))
        gained = [c for c in "XO" if after.count(c) > before.count(c)]
        if seat != CHANCE and len(gained) == 1:
            found.setdefault(seat, gained[0])
    return found if len(set(found.values())) == len(found) == game.num_players else {}


def assessment(game: Game, values: Array, seat: int) -> str:
    """Return what a search says to the person in `seat`; `values` is `f4 [P]` in [-1, 1]."""
    worst, best = float(game.outcomes.min()), float(game.outcomes.max())
    points = np.clip(values * game.scale, worst, best)
    shares = (points - worst) / ((best - worst) or 1.0)
    if game.num_players == 1:
        return f"The agent expects a score of {shares[0]:.0%} for you."
    ahead = float(values[seat] - np.delete(values, seat).max()) / 2
    words = "even"
    for bound, degree in ((0.1, "slightly"), (0.3, "clearly"), (0.8, "almost surely")):
        if abs(ahead) >= bound:
            words = f"{degree} {'in your favour' if ahead > 0 else 'against you'}"
    told = f"The agent finds this {words}: your expected score is {shares[seat]:.0%}"
    seats = (f"seat {s}{' (you)' if s == seat else ''} {x:.0%}" for s, x in enumerate(shares))
    return f"{told} ({', '.join(seats)})." if game.num_players > 2 else f"{told}."


def ending(dialogue: Dialogue) -> str:
    """Return how the game ended for the person."""
    game, seat = dialogue.game, dialogue.seat
    points = game.points(dialogue.state)
    if points is None:
        return f"The game was cut after {dialogue.plies} plies, the most of {game.id}: no result."
    own, others = points[seat], [p for s, p in enumerate(points) if s != seat]
    told = "The game is over."
    if others and own > max(others):
        told = "You win."
    elif others and own < max(others):
        told = "You lose."
    elif others:
        told = "It is a draw." if own == min(others) else "You share the first place."
    each = (f"seat {s}{' (you)' if s == seat else ''} {p:g}" for s, p in enumerate(points))
    return f"{told} Points: {', '.join(each)}."


class Bar(NamedTuple):
    """One legal move as a search sees it."""

    name: str
    visits: int
    share: float
    q: float
    chosen: bool


def bars(dialogue: Dialogue, found: SearchResult) -> list[Bar]:
    """Return one bar per legal move; shares are the priors where nothing was visited."""
    count = int(found.count[0])
    visits = found.visit_count[0, :count]
    total = int(visits.sum())
    shares = visits / total if total else found.prior[0, :count]
    columns = zip(found.legal[0, :count], visits, shares, found.q[0, :count], strict=True)
    return [
        Bar(dialogue.name(int(a)), int(v), float(s), float(q), int(a) == int(found.action[0]))
        for a, v, s, q in columns
    ]


class Screen:
    """Draws on a console: in colour on a terminal, plain text elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence as it is: nothing in it is markup."""
        self.console.print(Text(text, style), soft_wrap=True)

    def board(self, dialogue: Dialogue) -> None:
        """Draw the position, X and O in colour."""
        text = Text("\n" + dialogue.game.render(dialogue.state) + "\n")
        for found in STONES.finditer(text.plain):
            for place in range(*found.span()):
                style = "bold red" if text.plain[place] == "X" else "bold yellow"
                text.stylize(style, place, place + 1)
        self.console.print(text, soft_wrap=True)

    def bars(self, rows: list[Bar]) -> None:
        """Draw one row per legal move; of very many, those of the largest share."""
        full, empty = ("#", ".") if self.console.options.ascii_only else ("█", "░")
        kept = sorted(sorted(range(len(rows)), key=lambda i: -rows[i].share)[:SHOWN])
        width = max(4, *(len(rows[i].name) for i in kept))
        self.say(f"  {'move':<{width}}  visits  {'share':<20}           Q", "dim")
        for row in (rows[i] for i in kept):
            bar = (full * round(20 * row.share)).ljust(20, empty)
            q = f"{round(row.q, 2) + 0.0:+.2f}" if row.visits else "-"
            line = f"  {row.name:<{width}}  {row.visits:>6}  {bar}  {row.share:>4.0%}  {q:>5}"
            self.say(line + ("  <" if row.chosen else ""), "bold green" if row.chosen else "")
        if len(rows) > SHOWN:
            left = sum(r.visits for r in rows) - sum(rows[i].visits for i in kept)
            self.say(f"  and {len(rows) - SHOWN} more moves with {left} visits together", "dim")


def converse(dialogue: Dialogue, agent: SearchPlayer, read: Callable[[str], str], screen: Screen) -> None:
    """Play until the person quits; `read(prompt)` gives a line, or raises EOFError at the end."""
    screen.say(f"{dialogue.game.id} against {agent.name}. {dialogue.seated()}", "bold")
    screen.say("Type a move, or help.")
    changed = True
    while True:
        if changed:
            _advance(dialogue, agent, screen)
            screen.board(dialogue)
            if dialogue.mover == TERMINAL:
                screen.say(ending(dialogue) + " Type new, undo, flip or quit.", "bold")
        effect = dialogue.obey(read("your move> " if dialogue.mover == dialogue.seat else "> "))
        if effect.text:
            screen.say(effect.text, "red" if effect.kind == "refused" else "cyan")
        if effect.kind == "quit":
            return
        if effect.kind == "hint":
            _think(dialogue, agent, screen, "The agent would play")
        changed = effect.kind == "changed"


def _advance(dialogue: Dialogue, agent: SearchPlayer, screen: Screen) -> None:
    """Roll the dice and move for the other seats until the person decides or the game is over."""
    while (mover := dialogue.mover) not in (TERMINAL, dialogue.seat):
        if mover == CHANCE:
            name, probability = dialogue.roll()
            screen.say(f"Chance gives {name} (probability {probability:.1%}).", "magenta")
            continue
        who = "The agent" if dialogue.game.num_players == 2 else f"The agent in seat {mover}"
        dialogue.play(_think(dialogue, agent, screen, f"{who} plays"))


def _think(dialogue: Dialogue, agent: SearchPlayer, screen: Screen, told: str) -> int:
    """Search the position, show what was found, and return the action."""
    states = dialogue.game.states(1)
    states[0] = dialogue.state
    keys, plies = np.array([dialogue.number], np.uint64), np.array([dialogue.plies], np.int32)
    found = agent.search(states, keys, plies)
    action = int(found.action[0])
    screen.say(f"{told} {dialogue.name(action)}.", "bold")
    screen.say(assessment(dialogue.game, found.root_value[0], dialogue.seat))
    screen.bars(bars(dialogue, found))
    return action


def _model(player: str) -> Model:
    name, folder = player.removeprefix("demo:"), pathlib.Path(player)
    if name.endswith(".py"):
        raise PlayerError(f"'{name}' is a game, not a player. {_training(name)}")
    is_game = name in BUILT_IN or name in {p.name for p in entry_points(group="zeroloop.games")}
    if is_game and not ((folder / "config.yaml").exists() or folder.is_file()):
        try:
            path = find(f"demo:{name}")
        except StoreError as error:
            raise StoreError(f"{error} {_training(name)}") from error
    else:
        path = find(player)
    if path is None:
        raise PlayerError(
            f"there is no player '{player}': it is no run directory, model file, model hash, "
            "demo or game; give one of them, such as runs/connect4."
        )
    return load(path)


def _training(game: str) -> str:
    run = f"runs/{pathlib.Path(game).stem}"
    return f"Train one: zeroloop train {game} --run {run}, and then: zeroloop play {run}."


def _lines(screen: Screen) -> Callable[[str], str]:
    def read(prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        screen.say(prompt + line.rstrip("\n"))  # so that the transcript shows what was typed
        return line

    return input if sys.stdin.isatty() else read


def play_terminal(player: str, simulations: int, seat: int, seed: int) -> None:
    """Let a person play a model in the terminal or through a pipe, until `quit` or end of input.

    Args:
      player: a run directory, model file, hash, `demo:GAME` or a game's name.
      simulations: of the agent's search; 0: the raw policy. seat: the person's.

    Raises:
      ConfigError: a seat, seed or number of simulations out of range.
      StoreError, PlayerError, ResumeError: there is no such model, or it cannot be used.
    """
    player, simulations = split_name(player, simulations)
    if simulations < 0:
        raise ConfigError(f"--simulations is {simulations}; it must be at least 0.")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed is {seed}; it must lie in 0..2^63-1.")
    model = _model(player)
    players = model.game.num_players
    if not 0 <= seat < players:
        allowed = f"{model.game.id} has seats 0 to {players - 1}; give one of them"
        raise ConfigError(f"--seat is {seat}, but {allowed}.")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a stray byte is an unknown entry, not a crash
    screen = Screen(Console(highlight=False))
    try:
        agent = model_player(model, simulations, seed=seed, settings=PlaySettings(batch=1))
        converse(Dialogue(model.game, seat, seed), agent, _lines(screen), screen)
    except (EOFError, KeyboardInterrupt):
        screen.say("\nGood bye.")
