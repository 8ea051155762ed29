"""Gauntlet: a candidate against random, heuristic, champion and engines; decided, and kept with the model."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from . import model
from .config import Config
from .errors import StoreError
from .evaluator.choice import choose
from .games import make
from .games.game import Game
from .players import Player, close, model_player, parse
from .promotion import Decision, decide, gather, plan_of
from .registry import SHORT, Lineage, Registry
from .registry.evidence import record
from .registry.stages import former_of, promote_passed, too_few
from .run import read_json, stored_config


class Candidate(NamedTuple):
    """A model to be judged, and where it comes from."""

    hash: str
    path: pathlib.Path
    source: str
    """How its game is made: a name, or the path of a .py file."""
    options: dict[str, Any]
    run: pathlib.Path | None
    """Its run, where that is known and still there."""


def open_registry(name: str, folder: pathlib.Path) -> Registry:
    """Open the registry in which a candidate is judged; it is made only where the candidate is there.

    Raises:
      StoreError: there is neither a registry nor a model of this name, or the registry is damaged.
    """
    made = not (folder / "registry.sqlite").exists()
    if made:
        path = model.find(f"{name}:newest" if pathlib.Path(name).is_dir() else name)
        if path is None:
            raise StoreError(
                f"there is no {_kind(name)} '{name}', and no registry in {folder}; train a model, or give "
                "--registry FOLDER."
            )
        model.load(path)
    return Registry(folder, make=made)


def _kind(name: str) -> str:
    """Return what a name that means nothing was meant to be."""
    return "run or model file" if set("/\\") & set(name) else "model"


def find_candidate(name: str, registry: Registry) -> Candidate:
    """Return the model of a name: RUN (its newest), a hash or tag of the registry, or what players take.

    Raises:
      StoreError: there is none.
    """
    folder = pathlib.Path(name)
    if folder.is_dir():
        found = model.find(f"{name}:newest")
        assert found is not None  # find raises where a run has no model
        config = stored_config(folder)
        return Candidate(found.stem, found, config.game.name, config.game.options, folder)
    path = model.find(name)
    if path is None and _kind(name) != "model":
        raise StoreError(f"there is no {_kind(name)} '{name}'; give the folder of a run, or a hash.")
    known = [r for r in registry.models() if path is not None and r["hash"] == path.stem.rpartition("-")[2]]
    if path is None or known:
        row = known[0] if known else registry.model(name)
        registry.verified(row)
        return Candidate(row["hash"], registry.path(row), row["source"], row["options"], registry.run_of(row))
    loaded = model.load(path)
    run = path.parent.parent
    alive = (run / "config.yaml").exists()
    source = stored_config(run).game.name if alive else loaded.game.name
    return Candidate(loaded.hash, path, source, dict(loaded.game.options), run if alive else None)


def find_champion(candidate: Candidate, game: Game, registry: Registry, name: str | None) -> Candidate | None:
    """Return the model to beat: the one named, else the one in production, else the champion of its run.

    A candidate that is in production meets the one that it replaced; one that is its run's champion, where
    nothing is in production, meets nobody (None).
    """
    if name is not None:
        found = find_candidate(name, registry)
        if found.hash == candidate.hash:
            raise StoreError(f"the champion '{name}' is the candidate itself; give another --champion.")
        return found
    reigning = registry.production(game.id)
    if reigning == candidate.hash:
        reigning = former_of(registry, game.id)
        return find_candidate(reigning, registry) if reigning else None
    if reigning is not None:
        return find_candidate(reigning, registry)
    if candidate.run is not None and (candidate.run / "champion").exists():
        own = model.read_pointer(candidate.run / "champion")
        if own != candidate.hash:
            path = candidate.run / "models" / f"{own}.safetensors"
            return candidate._replace(hash=own, path=path)
    return None


def enter(candidate: Candidate, game: Game, registry: Registry) -> None:
    """Enter a model in the registry; what a run does not tell stays unknown."""
    run = candidate.run
    lineage = Lineage()
    if run is not None:
        about = read_json(run / "run.json", "config_hash")
        lineage = Lineage(run=str(run.resolve()), config_hash=about["config_hash"])
    registry.add(candidate.hash, game, candidate.source, candidate.path, lineage)


def with_games(config: Config, games: int, seats: int) -> Config:
    """Return the configuration with so many games against each opponent, and as many pairs at most."""
    evaluate, rules = config.evaluate, config.promote
    return replace(
        config,
        evaluate=replace(evaluate, opponents=dict.fromkeys(evaluate.opponents, games)),
        promote=replace(
            rules,
            floor_games=games,
            max_pairs=max(1, games // seats),
            engines=dict.fromkeys(rules.engines, games),
        ),
    )


def run_gauntlet(
    candidate: Candidate,
    config: Config,
    registry: Registry,
    *,
    champion: str | None = None,
    games: int | None = None,
    seed: int = 0,
    simulations: int | None = None,
    progress: Callable[[str], None] | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Play the gauntlet, store decision and matches in the registry, and return them as plain data.

    Args:
      champion: a model to beat instead of the one in production.
      games: against each, instead of what the configuration says; with fewer than
        `stages.ENOUGH_GAMES` it is a report, and never a pass.
      seed: of the openings; the same gauntlet with the same seed is the same evidence.
      simulations: of candidate and champion; default `match.simulations`.

    Raises:
      PlayerError: a player is absent or failed; nothing is stored then.
      StoreError, ResumeError: a model is damaged or of another game.
    """
    game = make(candidate.source, **candidate.options)
    rival = find_champion(candidate, game, registry, champion)
    if games is not None:
        config = with_games(config, games, game.num_players)
    plan = plan_of(game, config, engines=True)
    told = progress or (lambda text: None)
    for name, why in plan.left_out.items():
        told(f"no floor against {name}: {why}")
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    budget = config.match.simulations if simulations is None else simulations

    def player(of: Candidate) -> Player:
        loaded = model.load(of.path, game)
        if loaded.hash != of.hash:
            raise StoreError(f"{of.path} has hash {loaded.hash[:SHORT]}, not {of.hash[:SHORT]}.")
        return model_player(loaded, budget, choice=choice, seed=config.run.seed)

    players = [player(candidate), *([player(rival)] if rival else [])]
    opponents: dict[str, Player] = {}
    try:
        for name in plan.games:
            opponents[name] = parse(name, game, simulations=budget, seed=config.run.seed, choice=choice)
        found = gather(
            game,
            config,
            players[0],
            players[1] if rival else None,
            opponents,
            seed=seed,
            plan=plan,
            progress=progress,
            tick=tick,
        )
    finally:
        close(*players, *opponents.values())
    decision = decide(config, found)
    few = too_few(decision.summary())
    if decision.promoted and few:
        told_so = decision.reason.removeprefix("promoted: ").removesuffix(".")
        decision = decision._replace(promoted=False, reason=f"not promoted: {few} ({told_so}).")
    for of in [candidate, *([rival] if rival else [])]:
        enter(of, game, registry)
    return _stored(registry, game, candidate, decision, config.promote.automatic)


def _stored(
    registry: Registry, game: Game, candidate: Candidate, decision: Decision, automatic: str
) -> dict[str, Any]:
    summary = decision.summary()
    number = record(registry, game.id, summary)
    if decision.promoted:
        promote_passed(registry, candidate.hash, automatic)
    beaten = registry.rows("SELECT hash FROM history WHERE decision = ? AND kind = 'rollback'", number)
    return {
        "model": candidate.hash,
        "game": game.id,
        "decision": number,
        "stage": registry.model(candidate.hash)["stage"],
        "rolled_back": beaten[0]["hash"] if beaten else None,
        **summary,
    }


def lines_of(answer: dict[str, Any]) -> list[str]:
    """Return the answer of a gauntlet as lines for people."""
    lines = [f"{answer['model'][:SHORT]} of {answer['game']}: {answer['reason']}"]
    met = {"the champion": answer["versus_champion"], **answer["fixed"]}
    for name, found in met.items():
        if found is None:
            continue
        low, high = found["interval"]
        floor = answer["floors"].get(name)
        seats = " / ".join(f"{100 * seat['score']:.1f}" for seat in found["by_seat"].values())
        lines.append(
            f"  {name:<28} {100 * found['score']:6.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            f"  {found['games']:>5} games  by seat {seats}"
            + (f"  floor {100 * floor:.0f} %" if floor is not None else "")
        )
    lines += [f"  no floor against {name}: {why}" for name, why in answer["left_out"].items()]
    if answer["rolled_back"]:
        lines.append(f"  {answer['rolled_back'][:SHORT]} was beaten and left production.")
    return [*lines, f"  stage: {answer['stage']}; evidence {answer['decision']} of the registry"]
