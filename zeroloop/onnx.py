"""ONNX export: a model's network as a file that any ONNX runtime reads, with what its numbers mean.

The graph is written directly from the weights, as for OpenVINO: the exporters of torch need more packages and
name nothing. Before the file is left, its answers on real positions are compared with torch's.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from . import __version__
from .errors import BackendError, ConfigError
from .evaluator import Floats
from .evaluator.choice import relative_points
from .files import sha256, write_file
from .games import rules_identity
from .games.game import Game
from .model import Model
from .networks import folded, towers

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise BackendError(
        "zeroloop export-model needs the onnx package, which is not installed; pip install 'zeroloop[onnx]'."
    ) from error

OPSET = 17
"""The default: read by runtimes since 2022."""
OLDEST = 13
"""The operators below mean the same from here on."""
POSITIONS = 256
"""Of the parity check."""
LIMIT = 1e-4
"""The largest difference from torch that passes: of a value; of a logit, over the larger of 1 and itself."""


class Exported(NamedTuple):
    """What was written, and how far it is from torch."""

    data: bytes
    opset: int
    positions: int
    policy_difference: float
    """Largest over positions and actions: absolute, over the larger of 1 and the logit."""
    values_difference: float
    """Largest over positions and seats, absolute, in points over the game's scale."""

    def plain(self) -> dict[str, Any]:
        """Return everything but the bytes."""
        told = self._asdict()
        return {"sha256": sha256(told.pop("data")), "bytes": len(self.data), **told}


def export(model: Model, path: pathlib.Path, opset: int = OPSET, seed: int = 0) -> Exported:
    """Write a model's network to an ONNX file, checked against torch in fp32.

    Raises:
      ConfigError: an opset that cannot be written.
      BackendError: the file's answers differ from torch's; no file is left.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ConfigError(f"--opset is {opset}; this onnx package writes {OLDEST} to {newest}.")
    data = encode(model, opset)
    planes, facts = observations(model.game, POSITIONS, seed)
    policy, values = torch_answers(model, planes, facts)
    other_policy, other_values = onnx_answers(data, planes, facts)
    policy_difference = float((abs(other_policy - policy) / np.maximum(1, abs(policy))).max())
    values_difference = float(abs(other_values - values).max())
    # Written so that a NaN, which is no number to compare, fails too.
    if not (policy_difference <= LIMIT and values_difference <= LIMIT):
        raise BackendError(
            f"the ONNX graph of {model.hash[:12]} differs from torch by {policy_difference:.3g} in logits "
            f"and {values_difference:.3g} in values on {POSITIONS} positions; {LIMIT:g} is allowed. "
            "No file was written."
        )
    write_file(path, data)
    return Exported(data, opset, POSITIONS, policy_difference, values_difference)


def encode(model: Model, opset: int = OPSET) -> bytes:
    """Return the ONNX file's bytes; equal models and opsets give equal bytes."""
    game, shapes = model.game, model.network.shapes
    graph = Graph()
    inputs, given = [], []
    for name, shape in (("planes", shapes.planes), ("globals", (shapes.globals,))):
        given.append(name if all(shape) else "")
        if all(shape):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
    plain = folded(model.network).float().cpu()
    with torch.no_grad():
        features = emit(plain.tower, graph, given)
        graph.add("Identity", emit(plain.heads["policy"], graph, features), out="policy")
        outcome = graph.add("Softmax", emit(plain.heads["value"], graph, features), axis=1)
    graph.add("MatMul", outcome, graph.constant(relative_points(game)), out="values")
    widths = {"policy": shapes.actions, "values": game.num_players}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", w]) for n, w in widths.items()]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "zeroloop", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="zeroloop",
        producer_version=__version__,
    )
    made.ir_version = helper.find_min_ir_version_for(made.opset_import)
    helper.set_model_props(made, about(model))
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def about(model: Model) -> dict[str, str]:
    """Return the file's metadata: which model it is, and what goes in and comes out."""
    game, shapes = model.game, model.network.shapes
    layout = []
    if all(shapes.planes):
        layout.append(f"planes: float32 [batch, {', '.join(map(str, shapes.planes))}], channel, row, column")
    if shapes.globals:
        layout.append(f"globals: float32 [batch, {shapes.globals}]")
    return {
        "model_hash": model.hash,
        "game": game.name,
        "options": json.dumps(game.options, sort_keys=True),
        "rules_identity": rules_identity(game),
        "observation_version": str(game.observation.version),
        "input_layout": "; ".join(layout) + "; as the game's rule `observe` writes them for the seat to move",
        "output_layout": (
            f"policy: float32 [batch, {shapes.actions}], a logit for each action id, illegal ones included; "
            f"values: float32 [batch, {game.num_players}], expected points over {game.scale:g} of the seat "
            "to move, then of the next seats"
        ),
    }


def observations(game: Game, count: int, seed: int) -> tuple[Floats, Floats]:
    """Return planes and globals of so many positions of random games, about one in eight of each game's."""
    draw = np.random.default_rng(seed)
    planes = np.zeros((count, *game.observation.planes), np.float32)
    facts = np.zeros((count, game.observation.globals), np.float32)
    done = 0
    while done < count:
        state = game.initial_state(int(draw.integers(2**31)))
        for _ in range(game.max_plies):
            legal = game.legal(state)
            if legal and done < count and draw.random() < 0.125:
                game.rules["observe"](state, planes[done], facts[done])
                done += 1
            choices = legal or [a for a, _ in game.chance(state)]
            if not choices:
                break
            game.play(state, choices[int(draw.integers(len(choices)))])
    return planes, facts


def torch_answers(model: Model, planes: Floats, facts: Floats) -> tuple[Floats, Floats]:
    """Return the logits `f4 [n, A]` and values `f4 [n, P]`, mover first, of the network itself in fp32."""
    with torch.inference_mode():
        heads = model.network.float()(torch.from_numpy(planes), torch.from_numpy(facts))
        outcome = torch.softmax(heads["value"], 1).numpy()
    return heads["policy"].numpy(), outcome @ relative_points(model.game)


def onnx_answers(data: bytes, planes: Floats, facts: Floats) -> tuple[Floats, Floats]:
    """Return the same of an ONNX file's bytes, by OpenVINO, in batches of several sizes.

    Raises:
      BackendError: OpenVINO is absent.
    """
    from .evaluator.openvino import core

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        path.write_bytes(data)
        compiled = core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = {"planes": planes, "globals": facts}
    names = [name for port in compiled.inputs for name in port.get_names() if name in given]
    parts = []
    for rows in np.split(np.arange(len(planes)), [1, 4, 20]):  # the batch is free, so sizes must not matter
        found = compiled({name: given[name][rows] for name in names})
        parts.append((found["policy"], found["values"]))
    return np.concatenate([p for p, _ in parts]), np.concatenate([v for _, v in parts])


class Graph:
    """Nodes and constants on their way into an ONNX graph; a tensor is its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node and return the name of what it computes."""
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, array: npt.NDArray[Any] | torch.Tensor) -> str:
        """Add a constant and return its name."""
        if isinstance(array, torch.Tensor):
            array = array.detach().float().numpy()
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def spread(self, x: str) -> str:
        """Add two axes of length 1 behind `[n, C]`."""
        return self.add("Unsqueeze", x, self.constant(np.array([2, 3])))

    def pooled(self, kind: str, x: str) -> str:
        """Return the board-wide Average or Max of each channel, `[n, C]`."""
        return self.add("Flatten", self.add(f"Global{kind}Pool", x), axis=1)


@singledispatch
def emit(module: nn.Module, graph: Graph, x: Any) -> str:
    """Add the nodes that compute the module and return its output's name; one function per kind below."""
    raise BackendError(f"ONNX export does not know the network part {type(module).__name__}.")


@emit.register
def _(layer: nn.Linear, graph: Graph, x: str) -> str:
    weights = [graph.constant(layer.weight)] + ([] if layer.bias is None else [graph.constant(layer.bias)])
    return graph.add("Gemm", x, *weights, transB=1)


@emit.register
def _(layer: towers.Convolution, graph: Graph, x: str) -> str:
    conv = layer.conv
    assert conv.bias is not None and isinstance(conv.padding, tuple)
    weights = graph.constant(conv.weight), graph.constant(conv.bias)
    return graph.add("Conv", x, *weights, pads=[*conv.padding, *conv.padding])


@emit.register
def _(layer: towers.SqueezeExcitation, graph: Graph, x: str) -> str:
    inner = graph.add("Relu", emit(layer.down, graph, graph.pooled("Average", x)))
    gate = graph.add("Sigmoid", emit(layer.up, graph, inner))
    return graph.add("Mul", x, graph.spread(gate))


@emit.register
def _(layer: towers.GlobalPooling, graph: Graph, x: str) -> str:
    both = graph.add("Concat", graph.pooled("Average", x), graph.pooled("Max", x), axis=1)
    return graph.add("Add", x, graph.spread(emit(layer.mix, graph, both)))


@emit.register
def _(block: towers.Block, graph: Graph, x: str) -> str:
    y = emit(block.first, graph, x)
    if block.pool is not None:
        y = emit(block.pool, graph, y)
    y = emit(block.second, graph, graph.add("Relu", y))
    if block.excite is not None:
        y = emit(block.excite, graph, y)
    return graph.add("Relu", graph.add("Add", x, y))


@emit.register
def _(tower: towers.ResidualTower, graph: Graph, inputs: list[str]) -> str:
    x = emit(tower.stem, graph, inputs[0])
    if tower.facts is not None:
        x = graph.add("Add", x, graph.spread(emit(tower.facts, graph, inputs[1])))
    x = graph.add("Relu", x)
    for block in tower.blocks:
        x = emit(block, graph, x)
    return x


@emit.register
def _(tower: towers.MlpTower, graph: Graph, inputs: list[str]) -> str:
    used = [graph.add("Flatten", x, axis=1) for x in inputs if x]
    x = graph.add("Concat", *used, axis=1) if len(used) > 1 else used[0]
    x = graph.add("Relu", emit(tower.stem, graph, x))
    for first, second in zip(tower.first, tower.second, strict=True):
        y = emit(second, graph, graph.add("Relu", emit(first, graph, x)))
        x = graph.add("Relu", graph.add("Add", x, y))
    return graph.spread(x)


@emit.register
def _(head: towers.ConvolutionHead, graph: Graph, x: str) -> str:
    y = graph.add("Relu", emit(head.squeeze, graph, x))
    return emit(head.linear, graph, graph.add("Flatten", y, axis=1))


@emit.register
def _(head: towers.PlanesHead, graph: Graph, x: str) -> str:
    y = graph.add("Relu", emit(head.squeeze, graph, x))
    return graph.add("Flatten", emit(head.planes, graph, y), axis=1)


@emit.register
def _(head: towers.ValueHead, graph: Graph, x: str) -> str:
    y = graph.add("Relu", emit(head.squeeze, graph, x))
    hidden = graph.add("Relu", emit(head.hidden, graph, graph.add("Flatten", y, axis=1)))
    return emit(head.linear, graph, hidden)


__all__ = ["Exported", "encode", "export"]
