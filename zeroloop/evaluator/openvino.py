"""OpenVINO inference on CPU: the network's graph is written directly from its weights (about 30 ms).

Exporting through ONNX or tracing takes a second per model; a run makes hundreds of models.
"""

from __future__ import annotations

import sys
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..errors import BackendError
from ..networks import Network, folded, towers
from . import Floats, Output

# `import openvino` reports itself to its maker through this module unless it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

try:
    import openvino as ov
    from openvino import opset13 as op
except ImportError as error:
    raise BackendError(
        "the openvino backend needs the openvino package, which is not installed; "
        "pip install openvino, or set run.backend=torch."
    ) from error

PRECISIONS = {"bf16": "bf16", "fp32": "f32"}
_core: Any = None


def core() -> Any:
    """Return the process-wide OpenVINO core."""
    global _core
    if _core is None:
        _core = ov.Core()
    return _core


def supports_bf16() -> bool:
    """Return whether this processor computes bf16 natively."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """A network compiled by OpenVINO for one batch size on a stated number of threads.

    Raises:
      BackendError: OpenVINO refuses the graph or the precision.
    """

    gathers = False

    def __init__(self, network: Network, points: Floats, batch: int, precision: str, threads: int) -> None:
        self.name, self.batch = f"openvino-{precision}", batch
        shapes = network.shapes
        planes = op.parameter([batch, *shapes.planes], np.float32)
        facts = op.parameter([batch, shapes.globals], np.float32)
        plain = folded(network)
        with torch.no_grad():
            features = emit(plain.tower, [planes, facts])
            logits = emit(plain.heads["policy"], features)
            outcome = op.softmax(emit(plain.heads["value"], features), 1)
        values = op.matmul(outcome, op.constant(points), False, False)
        inputs = [p for p, used in ((planes, all(shapes.planes)), (facts, shapes.globals)) if used]
        model = ov.Model([op.result(logits), op.result(values)], inputs, "zeroloop")
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._request = core().compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise BackendError(
                f"openvino could not compile the network for {precision}: "
                f"{str(error).splitlines()[0]}. Set run.backend=torch to use torch instead."
            ) from error
        self._planes = bool(all(shapes.planes))
        self._facts = bool(shapes.globals)

    def submit(self, planes: Floats, global_facts: Floats, legal: npt.NDArray[np.int32]) -> None:
        """Compute at once: on a CPU there is nothing to overlap with."""
        inputs = [x for x, used in ((planes, self._planes), (global_facts, self._facts)) if used]
        self._request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=True)

    def result(self, ticket: None) -> Output:
        """Return views of the outputs."""
        return Output(self._request.get_output_tensor(0).data, self._request.get_output_tensor(1).data)


@singledispatch
def emit(module: nn.Module, x: Any) -> Any:
    """Return the OpenVINO node that computes the module; one function per kind below."""
    raise BackendError(
        f"the openvino backend does not know the network part {type(module).__name__}; set run.backend=torch."
    )


def _array(tensor: Any) -> Floats:
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _shape(x: Any) -> list[int]:
    return list(x.get_output_shape(0))


def _flat(x: Any) -> Any:
    shape = _shape(x)
    return op.reshape(x, op.constant(np.array([shape[0], int(np.prod(shape[1:]))])), False)


def _spread(x: Any) -> Any:
    return op.reshape(x, op.constant(np.array([*_shape(x), 1, 1])), False)


def _mean(x: Any) -> Any:
    return op.reduce_mean(x, op.constant(np.array([2, 3])), False)


@emit.register
def _(layer: nn.Linear, x: Any) -> Any:
    y = op.matmul(x, op.constant(_array(layer.weight)), False, True)
    return y if layer.bias is None else op.add(y, op.constant(_array(layer.bias)[None]))


@emit.register
def _(layer: towers.Convolution, x: Any) -> Any:
    conv = layer.conv
    pad = list(conv.padding)
    y = op.convolution(x, op.constant(_array(conv.weight)), [1, 1], pad, pad, [1, 1])
    return op.add(y, op.constant(_array(conv.bias).reshape(1, -1, 1, 1)))


@emit.register
def _(layer: towers.SqueezeExcitation, x: Any) -> Any:
    gate = op.sigmoid(emit(layer.up, op.relu(emit(layer.down, _mean(x)))))
    return op.multiply(x, _spread(gate))


@emit.register
def _(layer: towers.GlobalPooling, x: Any) -> Any:
    highest = op.reduce_max(x, op.constant(np.array([2, 3])), False)
    return op.add(x, _spread(emit(layer.mix, op.concat([_mean(x), highest], 1))))


@emit.register
def _(block: towers.Block, x: Any) -> Any:
    y = emit(block.first, x)
    if block.pool is not None:
        y = emit(block.pool, y)
    y = emit(block.second, op.relu(y))
    if block.excite is not None:
        y = emit(block.excite, y)
    return op.relu(op.add(x, y))


@emit.register
def _(tower: towers.ResidualTower, inputs: list[Any]) -> Any:
    x = emit(tower.stem, inputs[0])
    if tower.facts is not None:
        x = op.add(x, _spread(emit(tower.facts, inputs[1])))
    x = op.relu(x)
    for block in tower.blocks:
        x = emit(block, x)
    return x


@emit.register
def _(tower: towers.MlpTower, inputs: list[Any]) -> Any:
    used = [_flat(x) for x in inputs if 0 not in _shape(x)]
    x = op.relu(emit(tower.stem, op.concat(used, 1) if len(used) > 1 else used[0]))
    for first, second in zip(tower.first, tower.second, strict=True):
        x = op.relu(op.add(x, emit(second, op.relu(emit(first, x)))))
    return _spread(x)


@emit.register
def _(head: towers.ConvolutionHead, x: Any) -> Any:
    return emit(head.linear, _flat(op.relu(emit(head.squeeze, x))))


@emit.register
def _(head: towers.PlanesHead, x: Any) -> Any:
    return _flat(emit(head.planes, op.relu(emit(head.squeeze, x))))


@emit.register
def _(head: towers.ValueHead, x: Any) -> Any:
    hidden = op.relu(emit(head.hidden, _flat(op.relu(emit(head.squeeze, x)))))
    return emit(head.linear, hidden)
