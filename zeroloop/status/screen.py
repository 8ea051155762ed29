"""One screen for a person: a run's summary in 24 lines of 100 columns, however many workers there are."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import Row

HEIGHT = 24
LABEL = 9
"""Columns of the words at the left."""


def screen(found: Row, height: int = HEIGHT) -> Group:
    """Return what `summary.summarise` found, in at most `height` lines."""
    lines: list[RenderableType] = [_title(found)]
    if "iteration" in found:
        lines += _run_lines(found)
    if found["state"] == "running":
        lines += _live_lines(found)
    elif "shares_session" in found:
        lines.append(_line("learner", _shares(found["shares_session"]) + "  over its last session"))
        if found["worker_shares_session"]:
            lines.append(_line("workers", _shares(found["worker_shares_session"]) + "  over their lives"))
    warned = [Text(f"WARNING  {w['warning']}: {w['text']}", "bold red") for w in found["warnings"]]
    room = height - len(lines) - 1
    for text in warned[: max(1, room // 4)]:
        text.truncate(99, overflow="ellipsis")
        lines.append(text)
    if len(warned) > max(1, room // 4):
        lines.append(Text(f"WARNING  and {len(warned) - max(1, room // 4)} more", "bold red"))
    if found["state"] == "running" and found["workers"]:
        lines.append(_workers(found["workers"], height - len(lines) - 1))
    return Group(*lines)


def _title(found: Row) -> Text:
    said = {
        "running": ("running", "bold green"),
        "starting": ("starting: this session has written no status yet", "bold green"),
        "finished": ("finished: the budget is spent", "bold"),
        "stopped": ("stopped; the same train command goes on", "bold"),
        "broken off": (
            "not alive: its process was killed or failed; the same train command goes on",
            "bold red",
        ),
        "never begun": ("never begun: no process holds it, and it has measured nothing", "bold"),
    }[found["state"]]
    name = found["run"] if len(found["run"]) <= 40 else "..." + found["run"][-37:]
    text = Text.assemble(f"{name}  ", said)
    if found["state"] == "running":
        text.append(f"  {found['held_by']} on {found['host']}, {found['phase'] or ''}")
    if found["paused"]:
        text.append("  PAUSED: zeroloop resume lets self-play go on", "bold red")
    if found["age_seconds"] is not None:
        text.append(f"  (written {_time(max(0.0, found['age_seconds']))} ago)", "dim")
    text.truncate(99, overflow="ellipsis")
    return text


def _run_lines(found: Row) -> list[Text]:
    elo = f"  Elo {found['elo']:.0f}" if found["elo"] is not None else ""
    losses = "  ".join(f"{head} {value:.3f}" for head, value in found["losses"].items())
    left = f"  about {_time(found['eta_seconds'])} left" if found["eta_seconds"] is not None else ""
    progress = found["progress"]
    told = f"{progress:.1%} of the budget" if progress is not None else "no progress measured"
    return [
        _line("progress", f"{told}{left}  iteration {_n(found['iteration'])}{elo}"),
        _line(
            "games",
            f"{_n(found['games'])} games  {_n(found['positions'])} positions  "
            f"{_n(found['window'])} in the window  {_n(found['steps'])} steps",
        ),
        _line("losses", losses or "none yet"),
    ]


def _live_lines(found: Row) -> list[Text]:
    rates, queues, stale = found["rates"], found["queues"], found["staleness"]
    capacity = f" of {_n(queues['capacity'])}" if queues["capacity"] is not None else ""
    told = (
        ("evicted_games", "evicted"),
        ("unread_evicted", "evicted unread"),
        ("duplicates", "sent twice"),
        ("refused", "refused"),
        ("missed", "missed"),
    )
    lost = "  ".join(f"{_n(queues[key])} {name}" for key, name in told if queues[key])
    lines = [
        _line(
            "rates",
            f"{_n(rates['simulations'])} simulations/s  {_n(rates['evaluations'])} evaluations/s  "
            f"{_n(rates['games'])} games/s  {_n(rates['positions'])} positions/s",
        ),
        _line("learner", _shares(found["shares"])),
    ]
    if found["worker_shares"]:
        lines.append(_line("workers", _shares(found["worker_shares"])))
    if found["inference"]:
        lines.append(_line("server", _server(found["inference"])))
    if found["devices"]:
        lines.append(_line("device", _shares(found["devices"])))
    if found["present"] or found["silent"] or found["gone"]:
        lines.append(
            _line(
                "queues",
                f"store {_n(queues['waiting'])}{capacity} games  spools {_n(queues['spools'])} games  {lost}",
            )
        )
        behind = f"{stale['behind']} of {stale['known']} workers behind" if stale["known"] else "unknown"
        most = f", most {stale['most']}" if stale["behind"] else ""
        lines.append(_line("weights", f"{_n(found['updates'])} updates; {behind}{most}"))
        gone = f"  {found['gone']} gone" if found["gone"] else ""
        silent = f"  {found['silent']} silent" if found["silent"] else ""
        again = f"  {found['restarts']} restarts" if found["restarts"] else ""
        lines.append(_line("present", f"{found['present']} workers{silent}{gone}{again}"))
    return lines


def _server(row: Row) -> str:
    parts = []
    if "mean_batch" in row:
        parts.append(f"{row['mean_batch']:,.1f} positions a batch")
    if "mean_wait_seconds" in row:
        parts.append(f"{1000 * row['mean_wait_seconds']:.2f} ms wait")
    return "  ".join(parts) or "nothing computed yet"


def _workers(rows: list[Row], room: int) -> Table:
    """Return a line per worker, those with trouble first, and how many more there are."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("worker", no_wrap=True, min_width=6)
    table.add_column("on", no_wrap=True, max_width=24)
    for name in ("behind", "sims/s", "evals/s", "games/s", "spool", "search", "infer", "transf", "wait"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    ordered = sorted(rows, key=lambda r: (not r["silent"], -(r["updates_behind"] or 0), r["worker"] or 0))
    room = max(2, room)
    shown = ordered if len(ordered) <= room - 1 else ordered[: room - 2]
    for row in shown:
        rates, shares = row["rates"], row["shares"]
        place = Text(f"{row['host'] or '?'}:{row['pid'] or '?'}")
        if row["silent"]:
            place = Text(f"silent {_time(row['silent_seconds'])} ", "red") + place
        table.add_row(
            "itself" if row["worker"] is None else str(row["worker"]),
            place,
            _n(row["updates_behind"]),
            *(_n(rates[k]) for k in ("simulations", "evaluations", "games")),
            _n(row["waiting"]),
            *(_percent(shares.get(p)) for p in ("search", "inference", "transfer", "wait")),
        )
    if len(shown) < len(ordered):
        table.add_row("...", f"and {len(ordered) - len(shown)} more")
    return table


def _line(name: str, text: str) -> Text:
    line = Text.assemble((f"{name:<{LABEL}} ", "dim"), text.rstrip())
    line.truncate(99, overflow="ellipsis")
    return line


def _shares(shares: dict[str, float]) -> str:
    return "  ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "not measured yet"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _n(value: float | None) -> str:
    """Return a number for people; - for what was not measured."""
    if value is None:
        return "-"
    return f"{value:,.1f}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if unit != "min" else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
