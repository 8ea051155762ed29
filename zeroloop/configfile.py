"""Typed configuration from YAML, environment and `--set`; knows no key of zeroloop's own.

A configuration is a tree of frozen, keyword-only dataclasses. Every value that is read carries the
place where it was written, so that each error can name it. The defaults of the classes are the
lowest layer: a mapping changes only the keys that it names. Supported types of fields: bool, int,
float, str, Literal, Schedule, another dataclass, `tuple[T, ...]`, `dict[str, T]`, and `X | None`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from zeroloop.errors import ConfigError
from zeroloop.schedule import Schedule

T = TypeVar("T")
Scalar = int | float | str | bool
"""Any single value, for a field whose type only its reader knows."""

ENVIRONMENT_PREFIX = "ZEROLOOP_"
_CLOSE_ENOUGH = 0.6
_PLAIN_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_FOUND = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string"}
_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    Schedule: "a number or a schedule",
    Scalar: "a number, a string, true or false",
}


@dataclass(frozen=True)
class Marked:
    """A YAML value, and the places where it is written (several once layers are merged)."""

    value: Any
    """A scalar, a list of Marked, or a dict from key to Marked."""
    where: tuple[str, ...]

    def error(self, message: str) -> ConfigError:
        """A ConfigError with the places in front of `message`. Does not fail."""
        return ConfigError(f"{', '.join(self.where)}: {message}")


@dataclass(frozen=True)
class Layer:
    """Settings from one source; later layers win over earlier ones (see `load`)."""

    root: Marked
    path: tuple[str, ...] = ()
    """The single key that the layer sets, when it is not a file."""

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Layer:
        """The layer of a YAML file; an empty file sets nothing.

        Raises:
            ConfigError: The file cannot be read, is not valid YAML, is no mapping, or has a
                duplicate key.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text.") from error
        return cls.from_text(text, str(path))

    @classmethod
    def from_text(cls, text: str, source: str) -> Layer:
        """The layer of YAML text; errors name `source` and the line.

        Raises:
            ConfigError: The text is not valid YAML, is no mapping, or has a duplicate key.
        """
        value = _read_yaml(text, source, lambda mark: f"{source}:{mark.line + 1}").value
        root = Marked({} if value is None else value, (source,))
        # Checked here, because a later layer would hide it.
        if not isinstance(root.value, dict):
            raise _mismatch(root, "", dict)
        return cls(root)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], source: str) -> Layer:
        """The layer of plain data (`to_plain`); errors name `source` alone. Does not fail."""
        return cls(_mark_plain(mapping, source))

    @classmethod
    def from_assignment(cls, key: str, text: str, source: str) -> Layer:
        """The layer that sets one dotted key to a YAML value.

        Raises:
            ConfigError: `text` is not valid YAML, or has a duplicate key.
        """
        item = _read_yaml(text, source, lambda mark: source)
        path = tuple(key.split("."))
        for part in reversed(path):
            item = Marked({part: item}, (source,))
        return cls(item, path)


def environment_layers(environment: Mapping[str, str]) -> list[Layer]:
    """One layer for each variable such as `ZEROLOOP_SEARCH__SIMULATIONS=64`, sorted by name.

    `__` separates the parts of a key, which is in lower case; `ZEROLOOP__SEED` is the top-level key
    `seed`.

    Raises:
        ConfigError: A variable has the prefix but no `__`, so that it can be no key, or its value is
            not valid YAML.
    """
    layers = []
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        if "__" not in name:
            section, _, key = rest.partition("_")
            guess = f"{section}__{key}" if section and key else f"_{rest or 'KEY'}"
            raise ConfigError(
                f"{name}: it names no key, because '__' must stand between the parts of a key. "
                f"Did you mean '{ENVIRONMENT_PREFIX}{guess}'?"
            )
        parts = rest.removeprefix("_").lower().split("__")
        layers.append(Layer.from_assignment(".".join(parts), environment[name], name))
    return layers


def assignment_layers(assignments: Iterable[str]) -> list[Layer]:
    """One layer for each `--set` string such as `search.simulations=64`, in order.

    Raises:
        ConfigError: A string has no key or no '=', or its value is not valid YAML.
    """
    layers = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not (key and equals):
            raise ConfigError(
                f"--set {assignment}: it must have the form section.key=value, such as search.simulations=64."
            )
        layers.append(Layer.from_assignment(key, text, f"--set {key}"))
    return layers


def build(cls: type[T], mapping: Mapping[str, Any], source: str) -> T:
    """An instance from plain data: `load` of one layer without line numbers.

    Raises:
        ConfigError: As `load`.
    """
    return load(cls, Layer.from_mapping(mapping, source))


def load(cls: type[T], *layers: Layer) -> T:
    """An instance from layers, of which later ones win; what no layer sets has its default.

    Sections and `dict[str, X]` fields merge key by key, with each other and with the default; null
    takes a key out of such a dict. A schedule or a tuple is replaced as a whole.
    The type of a value that a later layer replaces is not checked.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type, or a class refuses
            its values in `__post_init__`; the message names the place.
        TypeError: A field has a type that is not supported.
    """
    tree: Any = cls
    _kinds(tree)
    root = layers[0].root if layers else Marked({}, ("defaults",))
    for layer in layers:
        kind = tree
        for part in layer.path:
            kind = _child(kind, part)
            if kind is None:
                raise _unknown_key(cls, ".".join(layer.path), layer.root)
    for layer in layers[1:]:
        root = _merge(tree, root, layer.root)
    instance: T = _Builder(tree).section(tree, root, "", None)
    return instance


def to_plain(instance: Any) -> dict[str, Any]:
    """The whole tree as data that YAML can hold, in order of declaration.

    A key of a default dict that the instance lacks is null. Does not fail.
    """
    plain: dict[str, Any] = _plain(instance, None)
    return plain


def dump(instance: Any) -> str:
    """The whole tree as YAML text; `load` of it gives an equal instance. Does not fail."""
    return yaml.safe_dump(to_plain(instance), sort_keys=False, allow_unicode=True)


def content_hash(instance: Any) -> str:
    """SHA-256 in hex of the tree as canonical JSON; equal instances have equal hashes.

    Does not fail.
    """
    text = json.dumps(_canonical(to_plain(instance)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def diff(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """What differs, as (dotted key, plain value in a, plain value in b); None for a missing key.

    Does not fail.
    """
    return list(_diff("", a, b))


class Key(NamedTuple):
    """One key of a configuration, for a reference page."""

    name: str
    type: str
    default: Any
    doc: str


def describe(cls: type) -> list[Key]:
    """Every key: dotted name, type as written, plain default, and the docstring below the field.

    The items of a dict are named `<name>`, those of a tuple `<index>`. The default of a key that
    must be given is `dataclasses.MISSING`. Without the source of a class its docs are empty.

    Raises:
        TypeError: A field has a type that is not supported.
    """
    return list(_describe(cls, "", None))


def keys(cls: type) -> list[str]:
    """The dotted name of every key, as in `describe`.

    Raises:
        TypeError: A field has a type that is not supported.
    """
    return [key.name for key in describe(cls)]


# Reading: YAML with places


def _read_yaml(text: str, source: str, place: Callable[[yaml.Mark], str]) -> Marked:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        return Marked(None, (source,)) if node is None else _mark_node(node, place, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = place(mark) if mark else source
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise ConfigError(f"{where}: not valid YAML: {problem}.") from error


def _mark_node(node: yaml.Node, place: Callable[[yaml.Mark], str], above: tuple[yaml.Node, ...]) -> Marked:
    here = Marked(None, (place(node.start_mark),))
    if isinstance(node, yaml.ScalarNode):
        try:
            constructor = yaml.constructor.SafeConstructor()
            return Marked(constructor.construct_object(node), here.where)
        except (ValueError, KeyError, AttributeError) as error:  # as PyYAML has it
            what = node.tag.rpartition(":")[2]
            raise here.error(f"{node.value!r} is not a valid {what}.") from error
    if node.tag not in _PLAIN_TAGS:
        raise here.error(f"the tag '{node.tag}' is not allowed.")
    if any(node is outer for outer in above):
        raise here.error("an alias contains itself.")
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return Marked([_mark_node(item, place, above) for item in node.value], here.where)
    items: dict[Any, Marked] = {}
    for key_node, value_node in node.value:
        key = _mark_node(key_node, place, above)
        if not isinstance(key_node, yaml.ScalarNode):
            raise key.error("a key must be a single value, not a list or a mapping.")
        if key.value in items:
            first = items[key.value].where[0]
            raise key.error(f"the key {key.value!r} is already given at {first}.")
        # The line of the key, because the value of a section starts on a later one.
        items[key.value] = Marked(_mark_node(value_node, place, above).value, key.where)
    return Marked(items, here.where)


def _mark_plain(value: Any, source: str) -> Marked:
    if isinstance(value, Mapping):
        value = {key: _mark_plain(item, source) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        value = [_mark_plain(item, source) for item in value]
    return Marked(value, (source,))


def _unmark(item: Marked) -> Any:
    if isinstance(item.value, dict):
        return {key: _unmark(child) for key, child in item.value.items()}
    if isinstance(item.value, list):
        return [_unmark(child) for child in item.value]
    return item.value


# Building: types, merging, construction, errors


def _merge(kind: Any, below: Marked, above: Marked) -> Marked:
    both = isinstance(below.value, dict) and isinstance(above.value, dict)
    inner = _split_optional(kind)[0]
    if not both or not (_is_section(inner) or get_origin(inner) is dict):
        return above
    merged = dict(below.value)
    for key, item in above.value.items():
        merged[key] = _merge(_child(kind, key), merged[key], item) if key in merged else item
    return Marked(merged, tuple(dict.fromkeys(below.where + above.where)))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind) and kind is not Schedule


def _split_optional(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) in (Union, UnionType):
        rest = [part for part in get_args(kind) if part is not NoneType]
        if len(rest) == 1:
            return rest[0], True
    return kind, False


def _child(kind: Any, name: Any) -> Any:
    """The type below a type, or None when no key of that name can be there."""
    inner = _split_optional(kind)[0]
    if _is_section(inner):
        return _kinds(inner).get(name)
    return get_args(inner)[1] if get_origin(inner) is dict else None


@cache
def _kinds(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    kinds = {field.name: hints[field.name] for field in _fields(cls)}
    for name, kind in kinds.items():
        if not _is_supported(kind):
            raise TypeError(f"{cls.__name__}.{name}: configuration cannot hold a {kind}.")
    return kinds


def _is_supported(kind: Any) -> bool:
    inner = _split_optional(kind)[0]
    arguments = get_args(inner)
    if get_origin(inner) is tuple:
        return arguments[1:] == (...,) and _is_supported(arguments[0])
    if get_origin(inner) is dict:  # null takes a key out of a dict, so it is no value there
        optional = _split_optional(arguments[1])[1]
        return arguments[0] is str and not optional and _is_supported(arguments[1])
    if _is_section(inner):
        _kinds(inner)  # raises at the first load, not when someone first sets the field
        return True
    return inner in _EXPECTED or get_origin(inner) is Literal


def _fields(cls: Any) -> list[Field[Any]]:
    return [field for field in fields(cls) if field.init]


def _start(field: Field[Any], base: Any) -> Any:
    """What a field has before any layer: from the default of its section, or its own default."""
    if base is not None:
        return getattr(base, field.name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def _mismatch(item: Marked, path: str, kind: Any) -> ConfigError:
    value = item.value
    text = {dict: "a mapping", list: "a list", NoneType: "null"}.get(type(value))
    if text is None:
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        text = f"{shown} ({_FOUND.get(type(value), type(value).__name__)})"
    hint = ""
    if _split_optional(kind)[0] is str and not isinstance(value, dict | list | NoneType):
        hint = ": put it in quotes"
    where = path or "the configuration"
    return item.error(f"{where} is {text}; it must be {_expected(kind)}{hint}.")


def _expected(kind: Any) -> str:
    inner, optional = _split_optional(kind)
    if get_origin(inner) is Literal:
        text = "one of " + ", ".join(repr(choice) for choice in get_args(inner))
    elif get_origin(inner) is tuple:
        text = "a list"
    else:
        text = _EXPECTED.get(inner, "a mapping")
    return f"{text} or null" if optional else text


@dataclass(frozen=True)
class _Builder:
    """Builds values by type; `base` is the value that a field has when no layer names it."""

    root: Any
    """The class of the whole tree, over which suggestions search."""

    def section(self, cls: Any, item: Marked, path: str, base: Any) -> Any:
        if not isinstance(item.value, dict):
            raise _mismatch(item, path, cls)
        given: dict[str, Any] = {}
        for key, child in item.value.items():
            name = _join(path, key)
            if key not in _kinds(cls):
                raise _unknown_key(self.root, name, child)
        for field in _fields(cls):
            name = _join(path, field.name)
            start = _start(field, base)
            if field.name in item.value:
                kind = _kinds(cls)[field.name]
                given[field.name] = self.value(kind, item.value[field.name], name, start)
            elif start is MISSING:
                raise item.error(f"the key '{name}' is missing; it has no default.")
            else:
                given[field.name] = start
        try:
            return cls(**given)
        except ConfigError as error:
            # The class does not know lines, but its message names the keys at fault.
            text = str(error)
            guilty = [c for k, c in item.value.items() if re.search(rf"\b{k}\b", text)] or [item]
            for key, child in item.value.items():  # of a table, the entry that is named
                inner = child.value if isinstance(child.value, dict) else {}
                guilty = [c for k, c in inner.items() if f"{key}.{k} " in text] or guilty
            places = tuple(dict.fromkeys(place for child in guilty for place in child.where))
            raise Marked(None, places).error(text) from error

    def value(self, kind: Any, item: Marked, path: str, base: Any) -> Any:
        inner, optional = _split_optional(kind)
        if item.value is None and optional:
            return None
        if _is_section(inner):
            return self.section(inner, item, path, base if isinstance(base, inner) else None)
        if inner is Schedule:
            try:
                return Schedule.from_plain(_unmark(item))
            except ConfigError as error:
                raise item.error(f"{path}: {error}") from error
        if get_origin(inner) is dict:
            return self.table(kind, item, path, base if isinstance(base, dict) else {})
        if get_origin(inner) is tuple:
            if not isinstance(item.value, list):
                raise _mismatch(item, path, kind)
            return tuple(
                self.value(get_args(inner)[0], child, f"{path}.{index}", None)
                for index, child in enumerate(item.value)
            )
        return _scalar(kind, item, path)

    def table(self, kind: Any, item: Marked, path: str, base: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(item.value, dict):
            raise _mismatch(item, path, kind)
        entries = dict(base)
        for key, child in item.value.items():
            if not isinstance(key, str):
                raise child.error(f"the key {key!r} of {path} must be a string: put it in quotes.")
            if child.value is None:
                entries.pop(key, None)
            else:
                entries[key] = self.value(_child(kind, key), child, f"{path}.{key}", base.get(key))
        return entries


def _scalar(kind: Any, item: Marked, path: str) -> Any:
    inner, value = _split_optional(kind)[0], item.value
    if get_origin(inner) is Literal:
        if any(value == choice and type(value) is type(choice) for choice in get_args(inner)):
            return value
    elif inner is float and type(value) in (int, float, str):
        try:  # YAML 1.1 leaves 3e-4 a string
            if math.isfinite(float(value)):
                return float(value)
        except (ValueError, OverflowError):
            pass
    elif type(value) is inner or (inner == Scalar and isinstance(value, int | float | str)):
        return value
    raise _mismatch(item, path, kind)


def _unknown_key(root: type, path: str, item: Marked) -> ConfigError:
    """The error for a path that names no key; it suggests the closest key of the whole tree."""
    parts = path.split(".")
    known = dict.fromkeys(_known_names(root, parts))
    scores = {}
    for name in known:
        # A key of the right name in another section counts a little less than a near miss.
        last = 0.9 * _likeness(parts[-1], name.rpartition(".")[2])
        whole = _likeness(path, name)
        same_depth = name.count(".") == path.count(".")
        scores[name] = (max(whole, last), same_depth, whole)
    best = max(scores, key=lambda name: scores[name])
    if scores[best][0] >= _CLOSE_ENOUGH:
        return item.error(f"unknown key '{path}'. Did you mean '{best}'?")
    parent = path.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if not siblings:
        parent, siblings = "", [name for name in known if "." not in name]
    names = ", ".join(name.rpartition(".")[2] for name in siblings)
    place = f"'{parent}'" if parent else "the configuration"
    return item.error(f"unknown key '{path}'. The keys of {place} are: {names}.")


def _known_names(root: type, parts: list[str]) -> Iterator[str]:
    """All keys and sections; `<name>` becomes what `parts` has there, if `parts` leads there."""
    for key in keys(root):
        name: list[str] = []
        for part in key.split("."):
            is_any = part.startswith("<")
            leads_here = name == parts[: len(name)] and len(name) < len(parts)
            name.append(parts[len(name)] if is_any and leads_here else part)
            if not is_any:
                yield ".".join(name)


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


# Reading back: plain data, differences, descriptions


def _plain(value: Any, base: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_plain()
    if _is_section(type(value)):
        base = base if isinstance(base, type(value)) else None
        return {
            field.name: _plain(getattr(value, field.name), _start(field, base)) for field in _fields(value)
        }
    if isinstance(value, dict):
        base = base if isinstance(base, dict) else {}
        kept = {key: _plain(item, base.get(key)) for key, item in value.items()}
        # Dicts merge with their default, so a key that is gone must be said to be gone.
        return kept | {key: None for key in base if key not in value}
    return [_plain(item, None) for item in value] if isinstance(value, tuple) else value


def _canonical(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {
            key if isinstance(key, str) else json.dumps(_canonical(key)): _canonical(item)
            for key, item in plain.items()
        }
    if isinstance(plain, list):
        return [_canonical(item) for item in plain]
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)  # 1 and 1.0 are equal, so they must hash alike
    return plain


def _diff(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    if _is_section(type(a)) and type(a) is type(b):
        for field in _fields(a):
            name = _join(path, field.name)
            yield from _diff(name, getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _diff(_join(path, key), a.get(key), b.get(key))
    elif a != b:
        yield path, _plain(a, None), _plain(b, None)


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _describe(cls: type, path: str, base: Any) -> Iterator[Key]:
    for field in _fields(cls):
        name, kind, start = _join(path, field.name), _kinds(cls)[field.name], _start(field, base)
        inner = _split_optional(kind)[0]
        if not _is_section(kind):
            text = field.type if isinstance(field.type, str) else inspect.formatannotation(kind)
            default = start if start is MISSING else _plain(start, None)
            yield Key(name, text, default, _docs(cls).get(field.name, ""))
        if _is_section(inner):
            yield from _describe(inner, name, start if isinstance(start, inner) else None)
        elif get_origin(inner) is dict and _is_section(get_args(inner)[1]):
            yield from _describe(get_args(inner)[1], f"{name}.<name>", None)
        elif get_origin(inner) is tuple and _is_section(get_args(inner)[0]):
            yield from _describe(get_args(inner)[0], f"{name}.<index>", None)


@cache
def _docs(cls: type) -> dict[str, str]:
    """The string literal below each field, which Python itself does not keep."""
    docs: dict[str, str] = {}
    for owner in reversed([owner for owner in cls.__mro__ if is_dataclass(owner)]):
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):
            continue
        body = getattr(ast.parse(textwrap.dedent(source)).body[0], "body", [])
        for above, below in zip(body, body[1:], strict=False):
            match above, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    docs[name] = inspect.cleandoc(text)
    return docs
