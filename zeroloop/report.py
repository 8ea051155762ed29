"""The report of a run, as Markdown and one picture; reads what the run wrote, measures nothing."""

from __future__ import annotations

import io
import pathlib
import platform
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import configfile
from .config import Config
from .errors import ConfigError
from .evaluator.choice import cores
from .files import unpack, write_file
from .health import spans
from .judge import Judged
from .metrics import METRICS, read_events
from .model import SHORT, read_pointer
from .promotion import read_matches
from .rating import EloEstimate, Result, maximum_likelihood_elo, wilson
from .run import read_json, stored_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = "missing"
PHASES = {"play": "self-play", "learn": "learning", "evaluate": "evaluation"}
SETTINGS = (
    "search.rule search.simulations network.kind network.blocks network.channels selfplay.games "
    "learn.batch_size learn.reuse learn.learning_rate promote.mode match.simulations "
    "budget.positions budget.minutes run.seed run.deterministic"
)
Row = dict[str, Any]


class Facts(NamedTuple):
    """What a run directory says; empty where the run has not written it."""

    run: pathlib.Path
    config: Config
    about: Row
    champion: str
    metrics: list[Row]
    warnings: list[Row]
    """As `health.spans` has them."""
    evaluations: list[Row]
    """Lines of `matches.jsonl`."""
    elo: dict[str, EloEstimate]
    """By player, the random start being 0."""
    judged: tuple[int, int] | None
    """Judged positions, and those with a choice."""

    @property
    def title(self) -> str:
        """The game and its champion."""
        game = self.about.get("game", self.config.game.name)
        return f"{game}: champion {self.champion[:SHORT] or MISSING}"

    @property
    def proof(self) -> Row | None:
        """The evaluation that promoted the champion."""
        found = [e for e in self.evaluations if e["promoted"] and e["model"] == self.champion]
        return found[-1] if found else None

    @property
    def seconds(self) -> float:
        """The last moment on record; an evaluation comes after the metrics of its iteration."""
        return max((row["seconds"] for row in (*self.metrics, *self.evaluations)), default=0.0)


def write_report(run: pathlib.Path) -> pathlib.Path:
    """Write `report.md` and `report.png` into the run directory and return the path of the former.

    Raises:
      StoreError: it is no run, a file of it is damaged, or the report cannot be written.
    """
    facts = read_facts(run)
    write_file(run / "report.png", _picture(facts))
    path = run / "report.md"
    write_file(path, markdown(facts).encode())
    return path


def read_facts(run: pathlib.Path) -> Facts:
    """Read a run directory; a run that has only begun gives empty lists."""
    config = stored_config(run)
    about = read_json(run / "run.json") if (run / "run.json").exists() else {}
    champion = read_pointer(run / "champion") if (run / "champion").exists() else ""
    evaluations = read_matches(run / "matches.jsonl")
    rows = _in_force(read_events(run, "metrics"))
    elo, warned = _ratings(evaluations), spans(read_events(run, "warning"))
    return Facts(run, config, about, champion, rows, warned, evaluations, elo, _judged(run))


def _in_force(rows: Iterable[Row]) -> list[Row]:
    """Leave out rows that a session wrote after the checkpoint from which the next one went on."""
    kept: list[Row] = []
    for row in rows:
        while kept and kept[-1]["iteration"] >= row["iteration"]:
            kept.pop()
        kept.append(row)
    return kept


def _ratings(evaluations: list[Row]) -> dict[str, EloEstimate]:
    """Rate every player that met another; nothing where the games do not connect them."""
    found = [m for e in evaluations for m in (e["versus_champion"], *e["fixed"].values())]
    found = [m for m in found if m["players"][0] != m["players"][1]]
    if not found:
        return {}
    results = [Result(a, b, m["score"] * m["games"], m["games"]) for m in found for a, b in [m["players"]]]
    players = list(dict.fromkeys(name for m in found for name in m["players"]))
    try:
        return maximum_likelihood_elo(players, results, evaluations[0]["champion"])
    except ConfigError:
        return {}


def _judged(run: pathlib.Path) -> tuple[int, int] | None:
    """Return how many positions judge the run; None where two sessions used different ones."""
    found = list(run.glob("judged-*.npz"))
    if len(found) != 1:
        return None
    arrays = unpack(found[0].read_bytes())
    judged = Judged(arrays["states"], arrays["values"], False)
    return len(judged.states), int(judged.choice.sum())


def percent(share: float, interval: Sequence[float] | None = None) -> str:
    """Return a share, with its interval where there is one: `53.1 % [47.0, 59.2]`."""
    told = f"{100 * share:.1f} %"
    return f"{told} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else told


def by_seat(match: Row) -> str:
    """Return the score in each seat, with its games: `seat 0: 60.0 %, n 50; seat 1: 46.2 %, n 50`."""
    found = {seat: m for seat, m in match.get("by_seat", {}).items() if m["games"]}
    told = [f"seat {seat}: {percent(m['score'])}, n {m['games']}" for seat, m in found.items()]
    return "; ".join(told) or MISSING


def _number(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _accuracy(facts: Facts, row: Row, name: str) -> str:
    if row.get(name) is None:
        return MISSING
    if facts.judged is None:
        return f"{percent(row[name])}, n and interval {MISSING}"
    n = facts.judged["choice" in name]
    return f"{percent(row[name], wilson(row[name] * n, n))}, n {n}"


def _elo(e: EloEstimate | None) -> str:
    return f"{e.elo:+.0f} [{e.low:+.0f}, {e.high:+.0f}], n {e.games}" if e else MISSING


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    cells = [" | ".join(str(cell).replace("|", "\\|") for cell in line) for line in lines]
    return [*(f"| {line} |" for line in cells), ""]


def markdown(facts: Facts) -> str:
    """Return the text of the report."""
    sections = (_head, _warnings, _what_was_run, _evaluation_table, _strength, _speed, _shares, _next)
    return "\n".join(line for section in sections for line in section(facts))


def _head(facts: Facts) -> list[str]:
    told = "The run has no model yet."
    if facts.champion:
        reason = facts.proof["reason"] if facts.proof else "the random start, never promoted."
        told = f"Champion `{facts.champion}`: {reason}"
    so_far = "There are no metrics yet: no iteration is finished."
    if facts.metrics:
        last = facts.metrics[-1]
        counted = ", ".join(f"{_number(last.get(k))} {k}" for k in ("games", "positions", "steps"))
        so_far = f"So far: {facts.seconds / 60:.1f} minutes, {counted}."
    return [f"# {facts.title}", "", told, "", so_far, "", "![six panels](report.png)", ""]


def _warnings(facts: Facts) -> list[str]:
    rows = [(w["warning"], w["iteration"], w.get("end", "not ended"), w["text"]) for w in facts.warnings]
    table = _table(("warning", "from iteration", "to", "what was measured"), rows)
    return ["## Warnings", "", *(table if rows else ["None.", ""])]


def _what_was_run(facts: Facts) -> list[str]:
    plain, about = configfile.to_plain(facts.config), facts.about
    versions = [f"{name} {number}" for name, number in about.get("versions", {}).items()]
    versions += [f"python {about['python']}"] if "python" in about else []
    rows = [
        ("hash of the keys fixed at the start", about.get("config_hash", MISSING)),
        ("hash of the whole configuration now", configfile.content_hash(facts.config)),
        ("rules identity", about.get("rules_identity", MISSING)),
        ("versions at the start", ", ".join(versions) or MISSING),
        ("machine that wrote this report", f"{cores()} cores, {processor()}"),
    ]
    main = {key: key.split(".") for key in SETTINGS.split()}
    rows += [(key, plain[section][name]) for key, (section, name) in main.items()]
    changed = configfile.diff(Config(), facts.config)
    rows += [(k, "removed" if v is None else v) for k, _, v in changed if k not in main]
    told = "Below the main settings stand all others that differ from the defaults."
    return ["## What was run", "", *_table(("", "value"), rows), told, ""]


def processor() -> str:
    """Return the processor's name as the system tells it."""
    path = pathlib.Path("/proc/cpuinfo")
    text = path.read_text(errors="replace") if path.exists() else ""
    named = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine() or MISSING


def _evaluation_table(facts: Facts) -> list[str]:
    if not facts.evaluations:
        return ["## Evaluations", "", "There has been no evaluation yet.", ""]
    head = "minute, positions, model, against the champion, games, by seat, promoted, Elo over the start"
    rows = []
    for e in facts.evaluations:
        match, model = e["versus_champion"], f"`{e['model'][:SHORT]}`"
        row = [f"{e['seconds'] / 60:.1f}", _number(e["positions"]), model]
        row += [percent(match["score"], match["interval"]), match["games"], by_seat(match)]
        row += ["yes" if e["promoted"] else "no", _elo(facts.elo.get(e["candidate"]))]
        rows.append(row + [_accuracy(facts, e, k) for k in ("accuracy", "accuracy_searched")])
    columns = [*head.split(", "), "accuracy, raw policy", "accuracy, searched"]
    told = "Brackets are 95 % intervals. A match that ended early is biased away from 50 %."
    if not facts.elo:
        told += " Elo is missing: the games on record do not connect the models."
    return ["## Evaluations", "", *_table(columns, rows), told, ""]


def _strength(facts: Facts) -> list[str]:
    if not facts.evaluations:
        return ["## Strength", "", "Not measured yet.", ""]
    lines = ["## Strength", ""]
    shown = {"Latest evaluation": facts.evaluations[-1]}
    if facts.proof and facts.proof is not facts.evaluations[-1]:
        shown["The champion, when it was promoted"] = facts.proof
    for what, e in shown.items():
        name, simulations = e["candidate"].rsplit("@", 1)
        rows = [
            (against, percent(m["score"], m["interval"]), m["games"], by_seat(m), simulations)
            for against, m in (("the champion then", e["versus_champion"]), *e["fixed"].items())
        ]
        table = _table(("against", "score", "games", "by seat", "simulations"), rows)
        lines += [f"{what}: `{name}`, minute {e['seconds'] / 60:.1f}, {e['reason']}", "", *table]
        lines += [] if e["fixed"] else ["It met no fixed opponent.", ""]
        for key in ("accuracy_choice", "accuracy_choice_searched"):
            told = "searched" if "searched" in key else "raw policy"
            lines += [f"Accuracy with a choice, {told}: {_accuracy(facts, e, key)}.", ""]
    return lines


def _speed(facts: Facts) -> list[str]:
    rows = []
    speeds = ("simulations", "evaluations", "games", "positions", "trained")
    for name in (*(f"{s}_per_second" for s in speeds), "cache_hit_rate"):
        values = [row[name] for row in facts.metrics if row.get(name) is not None]
        middle, half = MISSING, MISSING
        if values:
            low, middle, high = (_number(float(x)) for x in np.quantile(values, [0.25, 0.5, 0.75]))
            half = f"{low} to {high}"
        rows.append((METRICS[name], middle, half, len(values)))
    return ["## Speed", "", *_table(("", "median", "middle half", "iterations"), rows)]


def _shares(facts: Facts) -> list[str]:
    total, rest, rows = max(facts.seconds, 1e-9), facts.seconds, []
    for name, label in PHASES.items():
        values = [row[f"{name}_seconds"] for row in facts.metrics if f"{name}_seconds" in row]
        seconds = sum(values)
        if name == "evaluate" and values:  # a total; the newest one comes after all metrics
            seconds = values[-1] + facts.seconds - facts.metrics[-1]["seconds"]
        rest -= seconds
        told = (f"{seconds:,.1f}", percent(seconds / total)) if values else (MISSING, MISSING)
        rows.append((label, *told))
    if facts.metrics:
        rows.append(("the rest", f"{max(rest, 0):,.1f}", percent(max(rest, 0) / total)))
    lines = _table(("phase", "seconds", "share of the wall time"), rows)
    if facts.config.run.deterministic:
        lines += ["The clock of a deterministic run begins anew with each session.", ""]
    return ["## Where the time went", "", *lines]


def next_commands(facts: Facts) -> list[str]:
    """Return what to try next; the last command goes on, with a larger budget where it is spent."""
    run, game = shlex.quote(str(facts.run)), shlex.quote(facts.config.game.name)
    budget, change = facts.config.budget, ""
    played = int(facts.metrics[-1].get("positions", 0)) if facts.metrics else 0
    if played >= budget.positions:
        change += f" --set budget.positions={2 * max(played, budget.positions)}"
    if 0 < 60 * budget.minutes <= facts.seconds:
        change += f" --set budget.minutes={2 * budget.minutes:g}"
    return [
        f"zeroloop play {run}",
        f"zeroloop match {run}@128 mcts:400 --games 100",
        f"tensorboard --logdir {run}/tensorboard",
        f"zeroloop train {game} --run {run}{change}",
    ]


def _next(facts: Facts) -> list[str]:
    return ["## Next", "", "```", *next_commands(facts), "```", "", "The last one goes on with the run.", ""]


def _picture(facts: Facts) -> bytes:
    """Return a PNG of six panels; one without data says so."""
    from matplotlib.figure import Figure  # without pyplot: no window, Agg draws the PNG

    figure = Figure(figsize=(12, 12), layout="constrained")
    panels = (_losses, _accuracies, _ratings_panel, _scores, _speeds, _phases)
    for axes, draw in zip(figure.subplots(3, 2).flat, panels, strict=True):
        axes.set_xlabel("minutes")
        draw(axes, facts)
        if axes.has_data():
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, "not measured yet", ha="center", transform=axes.transAxes)
    figure.suptitle(facts.title)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def _lines(axes: Axes, rows: list[Row], labels: dict[str, str], x: str = "seconds") -> None:
    """Draw one line per metric, over minutes or another metric, where it was measured."""
    for name, label in labels.items():
        points = [(row[x], row[name]) for row in rows if row.get(name) is not None]
        if points:
            across, up = np.array(points).T
            axes.plot(across / (60 if x == "seconds" else 1), up, ".-", label=label)


def _bars(axes: Axes, rows: list[tuple[float, float, float, float]], label: str) -> None:
    """Draw (seconds, value, low, high) as points with intervals."""
    if rows:
        seconds, value, low, high = np.array(rows).T
        ends = np.maximum([value - low, high - value], 0)
        axes.errorbar(seconds / 60, value, yerr=ends, fmt=".-", capsize=3, label=label)


def _losses(axes: Axes, facts: Facts) -> None:
    axes.set(title="Loss by head", xlabel="positions", ylabel="loss")
    heads = {m: m.removeprefix("loss/") for m in METRICS if m.startswith("loss/")}
    _lines(axes, facts.metrics, heads, "positions")


def _accuracies(axes: Axes, facts: Facts) -> None:
    n, k = facts.judged or (MISSING, MISSING)
    axes.set(title=f"Game value kept: n {n}, with a choice {k}", ylabel="share of positions")
    labels = {
        "accuracy": "raw policy",
        "accuracy_searched": "searched",
        "accuracy_choice": "raw policy, with a choice",
        "accuracy_choice_searched": "searched, with a choice",
    }
    _lines(axes, facts.evaluations, labels)


def _ratings_panel(axes: Axes, facts: Facts) -> None:
    axes.set(title="Elo over the random start, 95 % intervals", ylabel="Elo")
    rated = [(e, r) for e in facts.evaluations if (r := facts.elo.get(e["candidate"]))]
    _bars(axes, [(e["seconds"], r.elo, r.low, r.high) for e, r in rated], "evaluated")
    best = [(e["seconds"] / 60, r.elo) for e, r in rated if e["promoted"]]
    if best:
        axes.plot(*zip(*best, strict=True), "*", markersize=14, label="promoted")


def _scores(axes: Axes, facts: Facts) -> None:
    axes.set(title="Score against fixed opponents, 95 % intervals", ylabel="score")
    for name in dict.fromkeys(name for e in facts.evaluations for name in e["fixed"]):
        met = [(e["seconds"], e["fixed"][name]) for e in facts.evaluations if name in e["fixed"]]
        games = " or ".join(str(n) for n in sorted({m["games"] for _, m in met}))
        rows = [(seconds, m["score"], *m["interval"]) for seconds, m in met]
        _bars(axes, rows, f"{name}, n {games} each")


def _speeds(axes: Axes, facts: Facts) -> None:
    axes.set(title="Speed: simulations, evaluations, positions trained", ylabel="per second")
    kinds = ("simulations", "evaluations", "trained")
    _lines(axes, facts.metrics, {f"{kind}_per_second": kind for kind in kinds})
    if axes.has_data():
        axes.set_yscale("log")


def _phases(axes: Axes, facts: Facts) -> None:
    axes.set(title="Share of the wall time so far", ylabel="share", ylim=(0, 1))
    names = [f"{name}_seconds" for name in PHASES]
    rows = [row for row in facts.metrics if all(name in row for name in names)]
    spent = np.array([[row[name] for row in rows] for name in names])
    if rows:
        spent[:2] = spent[:2].cumsum(1)  # the third is a total already
        seconds = np.array([row["seconds"] for row in rows])
        axes.stackplot(seconds / 60, *(spent / seconds), labels=[*PHASES.values()])
