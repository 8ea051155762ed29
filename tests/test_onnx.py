"""ONNX export: the graph says what torch says and what its numbers mean; a wrong one is not left."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from zeroloop import onnx as export_module  # noqa: E402
from zeroloop.cli import main  # noqa: E402
from zeroloop.config import NetworkConfig  # noqa: E402
from zeroloop.errors import BackendError, ConfigError  # noqa: E402
from zeroloop.evaluator.choice import relative_points, shapes_of  # noqa: E402
from zeroloop.games import make, rules_identity  # noqa: E402
from zeroloop.model import Model, find, load  # noqa: E402
from zeroloop.networks import build  # noqa: E402
from zeroloop.onnx import POSITIONS, encode, export, observations  # noqa: E402

TRAILS = str(pathlib.Path(__file__).parent.parent / "examples" / "trails.py")
SMALL = {"blocks": 2, "channels": 8, "policy_channels": 4, "value_channels": 2, "value_hidden": 8}
KINDS = {
    "residual": ("connect4", {}),
    "everything": (
        "connect4",
        {"norm": "batch", "squeeze_excitation": True, "global_pooling": True, "heads": ("reply",)},
    ),
    "planes head": ("hex", {"policy_head": "planes"}, {"size": 5}),
    "many planes": ("chess", {"policy_head": "planes"}),
    "facts beside planes, three seats": (TRAILS, {}),
    "facts and planes flattened": (TRAILS, {"kind": "mlp"}),
    "facts alone": ("backgammon", {"kind": "mlp"}),
    "planes flattened": ("tictactoe", {"kind": "mlp"}),
}


def random_model(kind, seed=1):
    """Return a model whose every weight and statistic is random, so that a part left out shows."""
    name, changes, *options = KINDS[kind]
    game = make(name, **(options[0] if options else {}))
    network = build(NetworkConfig(**{**SMALL, **changes}), shapes_of(game), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=draw)
                tensor.copy_(noise + 0.5 if key.endswith("running_var") else 0.6 * (noise - 0.45))
    return Model("ab" * 32, network.eval(), game)


def reference(data, planes, facts):
    """Answer with the interpreter of the onnx package, which shares no code with OpenVINO."""
    runtime = ReferenceEvaluator(onnx.load_from_string(data))
    given = {"planes": planes, "globals": facts}
    return runtime.run(["policy", "values"], {n: given[n] for n in runtime.input_names})


LARGE = "planes head", "many planes"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in LARGE)) for kind in KINDS]
)
def test_two_other_runtimes_say_what_torch_says(kind, tmp_path):
    model = random_model(kind)
    done = export(model, tmp_path / "model.onnx")
    assert done.policy_difference < 1e-4 and done.values_difference < 1e-4
    planes, facts = observations(model.game, 5, seed=3)
    policy, values = reference((tmp_path / "model.onnx").read_bytes(), planes, facts)
    with torch.inference_mode():
        heads = model.network(torch.from_numpy(planes), torch.from_numpy(facts))
    wanted = heads["policy"].numpy()
    assert np.ptp(wanted, axis=1).min() > 1e-3, "logits that are all alike would prove nothing"
    np.testing.assert_allclose(policy, wanted, rtol=1e-4, atol=1e-4)
    points = torch.softmax(heads["value"], 1).numpy() @ relative_points(model.game)
    np.testing.assert_allclose(values, points, atol=1e-4)
    assert values.shape == (5, model.game.num_players)


@pytest.mark.parametrize("opset", [13, 17, onnx.defs.onnx_opset_version()])
def test_every_allowed_opset_is_valid_and_declared(opset):
    made = onnx.load_from_string(encode(random_model("everything"), opset))
    onnx.checker.check_model(made, full_check=True)
    assert made.opset_import[0].version == opset


def test_the_batch_is_free_and_the_names_are_fixed():
    made = onnx.load_from_string(encode(random_model("facts beside planes, three seats")))
    ports = [*made.graph.input, *made.graph.output]
    assert [p.name for p in ports] == ["planes", "globals", "policy", "values"]
    assert {p.type.tensor_type.shape.dim[0].dim_param for p in ports} == {"batch"}


def test_metadata_says_which_model_and_what_goes_in():
    model = random_model("planes head")
    told = {p.key: p.value for p in onnx.load_from_string(encode(model)).metadata_props}
    assert told["model_hash"] == model.hash
    assert told["game"] == "hex" and json.loads(told["options"]) == model.game.options
    assert told["rules_identity"] == rules_identity(model.game)
    assert told["observation_version"] == str(model.game.observation.version)
    channels, height, width = model.game.observation.planes
    assert f"[batch, {channels}, {height}, {width}]" in told["input_layout"]
    assert f"[batch, {model.game.num_actions}]" in told["output_layout"]


def test_equal_models_give_equal_files():
    assert encode(random_model("everything")) == encode(random_model("everything"))
    assert encode(random_model("everything")) != encode(random_model("everything", seed=2))


def test_a_graph_that_differs_from_torch_is_refused_and_no_file_is_left(tmp_path, monkeypatch):
    right = export_module.encode

    def wrong(model, opset):
        made = onnx.load_from_string(right(model, opset))
        weight = made.graph.initializer[0]
        array = onnx.numpy_helper.to_array(weight) + np.float32(0.003)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        return made.SerializeToString()

    monkeypatch.setattr(export_module, "encode", wrong)
    path = tmp_path / "model.onnx"
    with pytest.raises(BackendError, match="differs from torch.*No file was written"):
        export(random_model("residual"), path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    model = random_model("residual")
    with torch.no_grad():
        model.network.heads["value"].linear.bias[0] = float("nan")
    with pytest.raises(BackendError, match="nan in values"):
        export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_network_part_is_named(tmp_path):
    model = random_model("residual")
    model.network.heads["policy"] = torch.nn.Sequential()
    with pytest.raises(BackendError, match="does not know the network part Sequential"):
        encode(model)


@pytest.mark.parametrize("opset", [12, 1000])
def test_an_opset_out_of_range_is_told_with_the_range(opset, tmp_path):
    with pytest.raises(ConfigError, match=f"--opset is {opset}; this onnx package writes 13 to"):
        export(random_model("residual"), tmp_path / "model.onnx", opset)


def test_the_positions_of_the_check_are_distinct_enough():
    planes, _ = observations(make("connect4"), POSITIONS, seed=0)
    assert len({p.tobytes() for p in planes}) > POSITIONS // 2


def test_the_command_prints_how_far_the_file_is_from_torch(tmp_path):
    path = tmp_path / "c4.onnx"
    done = CliRunner().invoke(main, ["export-model", "demo:connect4", str(path), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["model"] == load(find("demo:connect4")).hash
    assert 0 <= told["policy_difference"] < 1e-4 and told["positions"] == POSITIONS
    assert path.stat().st_size == told["bytes"]


def test_a_name_that_is_no_model_is_told(tmp_path):
    done = CliRunner().invoke(main, ["export-model", "nowhere", str(tmp_path / "x.onnx")])
    assert done.exit_code == 1 and "there is no model 'nowhere'" in done.output


def test_without_the_package_the_line_to_type_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "zeroloop.onnx")
    with pytest.raises(BackendError, match=r"pip install 'zeroloop\[onnx\]'"):
        import zeroloop.onnx  # noqa: F401
