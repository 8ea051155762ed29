"""Games: rules only. `make("connect4")` or `make("path/to/nim.py")` gives a Game."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from ..compiled import helper
from ..errors import GameError
from .game import CHANCE, TERMINAL, Game, Observation
from .identity import rules_identity

BUILT_IN = ("tictactoe", "connect4", "hex", "backgammon", "chess")
"""Games that come with zeroloop; each is a module of this package with `GAME` or `make`."""


def make(name: str, **options: Any) -> Game:
    """Return the game of this name, of an installed package (entry point `zeroloop.games`), or of a file.

    A file or module offers `GAME`, or `make(**options) -> Game`.

    Raises:
      GameError: no such game, or options that it does not take.
    """
    if name.endswith(".py"):
        module = _load_file(pathlib.Path(name))
    elif name in BUILT_IN:
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        module = _load_installed(name)
    return _game_of(module, name, options)


def _load_installed(name: str) -> ModuleType:
    found = {point.name: point for point in entry_points(group="zeroloop.games")}
    if name not in found:
        known = [*BUILT_IN, *found]
        close = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise GameError(
            f"there is no game '{name}'; known: {', '.join(known)}, or a path to a .py file.{hint}"
        )
    module: ModuleType = found[name].load()
    return module


def _load_file(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        raise GameError(f"there is no game file '{path}'; give the path of a .py file that defines GAME.")
    # Numba re-imports cached functions by module name: the name is unique to the path, and the file's
    # folder is importable so that the game may use helper files beside it.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    tag = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"zeroloop_game_{path.stem}_{tag}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise GameError(f"'{path}' is not a Python file that can be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the command's answer
            spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise GameError(f"{path}:{error.lineno}: {error.msg}.") from error
    except GameError:
        del sys.modules[name]
        raise
    except Exception as error:  # whatever a user's file raises while it is imported
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        at = f"{path}:{lines[-1]}" if lines else str(path)
        raise GameError(f"{at}: {type(error).__name__}: {error}.") from error
    return module


def _game_of(module: ModuleType, name: str, options: dict[str, Any]) -> Game:
    factory = getattr(module, "make", None)
    if factory is not None:
        known = inspect.signature(factory).parameters
        free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
        for option in options:
            if option not in known and not free:
                allowed = ", ".join(known) or "none"
                raise GameError(f"game '{name}' has no option '{option}'; allowed: {allowed}.")
        try:
            game = factory(**options)
        except GameError:
            raise
        except Exception as error:  # whatever a user's `make` raises
            lines = traceback.extract_tb(error.__traceback__)
            raise GameError(
                f"{lines[-1].filename}:{lines[-1].lineno}: game '{name}' cannot be made with the options "
                f"{options}: {type(error).__name__}: {error}."
            ) from error
    else:
        if options:
            raise GameError(f"game '{name}' takes no options, but got {options}.")
        game = getattr(module, "GAME", None)
    if not isinstance(game, Game):
        raise GameError(f"'{name}' defines no GAME = Game(...) and no make(...) that returns one.")
    return game


__all__ = [
    "BUILT_IN",
    "CHANCE",
    "TERMINAL",
    "Game",
    "Observation",
    "helper",
    "make",
    "rules_identity",
]
