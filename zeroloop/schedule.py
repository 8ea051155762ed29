"""A number that may change over plies or over the run; does not know what it drives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zeroloop.errors import ConfigError

Over = Literal["ply", "run"]
Interpolation = Literal["step", "linear"]

_DEFAULT_INTERPOLATION: dict[Over, Interpolation] = {"ply": "step", "run": "linear"}
_KEYS = ("over", "at", "interpolation")


@dataclass(frozen=True)
class Schedule:
    """A number: constant, or given by points over plies or over the progress of a run.

    Points over the ply default to `step` (a rule such as "sample for 12 plies" has an edge),
    points over the run default to `linear` (a decay has none). Before the first point the first
    value holds, after the last the last. A schedule whose values are all equal becomes the
    constant, so that schedules that differ in form only are equal.

    Raises:
        ConfigError: There is no point, a position is no number, out of order, a negative or
            fractional ply or outside 0..1 of the run, a value is no finite number, or `over` or
            `interpolation` is unknown.
    """

    points: tuple[tuple[float, float], ...]
    """(position, value) in ascending order of position; ints stay ints."""
    over: Over | None = None
    """What the positions count; None for a constant."""
    interpolation: Interpolation | None = None
    """How to go from one point to the next; None for a constant, or for the default of `over`."""

    def __post_init__(self) -> None:
        if self.over not in (None, "ply", "run"):
            raise ConfigError(f"a schedule goes over 'ply' or 'run', not {self.over!r}.")
        if self.interpolation not in (None, "step", "linear"):
            raise ConfigError(
                f"the interpolation of a schedule is 'step' or 'linear', not {self.interpolation!r}."
            )
        if not self.points:
            raise ConfigError("a schedule needs at least one point under 'at'.")
        points = tuple(
            (_number(position, "position"), _number(value, "value")) for position, value in self.points
        )
        self._check_positions([position for position, _ in points])
        over, interpolation = self.over, self.interpolation
        if all(value == points[0][1] for _, value in points):
            points, over, interpolation = ((0, points[0][1]),), None, None
        elif over is None:
            raise ConfigError("a schedule of several values needs 'over': 'ply' or 'run'.")
        else:
            interpolation = interpolation or _DEFAULT_INTERPOLATION[over]
        # The class is frozen for everyone else; this is its one moment of normalization.
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "over", over)
        object.__setattr__(self, "interpolation", interpolation)

    def _check_positions(self, positions: list[float]) -> None:
        for before, after in zip(positions, positions[1:], strict=False):
            if after <= before:
                raise ConfigError(f"the points of a schedule must ascend, but {after} follows {before}.")
        for position in positions:
            # A fraction of a ply is nearly always a point that was meant `over: run`.
            if self.over == "ply" and (position < 0 or position != int(position)):
                raise ConfigError(
                    f"a schedule over plies has a point at {position}; a ply is a whole number from 0."
                )
            if self.over == "run" and not 0 <= position <= 1:
                raise ConfigError(
                    f"a schedule over the run has a point at {position}; "
                    "the run goes from 0 to 1, as a part of its budget."
                )

    @classmethod
    def constant(cls, value: float) -> Schedule:
        """The schedule that is `value` always.

        Raises:
            ConfigError: `value` is not a finite number.
        """
        return cls(((0, value),))

    @classmethod
    def from_plain(cls, plain: object) -> Schedule:
        """The schedule of a YAML value: a number, or a mapping with `over`, `at`, `interpolation`.

        Raises:
            ConfigError: It is neither, a key is unknown or missing, or the points are at fault.
        """
        if not isinstance(plain, Mapping):
            return cls.constant(_number(plain, "value"))
        for key in plain:
            if key not in _KEYS:
                raise ConfigError(f"unknown key {key!r} in a schedule; its keys are {', '.join(_KEYS)}.")
        for key in ("over", "at"):
            if plain.get(key) is None:
                raise ConfigError(f"a schedule with points needs the key '{key}'.")
        at: Any = plain["at"]
        if not isinstance(at, Mapping):
            raise ConfigError(f"the points of a schedule are a mapping from position to value, not {at!r}.")
        return cls(tuple(at.items()), plain["over"], plain.get("interpolation"))

    def to_plain(self) -> float | dict[str, Any]:
        """The YAML value: a bare number for a constant, otherwise a mapping with every key.

        The interpolation is always spelled out, because a stored run must not depend on a
        default. `from_plain` of it gives an equal schedule. Does not fail.
        """
        if self.is_constant:
            return self.points[0][1]
        return {"over": self.over, "at": dict(self.points), "interpolation": self.interpolation}

    def value(self, ply: int, progress: float) -> float:
        """The value at a ply, and at a progress of 0..1 through the budget of the run.

        Raises:
            ValueError: `ply` is negative, or `progress` is outside 0..1.
        """
        if ply < 0:
            raise ValueError(f"ply is {ply}; it must be at least 0.")
        _check_progress(progress)
        return float(self._interpolate(np.array([progress if self.over == "run" else ply]))[0])

    def table(self, plies: int, progress: float) -> NDArray[np.float64]:
        """The values at the plies 0 .. `plies` - 1, at one progress through the run.

        Raises:
            ValueError: `plies` is negative, or `progress` is outside 0..1.
        """
        if plies < 0:
            raise ValueError(f"plies is {plies}; it must be at least 0.")
        _check_progress(progress)
        if self.over == "run":
            return np.full(plies, self.value(0, progress))
        return self._interpolate(np.arange(plies))

    @property
    def is_constant(self) -> bool:
        """True when the value is the same at every ply of every part of the run."""
        return self.over is None

    @property
    def minimum(self) -> float:
        """The smallest value; no point of the schedule lies below it."""
        return min(value for _, value in self.points)

    @property
    def maximum(self) -> float:
        """The largest value; no point of the schedule lies above it."""
        return max(value for _, value in self.points)

    def _interpolate(self, where: NDArray[Any]) -> NDArray[np.float64]:
        positions, values = np.array(self.points, dtype=np.float64).T
        if self.interpolation == "linear":
            return np.asarray(np.interp(where, positions, values), dtype=np.float64)
        last = np.searchsorted(positions, where, side="right") - 1
        return np.asarray(values[np.maximum(last, 0)], dtype=np.float64)


def _check_progress(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it must be from 0 to 1.")


def _number(given: object, what: str) -> float:
    """`given` as an int or float. YAML 1.1 leaves `3e-4` a string, so such a string counts too."""
    number: object = given
    try:
        if isinstance(given, str | float):
            number = float(given)
        if isinstance(number, int | float) and not isinstance(number, bool):
            if math.isfinite(number):
                return number
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"a {what} of a schedule is {given!r}; it must be a finite number.")
