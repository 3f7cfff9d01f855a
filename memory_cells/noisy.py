"""LSTMs with noise in the gates: G2-LSTM and the noisy-activation LSTM. Both are fused and draw nothing in eval mode.

| class     | row        | state      | noise for one row, training only                        |
|-----------|------------|------------|---------------------------------------------------------|
| G2LSTM    | g2-lstm    | h, c (B,H) | (B, 2H) for forget and input gate                       |
| NoisyLSTM | noisy-lstm | h, c (B,H) | (B, 5H) for the three gates, the candidate, the output  |

Options: `bias`, the keep-bias of the forget gate. h-detach fits both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.cells import LSTM, Cell
from memory_cells.gates import Free
from memory_cells.inits import Constant, Init, orthogonal_rows, xavier_rows


class G2LSTM(LSTM):
    """Gumbel-gate LSTM (Li et al. 2018, arXiv 1806.02988; zhuohan123/g2-lstm g2_lstm.py [C]): noise pushes the gates
    towards 0 or 1 while training::

        forget and input gate:  s((a + B (log(U + eps) - log(1 + eps - U))) / tau),  U ~ U(0, 1), B ~ Bernoulli(p)

    In eval mode the plain LSTM, without 1 / tau, as in the code (its `divide_temp` is off by default). p = 0.2 and
    eps = 1e-3 are the code's, tau = 0.9 is recalled from the paper and not checked. Weights and forget bias start like
    our `lstm` row, so that only the gates differ; the code draws everything from U(+-1/sqrt(H)).
    """

    def __init__(self, input_size: int, hidden_size: int, init: Init | None = None, temperature: float = 0.9,
                 probability: float = 0.2):  # fmt: skip
        super().__init__(input_size, hidden_size, Free(), init or Constant(1.0))
        self.temperature, self.probability = temperature, probability

    def draw(self, length: int, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        if not self.training:
            return ()
        like, shape, eps = self.weight_x, (length, batch, 2 * self.hidden_size), 1e-3
        u = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
        on = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device) < self.probability
        return (torch.where(on, torch.log(u + eps) - torch.log(1 + eps - u), 0.0),)

    def step(self, z, state):
        h, c = state
        forget, write, candidate, output = (z[0] + F.linear(h, self.weight_h)).split(self.hidden_size, -1)
        if len(z) > 1:
            noise_forget, noise_write = z[1].split(self.hidden_size, -1)
            forget = (forget + noise_forget) / self.temperature
            write = (write + noise_write) / self.temperature
        keep, write = self.gate(forget, write)
        c = keep * c + write * torch.tanh(candidate)
        return self.squash_output(output) * torch.tanh(c), c


def hard_sigmoid(a: Tensor) -> Tensor:
    """`0.25 a + 0.5` clipped to [0, 1]."""
    return torch.relu(0.25 * a + 0.5) - torch.relu(0.25 * a - 0.5)


def hard_tanh(a: Tensor) -> Tensor:
    """`a` clipped to [-1, 1]."""
    return torch.relu(a + 1) - torch.relu(a - 1) - 1


class NoisyLSTM(Cell):
    """LSTM with noisy activations, learnt p (Gulcehre et al. 2016, arXiv 1603.00391; caglar/noisy_units [C])::

        d = hard(a) - lin(a);  s = c (sigmoid(p d) - 0.5)^2;  y = alpha hard(a) + (1 - alpha) lin(a) - sign(a) s xi

    tanh: c = 0.5, alpha = 1.15, xi ~ N(0, 1). sigmoid: c = 0.15, alpha = 1.1, xi = |N(0, 1)|, and s takes the other sign
    because alpha > 1. In eval mode xi is its mean: 0, and 0.797 for the sigmoid as in the code. Where an activation is
    not saturated d = 0 and there is no noise. All three gates, the candidate and the output of the memory are noisy;
    p (5H,) ~ U(-1, 1), our choice. Weights and forget bias start like our `lstm` row.
    """

    state_names, memory = ("h", "c"), "c"

    def __init__(self, input_size: int, hidden_size: int, init: Init | None = None):
        super().__init__(input_size, hidden_size)
        self.weight_x = nn.Parameter(xavier_rows(4, hidden_size, input_size))
        self.weight_h = nn.Parameter(orthogonal_rows(4, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.set_bias([(init or Constant(1.0))(hidden_size)])
        self.p_sigmoid = nn.Parameter(torch.empty(3 * hidden_size).uniform_(-1, 1))
        self.p_candidate = nn.Parameter(torch.empty(hidden_size).uniform_(-1, 1))
        self.p_output = nn.Parameter(torch.empty(hidden_size).uniform_(-1, 1))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.bias),)

    def draw(self, length: int, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        if not self.training:
            return ()
        like, H = self.weight_x, self.hidden_size
        xi = torch.randn(length, batch, 5 * H, generator=generator, dtype=like.dtype, device=like.device)
        return xi[..., : 3 * H].abs(), xi[..., 3 * H : 4 * H], xi[..., 4 * H :]

    def step(self, z, state):
        (h, c), H = state, self.hidden_size
        xi_gates, xi_candidate, xi_output = z[1:] if len(z) > 1 else (0.797, 0.0, 0.0)
        gates, candidate = (z[0] + F.linear(h, self.weight_h)).split([3 * H, H], -1)
        keep, write, output = self.sigmoid(gates, xi_gates).split(H, -1)
        c = keep * c + write * self.tanh(candidate, self.p_candidate, xi_candidate)
        return output * self.tanh(c, self.p_output, xi_output), c

    def sigmoid(self, a: Tensor, xi: Tensor | float) -> Tensor:
        hard, linear = hard_sigmoid(a), 0.25 * a + 0.5
        d = torch.sigmoid(self.p_sigmoid * (hard - linear)) - 0.5
        return 1.1 * hard - 0.1 * linear + torch.sign(a) * (0.15 * d * d) * xi

    def tanh(self, a: Tensor, p: Tensor, xi: Tensor | float) -> Tensor:
        hard = hard_tanh(a)
        d = torch.sigmoid(p * (hard - a)) - 0.5
        return 1.15 * hard - 0.15 * a - torch.sign(a) * (0.5 * d * d) * xi
