"""docs/coming-from.md: a row for every name of the five descriptions, and only what is there on our side."""

from __future__ import annotations

import importlib
import pathlib
import re
import shlex
import tomllib

import click
import pytest

from zeroloop import configfile
from zeroloop.cli import main
from zeroloop.config import Config
from zeroloop.errors import ZeroloopError
from zeroloop.metrics import METRICS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")

PENDING: set[str] = set()
"""Commands, options and pages that the page counts on and that are not there yet; none in the end."""

NAMES = {
    "Redis pipeline": """
workers/game_worker.py; workers/training_worker.py; buffer/redis_buffer.py; workers/eval_worker.py; training
batch_size = 1024; learning_rate = 0.0003; l2_reg_lambda = 0.0001; games_per_epoch = 200
surprise_weight = 0.5; mcts; collect_simulations = 200; max_nodes = 2000; temperature_start = 0.8
temperature_end = 0.2; temperature_epochs = 50; sample_weight; batched_eval; new_state; StochasticMCTS
MLflow; Prometheus; (state, policy, value, surprise_score); |predicted_value - actual_outcome|; train_step
jax.jit; jax.vmap; eval_fn; jax.lax.cond; state._is_stochastic; stoch_fn; det_fn; random; self_play; gnubg
batched environments = 128; GPU utilization = 90; checkpointing = 5; checkpoints kept = 5; FIFO eviction
capacity, experiences = 100k; capacity, episodes = 5k; Async Redis sender; collection-gated
value bootstrapping; Game Worker; Redis Buffer; Training Worker; arrow: experiences; arrow: samples
arrow: new weights; surprise-weighted sampling; policy cross-entropy; value MSE; L2 regularization
Evaluation Worker = CPU
""",
    "Producers": """
--episodes = 4; --batch-size = 16; --checkpoint-interval = 2; --exploration-rate = 0.1; --seed = 7
--grad-accum-steps = 1; --mcts-simulations = 32; --mcts-cpuct = 1.5; --producer-workers = 0
--producer-queue-size = 16; --producer-device = cpu; --no-amp; TENSORBOARD_LOG_DIR/<job-id>/; NO_AMP = 1
EPISODES = 200; GRAD_ACCUM_STEPS = 4; scripts/demo/run_training_cycle.sh; python -m ...train; metrics.jsonl
<job>_stepXXXX.pt; ./tmp/replay_shard_*.pt; SelfPlayOrchestrator; TrainingLoop; SelfPlayCollector
ReplayBuffer; AlphaZeroMCTS; SelfPlayEpisode; TrainingSample; generate_episode
SelfPlayCollector.generate_episode(); run(board, model); inference; add_episode; sample; autocast; forward
Backward; zero_grad; grad_accum_steps; multiprocessing.Process; multiprocessing.Queue; spawn; tensor.save
queue.get(batch); ReplayBuffer.add_batch(); .pt; Producer pool; in-memory queue; filesystem shards
Consumer (GPU); graceful shutdown; remote nodes; App Config; Device Resolution; JSONL writer
Checkpoint Publisher; Model Artifact Store; Policy Loss; Value Loss = MSE; L2 Penalty; Scaled Backward
Unscale + Clip; Optimizer Step; Model Registry; Structured Logs; TensorBoard Loader; Progress Dashboards
Serving; batch inference inside MCTS; parallel collectors; reduce simulations; AMP on MPS; prefetch
logging cadence; multi-GPU scaling; 1080 Ti; arena play; vectorized move selection; CLI Entrypoint
multiple collectors; select / expand / backprop
""",
    "Gumbel loop": """
--engine = gumbel; --num-workers = 16; --num-games = 1000; --board = square8
--output-dir = data/selfplay/gumbel_sq8_2p; CPU_COUNT-2; app/ai/gumbel_mcts_ai.py = 150
gumbel_mcts_ai.py:720-816; gumbel_mcts_ai.py:1073-1170; LeafEvaluationBuffer
app/training/parallel_selfplay.py = 64; parallel_selfplay.py:44-80; app/ai/gpu_parallel_games.py = 10-500
app/training/train_loop.py; train_loop.py:88-150; app/training/curriculum.py
scripts/run_parallel_self_play.py; app/ai/async_nn_eval.py; gpu_parallel_games.py:413
app/training/generate_data.py; generate_data.py:DataQualityTracker = 10%; scripts/p2p_orchestrator.py
ProcessPoolExecutor; engine="gumbel"; DescentAI; CUDA stream; games per worker = 4-8
threshold of new games = 10K; promote if win rate = 55%; mixed data strategy = 75; tree reuse across moves
top-k = 16; FP16 inference; value target accuracy; policy temperature; zobrist; rapid iteration = 64
refinement = 150; training orchestrator; monitor games; repeat with new model; P2P cluster
central coordinator; run parallel Gumbel selfplay; verify training loop closure; cluster-wide generation
SSH to each node; collect results to central location; mixed data training; benchmark improvement
automatic training triggers; promotion and deployment; Gumbel games/hour/node = 100
Training iterations/day = 5-10; Model ELO vs heuristic = +300; Policy accuracy = 26%; inference bottleneck
data quality; Rollback manager; tournament, promotion; multi-GPU parallel selfplay; position deduplication
""",
    "Training module": """
--use-discovery; --board-type = hex8; --num-players = 2; --output; --data-path; --model-version = v3
--batch-size = 512; --epochs = 50; --board; --engine; --num-games = 1000; --use-gpu; --selfplay-games = 1000
--training-epochs = 50; --auto-promote; --model; --games = 100; --learning-rate = 0.001; --save-path
--init-weights; --early-stopping; --lr-scheduler = none, step, cosine; --output-dir; --format = default
--format db; --format jsonl; --format npz; --db; --require-completed; --min-moves = 20; --max-moves = 500
--use-cache; --games-per-batch = 100; --daemon; --npz; --detailed; --all; --source; --gauntlet
--teacher-model; --student-arch = small; --temperature = 2.0; --population-size = 8; --generations = 10
GUMBEL_BUDGET_THROUGHPUT = 64; GUMBEL_BUDGET_STANDARD = 150; GUMBEL_BUDGET_QUALITY = 800
GUMBEL_BUDGET_ULTIMATE = 1600; RINGRIFT_DISABLE_GPU_DATAGEN = 1; RINGRIFT_AUTO_BATCH_SCALE = 0; train.py
train_loop.py; model_factory.py; config.py; train_setup.py; selfplay_runner.py; selfplay_config.py
gpu_mcts_selfplay.py; background_selfplay.py; temperature_scheduling.py; export_core.py; export_cache.py
data_quality.py; data_validation.py; data_loader.py; data_augmentation.py; unified_model_store.py
checkpoint_unified.py; model_registry.py; model_versioning.py; unified_orchestrator.py
orchestrated_training.py; optimization_orchestrator.py; per_orchestrator.py; tournament.py; game_gauntlet.py
elo_service.py; background_eval.py; curriculum.py; distillation.py; pbt.py; distributed.py
online_learning.py; gradient_surgery.py; auxiliary_tasks.py; adversarial_positions.py
scripts/export_replay_dataset.py; scripts/selfplay.py; scripts/run_training_loop.py
app/training/export_core.py; app/training/export_cache.py; scripts/quick_gauntlet.py
scripts/auto_promote.py; scripts/transfer_2p_to_4p.py; app.training.train; app.training.background_selfplay
app.training.data_quality; app.training.distillation; app.training.pbt; board_type; iterations = 10
episodes_per_iter = 500; epochs_per_iter = 20; use_gpu_parallel_datagen = True; num_players = 2
engine_mode = gumbel; num_games = 1000; use_gpu = True; batch_size = 64; mcts_simulations = 800
checkpoint_dir = data/checkpoints; max_checkpoints = 5; epoch; global_step; metrics; learning_rate = 0.002
lr_scheduler = cosine; warmup_epochs = 1; lr_min = 1e-6; early_stopping_patience = 5
elo_early_stopping_patience = 10; elo_min_improvement = 5.0; entropy_weight = 0.01; weight_decay = 1e-4
policy_label_smoothing = 0.0; enable_gradient_surgery = True; gradient_accumulation_steps = 1
gh200_batch_multiplier = 64; h100_batch_multiplier = 32; a100_batch_multiplier = 16
reserved_memory_gb = 8.0; initial_difficulty = 0.3; target_difficulty = 1.0; learner_type = ebmo; features
globals; values = +1; policy_indices; policy_values; GameReplayDB; TrainConfig; BoardType; HEX8; SQUARE8
HeuristicSelfplayRunner; GumbelMCTSSelfplayRunner; SelfplayConfig; GameDiscovery; DatabaseQualityChecker
TrainingDataValidator; UnifiedCheckpointManager; CheckpointType; BEST; GpuScalingConfig; CurriculumManager
heuristic; random; policy-only; mcts; gumbel; nnue-guided; mixed; data/games/*.db; data/training/*.npz
models/*.pt; models/*.pth; README_cluster_monitor.md; v1; v2; run_training_loop; create_scheduler
get_temperature; get_quality_score; validate_npz_file; check_feature_distribution; get_model_store; register
get_production; promote; save_checkpoint; model_path; checkpoint_type; move_number; game_state
load_latest_checkpoint; get_model_version_for_board; get_training_config_for_board; create_online_learner
record_transition; update_from_game; RANDOM = 85%; HEURISTIC = 60%; PREVIOUS = 55%; PRODUCTION
v2 model = 96; v3 model = 192; alphazero; aggressive_exploration; conservative; schedule adaptive
schedule curriculum; schedule cosine; sequential halving; Gumbel noise; stack heights; turn number
2 players = -1; 3 players = 0; 4 players = 0.33; SHA256; Development, Staging, Production; stage 1; stage 2
stage 3; stage 4; stage 5; quick start 1; quick start 2; quick start 3; workflow 1; workflow 2; workflow 3
workflow 4; auto-scaling; mixed precision; gradient accumulation; Elo-based; spatial policy heads
regular, epoch, emergency; adaptive checkpoint frequency; cleanup of old checkpoints; full state recovery
""",
    "Two machines with Ray": """
RAY_LOCAL_MODE = False; RAY_HEAD_ADDRESS = auto; RAY_INFERENCE_BATCH_SIZE = 32; RAY_NUM_WORKERS = 12
RAY_WEIGHT_SYNC_INTERVAL = 2; RAY_HEAD_IP = 192.168.1.100; REPLAY_BUFFER_SIZE; BATCH_SIZE; PYTHONPATH
--extra; constants.py; ./scripts/start_head.sh; ./scripts/start_worker.sh; ./scripts/run_distributed.sh
./scripts/stop_cluster.sh; ray stop; ray status; AI.distributed; uv; uv sync --extra distributed; port 6379
port 8265; ports 10001-10100; Python = 3.12; Step 1; Step 2; Step 3; Step 4; Step 5; Step 6; CPU Machine
GPU Machine = RTX 3070; Ray Head + Driver; Replay buffer actor; SelfPlay Worker; Inference Server Actor
Training Actor; broadcasts updated weights; Head node address = 6379; Dashboard URL = 8265
Local Testing Mode; No module named 'ray'; connection refused; GPU not detected; slow inference = 32-64
out of memory; CUDA; wired Ethernet; larger inference batch; workers = CPU cores
checkpoints on the head node; LAN; returns (policy, value)
""",
}
"""What each description names: flags, variables, keys, constants, files, steps; `name = part of its default`.
Names in code style must stand as such in a row's first column, others anywhere in it."""


class Row:
    """A line of a table: four cells."""

    def __init__(self, line):
        cells = [c.strip().replace(r"\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == 4, f"not four cells: {line}"
        self.theirs, self.default, self.ours, self.note = cells
        self.line = line


def tables(page):
    """Return {heading: rows}."""
    out = {}
    for part in page.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        out[heading] = [Row(line) for line in lines[2:]]
    return out


def coded(cell):
    return re.findall(r"`([^`]+)`", cell)


def named(row, name):
    """Whether a row's first column has this name, as code or else as words of the text."""
    plain = re.sub(r"`[^`]*`", " ", row.theirs)
    return name in coded(row.theirs) or re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", plain)


def missing_names(page):
    """Return what the descriptions name and no row has."""
    out, found = [], tables(page)
    for heading, text in NAMES.items():
        for item in re.split(r";|\n", text):
            if item.strip():
                name, _, default = (part.strip() for part in item.partition(" = "))
                rows = [r for r in found.get(heading, []) if named(r, name)]
                if not any(default in r.default or default in r.theirs for r in rows):
                    out.append(f"{heading}: {name}" + (f" ({default})" if default else ""))
    return out


KEYS = {key.name for key in configfile.describe(Config)}
SECTIONS = {key.partition(".")[0] for key in KEYS}
BAGS = tuple(
    f"{name}." for name in ("game.options", "promote.floors", "promote.engines", "evaluate.opponents")
)


def load_sets(assignments):
    configfile.load(Config, *configfile.assignment_layers(assignments))


def check_command(words):
    """Fail unless the command line has this command with these options; return what is pending of it."""
    command, context, path = main, click.Context(main, info_name="zeroloop"), []
    words = list(words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        path.append(words.pop(0))
        inner = command.get_command(context, path[-1])
        if inner is None:
            waiting = {p for p in PENDING if p.split()[: len(path)] == path}
            assert waiting, f"there is no command zeroloop {' '.join(path)}"
            return
        command, context = inner, click.Context(inner, parent=context, info_name=path[-1])
    known = {option for p in command.params for option in p.opts}
    for option in [w for w in words if w.startswith("--") and w not in known]:
        if f"{' '.join(path)} {option}" in PENDING:
            at = words.index(option)
            del words[at : at + 2]
    values, rest, _ = command.make_parser(context).parse_args(args=list(words))
    assert not rest, f"zeroloop {' '.join(path)} takes no {rest}"
    for parameter in command.params:
        given = values.get(parameter.name)
        if given is not None and isinstance(parameter.type, click.Choice):
            parameter.type.convert(given, parameter, context)
    load_sets(values.get("sets") or ())


def check_python(name):
    module, _, attribute = name.rpartition(".")
    getattr(importlib.import_module(module), attribute)


def check_key(key):
    assert key in KEYS | SECTIONS or key.startswith(BAGS), f"there is no key {key}"


def check_extra(text):
    extra = re.fullmatch(r"pip install 'zeroloop\[(\w+)\]'", text).group(1)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"], text


def check_run_file(name):
    sources = "".join(
        (ROOT / "zeroloop" / f).read_text() for f in ("run.py", "metrics.py", "train.py", "replay/log.py")
    )
    assert name in sources, f"a run has no {name}"


def check_variable(text):
    name, equals, value = text.partition("=")
    if name.startswith("ZEROLOOP_"):
        assert equals, f"{text}: give a value"
        configfile.load(Config, *configfile.environment_layers({name: value}))
    else:
        sources = "".join(p.read_text() for p in (ROOT / "zeroloop").rglob("*.py"))
        assert name in sources, f"nothing reads {name}"


def check_token(text):
    """Fail unless this piece of code of ours is there."""
    if text.startswith("zeroloop "):
        check_command(shlex.split(text)[1:])
    elif text.startswith("pip "):
        check_extra(text)
    elif text.startswith("RUN/"):
        check_run_file(text.removeprefix("RUN/"))
    elif re.fullmatch(r"[A-Z][A-Z_]+(=.*)?", text):
        check_variable(text)
    elif text.startswith("zeroloop."):
        check_python(text)
    elif text in METRICS:
        pass
    elif "=" in text:
        load_sets([text])
    else:
        check_key(text)


def faults(page):
    """Return what is wrong with the third and fourth column of a page."""
    out = []
    for row in [row for rows in tables(page).values() for row in rows]:
        if not (coded(row.ours) or row.ours == "later" or row.ours.startswith("dropped, because ")):
            out.append(f"says neither a key or command, nor later, nor dropped, because: {row.line}")
        try:
            for text in coded(row.ours) + coded(row.note):
                check_token(text)
            load_sets([t for t in coded(row.ours) if re.match(r"[a-z]+\.[a-z_.]+=", t)])
        except (AssertionError, ImportError, AttributeError, click.UsageError, ZeroloopError) as error:
            out.append(f"{type(error).__name__}: {error}: {row.line}")
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        if not (ROOT / "docs" / target).exists() and f"docs/{target}" not in PENDING:
            out.append(f"there is no docs/{target}")
    return out


def test_every_name_of_the_five_descriptions_has_a_row():
    assert set(tables(PAGE)) == set(NAMES)
    assert not missing_names(PAGE)


def test_every_key_command_variable_and_file_of_ours_is_there():
    assert not faults(PAGE)


def is_there(item):
    """Whether a page, or a command with its options, is there."""
    if item.startswith("docs/"):
        return (ROOT / item).exists()
    command, words = main, item.split()
    for word in [w for w in words if not w.startswith("--")]:
        command = command.commands.get(word) if isinstance(command, click.Group) else None
    options = {o for p in command.params for o in p.opts} if command else set()
    return command is not None and {w for w in words if w.startswith("--")} <= options


def test_nothing_pending_is_there_already():
    assert not [item for item in sorted(PENDING) if is_there(item)], "take it out of PENDING"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learn.reuse=3", "learn.reuses=3"),
        ("`redis.namespace`", "`redis.prefix`"),
        ("search.rule=puct", "search.rule=uct"),
        ("collect.queue=16`", "collect.queue=0`"),
        ("`zeroloop models list --stage production`", "`zeroloop models list --step production`"),
        ("`zeroloop models list --stage production`", "`zeroloop model list`"),
        ("--kind", "--sort"),
        ("ZEROLOOP_LEARN__ACCUMULATE=4", "ZEROLOOP_LEARN__ACCUMULATED=4"),
        ("`REDIS_PASSWORD`", "`REDIS_PASSWORT`"),
        ("`RUN/episodes.log`", "`RUN/episoden.log`"),
        ("`zeroloop.episode.Episode`", "`zeroloop.episode.Epsode`"),
        ("zeroloop[distributed]", "zeroloop[cluster]"),
        ("`replay.surprise=outcome` `replay.correction_exponent=1`", "`replay.surprise=luck`"),
        ("| later |", "| someday |"),
        ("(own-game.md)", "(own-games.md)"),
    ],
)
def test_a_wrong_name_of_ours_is_found(old, new):
    page = PAGE if old in PAGE else PAGE + f"\n| x | | `zeroloop tournament A B --out D {old} gauntlet` | |\n"
    assert faults(page.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| `--producer-queue-size` | `16` |", "| `--producer-queue-size` | `32` |"),
        ("| `--exploration-rate` |", "| `--exploration` |"),
        ("| `RAY_HEAD_IP` |", "| RAY_HEAD |"),
        ("| Step 5:", "| Then:"),
        ("\n## Gumbel loop", "\n## Gumbel"),
    ],
)
def test_a_row_that_is_gone_is_found(old, new):
    assert old in PAGE
    assert missing_names(PAGE.replace(old, new))
