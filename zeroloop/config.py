"""The configuration: one typed tree, a branch per stage of the loop, defaults that train Connect Four.

Each field is followed by its meaning; `zeroloop config show` prints them. How files, environment and
`--set` become this tree is `configfile`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from .configfile import Scalar
from .errors import ConfigError
from .schedule import Schedule


def _number(value: float) -> Schedule:
    return Schedule.constant(value)


def _within(name: str, value: float, low: float, high: float, note: str = "") -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must lie in {low}..{high}{note}.")


def _at_least(name: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"{name} is {value}; it must be at least {low}.")


def _address(name: str, value: str, *words: str) -> None:
    """Refuse what is neither HOST:PORT nor one of these words."""
    port = re.fullmatch(r"[^\s/@]+:([0-9]{1,5})", value)
    if value not in words and not (port and int(port[1]) < 1 << 16):
        told = "".join(f", or '{word}'" for word in words)
        raise ConfigError(f"{name} is '{value}'; it must be HOST:PORT, such as 192.168.1.100:6390{told}.")


def _scheduled(name: str, value: Schedule, low: float, high: float = 1e9) -> None:
    if value.minimum < low or value.maximum > high:
        raise ConfigError(
            f"{name} runs from {value.minimum} to {value.maximum}; it must stay in {low}..{high}."
        )


@dataclass(frozen=True, kw_only=True)
class GameConfig:
    """Which game is played."""

    name: str = "connect4"
    """A built-in game, an installed one, or the path of a .py file."""
    options: dict[str, Scalar] = field(default_factory=dict)
    """Options that the game takes, such as a board size."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network's shape; part of a model's hash."""

    kind: Literal["residual", "mlp"] = "residual"
    """Tower: residual convolutions for boards, residual MLP for vectors."""
    blocks: int = 4
    """Residual blocks."""
    channels: int = 64
    """Channels of a convolution, or width of the MLP."""
    norm: Literal["none", "batch"] = "none"
    """Normalisation; none trains faster and sees no difference between training and play."""
    squeeze_excitation: bool = False
    """Scale each block's channels by a gate over the whole board (Hu et al. 2018)."""
    global_pooling: bool = False
    """Add board-wide mean and maximum to every second block (KataGo 2019)."""
    policy_head: Literal["linear", "planes"] = "linear"
    """`linear` fits all actions; `planes`: a convolution, channel c at cell k is action c * cells + k."""
    policy_channels: int = 16
    """Channels of the policy head before its last layer."""
    value_channels: int = 8
    """Channels of the value head before its hidden layer."""
    value_hidden: int = 64
    """Width of the value head's hidden layer."""
    heads: tuple[Literal["reply"], ...] = ()
    """Heads beside policy and value: `reply` predicts the next ply's policy (KataGo 2019)."""

    def __post_init__(self) -> None:
        for name in ("blocks", "channels", "policy_channels", "value_channels", "value_hidden"):
            _at_least(f"network.{name}", getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a position is searched; docs/search.md gives each number's formula. Numbers may be schedules."""

    rule: Literal["puct", "gumbel"] = "gumbel"
    """AlphaZero's PUCT or Gumbel AlphaZero."""
    interior: Literal["puct", "gumbel"] = "puct"
    """Selection below the root; `gumbel` is the improved-policy rule (Danihelka et al. 2022, equation 14)."""
    chance: Literal["sampling", "expectation"] = "sampling"
    """Dice: draw one outcome a visit, or evaluate every outcome once and back up the exact expectation."""
    bearoff: int = 0
    """Backgammon: exact values at leaves with at most so many checkers a side in the bear-off; 0: none."""
    simulations: Schedule = _number(32)
    """New simulations of a full search."""
    c_puct: Schedule = _number(1.5)
    """Exploration constant."""
    c_puct_base: Schedule = _number(0)
    """Base of AlphaZero's logarithmic growth of c_puct (19652 in the paper); 0: no growth."""
    fpu_reduction: Schedule = _number(0.2)
    """An unvisited edge is worth its parent's mean minus this."""
    root_fpu_reduction: Schedule = _number(0)
    """The same at the root."""
    dirichlet_total: Schedule = _number(10)
    """PUCT root noise: alpha is this divided by the number of legal actions."""
    dirichlet_fraction: Schedule = _number(0.25)
    """PUCT root noise: its share of the prior."""
    forced_playouts: Schedule = _number(2)
    """PUCT: a visited root edge gets at least sqrt(this x prior x visits), pruned from the target; 0: off."""
    gumbel_actions: Schedule = _number(16)
    """Gumbel: root actions considered."""
    gumbel_scale: Schedule = _number(1)
    """Gumbel: scale of the noise in self-play; 0 plays the best action."""
    c_visit: Schedule = _number(50)
    """Gumbel: visits added to the scale of Q."""
    c_scale: Schedule = _number(0.5)
    """Gumbel: scale of Q, itself mapped to 0..1."""
    tree_reuse: bool = False
    """Keep the subtree of the move played."""
    max_nodes: int = 0
    """Nodes a tree may store; 0: as the budget needs. A full tree goes on without new ones."""

    def __post_init__(self) -> None:
        _scheduled("search.simulations", self.simulations, 1, 1_000_000)
        _scheduled("search.dirichlet_fraction", self.dirichlet_fraction, 0, 1)
        _scheduled("search.gumbel_actions", self.gumbel_actions, 1)
        for name in (
            "c_puct",
            "c_puct_base",
            "gumbel_scale",
            "c_visit",
            "c_scale",
            "forced_playouts",
        ):
            _scheduled(f"search.{name}", getattr(self, name), 0)
        _at_least("search.max_nodes", self.max_nodes, 0)
        _within("search.bearoff", self.bearoff, 0, 10)


@dataclass(frozen=True, kw_only=True)
class OpponentConfig:
    """A player that takes one seat in a share of the self-play games."""

    player: str = "random"
    """`past` (an earlier model of this run), `policy` (the newest model without search), `random`,
    `heuristic`, `minimax:D`, `mcts:N`."""
    share: float = 0.0
    """Share of games with this player in one seat, 0..1."""

    def __post_init__(self) -> None:
        _within("selfplay.opponents.share", self.share, 0, 1)


@dataclass(frozen=True, kw_only=True)
class SelfPlayConfig:
    """How games are made. Numbers may be schedules."""

    games: int = 256
    """Games in flight per thread; also the network's batch."""
    threads: int = 0
    """Search threads; 0: one per core."""
    temperature: Schedule = field(
        default_factory=lambda: Schedule.from_plain({"over": "ply", "at": {0: 1.0, 12: 0.0}})
    )
    """PUCT: temperature of the move played (Gumbel plays its own choice)."""
    full_search_fraction: Schedule = _number(1)
    """Share of moves searched in full; the rest are cheap and train no policy (playout cap, KataGo 2019)."""
    cheap_simulations: Schedule = _number(8)
    """Simulations of a cheap search."""
    random_opening_share: Schedule = _number(0.5)
    """Share of games that begin with uniformly random plies, which are not recorded."""
    random_opening_plies: Schedule = _number(16)
    """Random plies: uniform over 1..this."""
    hard_positions: str = ""
    """JSON Lines of positions from which games begin, as `zeroloop regret --out` writes; empty: none."""
    hard_position_share: float = 0.1
    """Share of games that begin from a drawn line of that file, without random plies."""
    opponents: tuple[OpponentConfig, ...] = ()
    """Players that take one seat in a share of the games; by default the newest model sits everywhere."""
    cache_megabytes: int = 32
    """Evaluation cache per thread; 0: off."""

    def __post_init__(self) -> None:
        _at_least("selfplay.games", self.games, 1)
        _at_least("selfplay.threads", self.threads, 0)
        _at_least("selfplay.cache_megabytes", self.cache_megabytes, 0)
        _scheduled("selfplay.temperature", self.temperature, 0)
        for name in ("full_search_fraction", "random_opening_share"):
            _scheduled(f"selfplay.{name}", getattr(self, name), 0, 1)
        _scheduled("selfplay.cheap_simulations", self.cheap_simulations, 1)
        _within("selfplay.hard_position_share", self.hard_position_share, 0, 1)
        if sum(o.share for o in self.opponents) > 1:
            raise ConfigError("selfplay.opponents: the shares add up to more than 1.")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Which positions are learnt from, and how often each."""

    window_min: int = 30_000
    """Positions in the window before it may shrink to a fraction of all."""
    window_max: int = 400_000
    """Positions in the window at most."""
    window_fraction: float = 0.5
    """The window grows with the run: this share of all positions."""
    surprise_weight: float = 0.0
    """0: uniform sampling; 1: by surprise alone; between: a blend."""
    surprise: Literal["policy", "outcome"] = "policy"
    """KL of the policy target from the prior, or |root value - outcome|."""
    correction_exponent: float = 0.0
    """Importance correction of the blend: 0 none, 1 full. Outcome surprise needs 1: it selects on luck."""
    symmetries: bool = True
    """Observe each sampled state under a random symmetry."""
    sources: dict[str, float] = field(default_factory=dict)
    """Weight per source of episodes (1 where unnamed, 0 leaves it out)."""

    def __post_init__(self) -> None:
        _at_least("replay.window_min", self.window_min, 1)
        _at_least("replay.window_max", self.window_max, self.window_min)
        for name in ("window_fraction", "surprise_weight", "correction_exponent"):
            _within(f"replay.{name}", getattr(self, name), 0, 1)
        if self.surprise == "outcome" and self.surprise_weight > 0 and self.correction_exponent < 1:
            raise ConfigError(
                f"replay.correction_exponent is {self.correction_exponent}; outcome surprise needs 1, "
                "because selecting on the outcome biases the value target."
            )


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How batches become a model."""

    batch_size: int = 512
    """Positions per optimiser step."""
    accumulate: int = 1
    """Gradient accumulation: the batch is computed in this many parts."""
    reuse: float = 3.0
    """Train-to-data ratio: times each position is sampled on average. The limiter never exceeds it."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """AdamW throughout, or Muon (Jordan et al. 2024) for the tower's hidden layers and AdamW for the rest."""
    learning_rate: float = 2e-3
    """Peak learning rate; Muon's updates are scaled to the size of AdamW's, so both take the same."""
    schedule: Literal["constant", "step", "cosine", "linear"] = "linear"
    """Learning rate over the run, after the warm-up."""
    decay_from: float = 0.7
    """Progress of the run at which `linear`, `cosine` and `step` begin to decay."""
    final_rate: float = 0.1
    """Learning rate at the end, as a share of the peak."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 1e-2
    """Decoupled L2 penalty on weight matrices."""
    clip_norm: float = 0.0
    """Gradient norm bound; 0: none."""
    ema: float = 0.995
    """Decay of the exponential moving average of weights, which plays."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Autocast precision; fp16 uses a loss scaler and needs a GPU."""
    value_loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """Loss of the value head: over outcomes, or of the expected points."""
    head_weights: dict[str, float] = field(default_factory=dict)
    """Weight of each head's loss; 1 for policy and value, 0.15 for others, where unnamed."""
    root_value_weight: float = 0.5
    """Share of the search's root value in the value target; the rest is the game's outcome."""
    threads: int = 0
    """Threads of each process that each compute a part of the batch; 0: the cores, shared out among them."""
    processes: int = 1
    """Processes that each compute a part of the batch, a GPU each, and add their gradients."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "processes"):
            _at_least(f"learn.{name}", getattr(self, name), 1)
        for name in (
            "reuse",
            "learning_rate",
            "weight_decay",
            "clip_norm",
            "warmup_steps",
            "threads",
        ):
            _at_least(f"learn.{name}", getattr(self, name), 0)
        for name in ("decay_from", "final_rate", "ema", "root_value_weight"):
            _within(f"learn.{name}", getattr(self, name), 0, 1)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"learn.accumulate is {self.accumulate}; it must divide learn.batch_size = {self.batch_size}."
            )


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """How two players are compared."""

    opening_plies: int = 4
    """Random plies before the players take over, at most; short openings first, all of them distinct."""
    simulations: int = 64
    """Simulations of a searching player that names none."""

    def __post_init__(self) -> None:
        _at_least("match.opening_plies", self.opening_plies, 0)
        _at_least("match.simulations", self.simulations, 0)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """When and against whom a candidate is measured while training."""

    every_positions: int = 150_000
    """New positions between evaluations."""
    max_share: float = 0.15
    """Share of the wall time that evaluation may take; not read in deterministic runs."""
    by: Literal["loop", "watch"] = "loop"
    """Who judges candidates: the loop itself, or `zeroloop evaluate --watch RUN` beside it, for which the
    loop saves models; it then judges the last one only."""
    opponents: dict[str, int] = field(default_factory=lambda: {"minimax:3": 40})
    """Fixed opponents beside those of `promote.floors`, with the number of games against each."""
    positions: int = 400
    """Seeded positions that a solver has judged, for live accuracy, where the game has a solver; 0: none."""

    def __post_init__(self) -> None:
        _at_least("evaluate.every_positions", self.every_positions, 1)
        _at_least("evaluate.positions", self.positions, 0)
        _within("evaluate.max_share", self.max_share, 0, 1)
        for player, games in self.opponents.items():
            if games < 2:
                raise ConfigError(f"evaluate.opponents.{player} is {games}; it must be at least 2 games.")


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """When a candidate becomes the champion."""

    mode: Literal["gate", "always"] = "always"
    """Self-play uses the champion (`gate`) or the newest model (`always`); a champion needs evidence.
    With `gate`, set floors that a first model can meet: until one does, the random start plays."""
    rule: Literal["sprt", "threshold"] = "sprt"
    """Against the champion: the sequential test accepts; or all `max_pairs` are played, the score is at least
    `threshold` and its 95 % interval lies above one half."""
    threshold: float = 0.55
    """Score of the rule `threshold`."""
    elo0: float = 0.0
    """SPRT: the candidate is no better than this many Elo above the champion."""
    elo1: float = 35.0
    """SPRT: it is at least this much better."""
    alpha: float = 0.05
    """Chance of promoting a candidate at elo0."""
    beta: float = 0.05
    """Chance of refusing a candidate at elo1."""
    max_pairs: int = 200
    """Pairs of games at most; undecided then means not promoted."""
    floors: dict[str, float] = field(default_factory=lambda: {"random": 0.85, "heuristic": 0.60})
    """Least score (0..1) of one candidate seat against others. The default values are for two players; with
    three or four seats they bind nobody: set your own. `heuristic` is left out where a game has none."""
    floor_games: int = 100
    """Games at least against each player that has a floor."""
    engines: dict[str, int] = field(default_factory=dict)
    """Outside engines with the number of games: met by `gauntlet` and `--watch`, not by the loop, and
    reported; no floor unless `floors` names one, which the loop then meets too."""
    automatic: Literal["none", "staging", "production"] = "none"
    """Stage of the registry to which a candidate that passes is lifted without being asked."""

    def __post_init__(self) -> None:
        _at_least("promote.max_pairs", self.max_pairs, 1)
        _at_least("promote.floor_games", self.floor_games, 2)
        _within("promote.threshold", self.threshold, 0.5, 1)
        for engine, games in self.engines.items():
            if games < 2:
                raise ConfigError(f"promote.engines.{engine} is {games}; it must be at least 2 games.")
        for player, floor in self.floors.items():
            _within(f"promote.floors.{player}", floor, 0, 1)
        for name in ("alpha", "beta"):
            _within(f"promote.{name}", getattr(self, name), 0.001, 0.25)
        if self.elo1 <= self.elo0:
            raise ConfigError(f"promote.elo1 is {self.elo1}; it must be above promote.elo0 = {self.elo0}.")


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """When a run warns; docs/health.md has the reasons. A limit of 0 switches its warning off."""

    games: int = 500
    """The newest iterations that have so many games together are judged as one."""
    patience: int = 2
    """Bad iterations in a row before a warning begins, and good ones before it ends."""
    seat_most: dict[str, float] = field(default_factory=dict)
    """By seat: points over the scale that it may get on average; a seat that is not named is not judged."""
    seat_surprise: float = 1.75
    """Mean surprise of a seat's policy targets over that of the other seats."""
    draws: float = 0.98
    """Share of drawn games, 0..1."""
    truncated: float = 0.5
    """Share of games cut at the ply bound, 0..1."""
    entropy: float = 0.02
    """Least mean entropy of the policy and of its targets, as a share of the log of the legal moves."""
    calibration: float = 0.4
    """Error of the search's values against outcomes beyond what chance explains, in points over the scale."""
    openings: float = 0.02
    """Effective number of openings in games without a random one, as a share of the most that there were."""
    duplicates: float = 0.1
    """Share of positions in the window that repeat another."""
    loss_ratio: float = 2.0
    """Loss of a head over its usual one."""
    evaluations: int = 8
    """Evaluations in a row without a promotion."""
    overflows: float = 0.05
    """Share of simulations that found their tree full."""

    def __post_init__(self) -> None:
        _at_least("health.games", self.games, 100)
        _at_least("health.patience", self.patience, 1)
        for name in ("draws", "truncated", "entropy", "openings", "duplicates", "overflows"):
            _within(f"health.{name}", getattr(self, name), 0, 1)
        _within("health.calibration", self.calibration, 0, 2)
        _at_least("health.evaluations", self.evaluations, 0)
        for name in ("loss_ratio", "seat_surprise"):
            ratio = getattr(self, name)
            if ratio and ratio <= 1:
                raise ConfigError(f"health.{name} is {ratio}; it must be above 1, or 0 for off.")
        for seat, most in self.seat_most.items():
            if not seat.isdigit():
                raise ConfigError(f"health.seat_most names seat '{seat}'; seats are numbers from 0.")
            _within(f"health.seat_most.{seat}", most, -1, 1)


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How finished games reach the learner: from threads of its own process, or from workers elsewhere."""

    workers: int = 0
    """Self-play processes that the learner starts on its machine, or actors with Ray; 0: its own threads."""
    threads: int = 1
    """Search threads of each worker."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where workers run the network, each on its own machine; `auto`: what `run.device` is."""
    store: Literal["memory", "redis"] = "memory"
    """Where workers send finished games: the learner's memory, or a Redis server (section `redis`)."""
    bind: str = ""
    """HOST:PORT at which the learner's memory store listens to workers of other machines; empty: to none."""
    queue: int = 64
    """Finished games that may wait for the learner; then workers wait. Longer queues hold older games."""
    gate: Literal["ratio", "games"] = "ratio"
    """What begins a learning phase: new positions (`run.iteration_positions`, `learn.reuse`), or `games`."""
    games: int = 200
    """New games that begin a learning phase where `gate` is games."""
    publish_steps: int = 0
    """Optimiser steps at least between two models that workers get; 0: one at every iteration."""
    stale_updates: int = 0
    """Games of a model more than so many updates behind the newest are refused and counted; 0: none is."""
    spool: str = ""
    """Folder in which a worker keeps finished games until the learner has them; empty: `spool` in the run."""
    lost_seconds: float = 30.0
    """A worker that has been silent for so long, on the clock of whom it reports to, counts as gone."""

    def __post_init__(self) -> None:
        for name in ("workers", "publish_steps", "stale_updates"):
            _at_least(f"collect.{name}", getattr(self, name), 0)
        for name in ("threads", "queue", "games", "lost_seconds"):
            _at_least(f"collect.{name}", getattr(self, name), 1)
        _address("collect.bind", self.bind, "")


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """The Redis server of `collect.store=redis`; its password is read from REDIS_PASSWORD, never stored."""

    url: str = "redis://127.0.0.1:6379/0"
    """Address; `rediss://` for TLS."""
    namespace: str = ""
    """First part of every key, so that runs share a server; empty: the name of the run directory."""
    positions: int = 100_000
    """Positions that the store keeps; the oldest games go first."""
    episodes: int = 5_000
    """Games that the store keeps; the oldest go first."""
    ca: str = ""
    """File of the certificate authority for TLS; empty: the system's."""

    def __post_init__(self) -> None:
        for name in ("positions", "episodes"):
            _at_least(f"redis.{name}", getattr(self, name), 1)
        if not re.match(r"rediss?://[^/]", self.url):
            raise ConfigError(
                "redis.url is no address of a Redis server; give redis://HOST:PORT/0, or rediss://..."
            )
        user = self.url.partition("//")[2].rpartition("@")[0]
        if ":" in user:
            raise ConfigError(
                "redis.url holds a password, which would be stored with the run; leave it out and put it "
                "into the environment as REDIS_PASSWORD."
            )


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Where workers' leaves are evaluated."""

    server: str = ""
    """Empty: in each worker; `learner`: by a server in the learner's process; else a server's HOST:PORT."""
    bind: str = "127.0.0.1:0"
    """HOST:PORT at which a server listens; port 0: any that is free."""
    max_batch: int = 1024
    """Positions that the server merges at most."""
    deadline_ms: float = 2.0
    """Milliseconds that the first request of a batch waits for others at most."""
    lanes: int = 0
    """Batches computed at a time; 0: one per core, two on a GPU."""
    learner_share: float = 0.5
    """Share of a GPU's time for learning while inference in the same process wants it too, 0..1."""

    def __post_init__(self) -> None:
        _at_least("inference.max_batch", self.max_batch, 1)
        _at_least("inference.deadline_ms", self.deadline_ms, 0)
        _at_least("inference.lanes", self.lanes, 0)
        _within("inference.learner_share", self.learner_share, 0.05, 0.95)
        _address("inference.server", self.server, "", "learner")
        _address("inference.bind", self.bind)


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Placement of the actors on a Ray cluster (`zeroloop train GAME --ray auto`)."""

    address: str = ""
    """Empty: no Ray; `auto`: the cluster of this machine; `local`: one made for this run; or HOST:PORT."""
    worker_cpus: float = 1.0
    """Processors of each self-play actor."""
    learner_cpus: float = 1.0
    """Processors of the learner."""
    learner_gpus: float = 0.0
    """GPUs of the learner; 0.5 leaves half of one to the inference actor."""
    learner_node: str = ""
    """Resource that the learner's machine must have, such as `head`; the run directory lies there."""
    inference: bool = False
    """An actor that evaluates the leaves of all workers; without it each worker computes itself."""
    inference_cpus: float = 1.0
    """Processors of the inference actor."""
    inference_gpus: float = 0.0
    """GPUs of the inference actor."""

    def __post_init__(self) -> None:
        for name in ("worker_cpus", "learner_cpus", "learner_gpus", "inference_cpus", "inference_gpus"):
            _at_least(f"ray.{name}", getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class GaugesConfig:
    """What a running process shows to the outside."""

    port: int = 0
    """Port of the learner's Prometheus endpoint, which also lists the workers'; 0: none."""
    host: str = "127.0.0.1"
    """Address at which endpoints listen."""
    mlflow: bool = False
    """Log parameters, metrics and models to MLflow."""
    mlflow_uri: str = ""
    """MLflow's tracking address; empty: a local store in `mlflow` beside the run directory."""
    mlflow_experiment: str = "zeroloop"
    """Name of the experiment in MLflow."""

    def __post_init__(self) -> None:
        _within("gauges.port", self.port, 0, 65535)


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """How long to train; whichever comes first."""

    positions: int = 2_000_000
    """New self-play positions."""
    minutes: float = 0.0
    """Wall-clock minutes over all sessions of the run; 0: no limit. Not allowed in deterministic runs."""

    def __post_init__(self) -> None:
        _at_least("budget.positions", self.positions, 1)
        _at_least("budget.minutes", self.minutes, 0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run as a whole."""

    seed: int = 1
    """Seed of every random draw."""
    deterministic: bool = False
    """Bit-identical resume on the same machine: counts positions, reads no clock, one padded batch size."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where networks run; auto picks and says what it picked."""
    backend: Literal["auto", "openvino", "torch"] = "auto"
    """Inference: OpenVINO on CPU where it is installed, else torch."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Inference precision; auto: bf16 where the processor has it, else fp32."""
    iteration_positions: int = 8_000
    """New positions between learning phases, at most; early iterations are shorter."""
    checkpoint_iterations: int = 10
    """Iterations between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"run.seed is {self.seed}; it must lie in 0..2^63-1.")
        for name in ("iteration_positions", "checkpoint_iterations", "keep_checkpoints"):
            _at_least(f"run.{name}", getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole tree."""

    game: GameConfig = field(default_factory=GameConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    selfplay: SelfPlayConfig = field(default_factory=SelfPlayConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    promote: PromoteConfig = field(default_factory=PromoteConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    gauges: GaugesConfig = field(default_factory=GaugesConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.run.deterministic and self.budget.minutes > 0:
            raise ConfigError(
                f"budget.minutes is {self.budget.minutes} in a deterministic run, which reads no clock; "
                "set budget.minutes=0 and give budget.positions."
            )
        if self.run.deterministic and (self.remote or self.learn.processes > 1):
            raise ConfigError(
                "run.deterministic is on, but games of several processes arrive in any order; set "
                "collect.workers=0, collect.bind='', collect.store=memory, ray.address='' and "
                "learn.processes=1, or leave out --deterministic."
            )
        if self.run.deterministic and self.collect.gate == "games":
            raise ConfigError(
                "collect.gate is games in a deterministic run, whose threads finish games in any order; set "
                "collect.gate=ratio."
            )
        if self.remote and any(o.player == "past" for o in self.selfplay.opponents):
            raise ConfigError(
                "selfplay.opponents names past, but workers get the newest model only; set "
                "collect.workers=0, or choose policy, random, heuristic, minimax:D or mcts:N."
            )
        if self.run.deterministic and self.run.device not in ("auto", "cpu"):
            raise ConfigError(
                f"run.device is {self.run.device} in a deterministic run; only the cpu is bit-identical: set "
                "run.device=cpu, or leave out --deterministic."
            )
        if self.promote.mode == "gate" and self.evaluate.by == "watch":
            raise ConfigError(
                "evaluate.by is watch, but promote.mode is gate, whose self-play waits for the loop's own "
                "decisions; set evaluate.by=loop or promote.mode=always."
            )

    @property
    def remote(self) -> bool:
        """Whether games come from workers, not from the learner's own threads."""
        c = self.collect
        return bool(c.workers or c.bind or c.store != "memory" or self.ray.address)
