"""The stated distribution of every gate at zero input."""

import pytest
import torch

from memory_cells import VARIANTS, make_core
from memory_cells.inits import Chrono, Uniform

H, HORIZON = 4096, 500.0


def keep_at_zero(name, **options):
    torch.manual_seed(0)
    core = make_core(name, 1, H, horizon=HORIZON, **options)
    pre = core.bias.detach()[: len(core.gate.inputs) * H].split(H) if core.gate.inputs else ()
    keep, write = core.gate(*pre)
    return keep.detach(), write.detach()


QUANTILES = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99])
U = QUANTILES  # of the uniform distribution, up to 1/H at the ends
EXPECTED = {
    "constant": torch.sigmoid(torch.ones(5)),
    "chrono": 1 - 1 / (1 + (HORIZON - 2) * U + 1),  # sigmoid(log b) = b / (1 + b), b ~ U[1, T - 1]
    "uniform": U,
}


@pytest.mark.parametrize(
    "name", [n for n, v in VARIANTS.items() if v.init and v.gate in ("free", "coupled", None, "janet")]
)
def test_keep_of_plain_gates(name):
    keep, write = keep_at_zero(name)
    torch.testing.assert_close(keep.quantile(QUANTILES), EXPECTED[VARIANTS[name].init], rtol=0.03, atol=0.01)
    if VARIANTS[name].gate == "coupled" or VARIANTS[name].gate is None:
        torch.testing.assert_close(write, 1 - keep)


@pytest.mark.parametrize("refine_bias", ["neg", "zero"])
@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.gate == "refine"])
def test_keep_of_refined_gates(name, refine_bias):
    """With r = 1 - f the effective gate is 2 f^3 - 3 f^2 + 2 f; with r = 1/2 it is f (Gu et al. 2020)."""
    keep, write = keep_at_zero(name, refine_bias=refine_bias)
    f = EXPECTED[VARIANTS[name].init]
    want = 2 * f**3 - 3 * f**2 + 2 * f if refine_bias == "neg" else f
    torch.testing.assert_close(keep.quantile(QUANTILES), want, rtol=0.03, atol=0.01)
    torch.testing.assert_close(write, 1 - keep)


def test_write_gate_of_free_pairs():
    """Chrono biases the input gate by minus the same draw; a constant forget bias leaves it at one half."""
    keep, write = keep_at_zero("chrono-lstm")
    torch.testing.assert_close(write, 1 - keep)
    torch.testing.assert_close(keep_at_zero("lstm")[1], torch.full((H,), 0.5))


def test_published_quantiles_of_chrono_and_uniform():
    """Reference values for T_max = 500, and for H = 256 with refine bias 'neg'."""
    torch.manual_seed(0)
    f = Chrono(500.0)(100_000).sigmoid().quantile(QUANTILES)
    torch.testing.assert_close(f, torch.tensor([0.852, 0.981, 0.996, 0.998, 0.998]), rtol=0, atol=0.003)
    f = torch.cat([Uniform()(256).sigmoid() for _ in range(400)])
    g = (2 * f**3 - 3 * f**2 + 2 * f).quantile(QUANTILES)
    torch.testing.assert_close(g, torch.tensor([0.027, 0.17, 0.5, 0.82, 0.97]), rtol=0, atol=0.01)


def test_bad_values_say_so():
    with pytest.raises(ValueError, match="greater than 2"):
        Chrono(2.0)
    with pytest.raises(ValueError, match="at least 2 units"):
        Uniform()(1)


@pytest.mark.parametrize(
    "name", [n for n, v in VARIANTS.items() if v.fixed.get("weights") != "torch" and n != "memoryless"]
)
def test_recurrent_matrices_are_orthogonal_gate_by_gate(name):
    core = make_core(name, 8, 32, horizon=50)
    for block in core.weight_h.detach().split(32):
        torch.testing.assert_close(block @ block.t(), torch.eye(32), rtol=0, atol=1e-5)
