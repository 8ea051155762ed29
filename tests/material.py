"""Material of several tests: small games, configurations, hand-made episodes and scripted players."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.toy_games import random_tree, toy
from zeroloop.bench.learn import random_episodes
from zeroloop.config import (
    Config,
    GameConfig,
    LearnConfig,
    NetworkConfig,
    ReplayConfig,
    RunConfig,
    SearchConfig,
    SelfPlayConfig,
)
from zeroloop.episode import Episode
from zeroloop.games import make, rules_identity
from zeroloop.games.game import TERMINAL, Game
from zeroloop.run import Run
from zeroloop.schedule import Schedule
from zeroloop.train import train

TICTACTOE = make("tictactoe")
CONNECT4 = make("connect4")


def number(value):
    """Return a constant schedule."""
    return Schedule.constant(value)


def cut_tree():
    """Three seats, dice, forced plies and early ends, cut after five plies of at most eight."""
    whole = random_tree(7, 3)
    return Game(
        "cut_tree",
        version=1,
        state_dtype=whole.state_dtype,
        num_players=3,
        num_actions=whole.num_actions,
        max_legal=whole.max_legal,
        max_chance=whole.max_chance,
        max_plies=5,
        outcomes=whole.outcomes.tolist(),
        observation=whole.observation,
        rules=whole.rules,
    )


def turns(name, outcomes, choices):
    """Return a game in which each seat moves once, in order; outcome = the sum of actions modulo rows."""
    seats, rows = len(outcomes[0]), len(outcomes)

    def to_play(state):
        return TERMINAL if state.plies == seats else state.plies

    def legal_actions(state, out):
        for i in range(choices):
            out[i] = i
        return choices

    def outcome(state):
        total, moves = 0, state.moves
        for _ in range(seats):
            total += moves & 7
            moves >>= 3
        return total % rows

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    return toy(name, outcomes, rules, num_actions=choices, max_legal=choices, max_plies=seats)


CUT_TREE = cut_tree()
# Three seats and their six finishing orders: 2 points for the first place, 1 for the second.
ORDERS = turns("orders", [[2, 1, 0], [2, 0, 1], [1, 2, 0], [0, 2, 1], [1, 0, 2], [0, 1, 2]], 4)
# Backgammon's ends: single, gammon, backgammon, for either seat.
GAMMON = turns("gammon", [[1, -1], [-1, 1], [2, -2], [-2, 2], [3, -3], [-3, 3]], 4)


def small_config(game="tictactoe", **sections):
    """Return a configuration of tiny sizes; `section={...}` replaces fields of a section."""
    start = {
        "network": NetworkConfig(blocks=1, channels=8, policy_channels=2, value_channels=2, value_hidden=8),
        "search": SearchConfig(simulations=number(8)),
        "selfplay": SelfPlayConfig(games=8, threads=1, cache_megabytes=0, random_opening_share=number(0)),
        "learn": LearnConfig(batch_size=32, threads=1, precision="fp32"),
        "replay": ReplayConfig(window_min=100_000, window_max=100_000),
        "run": RunConfig(seed=7, device="cpu"),
    }
    config = Config(game=GameConfig(name=game), **start)
    for name, changes in sections.items():
        config = replace(config, **{name: replace(getattr(config, name), **changes)})
    return config


def played(game, count, **sections):
    """Return `count` games of a search that knows nothing, in the order of their keys."""
    found = random_episodes(game, small_config(**sections), count)
    return sorted(found, key=lambda e: e.game_id)[:count]


def made_episode(game, actions, **given):
    """Return the episode of a line of play from the start.

    Args:
      given: `policy`: {ply: {action: probability}}; `root_value`: [T, P]; `policy_weight`,
        `value_weight`, `surprise`, `simulations`: one number per ply (default: 1, 1, 0, 8 at plies
        of a seat, else 0); `final_value` of a truncated game; `game_id`, `source`, `seats`.
    """
    state = game.initial_state()
    states, movers = [], []
    for action in actions:
        states.append(game.copy(state))
        movers.append(int(game.rules["to_play"](state)))
        game.play(state, action)
    points, plies = game.points(state), len(actions)
    outcome = int(game.rules["outcome"](state)) if points is not None else -1
    final = given.get("final_value") or [p / game.scale for p in points]
    policy, seat = given.get("policy", {}), np.array([m >= 0 for m in movers])
    entries = [sorted(policy.get(ply, {}).items()) for ply in range(plies)]

    def column(name, default, dtype):
        return np.array(given.get(name, np.where(seat, default, 0)), dtype)

    return Episode(
        game=game.id,
        rules_identity=rules_identity(game),
        observation_version=game.observation.version,
        seed=0,
        game_id=given.get("game_id", 0),
        source=given.get("source", "selfplay"),
        seats=given.get("seats", ("model",) * game.num_players),
        outcome=outcome,
        final_value=np.array(final, np.float32),
        states=np.array(states, game.state_dtype),
        action=np.array(actions, np.int32),
        to_play=np.array(movers, np.int8),
        policy_weight=column("policy_weight", 1, np.float32),
        value_weight=column("value_weight", 1, np.float32),
        simulations=column("simulations", 8, np.int32),
        root_value=np.array(given.get("root_value", np.zeros((plies, game.num_players))), np.float32),
        surprise=column("surprise", 0, np.float32),
        offsets=np.cumsum([0, *(len(e) for e in entries)]).astype(np.int32),
        policy_ids=np.array([a for e in entries for a, _ in e], np.int32),
        policy_probs=np.array([p for e in entries for _, p in e], np.float16),
    )


def learnable(episode):
    """Return the plies of an episode that something can be learnt from."""
    return np.flatnonzero((episode.policy_weight > 0) | (episode.value_weight > 0))


class Scripted:
    """A player that follows a rule: `rule(state, legal ids, key, ply) -> action`."""

    def __init__(self, game, rule, name="scripted"):
        self.game, self.rule, self.name = game, rule, name
        self.asked = []

    def choose(self, states, keys, plies):
        out = np.zeros(len(states), np.int32)
        for i in range(len(states)):
            self.asked.append((states[i].tobytes(), int(keys[i]), int(plies[i])))
            out[i] = self.rule(states[i], self.game.legal(states[i]), int(keys[i]), int(plies[i]))
        return out


def lowest(state, legal, key, ply):
    """Play the lowest legal id."""
    return legal[0]


def highest(state, legal, key, ply):
    """Play the highest legal id."""
    return legal[-1]


def observation(game, state):
    """Return (planes, globals) of a state by the game's own rule."""
    planes = np.zeros(game.observation.planes, np.float32)
    facts = np.zeros(game.observation.globals, np.float32)
    game.rules["observe"](state, planes, facts)
    return planes, facts


RUN_BASE = {
    "promote": {"max_pairs": 8, "floors": {}},  # before evaluate, whose opponents floors may name
    "evaluate": {"every_positions": 400, "opponents": {"random": 4}, "positions": 0},
    "match": {"simulations": 2, "opening_plies": 2},
    "budget": {"positions": 900},
    "run": {"iteration_positions": 150, "checkpoint_iterations": 100, "device": "cpu"},
}


def run_config(**changes):
    """Return the configuration of a run of seconds; as `small_config`."""
    sections = {name: {**RUN_BASE.get(name, {}), **changes.get(name, {})} for name in [*RUN_BASE, *changes]}
    return small_config(**sections)


def session(folder, given, stop=lambda: False):
    """Train in the folder; return (outcome, everything told)."""
    told = []
    run = Run.open(folder, given)
    try:
        return train(run, lambda kind, values: told.append((kind, values)), stop), told
    finally:
        run.close()


def changed_tictactoe(name="tictactoe", **facts):
    """Return tic-tac-toe with some facts or rules replaced."""
    given = {
        "version": 1,
        "state_dtype": TICTACTOE.state_dtype,
        "num_players": 2,
        "num_actions": 9,
        "max_legal": 9,
        "max_plies": 9,
        "outcomes": TICTACTOE.outcomes.tolist(),
        "observation": TICTACTOE.observation,
        "num_symmetries": 8,
        "rules": TICTACTOE.rules,
        "options": {},
    }
    return Game(name, **{**given, **facts})
