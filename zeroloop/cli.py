"""The command line: verbs of the domain, each a few lines over the library.

With `--json` a command prints one JSON object on standard output, nothing else; people read standard error.
Exit code 0: success, 1: failure told in one sentence, 2: wrong usage, 130: interrupted.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# Before torch or NumPy start a thread: each search thread brings its own work, and a spinning
# OpenMP barrier would stall on a busy core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click

from . import __version__
from .errors import ZeroloopError

if TYPE_CHECKING:
    from .config import Config
    from .games.game import Game

PRESETS = pathlib.Path(__file__).parent / "presets"
CONFIGS = pathlib.Path(__file__).parent / "configs"
"""What a game changes of the defaults, by its name: under everything else."""
SEED = click.IntRange(0, 2**63 - 1)
NATURAL = click.IntRange(0, 2**31 - 1)


class _Sentences(click.Group):
    """Turns zeroloop's errors into one sentence and exit code 1, an interruption into code 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZeroloopError as error:
            click.echo(f"zeroloop: {error}", err=True)
            ctx.exit(1)
        except (KeyboardInterrupt, click.Abort):
            click.echo("zeroloop: interrupted.", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zeroloop")
def main() -> None:
    """Train agents for board games by self-play, and prove how strong they are."""


def _given(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty name, which would else mean the current folder, or nothing at all."""
    if value is not None and not value.strip():
        what = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
        raise ZeroloopError(f"{what} is '{value}', an empty name; see {ctx.command_path} --help.")
    return value


def _json_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")(
        command
    )


def _config_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set any configuration key."),
        click.option("--preset", default=None, help="smoke, laptop, gpu, or the path of a YAML file."),
        click.option("--device", default=None, help="auto, cpu, cuda or mps."),
    ):
        command = option(command)
    return command


def _print(value: Any, as_json: bool, text: str = "") -> None:
    if as_json:
        click.echo(json.dumps(value))
    elif text:
        click.echo(text)
    else:
        for key, item in value.items():
            click.echo(f"{key:<36} {_shown(item)}")


def _shown(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:,.0f}" if abs(item) >= 1000 else f"{item:.4g}"
    if isinstance(item, list):
        return ", ".join(_shown(x) for x in item)
    return str(item)


def load_config(
    game: str | None,
    preset: str | None,
    sets: tuple[str, ...] = (),
    device: str | None = None,
    stored: pathlib.Path | None = None,
    extra: dict[str, Any] | None = None,
) -> Config:
    """Resolve the configuration: defaults, the game's or the stored run's, preset, environment, flags."""
    from . import configfile
    from .config import Config
    from .errors import ConfigError

    layers = []
    if stored is not None:
        layers.append(configfile.Layer.from_file(stored))
    if preset:
        path = PRESETS / f"{preset}.yaml"
        if not path.exists():
            path = pathlib.Path(preset)
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
            raise ConfigError(f"there is no preset '{preset}'; known: {known}, or the path of a YAML file.")
        layers.append(configfile.Layer.from_file(path))
    layers += configfile.environment_layers(os.environ)
    plain: dict[str, Any] = {}
    if game:
        plain["game"] = {"name": game}
    if device:
        plain["run"] = {"device": device}
    layers.append(configfile.Layer.from_mapping(plain, "the command line"))
    if extra:
        layers.append(configfile.Layer.from_mapping(extra, "the command line"))
    layers += configfile.assignment_layers(sets)
    found = configfile.load(Config, *layers)
    if game and found.game.name != game:
        raise ConfigError(f"the command names the game {game}, but game.name is set to {found.game.name}.")
    own = CONFIGS / f"{found.game.name}.yaml"
    if stored is None and own.exists():
        found = configfile.load(Config, configfile.Layer.from_file(own), *layers)
    return found


def _game(name: str, sets: tuple[str, ...] = ()) -> Game:
    from .games import make

    config = load_config(name, None, sets)
    return make(config.game.name, **config.game.options)


def _given_game(name: str | None, sets: tuple[str, ...]) -> Game | None:
    """Return the game of `--game`, None without one; `--set` alone has nothing to set."""
    if sets and not name:
        raise ZeroloopError(f"--set {sets[0]} gives options of a game, but there is no --game; give one.")
    return _game(name, sets) if name else None


@main.command()
@click.argument("game", required=False, callback=_given)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=pathlib.Path),
    default=None,
    help="Run directory [runs/GAME].",
)
@click.option("--seed", type=SEED, default=None, help="Seed of every random draw.")
@click.option(
    "--deterministic",
    is_flag=True,
    default=None,
    help="Bit-identical resume; counts positions, reads no clock.",
)
@click.option("--no-preflight", is_flag=True, help="Skip the few seconds of measurement before a fresh run.")
@_config_flags
@_json_flag
def train(
    game: str | None,
    folder: pathlib.Path | None,
    seed: int | None,
    deterministic: bool | None,
    no_preflight: bool,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Train GAME from nothing; the same command again goes on where it stopped."""
    from .session import train_session

    folder = folder or pathlib.Path("runs") / pathlib.Path(game or "connect4").stem
    stored = folder / "config.yaml"
    extra: dict[str, Any] = {"run": {}, "budget": {}}
    if seed is not None:
        extra["run"]["seed"] = seed
    if deterministic:
        extra["run"]["deterministic"] = True
        extra["budget"]["minutes"] = 0
    config = load_config(game, preset, sets, device, stored if stored.exists() else None, extra)
    result = train_session(folder, config, preflight=not no_preflight and not as_json)
    if as_json:
        click.echo(json.dumps(result))
    if not result["finished"]:
        sys.exit(130)


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@_json_flag
def digest(run: pathlib.Path, as_json: bool) -> None:
    """Hash everything that RUN's newest checkpoint holds, part by part."""
    from .session import digest_run

    _print(digest_run(run), as_json)


@main.command()
@click.argument("game", callback=_given)
@click.option("--position", default=None, help="Position text; see the game's page.")
@click.option("--moves", default="", help="Moves from the start, separated by spaces.")
@click.option("--dice", default="", help="The roll that comes next, such as 31 in backgammon.")
@click.option(
    "--stdin",
    "from_stdin",
    is_flag=True,
    help="Answer one query per line: a JSON object, or moves.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@_json_flag
def state(
    game: str,
    position: str | None,
    moves: str,
    dice: str,
    from_stdin: bool,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show a position of GAME: who moves, what is legal, how it ended."""
    from .query import describe_state, query_lines, render_state

    made = _game(game, sets)
    if from_stdin:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # a stray byte is an unknown move, not a crash
        for answer in query_lines(made, sys.stdin):
            click.echo(json.dumps(answer), nl=True)
        return
    if as_json:
        click.echo(json.dumps(describe_state(made, position, moves, dice)))
    else:
        click.echo(render_state(made, position, moves, dice))


@main.command()
@click.argument("fen")
@click.argument("depth", type=click.IntRange(0, 12))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@_json_flag
def perft(fen: str, depth: int, sets: tuple[str, ...], as_json: bool) -> None:
    """Count the move sequences of DEPTH plies from FEN (or `start`) in chess."""
    from .query import count_moves

    _print(count_moves(_game("chess", sets), fen, depth), as_json)


@main.command()
@click.argument("game", callback=_given)
@click.option("--games", type=click.IntRange(min=1), default=200, help="Random games.")
@click.option("--seed", type=SEED, default=0)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@_json_flag
def check(game: str, games: int, seed: int, sets: tuple[str, ...], as_json: bool) -> None:
    """Prove the laws of the contract for GAME (or a .py file) on random play."""
    from .games.check import check_game

    if seed + games >= 2**63:
        raise ZeroloopError(f"--seed {seed} and --games {games}: together they must be below 2^63.")
    report = check_game(_game(game, sets), games=games, seed=seed)
    if as_json:
        click.echo(json.dumps(report._asdict()))
        return
    for law, count in report.laws:
        click.echo(f"{count:>9,}  {law}")
    click.echo(f"{report.games} games, {report.plies:,} plies, {report.states_per_second:,.0f} states/s")
    for note in report.notes:
        click.echo(f"note: {note}")


@main.command()
@click.argument("game", callback=_given)
@click.option(
    "--positions", required=True, type=click.Path(path_type=pathlib.Path), help="Lines MOVES SCORE."
)
@click.option("--weak", is_flag=True, help="Win, draw or loss only: faster.")
@click.option("--threads", type=NATURAL, default=0, help="Threads; 0: one per core.")
@_json_flag
def solve(game: str, positions: pathlib.Path, weak: bool, threads: int, as_json: bool) -> None:
    """Solve positions exactly and compare with the scores in the file."""
    from .query import solve_file

    _print(solve_file(_game(game), positions, weak, threads), as_json)


@main.command()
@click.argument("player", callback=_given)
@click.option(
    "--positions",
    multiple=True,
    type=click.Path(path_type=pathlib.Path),
    help="Lines MOVES SCORE or MOVES s1 ... s7; may be repeated.",
)
@click.option("--drawn", type=NATURAL, default=0, help="Instead: so many random positions, solved exactly.")
@click.option("--bearoff", type=NATURAL, default=0, help="Instead: so many of backgammon's bear-off.")
@click.option("--simulations", type=NATURAL, help="0: the raw policy [PLAYER's @N, or 128].")
@click.option("--limit", type=NATURAL, default=0, help="Only the first lines of each file; 0: all.")
@click.option("--game", default=None, callback=_given, help="Game of a fixed player [connect4].")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --game: its options.")
@click.option("--seed", type=SEED, default=0)
@_json_flag
def evaluate(
    player: str,
    positions: tuple[pathlib.Path, ...],
    simulations: int | None,
    limit: int,
    drawn: int,
    bearoff: int,
    game: str | None,
    sets: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Count the positions in which PLAYER (RUN, HASH, demo:GAME, random, minimax:5) keeps the value."""
    from .query import evaluate_bearoff, evaluate_drawn, evaluate_files

    if [bool(positions), bool(drawn), bool(bearoff)].count(True) != 1:
        raise ZeroloopError("evaluate needs one of --positions FILE, --drawn N and --bearoff N.")
    made = _given_game(game, sets)
    if drawn or bearoff:
        judge = evaluate_drawn if drawn else evaluate_bearoff
        _print(judge(player, drawn or bearoff, simulations, made, seed, _tell), as_json)
        return
    found = evaluate_files(player, list(positions), simulations, limit, made, seed, _tell)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for row in found.get("files", [found]):
            _print(row, False)
            click.echo()


@main.command()
@click.argument("first", callback=_given)
@click.argument("second", callback=_given)
@click.option("--games", default=200, help="Games; each opening is played in every seating.")
@click.option(
    "--opening-plies",
    type=click.IntRange(1, 2**31 - 1),
    default=4,
    help="Random plies of an opening, at most.",
)
@click.option("--game", default=None, callback=_given, help="Game of fixed players [connect4].")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --game: its options.")
@click.option("--seed", type=SEED, default=0)
@_json_flag
def match(
    first: str,
    second: str,
    games: int,
    opening_plies: int,
    game: str | None,
    sets: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Play FIRST against SECOND: RUN@128, HASH@128, demo:connect4@128, minimax:4, mcts:400, solver."""
    from .query import match_players

    made = _given_game(game, sets)
    _print(match_players(first, second, games, opening_plies, made, seed, _tell), as_json)


def _tell(text: str) -> None:
    click.echo(text, err=True)


@main.group()
def bench() -> None:
    """Measure speed; figures are medians of interleaved rounds."""


def _bench(name: str, what: str, threads: int) -> None:
    @bench.command(name, help=what)
    @click.argument("game", callback=_given)
    @click.option("--threads", default=threads, help="Threads.")
    @_config_flags
    @_json_flag
    def run(
        game: str,
        threads: int,
        sets: tuple[str, ...],
        preset: str | None,
        device: str | None,
        as_json: bool,
    ) -> None:
        from .query import run_bench

        config = load_config(game, preset, (f"selfplay.threads={threads}", *sets), device)
        found = run_bench(name, config, threads)
        if as_json or isinstance(found, dict):
            _print(found, as_json)
        else:
            for row in found:
                click.echo(
                    f"{row['backend']:<10} {row['precision']:<5} batch {row['batch']:>5}"
                    f"  {row['positions_per_second']:>10,.0f} positions/s"
                )


_bench("search", "Simulations/s with the uniform evaluator, no network.", 1)
_bench("compile", "Seconds that a fresh process compiles, and loads from the cache.", 1)
_bench("inference", "Positions/s of every backend at several batches.", 1)
_bench("selfplay", "Real self-play against raw inference.", 2)
_bench("learn", "Positions/s of learning steps.", 2)


@main.command()
@click.argument("player", callback=_given)
@click.option("--simulations", default=200, help="Of the agent's search.")
@click.option("--seat", type=int, default=None, help="Your seat [0].")
@click.option("--seed", type=SEED, default=0)
def play(player: str, simulations: int, seat: int | None, seed: int) -> None:
    """Play against PLAYER in the terminal: a run, a model, or a game's name for the demo agent."""
    from .play import play_terminal

    play_terminal(player, simulations, 0 if seat is None else seat, seed)


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@_json_flag
def report(run: pathlib.Path, as_json: bool) -> None:
    """Write RUN's report: report.md and report.png."""
    from .report import write_report

    path = write_report(run)
    _print({"report": str(path)}, as_json, f"wrote {path}")


@main.group()
def config() -> None:
    """Show and compare configurations."""


@config.command("show")
@click.argument("run", required=False, type=click.Path(path_type=pathlib.Path))
@click.option("--docs", is_flag=True, help="Every key with its meaning.")
@_config_flags
@_json_flag
def config_show(
    run: pathlib.Path | None,
    docs: bool,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Print the resolved configuration: of RUN, or of the flags."""
    from . import configfile
    from .config import Config

    if docs:
        keys = configfile.describe(Config)
        rows = [{"key": k.name, "default": k.default, "type": k.type, "doc": k.doc} for k in keys]
        text = "\n".join(f"{k.name} = {k.default}   ({k.type})\n    {k.doc}" for k in keys)
        _print({"keys": rows}, as_json, text)
        return
    if run is not None and not (run / "config.yaml").exists():
        raise ZeroloopError(
            f"'{run}' is no run directory: it has no config.yaml. For the configuration of a game: "
            "zeroloop config show --set game.name=hex."
        )
    found = load_config(None, preset, sets, device, run / "config.yaml" if run else None)
    if as_json:
        click.echo(json.dumps({"hash": configfile.content_hash(found), "config": configfile.to_plain(found)}))
    else:
        click.echo(configfile.dump(found), nl=False)


@config.command("diff")
@click.argument("first", callback=_given)
@click.argument("second", callback=_given)
@_json_flag
def config_diff(first: str, second: str, as_json: bool) -> None:
    """Print what differs between two runs, presets or YAML files."""
    from . import configfile

    def read(name: str) -> Config:
        run = pathlib.Path(name) / "config.yaml"
        return load_config(None, str(run) if run.exists() else name)

    rows = configfile.diff(read(first), read(second))
    if as_json:
        found = [{"key": k, "first": a, "second": b} for k, a, b in rows]
        click.echo(json.dumps({"differences": found}))
    else:
        for key, a, b in rows:
            click.echo(f"{key}: {a} -> {b}")
