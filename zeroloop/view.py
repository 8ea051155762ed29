"""What a person sees: of a run a live table on a terminal and plain lines elsewhere; of a match a text."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

SHOWN = (
    ("games", "games", "{:,.0f}"),
    ("games_per_second", "games/s", "{:.1f}"),
    ("positions", "positions", "{:,.0f}"),
    ("window", "in the window", "{:,.0f}"),
    ("simulations_per_second", "simulations/s", "{:,.0f}"),
    ("evaluations_per_second", "evaluations/s", "{:,.0f}"),
    ("cache_hit_rate", "cache hits", "{:.0%}"),
    ("trained_per_second", "trained/s", "{:,.0f}"),
    ("loss/policy", "policy loss", "{:.3f}"),
    ("loss/value", "value loss", "{:.3f}"),
    ("loss/reply", "reply loss", "{:.3f}"),
    ("plies_per_game", "plies/game", "{:.1f}"),
    ("elo", "Elo over the random start", "{:+.0f}"),
    ("accuracy", "keeps the value: raw policy", "{:.1%}"),
    ("accuracy_searched", "keeps the value: searched", "{:.1%}"),
)


class View:
    """Takes the reports of `train`. Use as a context."""

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True)
        self.title = title
        self._values: dict[str, Any] = {}
        self._said: list[str] = []
        self._warnings: dict[str, str] = {}
        self._phase, self._note = "starting", ""
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.percentage:>5.1f} %"),
            BarColumn(None),
            TextColumn("{task.description}"),
        )
        self._task = self._bar.add_task("", total=1.0)
        self._live = (
            Live(self._draw(), console=self.console, refresh_per_second=4) if _is_terminal() else None
        )

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(self._draw())
            self._live.stop()

    def report(self, kind: str, values: dict[str, Any]) -> None:
        """Show one report."""
        if kind == "metrics":
            self._values |= values
            self._bar.update(self._task, completed=values["progress"], description=self._left(values))
            if self._live is None:
                self._line(self._one_line(values))
        elif kind == "decision":
            self._values |= {k: v for k, v in values.items() if k.startswith(("elo", "accuracy"))}
            self._say(values["reason"])
        elif kind == "warning":
            self._warn(values["warning"], values["state"] == "begins", values["text"])
        elif kind == "say":
            self._say(values["text"])
        elif kind == "note":
            self._note = values["text"]
        elif kind == "phase":
            self._phase, self._note = values["name"], ""
        if self._live is not None:
            self._live.update(self._draw())

    def _warn(self, name: str, begins: bool, text: str) -> None:
        self._warnings.pop(name, None)
        if begins:
            self._warnings[name] = text
        if self._live is None or not begins:
            self._say(f"warning{'' if begins else ' is over'}: {name}: {text}")

    def _say(self, text: str) -> None:
        self._said.append(text)
        if self._live is None:
            self._line(text)

    def _line(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:7.1f}s] {text}", file=sys.stderr, flush=True)

    def _one_line(self, v: dict[str, Any]) -> str:
        parts = [f"{v['progress']:6.1%}", f"iteration {v['iteration']:.0f}"]
        for name in (
            "positions",
            "games_per_second",
            "simulations_per_second",
            "trained_per_second",
        ):
            shown = {row[0]: row for row in SHOWN}[name]
            if name in v:
                parts.append(f"{shown[1]} {shown[2].format(v[name])}")
        parts += [f"{k.removeprefix('loss/')} {x:.3f}" for k, x in v.items() if k.startswith("loss/")]
        return "  ".join(parts)

    def _left(self, v: dict[str, Any]) -> str:
        done = v["progress"]
        if done <= 0:
            return ""
        rest = v["seconds"] * (1 - done) / done
        return f"about {rest / 60:.0f} min left" if rest > 90 else f"about {rest:.0f} s left"

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 2))
        cells = [
            (label, form.format(self._values[name]))
            for name, label, form in SHOWN
            if self._values.get(name) is not None
        ]
        for left, right in zip(cells[::2], [*cells[1::2], ("", "")], strict=False):
            table.add_row(left[0], Text(left[1], "bold"), right[0], Text(right[1], "bold"))
        now = Text(f"{self._phase}  {self._note}", "cyan")
        warned = []
        if self._warnings:  # one line, however many: the newest, and how many more
            name, text = list(self._warnings.items())[-1]
            more = f"  (and {len(self._warnings) - 1} more)" if len(self._warnings) > 1 else ""
            warned = [Text(f"WARNING  {name}: {text}{more}", "bold red")]
        said = [Text(f"  {line}", "green" if line.startswith("promoted") else "") for line in self._said[-6:]]
        return Group(Text(self.title, "bold"), self._bar, table, now, *warned, *said)


def match_text(found: dict[str, Any]) -> str:
    """Return a match's summary for people."""
    first, second = found["players"]
    if first == second:
        first, second = f"{first} (first)", f"{second} (second)"
    low, high = (100 * x for x in found["interval"])
    lines = [
        f"{first} against {second}: {100 * found['score']:.1f} % [{low:.1f}, {high:.1f}] for {first}",
        f"games         {found['games']}, {found['distinct_openings']} distinct openings of up to "
        f"{found['settings']['opening_plies']} random plies, each from every seat",
        "by seat       "
        + ", ".join(
            f"{seat}: {100 * row['score']:.1f} % of {row['games']}"
            for seat, row in found["by_seat"].items()
            if row["games"]
        ),
        f"points        {found['points_per_game']:+.3f} [{found['points_interval'][0]:+.3f}, "
        f"{found['points_interval'][1]:+.3f}] a game for {first}",
        f"first places  {100 * found['first_place_rate']:.1f} %",
    ]
    if found["elo"] is not None:
        lines.append(f"Elo           {found['elo']:+.0f} by the score alone")
    lines.append(
        f"plies         {found['mean_plies']:.1f} a game; {found['truncated']} games cut at the bound"
    )
    for player in found["settings"]["players"]:
        model = f", model {player['model'][:12]}" if player["model"] else ""
        lines.append(f"player        {player['name']}{model}")
    settings = found["settings"]
    lines.append(f"game          {settings['game']}, seed {settings['seed']}; --json has all settings")
    return "\n".join(lines)


def _is_terminal() -> bool:
    return sys.stderr.isatty()
