"""The agent around the core: encoders for each kind of observation, and the layer before policy and value."""

import pytest
import torch

import build
from agents.agent import Agent
from agents.encoders import SymbolEncoder, VectorEncoder, hidden, make_encoder
from configs.load import load_config
from memory_cells.cells import Memoryless


def test_without_a_head_outputs_are_linear_in_the_core_and_with_one_they_are_not():
    torch.manual_seed(0)
    y = torch.randn(5, 2, 6)
    for size, linear in ((None, True), (16, False)):
        agent = Agent(VectorEncoder((3,), 0, 4), 2, Memoryless(4, 6), head_size=size)
        torch.nn.init.normal_(agent.policy.weight)
        zero, one, other, both = (agent.outputs(x) for x in (0 * y, y, y.flip(0), y + y.flip(0)))
        for k in range(2):
            gap = (both[k] - one[k] - other[k] + zero[k]).abs().max()
            assert (gap < 1e-5) == linear
        h = y if size is None else torch.relu(y @ agent.head[0].weight.T + agent.head[0].bias)
        torch.testing.assert_close(one.logits, h @ agent.policy.weight.T + agent.policy.bias)
        torch.testing.assert_close(one.value, (h @ agent.value.weight.T + agent.value.bias)[..., 0])


def test_the_head_is_a_setting():
    config = load_config(["minigrid_memory", "cell.hidden_size=8", "agent.head_size=5"], build.KNOWN_CELLS)
    env = build.make_env(config, 2, "cpu", seed=0)
    assert build.make_agent(config, env).policy.weight.shape == (3, 5)
    plain = load_config(["smoke"], build.KNOWN_CELLS)
    assert not list(build.make_agent(plain, build.make_env(plain, 2, "cpu", seed=0)).head.parameters())


@pytest.mark.parametrize("inputs, units", [(64, 256), (256, 64), (128, 128)])
def test_a_hidden_layer_keeps_the_size_of_its_input(inputs, units):
    """In the mean over inputs: a ReLU leaves half of the squares, the gain of sqrt(2) doubles them."""
    torch.manual_seed(1)
    x = torch.randn(4000, inputs)
    square = torch.relu(hidden(inputs, units)(x)).square().sum(-1).mean()
    assert square.item() == pytest.approx(min(inputs, units), rel=0.05)


def test_symbols_are_told_apart_by_channel_code_and_place():
    """The embedding of every channel's code, summed per cell."""
    torch.manual_seed(2)
    encoder = make_encoder("symbols", (2, 2, 3), (5, 4, 3), 0, 16)
    assert isinstance(encoder, SymbolEncoder) and encoder.codes.shape[0] == 5 + 4 + 3
    obs = torch.tensor([4, 3, 2]).repeat(2, 2, 1)
    seen = encoder.codes[4] + encoder.codes[5 + 3] + encoder.codes[5 + 4 + 2]
    want = torch.relu(encoder.layers[0](seen.repeat(4)))
    torch.testing.assert_close(encoder(obs, torch.zeros(0)), want)
    other = [obs.clone() for _ in range(3)]
    other[0][0, 1, 0], other[1][1, 0, 0], other[2][0, 1, 1] = 0, 0, 0
    outputs = [encoder(x, torch.zeros(0)) for x in (obs, *other)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize("extra", [0, 4])
def test_symbols_are_looked_up_summed_and_fed_to_one_layer(extra):
    """The product of one-hot codes equals the look-up, in values and gradients, over rows (T, B) and with numbers beside."""
    torch.manual_seed(3)
    encoder = make_encoder("symbols", (3, 2, 3), (5, 4, 3), extra, 16).double()
    obs = torch.stack([torch.randint(n, (7, 6, 3, 2)) for n in (5, 4, 3)], -1).to(torch.uint8)
    beside, pull = torch.randn(7, 6, extra).double(), torch.randn(7, 6, 16).double()
    cells = sum(encoder.codes[obs[..., c].long() + start] for c, start in enumerate((0, 5, 9)))
    want = torch.relu(encoder.layers[0](torch.cat([cells.flatten(2), beside], -1)))
    found = encoder(obs, beside)
    torch.testing.assert_close(found, want)
    parameters = list(encoder.parameters())
    for a, b in zip(*(torch.autograd.grad((y * pull).sum(), parameters) for y in (found, want)), strict=True):
        torch.testing.assert_close(a, b)
