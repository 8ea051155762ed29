"""What all commands share: the group, exit codes, flags, and how a configuration is resolved.

With `--json` a command prints one JSON object on standard output, nothing else; people read standard error.
Exit code 0: success, 1: failure told in one sentence, 2: wrong usage, 130: interrupted.
"""

from __future__ import annotations

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

from .. import __version__
from ..errors import ZeroloopError

if TYPE_CHECKING:
    from ..config import Config
    from ..games.game import Game

PRESETS = pathlib.Path(__file__).parent.parent / "presets"
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
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


def given(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty name, which would else mean the current folder, or nothing at all."""
    if value is not None and not value.strip():
        what = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
        raise ZeroloopError(f"{what} is '{value}', an empty name; see {ctx.command_path} --help.")
    return value


def json_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")(
        command
    )


def config_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--set`, `--preset` and `--device`."""
    for option in (
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set any configuration key."),
        click.option("--preset", default=None, help="smoke, laptop, gpu, or the path of a YAML file."),
        click.option("--device", default=None, help="auto, cpu, cuda or mps."),
    ):
        command = option(command)
    return command


def print_answer(value: Any, as_json: bool, text: str = "") -> None:
    """Print an answer: JSON, the text given, or one line per key."""
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
    from .. import configfile
    from ..config import Config
    from ..errors import ConfigError

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


def game_of(name: str, sets: tuple[str, ...] = ()) -> Game:
    """Return the game of this name with the options that `--set` gives."""
    from ..games import make

    config = load_config(name, None, sets)
    return make(config.game.name, **config.game.options)


def given_game(name: str | None, sets: tuple[str, ...]) -> Game | None:
    """Return the game of `--game`, None without one; `--set` alone has nothing to set."""
    if sets and not name:
        raise ZeroloopError(f"--set {sets[0]} gives options of a game, but there is no --game; give one.")
    return game_of(name, sets) if name else None


def tell(text: str) -> None:
    """Tell a person, on standard error."""
    click.echo(text, err=True)
