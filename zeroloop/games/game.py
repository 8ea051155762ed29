"""The game contract: states as plain bytes, rules as plain functions, dice as a player.

A rule works on one state record, writes into buffers that it is given, allocates nothing and
raises nothing. The module functions below (`to_play`, `legal_actions`, ...) take the game as
first argument: in compiled code they resolve, by the type of the game, to its rules; in plain
Python they call them. Knows nothing of search, networks or training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import NativeValue, models, overload, register_model, typeof_impl, unbox

from ..compiled import OPTIONS, helper
from ..errors import GameError, IllegalAction, InvalidState
from .digest import code_digest

CHANCE = -1
"""`to_play` at a chance node (dice, cards): `apply_action` takes a chance outcome."""
TERMINAL = -2
"""`to_play` when the game is over: `outcome` names the row of the outcome table."""

RULES = {
    "initial": 2,
    "to_play": 1,
    "legal_actions": 2,
    "apply_action": 2,
    "chance_outcomes": 3,
    "outcome": 1,
    "observe": 3,
    "symmetry": 2,
    "symmetry_action": 2,
    "heuristic": 2,
}
"""Compiled rules and their number of arguments."""

SMALL_STATE = 128
"""Bytes up to which an episode keeps every state."""

State = Any
"""One record of the game's `state_dtype`: a NumPy record in Python, a C struct in compiled code."""


class Observation(NamedTuple):
    """What the network sees of a state; planes and globals may each be empty.

    Bump `version` when the meaning changes: a model names the version that it reads.
    """

    planes: tuple[int, int, int] = (0, 0, 0)
    """Channels, height, width."""
    globals: int = 0
    """Length of the vector of facts that belong to no square."""
    dtype: str = "float32"
    version: int = 1


class GameType(types.Type):
    """The Numba type of a game: its name and the digest of its code. It has no run-time content."""

    def __init__(self, name: str, digest: str) -> None:
        self.game_name, self.digest = name, digest
        super().__init__(f"Game({name},{digest})")


register_model(GameType)(models.OpaqueModel)


def _unbox(typ: Any, obj: Any, context: Any) -> Any:
    native: Any = NativeValue
    return native(context.context.get_dummy_value())


unbox(GameType)(_unbox)  # type: ignore[no-untyped-call]


_GAMES: dict[GameType, Game] = {}


class Game:
    """A game: static facts, compiled rules and text functions. Immutable once made.

    Rules (P seats, A action ids, K outcome rows):
      initial(state, seed): fill the record; `seed` is for games whose setup is drawn.
      to_play(state) -> int: seat 0..P-1, `CHANCE` or `TERMINAL`.
      legal_actions(state, out) -> int: ids ascending into out[:k]; k >= 1 where a seat is to move.
      apply_action(state, action): in place; an action id, or a chance outcome at a chance node.
      outcome(state) -> int: row of `outcomes`; asked only at a terminal state.
      observe(state, planes, globals): write every cell, from the view of the seat to move.
      chance_outcomes(state, out, probability) -> int: ids and probabilities that sum to 1.
      symmetry(state, k): turn the record into its k-th image, in place; k = 0 is the identity.
      symmetry_action(action, k) -> int: the same move in the image.
      heuristic(state, seat) -> float: a guess of the seat's value in [-1, 1], for minimax players.

    Args:
      state_dtype: a structured dtype of plain numbers; no Python objects.
      max_legal: bound on the number of legal actions of any state.
      max_plies: bound on the plies of a game, chance plies included; longer games are truncated.
      outcomes: `float [K, P]`, points per seat of each way the game can end.
      truncates: said of a game that may go on for longer than `max_plies`; without it that breaks a law.
      keyframe_every: plies between the states that an episode keeps; between them actions are replayed.
        0: every state where it is small, else so many that they take 32 bytes a ply.

    Raises:
      GameError: a fact is missing, out of range, or does not fit another.
    """

    def __init__(
        self,
        name: str,
        *,
        version: int,
        state_dtype: npt.DTypeLike,
        num_players: int,
        num_actions: int,
        max_legal: int,
        max_plies: int,
        outcomes: Sequence[Sequence[float]],
        observation: Observation,
        rules: Mapping[str, Callable[..., Any]],
        max_chance: int = 0,
        num_symmetries: int = 1,
        keyframe_every: int = 0,
        truncates: bool = False,
        options: Mapping[str, Any] | None = None,
        render: Callable[[State], str] | None = None,
        action_name: Callable[[State, int], str] | None = None,
        position: Callable[[State], str] | None = None,
        parse_position: Callable[[State, str], None] | None = None,
        details: Callable[[State, bool], Mapping[str, Any]] | None = None,
    ) -> None:
        self.name, self.version = name, version
        self.options = dict(options or {})
        self.num_players, self.num_actions = num_players, num_actions
        self.max_legal, self.max_chance, self.max_plies = max_legal, max_chance, max_plies
        self.num_symmetries, self.truncates = num_symmetries, truncates
        self.observation = observation
        self.state_dtype = padded(np.dtype(state_dtype), name)
        self.outcomes = np.array(outcomes, np.float32)
        self._check_facts(rules)
        size = self.state_dtype.itemsize
        self.keyframe_every = keyframe_every or (1 if size <= SMALL_STATE else -(-size // 32))
        self.scale = float(np.abs(self.outcomes).max()) or 1.0
        self.relative_outcomes, self.relative_row = _relative(self.outcomes)
        self.rules = {name: getattr(rule, "py_func", rule) for name, rule in rules.items()}
        self._render, self._action_name = render, action_name
        self._position, self._parse_position = position, parse_position
        self._details = details
        facts = (
            name,
            num_players,
            max_legal,
            max_chance,
            self.outcomes,
            repr(observation),
            self.keyframe_every,
        )
        named = [item for rule in sorted(self.rules) for item in (rule, self.rules[rule])]
        self.code_digest = code_digest(name, facts, self.state_dtype, *named)
        self._numba_type_ = GameType(name, self.code_digest)
        _GAMES[self._numba_type_] = self

    def _check_facts(self, rules: Mapping[str, Callable[..., Any]]) -> None:
        required = [r for r in RULES if r not in ("symmetry", "symmetry_action", "heuristic")]
        if not self.max_chance:
            required.remove("chance_outcomes")
        for rule in required:
            if rule not in rules:
                raise GameError(f"game '{self.name}' has no rule '{rule}'; it needs {', '.join(required)}.")
        for rule in rules:
            if rule not in RULES:
                raise GameError(f"game '{self.name}': unknown rule '{rule}'; allowed: {', '.join(RULES)}.")
        if self.num_symmetries > 1 and not {"symmetry", "symmetry_action"} <= set(rules):
            raise GameError(
                f"game '{self.name}' claims {self.num_symmetries} symmetries; "
                "give the rules 'symmetry' and 'symmetry_action'."
            )
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w-]*", self.name):
            raise GameError(f"a game's name is {self.name!r}; use letters, digits, '_' and '-'.")
        for fact in ("num_players", "num_actions", "max_legal", "max_plies", "num_symmetries"):
            found = getattr(self, fact)
            if not isinstance(found, int) or found < 1:
                raise GameError(f"game '{self.name}': {fact} is {found!r}; it must be a whole number from 1.")
        planes = self.observation.planes
        if len(planes) != 3 or not all(isinstance(n, int) and n >= 0 for n in planes):
            raise GameError(
                f"game '{self.name}': planes is {planes}; it must be (channels, height, width), each from 0."
            )
        if not np.isfinite(self.outcomes).all() or (len(self.outcomes) > 1 and not np.ptp(self.outcomes)):
            raise GameError(
                f"game '{self.name}': outcomes is {self.outcomes.tolist()}; "
                "the points must be finite and not all equal."
            )
        if self.outcomes.ndim != 2 or self.outcomes.shape[1] != self.num_players:
            raise GameError(
                f"game '{self.name}': outcomes has shape {self.outcomes.shape}; "
                f"it must be [rows, {self.num_players}], points per seat."
            )

    @property
    def id(self) -> str:
        """Name and options, as shown to people: `hex(size=5)`."""
        return title(self.name, self.options)

    @property
    def has_heuristic(self) -> bool:
        """True where the game offers a heuristic for minimax players."""
        return "heuristic" in self.rules

    def states(self, n: int) -> npt.NDArray[Any]:
        """Return `state_dtype [n]`, zeroed; call `initial` on a row before use."""
        return np.zeros(n, self.state_dtype)

    def initial_state(self, seed: int = 0) -> State:
        """Return a fresh record at the start of the game."""
        state = self.states(1)[0]
        self.rules["initial"](state, seed)
        return state

    def copy(self, state: State) -> State:
        """Return an independent copy of the record."""
        out = self.states(1)
        out[0] = state
        return out[0]

    def legal(self, state: State) -> list[int]:
        """Return the legal action ids, ascending; empty at chance and terminal states."""
        if self.rules["to_play"](state) < 0:
            return []
        out = np.zeros(self.max_legal, np.int32)
        return [int(a) for a in out[: self.rules["legal_actions"](state, out)]]

    def chance(self, state: State) -> list[tuple[int, float]]:
        """Return (outcome, probability) at a chance node, else an empty list."""
        if self.rules["to_play"](state) != CHANCE:
            return []
        out, prob = np.zeros(self.max_chance, np.int32), np.zeros(self.max_chance, np.float32)
        k = self.rules["chance_outcomes"](state, out, prob)
        return [(int(a), float(p)) for a, p in zip(out[:k], prob[:k], strict=True)]

    def play(self, state: State, action: int) -> None:
        """Apply a legal action or chance outcome in place; IllegalAction otherwise."""
        allowed = self.legal(state) or [a for a, _ in self.chance(state)]
        if action not in allowed:
            names = ", ".join(self.action_name(state, a) for a in allowed) or "none: the game is over"
            raise IllegalAction(f"{self.id}: action {action} is not legal here; allowed: {names}.")
        self.rules["apply_action"](state, action)

    def points(self, state: State) -> list[float] | None:
        """Return points per seat at a terminal state, else None."""
        if self.rules["to_play"](state) != TERMINAL:
            return None
        return [float(x) for x in self.outcomes[self.rules["outcome"](state)]]

    def render(self, state: State) -> str:
        """Return the position as text for the terminal."""
        return self._render(state) if self._render else f"{self.id} {self.position(state)}"

    def action_name(self, state: State, action: int) -> str:
        """Return the action in the field's notation."""
        return self._action_name(state, action) if self._action_name else str(action)

    def parse_action(self, state: State, text: str) -> int:
        """Return the legal action (or chance outcome) of this name; IllegalAction otherwise."""
        allowed = self.legal(state) or [a for a, _ in self.chance(state)]
        names = {self.action_name(state, a): a for a in allowed}
        if text not in names:
            known = ", ".join(names) or "none: the game is over"
            kind = "a legal move" if self.legal(state) or not names else "a roll, and a roll comes next"
            raise IllegalAction(f"{self.id}: '{text[:60]}' is not {kind} here; allowed: {known}.")
        return names[text]

    def position(self, state: State) -> str:
        """Return the position as text that `parse_position` reads back."""
        return self._position(state) if self._position else state.tobytes().hex()

    def parse_position(self, text: str) -> State:
        """Return the state of a position text; InvalidState otherwise."""
        state = self.initial_state()
        if self._parse_position:
            self._parse_position(state, text)
            return state
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        if len(raw) != self.state_dtype.itemsize:
            size = self.state_dtype.itemsize
            raise InvalidState(f"{self.id}: '{text}' is not a position; expected {2 * size} hex digits.")
        out = self.states(1)
        out.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
        return out[0]

    def details(self, state: State, rolled: bool = False) -> dict[str, Any]:
        """Return what the game tells of a position beside the contract; `rolled`: its dice are new."""
        return dict(self._details(state, rolled)) if self._details else {}

    def describe(self) -> str:
        """Return the facts that belong to the rules identity as canonical JSON."""
        facts = {
            "name": self.name,
            "version": self.version,
            "options": self.options,
            "players": self.num_players,
            "actions": self.num_actions,
            "outcomes": self.outcomes.tolist(),
            "observation": list(self.observation),
        }
        return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def title(name: str, options: Mapping[str, Any]) -> str:
    """Return a game's name with its options in brackets."""
    inner = ", ".join(f"{k}={v}" for k, v in sorted(options.items()))
    return f"{name}({inner})" if inner else name


def padded(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """Return the dtype as a record whose size is a multiple of 8 bytes, so that states hash by words."""
    if dtype.names is None or dtype.hasobject:
        raise GameError(
            f"game '{name}': state_dtype is {dtype}; it must be a structured dtype of plain numbers."
        )
    fields = [(field, *_field(dtype.fields[field][0])) for field in dtype.names]  # type: ignore[index]
    packed = np.dtype(fields)
    rest = -packed.itemsize % 8
    if rest:
        fields.append(("_pad", "u1", (rest,)))
    return np.dtype((np.record, np.dtype(fields)))


def _field(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    return dtype.subdtype if dtype.subdtype is not None else (dtype,)


def _relative(
    outcomes: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return the outcome table as seen from the seat to move, and how each seat maps onto it.

    Returns:
      `f32 [R, P]`: points of (mover, next seat, ...), every distinct rotation of a row once;
      `i32 [P, K]`: row of that table for outcome k seen from seat p.
    """
    rows: list[tuple[float, ...]] = []
    k, p = outcomes.shape
    index = np.zeros((p, k), np.int32)
    for seat in range(p):
        for row in range(k):
            seen = tuple(float(x) for x in np.roll(outcomes[row], -seat))
            same = [i for i, known in enumerate(rows) if known == seen]
            # Rows with equal points but different meaning stay apart for seat 0.
            if not same or (seat == 0 and row not in same):
                index[seat, row] = len(rows)
                rows.append(seen)
            else:
                index[seat, row] = same[0]
    return np.array(rows, np.float32), index


# The rules as seen from compiled code: `rule(game, ...)`.


def initial(game: Any, state: State, seed: int) -> None:
    """Fill the record with the start of the game."""
    game.rules["initial"](state, seed)


def to_play(game: Any, state: State) -> Any:
    """Return the seat to move, `CHANCE` or `TERMINAL`."""
    return game.rules["to_play"](state)


def legal_actions(game: Any, state: State, out: Any) -> Any:
    """Write the legal ids, ascending, and return how many."""
    return game.rules["legal_actions"](state, out)


def apply_action(game: Any, state: State, action: Any) -> None:
    """Play an action id or a chance outcome in place."""
    game.rules["apply_action"](state, action)


def chance_outcomes(game: Any, state: State, out: Any, probability: Any) -> Any:
    """Write the outcome ids and probabilities of a chance node and return how many."""
    rule = game.rules.get("chance_outcomes")
    return rule(state, out, probability) if rule else 0


def outcome(game: Any, state: State) -> Any:
    """Return the row of the outcome table at a terminal state."""
    return game.rules["outcome"](state)


def observe(game: Any, state: State, planes: Any, global_facts: Any) -> None:
    """Write the observation from the view of the seat to move."""
    game.rules["observe"](state, planes, global_facts)


def symmetry(game: Any, state: State, k: Any) -> None:
    """Turn the record into its k-th image; nothing for a game without symmetries."""
    if "symmetry" in game.rules:
        game.rules["symmetry"](state, k)


def symmetry_action(game: Any, action: Any, k: Any) -> Any:
    """Return the action's id in the k-th image."""
    return game.rules["symmetry_action"](action, k) if "symmetry_action" in game.rules else action


def heuristic(game: Any, state: State, seat: Any) -> Any:
    """Return the heuristic value for the seat; 0 for a game without one."""
    return game.rules["heuristic"](state, seat) if "heuristic" in game.rules else 0.0


def num_players(game: Any) -> Any:
    """Return P; a compile-time constant in compiled code."""
    return game.num_players


def keyframe_every(game: Any) -> Any:
    """Return the plies between kept states; a compile-time constant in compiled code."""
    return game.keyframe_every


def outcome_value(game: Any, row: Any, seat: Any) -> Any:
    """Return the seat's points for an outcome row, divided by the table's largest magnitude, float32."""
    return game.outcomes[row, seat] / np.float32(game.scale)


_OPTIONS: Any = {"forceinline": True, **OPTIONS}
_ABSENT: dict[str, Callable[..., Any]] = {
    "chance_outcomes": lambda state, out, probability: 0,
    "symmetry": lambda state, k: None,
    "symmetry_action": lambda action, k: action,
    "heuristic": lambda state, seat: 0.0,
}


def _dispatch(stub: Callable[..., Any]) -> None:
    name = stub.__name__

    @overload(stub, strict=False, jit_options=_OPTIONS)
    def resolve(game: Any, *args: Any) -> Any:
        if not isinstance(game, GameType):
            return None
        compiled: Any = helper(_GAMES[game].rules.get(name) or _ABSENT[name])
        return {
            1: lambda game, a: compiled(a),
            2: lambda game, a, b: compiled(a, b),
            3: lambda game, a, b, c: compiled(a, b, c),
        }[RULES[name]]


for _stub in (
    initial,
    to_play,
    legal_actions,
    apply_action,
    chance_outcomes,
    outcome,
    observe,
    symmetry,
    symmetry_action,
    heuristic,
):
    _dispatch(_stub)


@overload(num_players, strict=False, jit_options=_OPTIONS)
def _num_players(game: Any) -> Any:
    count = _GAMES[game].num_players
    return lambda game: count


@overload(keyframe_every, strict=False, jit_options=_OPTIONS)
def _keyframe_every(game: Any) -> Any:
    count = _GAMES[game].keyframe_every
    return lambda game: count


@overload(outcome_value, strict=False, jit_options=_OPTIONS)
def _outcome_value(game: Any, row: Any, seat: Any) -> Any:
    table = _GAMES[game].outcomes / np.float32(_GAMES[game].scale)
    return lambda game, row, seat: table[row, seat]


@typeof_impl.register(Game)
def _typeof(game: Game, context: Any) -> GameType:
    return game._numba_type_
