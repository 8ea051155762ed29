"""Networks: shapes, initial state, folding, and that every option is wired to the output."""

from __future__ import annotations

import math

import pytest
import torch

from zeroloop.config import NetworkConfig
from zeroloop.networks import Shapes, build, folded
from zeroloop.networks.towers import Convolution

BOARD = Shapes((3, 4, 5), 6, 11, 4)
PLAIN = Shapes((2, 6, 7), 0, 7, 3)
FACTS = Shapes((0, 0, 0), 9, 12, 6)
SMALL = {"blocks": 2, "channels": 8, "policy_channels": 4, "value_channels": 4, "value_hidden": 8}
KINDS = {
    "plain": ({}, PLAIN),
    "globals": ({}, BOARD),
    "batch norm": ({"norm": "batch"}, BOARD),
    "excitation": ({"squeeze_excitation": True}, BOARD),
    "pooling": ({"global_pooling": True}, BOARD),
    "everything": (
        {"norm": "batch", "squeeze_excitation": True, "global_pooling": True, "heads": ("reply",)},
        BOARD,
    ),
    "planes head": ({"policy_head": "planes"}, Shapes((3, 4, 5), 6, 60, 4)),
    "mlp": ({"kind": "mlp"}, BOARD),
    "mlp of planes": ({"kind": "mlp"}, PLAIN),
    "mlp of globals": ({"kind": "mlp", "norm": "batch"}, FACTS),
}


def made(name, seed=0):
    options, shapes = KINDS[name]
    return build(NetworkConfig(**{**SMALL, **options}), shapes, seed)


def inputs(shapes, n=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, *shapes.planes, generator=random).round(),
        torch.rand(n, shapes.globals, generator=random),
    )


def stirred(network, seed=1):
    """Give every parameter and running average a value as after training: none is 0 or 1."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.2).add_(0.1 * torch.randn(p.shape, generator=random))
        for name, value in network.named_buffers():
            if "running_mean" in name:
                value.copy_(0.2 * torch.randn(value.shape, generator=random))
            elif "running_var" in name:
                value.copy_(0.5 + torch.rand(value.shape, generator=random))
    return network.eval()


@pytest.mark.parametrize("name", KINDS)
def test_heads_have_a_logit_per_action_and_per_outcome(name):
    network, shapes = made(name), KINDS[name][1]
    heads = network(*inputs(shapes))
    assert set(heads) == {"policy", "value", *network.config.heads}
    for head, logits in heads.items():
        assert logits.shape == (5, shapes.outcomes if head == "value" else shapes.actions)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", KINDS)
def test_equal_seeds_give_equal_weights_and_others_do_not(name):
    a, b, c = made(name, 3).state_dict(), made(name, 3).state_dict(), made(name, 4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(12)
    want = torch.rand(3)
    torch.manual_seed(12)
    made("plain", 5)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("name", KINDS)
def test_fresh_network_is_nearly_undecided(name):
    """Heads begin small, so that the first searches are not led astray."""
    network, shapes = made(name).eval(), KINDS[name][1]
    heads = network(*inputs(shapes, 50))
    for logits in heads.values():
        share = torch.softmax(logits, 1)
        entropy = -(share * share.log()).sum(1).mean()
        assert entropy > 0.9 * math.log(logits.shape[1])


@pytest.mark.parametrize("name", ["plain", "globals", "batch norm", "pooling", "mlp"])
def test_fresh_blocks_are_the_identity(name):
    """A deep tower then trains like a shallow one (Zhang et al. 2019)."""
    options, shapes = KINDS[name]
    shallow = build(NetworkConfig(**{**SMALL, **options, "blocks": 1}), shapes).eval()
    deep = build(NetworkConfig(**{**SMALL, **options, "blocks": 6}), shapes).eval()
    deep.load_state_dict(shallow.state_dict(), strict=False)
    for a, b in zip(shallow(*inputs(shapes)).values(), deep(*inputs(shapes)).values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_takes_part_in_the_output(name):
    network, shapes = stirred(made(name)).train(), KINDS[name][1]
    loss = sum((h**2).sum() for h in network(*inputs(shapes, 16)).values())
    loss.backward()
    for parameter_name, p in network.named_parameters():
        assert p.grad is not None, parameter_name
        # A bias in front of a batch norm is without effect while training.
        if not (network.config.norm == "batch" and parameter_name.endswith("conv.bias")):
            assert p.grad.abs().max() > 1e-6, parameter_name


@pytest.mark.parametrize("name", KINDS)
def test_planes_and_globals_reach_both_heads(name):
    network, shapes = stirred(made(name)), KINDS[name][1]
    planes, facts = inputs(shapes, 1)
    plain = network(planes, facts)
    for changed in ((1 - planes, facts), (planes, 1 - facts)):
        if changed[0].numel() == 0 or (changed[1] is not facts and shapes.globals == 0):
            continue
        other = network(*changed)
        for head in ("policy", "value"):
            assert (other[head] - plain[head]).abs().max() > 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_a_batch_do_not_mix_at_inference(name):
    network, shapes = stirred(made(name)), KINDS[name][1]
    planes, facts = inputs(shapes, 6)
    together = network(planes, facts)
    for row in range(6):
        alone = network(planes[row : row + 1], facts[row : row + 1])
        for head in together:
            torch.testing.assert_close(alone[head][0], together[head][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_folded_network_says_the_same(name):
    network, shapes = stirred(made(name)), KINDS[name][1]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    plain = folded(network.train())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    assert network.training and not plain.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    network.eval()
    for a, b in zip(network(*inputs(shapes)).values(), plain(*inputs(shapes)).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_options_put_their_parts_into_the_tower():
    named = {type(m).__name__ for m in made("everything").modules()}
    assert {"SqueezeExcitation", "GlobalPooling", "BatchNorm2d"} <= named
    bare = {type(m).__name__ for m in made("plain").modules()}
    assert not {"SqueezeExcitation", "GlobalPooling", "BatchNorm2d"} & bare
    pools = [block.pool is not None for block in made("pooling").tower.blocks]
    assert pools == [False, True], "global pooling belongs to every second block"


def test_convolution_keeps_the_size_of_the_board():
    for size in (1, 3):
        assert Convolution(2, 5, size, "none")(torch.zeros(1, 2, 4, 9)).shape == (1, 5, 4, 9)
