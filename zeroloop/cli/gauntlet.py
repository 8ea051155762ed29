"""The command that judges a candidate: `gauntlet`."""

from __future__ import annotations

import json
import pathlib

import click

from .base import NATURAL, SEED, given, json_flag, load_config, main, tell
from .models import registry_flag


@main.command()
@click.argument("candidate", callback=given)
@click.option("--champion", default=None, callback=given, help="The model to beat [the one in production].")
@click.option("--games", type=click.IntRange(2), default=None, help="Games against each.")
@click.option("--simulations", type=NATURAL, default=None, help="Of both models [match.simulations].")
@click.option("--seed", type=SEED, default=0, help="Of the openings.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Such as promote.floors.random=0.9.")
@registry_flag
@json_flag
def gauntlet(
    candidate: str,
    champion: str | None,
    games: int | None,
    simulations: int | None,
    seed: int,
    sets: tuple[str, ...],
    folder: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Judge CANDIDATE (RUN: its newest model; HASH): against random, heuristic, champion and engines.

    Decision, reason and matches are stored with the model in the registry; `models promote` asks for them.
    """
    from ..gauntlet import find_candidate, lines_of, open_registry, run_gauntlet
    from ..registry import folder_of

    with open_registry(candidate, folder or folder_of(candidate)) as registry:
        found = find_candidate(candidate, registry)
        stored = found.run / "config.yaml" if found.run else None
        extra = None if stored else {"game": {"options": found.options}}
        config = load_config(None if stored else found.source, None, sets, None, stored, extra)
        answer = run_gauntlet(
            found,
            config,
            registry,
            champion=champion,
            games=games,
            seed=seed,
            simulations=simulations,
            progress=tell,
        )
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo("\n".join(lines_of(answer)))
