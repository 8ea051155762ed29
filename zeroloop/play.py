"""A person against a model in the terminal; knows how to talk and to draw a board, not how to search.

`Dialogue` is the pure part: the history of a game and what each line that a person types means.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from . import draws
from .errors import ConfigError, PlayerError, StoreError
from .games import BUILT_IN, make
from .games.game import CHANCE, TERMINAL, Game, State
from .model import Model, find, load
from .players import PlaySettings, model_player, split_name
from .run import stored_config
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
"""Commands at the prompt; anything else is a move. `/undo` means undo even where a move is so named."""

SHOWN = 24
"""Rows of bars, and names in a sentence, at most; what is left out is counted."""

STONES = re.compile(r"(?<![^\W_])[XO]+(?![^\W_])")
"""Letters of a drawn board that stand for stones: they belong to no word."""


class Searcher(Protocol):
    """Whoever searches positions for the agent; a `SearchPlayer` does."""

    name: str

    def search(
        self, states: npt.NDArray[Any], keys: npt.NDArray[Any], plies: npt.NDArray[Any]
    ) -> SearchResult:
        """Search every state; keys and plies name the random draws."""


class Effect(NamedTuple):
    """What a line did, and what to tell the person."""

    kind: Literal["played", "undone", "flipped", "begun", "hint", "told", "refused", "quit", "nothing"]
    text: str = ""


class Dialogue:
    """One person at the board: the positions so far, the person's seat, and what each line means."""

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
        return TERMINAL if self.plies >= self.game.max_plies else self._mover(self.state)

    def _mover(self, state: State) -> int:
        return int(self.game.rules["to_play"](state))

    def name(self, action: int) -> str:
        """Return an action's or chance outcome's name in the position now."""
        return self.game.action_name(self.state, action)

    def names(self) -> list[str]:
        """Return the names of the legal moves."""
        return [self.name(a) for a in self.game.legal(self.state)]

    def play(self, action: int) -> None:
        """Play an action or chance outcome; IllegalAction where it is not allowed."""
        following = self.game.copy(self.state)
        self.game.play(following, action)
        self.history.append(following)

    def roll(self) -> tuple[str, float]:
        """Play the chance outcome that the seed gives to this game and ply; return name and probability."""
        u = draws.uniform(np.uint64(self.seed), draws.CHANCE, self.number, self.plies, 0)
        outcomes, running = self.game.chance(self.state), 0.0
        for action, probability in outcomes:
            running += probability
            if running > u:
                break
        name = self.name(action)
        self.play(action)
        return name, probability

    def obey(self, line: str) -> Effect:
        """Do what a line says, where a seat of the person's is to move or the game is over."""
        text = line.strip()
        if not text:
            return Effect("nothing")
        action = self._named(text) if self.mover == self.seat else None
        if action is not None:
            told = f"You play {self.name(action)}."
            self.play(action)
            return Effect("played", told)
        command = text.lower().removeprefix("/")
        if command not in HELP:
            return Effect("refused", self._refusal(text))
        return self._command(command)

    def _named(self, text: str) -> int | None:
        found = {self.name(a): a for a in self.game.legal(self.state)}
        if text in found:
            return found[text]
        alike = [a for name, a in found.items() if name.lower() == text.lower()]
        return alike[0] if len(alike) == 1 else None

    def _refusal(self, text: str) -> str:
        if self.mover == TERMINAL:
            return f"'{text[:40]}' cannot be played: the game is over; type new, undo, flip or quit."
        return (
            f"'{text[:40]}' is no legal move here and no command; legal: {listed(self.names())}; "
            "type one of them, or help."
        )

    def _command(self, command: str) -> Effect:
        if command == "quit":
            return Effect("quit", "Good bye.")
        if command == "help":
            lines = [f"  {name:<6} {what}" for name, what in HELP.items()]
            return Effect("told", "\n".join(["Type a move, or:", *lines]))
        if command == "new":
            self.begin()
            return Effect("begun", f"A new game. {self.seated()}")
        if command == "flip":
            self.seat = (self.seat + 1) % self.game.num_players
            return Effect("flipped", self.seated())
        if command == "undo":
            return self._undo()
        if self.mover == TERMINAL:
            return Effect("refused", "There are no moves: the game is over; type new, undo, flip or quit.")
        if command == "moves":
            return Effect("told", "Legal moves: " + " ".join(self.names()))
        return Effect("hint")

    def _undo(self) -> Effect:
        for ply in reversed(range(self.plies)):
            if self._mover(self.history[ply]) == self.seat:
                del self.history[ply + 1 :]
                return Effect("undone", "Back to your last decision.")
        return Effect("refused", "There is nothing to undo: you have not moved yet; type a move.")

    def seated(self) -> str:
        """Return where the person sits, as a sentence."""
        letter = marks(self.game).get(self.seat)
        return f"You play seat {self.seat}{f' ({letter})' if letter else ''} of {self.game.num_players}."


def listed(names: list[str]) -> str:
    """Return names in one line; what is too much for a sentence is counted."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more (type moves)" if rest > 0 else "")


def marks(game: Game) -> dict[int, str]:
    """Return the letter, X or O, that the moves of each seat add to the drawn board, where that is clear."""
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
    return found if len(set(found.values())) == len(found) else {}


# What is said of a position.


def score(game: Game, points: float) -> float:
    """Return points on the game's scale from 0 (worst) to 1 (best)."""
    worst, best = float(game.outcomes.min()), float(game.outcomes.max())
    return min(max((points - worst) / (best - worst), 0.0), 1.0) if best > worst else 0.5


def assessment(game: Game, values: npt.NDArray[np.float32], seat: int) -> str:
    """Return what a search says of a position to the person in `seat`; `values` is `f4 [P]` in [-1, 1]."""
    shares = [score(game, float(v) * game.scale) for v in values]
    if game.num_players == 1:
        return f"The agent expects a score of {shares[0]:.0%} for you."
    ahead = float(values[seat] - max(v for s, v in enumerate(values) if s != seat)) / 2
    words = "even"
    for bound, degree in ((0.1, "slightly {}"), (0.3, "clearly {}"), (0.8, "almost surely {}")):
        if abs(ahead) >= bound:
            words = degree.format("in your favour" if ahead > 0 else "against you")
    told = f"The agent finds it {words}: your expected score is {shares[seat]:.0%}"
    if game.num_players == 2:
        return told + "."
    seats = (f"seat {s}{' (you)' if s == seat else ''} {x:.0%}" for s, x in enumerate(shares))
    return f"{told} ({', '.join(seats)})."


def ending(dialogue: Dialogue) -> str:
    """Return how the game ended for the person."""
    game, seat = dialogue.game, dialogue.seat
    points = game.points(dialogue.state)
    if points is None:
        return f"The game was cut after {dialogue.plies} plies, the most that {game.id} allows: no result."
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
    """Return one bar per legal move, in the game's order; shares are the priors where nothing was visited."""
    count = int(found.count[0])
    visits = found.visit_count[0, :count]
    total = int(visits.sum())
    shares = visits / total if total else found.prior[0, :count]
    return [
        Bar(dialogue.name(int(a)), int(v), float(s), float(q), int(a) == int(found.action[0]))
        for a, v, s, q in zip(found.legal[0, :count], visits, shares, found.q[0, :count], strict=True)
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
            q = f"{row.q:+.2f}" if row.visits else "-"
            line = f"  {row.name:<{width}}  {row.visits:>6}  {bar}  {row.share:>4.0%}  {q:>5}"
            self.say(line + ("  <" if row.chosen else ""), "bold green" if row.chosen else "")
        if len(rows) > SHOWN:
            left = sum(r.visits for r in rows) - sum(rows[i].visits for i in kept)
            self.say(f"  and {len(rows) - SHOWN} more moves with {left} visits together", "dim")


def converse(dialogue: Dialogue, agent: Searcher, read: Callable[[str], str], screen: Screen) -> None:
    """Play until the person quits; `read(prompt)` gives a line, or raises EOFError at the end."""
    game = dialogue.game
    screen.say(f"{game.id} against {agent.name}. {dialogue.seated()} Type help for the commands.", "bold")
    changed = True
    while True:
        if changed:
            _advance(dialogue, agent, screen)
            screen.board(dialogue)
            if dialogue.mover == TERMINAL:
                screen.say(ending(dialogue), "bold")
                screen.say("Type new, undo, flip or quit.")
        effect = dialogue.obey(read("your move> " if dialogue.mover == dialogue.seat else "> "))
        if effect.text:
            screen.say(effect.text, "red" if effect.kind == "refused" else "cyan")
        if effect.kind == "quit":
            return
        if effect.kind == "hint":
            found = _search(dialogue, agent)
            screen.say(f"The agent would play {dialogue.name(int(found.action[0]))}.", "cyan")
            _explain(dialogue, found, screen)
        changed = effect.kind in ("played", "undone", "flipped", "begun")


def _advance(dialogue: Dialogue, agent: Searcher, screen: Screen) -> None:
    """Roll the dice and move for the other seats until the person is to move or the game is over."""
    while (mover := dialogue.mover) not in (TERMINAL, dialogue.seat):
        if mover == CHANCE:
            name, probability = dialogue.roll()
            screen.say(f"Chance gives {name} (probability {probability:.1%}).", "magenta")
            continue
        found = _search(dialogue, agent)
        action = int(found.action[0])
        who = "The agent" if dialogue.game.num_players == 2 else f"The agent in seat {mover}"
        screen.say(f"{who} plays {dialogue.name(action)}.", "bold")
        _explain(dialogue, found, screen)
        dialogue.play(action)


def _search(dialogue: Dialogue, agent: Searcher) -> SearchResult:
    states = dialogue.game.states(1)
    states[0] = dialogue.state
    keys, plies = np.array([dialogue.number], np.uint64), np.array([dialogue.plies], np.int32)
    return agent.search(states, keys, plies)


def _explain(dialogue: Dialogue, found: SearchResult, screen: Screen) -> None:
    screen.say(assessment(dialogue.game, found.root_value[0], dialogue.seat))
    screen.bars(bars(dialogue, found))


# What a name means, and where lines come from.


def _model(player: str) -> Model:
    name = player.removeprefix("demo:")
    is_game = name in BUILT_IN or name in {p.name for p in entry_points(group="zeroloop.games")}
    is_stored = (pathlib.Path(player) / "config.yaml").exists() or pathlib.Path(player).is_file()
    if name.endswith(".py") or (is_game and not is_stored):
        try:
            path = find(f"demo:{name}")
        except StoreError as error:
            raise StoreError(
                f"{error} Train one: zeroloop train {name}, and then: "
                f"zeroloop play runs/{pathlib.Path(name).stem}."
            ) from error
    else:
        path = find(player)
    if path is None:
        raise PlayerError(
            f"there is no player '{player}': it is no run directory, model file, model hash, demo or game; "
            "give one of them, such as runs/connect4."
        )
    run = path.parent.parent  # a game of the person's own is named by its file in the run's configuration
    if path.parent.name == "models" and (run / "config.yaml").exists():
        about = stored_config(run).game
        return load(path, make(about.name, **about.options))
    return load(path)


def _lines(screen: Screen) -> Callable[[str], str]:
    def read(prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        screen.say(prompt + line.rstrip("\n"))  # so that the transcript shows what was typed
        return line

    return input if sys.stdin.isatty() else read


def play_terminal(player: str, simulations: int, seat: int, seed: int) -> None:
    """Let a person play a model in the terminal, or a script through a pipe, until `quit` or the end of input.

    Args:
      player: a run directory, model file, hash, `demo:GAME` or a game's name; each may end in `@SIMULATIONS`.
      simulations: of the agent's search; 0: the raw policy. seat: the person's.

    Raises:
      ConfigError: a seat, seed or number of simulations out of range.
      StoreError, PlayerError, ResumeError: there is no such model, or it cannot be used.
    """
    player, simulations = split_name(player, simulations)
    if simulations < 0:
        raise ConfigError(f"--simulations is {simulations}; it must be at least 0 (the raw policy).")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed is {seed}; it must lie in 0..2^63-1.")
    model = _model(player)
    players = model.game.num_players
    if not 0 <= seat < players:
        raise ConfigError(f"--seat is {seat}; {model.game.id} has seats 0 to {players - 1}, give one of them.")
    screen = Screen(Console(highlight=False))
    try:
        agent = model_player(model, simulations, seed=seed, settings=PlaySettings(batch=1))
        converse(Dialogue(model.game, seat, seed), agent, _lines(screen), screen)
    except (EOFError, KeyboardInterrupt):
        screen.say("\nGood bye.")
