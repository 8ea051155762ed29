"""The code digest: a hash of everything that a game's compiled rules depend on.

It keeps the compilation cache honest and does nothing else. Numba's cache sees only the kernel's
own file; a game's type carries this digest, so an edited rule, helper, constant or platform kernel
is a different type and a cache miss. It says nothing about what the rules mean: the rules identity
does that (`games.identity`).
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import pathlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import GameError

_TRUSTED = ("numpy", "numba", "math", "builtins", "llvmlite")
_SCALARS = (type(None), bool, int, float, complex, str, bytes)


def code_digest(owner: str, *roots: Any) -> str:
    """Return 16 hex digits over the roots, all that they reach, and the platform's own kernels.

    Args:
      owner: the game's name, for the message.
      roots: rule functions and constants.

    Raises:
      GameError: a rule reaches a value that cannot be hashed, such as an open file.
    """
    walk = _Walk(owner)
    walk.add(platform_digest())
    for root in roots:
        walk.add(root)
    return walk.hash.hexdigest()[:16]


@functools.cache
def platform_digest() -> str:
    """Return a SHA-256 over every source file of this package that defines compiled code."""
    package = pathlib.Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if b"\n@kernel" in source or b"\n@helper" in source or b"@overload" in source:
            total.update(path.relative_to(package).as_posix().encode() + b"\0" + source)
    return total.hexdigest()


class _Walk:
    def __init__(self, owner: str) -> None:
        self.hash = hashlib.sha256()
        self.seen: set[int] = set()
        self.owner = owner
        self.trail: list[str] = []

    def add(self, value: Any) -> None:
        value = getattr(value, "py_func", value)  # a compiled function -> its Python function
        value = getattr(value, "_defn", value)  # a Numba intrinsic -> its definition
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, enum.Enum):
            self._tag("enum member", type(value).__qualname__, value.name)
            self.add(value.value)
        elif isinstance(value, np.dtype):
            self._tag("dtype", str(value.descr if value.fields else value.str))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._tag("array", str(value.dtype), repr(value.shape))
            self.hash.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, np.generic) and not isinstance(value, np.void):
            self._tag("scalar", str(value.dtype))
            self.hash.update(value.tobytes())
        elif isinstance(value, _SCALARS) or value is Ellipsis:
            self._tag(type(value).__name__, repr(value))
        elif isinstance(value, (tuple, list)):
            self._tag(type(value).__qualname__, repr(getattr(value, "_fields", len(value))))
            for item in value:
                self.add(item)
        elif isinstance(value, dict):
            self._unordered("dict", list(value.items()))
        elif isinstance(value, (set, frozenset)):
            self._unordered("set", list(value))
        elif isinstance(value, type):
            self._type(value)
        elif _trusted(value):
            owner = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
            self._tag("named", owner, getattr(value, "__qualname__", repr(value)))
        else:
            raise GameError(
                f"game '{self.owner}': {' -> '.join(self.trail) or 'a rule'} reaches "
                f"a value of type {type(value).__name__}, whose content cannot be hashed, so a stale "
                "compilation could not be noticed. Use numbers, strings, arrays, tuples, dicts, sets, "
                "enums or plain functions."
            )

    def _tag(self, *words: str) -> None:
        for word in words:
            data = word.encode()
            self.hash.update(len(data).to_bytes(4, "little") + data)

    def _unordered(self, kind: str, items: list[Any]) -> None:
        digests = []
        for item in items:
            inner = _Walk(self.owner)
            inner.trail, inner.seen = self.trail, set(self.seen)
            inner.add(item)
            digests.append(inner.hash.digest())
        self._tag(kind, str(len(digests)))
        for digest in sorted(digests):
            self.hash.update(digest)

    def _type(self, cls: type) -> None:
        self._tag("type", cls.__module__, cls.__qualname__)
        if issubclass(cls, enum.Enum):
            for member in cls:
                self._tag(member.name)
                self.add(member.value)
        elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
            self.add(cls._fields)
        elif not _trusted(cls):
            raise GameError(
                f"game '{self.owner}': {' -> '.join(self.trail) or 'a rule'} uses the class "
                f"{cls.__qualname__}, which compiled rules cannot. Use plain functions, numbers and arrays."
            )

    def _function(self, function: types.FunctionType) -> None:
        if id(function) in self.seen:
            self._tag("seen", function.__qualname__)
            return
        self.seen.add(id(function))
        self.trail.append(f"{function.__module__}.{function.__qualname__}")
        # Numba re-imports a cached function's module by name, so the name belongs to the digest.
        self._tag("function", function.__module__ or "", function.__qualname__)
        self._code(function.__code__, function.__globals__)
        for default in function.__defaults__ or ():
            self.add(default)
        for name, default in sorted((function.__kwdefaults__ or {}).items()):
            self._tag(name)
            self.add(default)
        for cell in function.__closure__ or ():
            self.add(cell.cell_contents)
        self.trail.pop()

    def _code(self, code: types.CodeType, scope: dict[str, Any]) -> None:
        self.hash.update(code.co_code)
        self._tag(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)))
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                self._code(const, scope)
            else:
                self.add(const)
        for name, value in _references(self.owner, code, scope):
            self._tag(name)
            self.trail.append(name)
            self.add(value)
            self.trail.pop()


def _references(owner: str, code: types.CodeType, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for each global that the code loads, following module attributes.

    Raises:
      GameError: a name is not defined yet, so later edits of it would not be seen.
    """
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PUSH_NULL")]
    for k, instruction in enumerate(instructions):
        if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        name = str(instruction.argval)
        if name not in scope:
            if not hasattr(builtins, name):
                raise GameError(
                    f"game '{owner}': {code.co_filename}:{code.co_firstlineno}: '{code.co_name}' uses "
                    f"'{name}', "
                    "which is not defined where Game(...) is made; define it above that line."
                )
            yield name, getattr(builtins, name)
            continue
        value = scope[name]
        for follower in instructions[k + 1 :]:
            if follower.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                break
            if not isinstance(value, types.ModuleType) or not hasattr(value, follower.argval):
                break
            value, name = getattr(value, follower.argval), f"{name}.{follower.argval}"
        yield name, value


def _trusted(value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in _TRUSTED
    module = getattr(value, "__module__", None) or ""
    builtin = isinstance(value, (types.BuiltinFunctionType, np.ufunc))
    return builtin or (isinstance(value, (type, Callable)) and module.split(".")[0] in _TRUSTED)  # type: ignore[arg-type]
