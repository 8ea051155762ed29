"""Rules as plain Python, and what to tell the author of a rule that fails or does not compile."""

from __future__ import annotations

import copy
import linecache
import os
import pathlib
import re
import traceback
import types
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from ..compiled import INTERPRETED, helper
from ..errors import GameError
from .game import Game
from .record import clear, limits_of, make_answers, record

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def explain_rules(game: Game) -> None:
    """Find the rule at fault after a kernel failed to compile; return if every rule compiles alone.

    Raises:
      GameError: the rule, its line and the cause, in one sentence.
    """
    t = make_answers(game, 60)
    clear(game, t)
    with np.errstate(all="ignore"):
        PLAIN_RECORD(plain_twin(game), t, game.states(1), limits_of(game), 0, 0, 2)
    if INTERPRETED:
        return
    state, number = numba.from_dtype(game.state_dtype), numba.int64
    ids, floats = numba.int32[::1], numba.float32[::1]
    kinds = {
        "initial": (state, number),
        "legal_actions": (state, ids),
        "apply_action": (state, numba.int32),
        "chance_outcomes": (state, ids, floats),
        "observe": (state, numba.float32[:, :, ::1], floats),
        "symmetry": (state, number),
        "symmetry_action": (numba.int32, number),
        "heuristic": (state, number),
    }
    for name, rule in game.rules.items():
        try:
            cast(Any, helper(rule)).compile(kinds.get(name, (state,)))
        except Exception as error:
            where, cause = _compile_cause(rule, error)
            raise GameError(
                f"game '{game.name}': rule '{name}' does not compile at {where}: {cause}."
            ) from error


class _Plain:
    """Copies functions so that every compiled helper they reach is plain Python again."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.scopes: dict[int, dict[str, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType) and not _library(value.__name__):
            return _PlainModule(self, value)
        value = getattr(value, "py_func", value)
        if not isinstance(value, types.FunctionType) or _library(value.__module__ or ""):
            return value
        if id(value) not in self.made:
            self._copy(value)
        return self.made[id(value)]

    def _copy(self, value: types.FunctionType) -> None:
        scope = self.scopes.setdefault(id(value.__globals__), dict(value.__globals__))
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        made = types.FunctionType(value.__code__, scope, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__, made.__module__ = value.__kwdefaults__, value.__module__
        self.made[id(value)] = made
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            cell.cell_contents = self(old.cell_contents)
        names: set[str] = set()
        codes = [value.__code__]
        while codes:
            code = codes.pop()
            names.update(code.co_names)
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for name in names & value.__globals__.keys():
            scope[name] = self(value.__globals__[name])


class _PlainModule:
    """A module whose functions are handed out as plain Python."""

    def __init__(self, plain: _Plain, module: types.ModuleType) -> None:
        self._plain, self._module = plain, module

    def __getattr__(self, name: str) -> Any:
        return self._plain(getattr(self._module, name))


def _library(module: str) -> bool:
    return module.split(".")[0] in ("numpy", "numba", "math", "builtins")


PLAIN_RECORD = _Plain()(record)


def plain_twin(game: Game) -> Game:
    """Return the game with plain Python rules that name themselves and the line when they fail."""
    for field in game.state_dtype.names or ():
        if hasattr(np.record, field):
            raise GameError(
                f"game '{game.name}': the state has a field '{field}', but plain Python reads NumPy's "
                f"own attribute of that name; rename it, for example to '{field}_'."
            )
    twin, plain = copy.copy(game), _Plain()
    rules = game.rules.items()
    twin.rules = {name: _watched(game, name, rule, plain(rule)) for name, rule in rules}
    for text in ("_render", "_action_name", "_position", "_parse_position"):
        setattr(twin, text, plain(getattr(game, text)))
    return twin


def _watched(game: Game, name: str, rule: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    whole = name in ("to_play", "legal_actions", "chance_outcomes", "outcome", "symmetry_action")
    kinds = (int, np.integer) if whole else (int, float, np.number)

    def call(*args: Any) -> Any:
        try:
            answer = plain(*args)
        except Exception as error:
            raise failure(game, f"rule '{name}'", rule, error) from error
        asked = whole or name == "heuristic"
        if asked and (isinstance(answer, bool) or not isinstance(answer, kinds)):
            raise GameError(
                f"game '{game.name}': rule '{name}' at {_place(rule)} returns {answer!r}; "
                f"it must return a {'whole ' if whole else ''}number."
            )
        return answer

    return call


def _place(rule: Any) -> str:
    code = getattr(rule, "py_func", rule).__code__
    return f"{pathlib.Path(code.co_filename).name}:{code.co_firstlineno}"


def failure(game: Game, what: str, rule: Any, error: Exception) -> GameError:
    """Return a GameError that names the line of the user's file at which `what` failed."""
    skip = (os.path.dirname(np.__file__), os.path.dirname(numba.__file__), __file__)
    frames = traceback.extract_tb(error.__traceback__)
    user = [f for f in frames if not f.filename.startswith(skip)]
    where = f"{pathlib.Path(user[-1].filename).name}:{user[-1].lineno}" if user else _place(rule)
    cause = f"{type(error).__name__}: {error}".rstrip(".")
    return GameError(f"game '{game.name}': {what} failed at {where}: {cause}.")


_HINTS = (
    (
        r"already jitted function",
        "it is decorated; leave rules plain and decorate only their helpers",
    ),
    (
        r"name '(\w+)': Cannot determine Numba type of <class 'function'>",
        "'{0}' is a plain function; decorate it with @helper",
    ),
    (
        r"name '(\w+)': Cannot determine Numba type of <class '([\w.]+)'>",
        "'{0}' is a {1}, which compiled rules cannot use; use numbers and arrays",
    ),
    (
        r"NRT required|Only accept returning of array passed",
        "it makes a new list, dict, array or text; rules allocate nothing: "
        "write into the buffers they are given",
    ),
    (
        r"[Cc]an(?:'t|not) unify (?:return type )?(?:from the following types: )?([^\n]*)",
        "one value is of two kinds ({0}); use one kind",
    ),
    (r"NameError: name '(\w+)' is not defined", "the name '{0}' is not defined"),
    (r"Unknown attribute '(\w+)'", "there is no attribute '{0}'"),
)
"""Patterns in Numba's messages, and what they mean for a rule."""


def _compile_cause(rule: Any, error: Exception) -> tuple[str, str]:
    """Return the line of the user's file and the short cause of a failed compilation."""
    text = COLOUR.sub("", str(error))  # Numba colours its messages where colorama can be imported
    lines = re.findall(r'File "([^"\n]+)", line (\d+)|(?:at|from) (\S+\.py) \((\d+)\)', text)
    found = [(a or c, int(b or d)) for a, b, c, d in lines if "site-packages" not in (a or c)]
    code = getattr(rule, "py_func", rule).__code__
    path, line = found[0] if found else (code.co_filename, code.co_firstlineno)
    if isinstance(error, KeyError):
        return _first_use(path, line, str(error.args[0])), f"the state has no field {error}"
    for pattern, hint in _HINTS:
        match = re.search(pattern, text)
        if match:
            name = match.group(1) if "name" in pattern else ""
            return _first_use(path, line, name), hint.format(*match.groups())
    return _first_use(path, line, ""), shorten(text)


def _first_use(path: str, line: int, name: str) -> str:
    """Return file and line; from the given line on, the first line that has the name."""
    source = linecache.getlines(os.path.abspath(path))[line - 1 : line + 99]
    uses = (k for k, text in enumerate(source) if name and re.search(rf"\b{name}\b", text))
    return f"{pathlib.Path(path).name}:{line + next(uses, 0)}"


def shorten(text: str) -> str:
    """Return the first telling line of a Numba message."""
    lines = [x.strip() for x in text.split("\n") if x.strip() and "pipeline (step" not in x]
    cause = re.sub(r"\s*Raised from .*", "", lines[0] if lines else "no reason given")
    return cause.rstrip(". ")[:160]
