"""Cells with several fixed time scales: Clockwork RNN and the statistical recurrent unit.

| class         | row       | state                                    | path  |
|---------------|-----------|------------------------------------------|-------|
| Clockwork     | clockwork | h (B,H), clock (B,1)                     | fused |
| StatisticalRU | sru       | h (B,H, not read back), mu (B, scales*H) | fused |

None takes an option; h-detach fits neither: both read their memory back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.cells import Cell
from memory_cells.constrained import register_masked
from memory_cells.inits import orthogonal_rows, xavier_rows


class Clockwork(Cell):
    """Clockwork RNN (Koutnik et al. 2014, arXiv 1402.3511 [R: recalled, not checked against the paper])::

        group g of period 2^g, where clock mod 2^g = 0:  h_g' = tanh(W_g x + sum over g' >= g of U_gg' h_g' + b_g)
        elsewhere:                                       h_g' = h_g

    A group reads itself and the slower ones. The clock counts the rows of each environment's own episode, so every group
    is active on its first row; like a time gate's it is a whole number in the cell's float type, exact to 2^24 rows in
    float32. Groups are of equal size within one unit; there are `groups` of them, at most H.
    """

    state_names = ("h", "clock")

    def __init__(self, input_size: int, hidden_size: int, groups: int = 8):
        super().__init__(input_size, hidden_size)
        if not 1 <= groups <= hidden_size:
            raise ValueError(f"clockwork: {groups} groups need as many units or more, got hidden_size {hidden_size}")
        period = 2.0 ** (torch.arange(hidden_size, device="cpu") * groups // hidden_size)
        self.register_buffer("period", period, persistent=False)
        self.weight_x = nn.Parameter(xavier_rows(1, hidden_size, input_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        register_masked(self, "weight_h", orthogonal_rows(1, hidden_size), period[None, :] >= period[:, None])

    def initial_state(self, batch: int):
        return self.bias.new_zeros(batch, self.hidden_size), self.bias.new_zeros(batch, 1)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.bias),)

    def step(self, z, state):
        h, clock = state
        since = clock - torch.floor(clock / self.period) * self.period  # rows since the group was last active
        return torch.where(since > 0, h, torch.tanh(z[0] + F.linear(h, self.weight_h))), clock.detach() + 1


class StatisticalRU(Cell):
    """Statistical recurrent unit (Oliva et al. 2017, arXiv 1703.00381; limbo018/FRU code/sru.py [C])::

        r = relu(W_r mu + b_r);  phi = relu(W_x x + W_p r + b_p)
        mu_a' = a * mu_a + (1 - a) * phi  for every decay a;   h' = relu(W_o mu' + b_o)

    phi is H wide, r is `recurrent` wide (default H / 4, at least 1). No gate and no squashing memory: only averages over
    1, 2, 10, 100 and 1000 steps.
    """

    state_names, recurrent_output, memory = ("h", "mu"), "mu", "mu"

    def __init__(self, input_size: int, hidden_size: int, decays: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99, 0.999),
                 recurrent: int | None = None):  # fmt: skip
        super().__init__(input_size, hidden_size)
        H, R, wide = hidden_size, recurrent or max(hidden_size // 4, 1), len(decays) * hidden_size
        self.scales = len(decays)
        self.register_buffer("decay", torch.tensor(decays).repeat_interleave(H), persistent=False)

        def glorot(rows, columns):
            return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))

        self.weight_x, self.bias = glorot(H, input_size), nn.Parameter(torch.zeros(H))
        self.weight_r, self.bias_r = glorot(R, wide), nn.Parameter(torch.zeros(R))
        self.weight_p = glorot(H, R)
        self.weight_o, self.bias_o = glorot(H, wide), nn.Parameter(torch.zeros(H))

    def initial_state(self, batch: int):
        return self.bias.new_zeros(batch, self.hidden_size), self.bias.new_zeros(batch, self.scales * self.hidden_size)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.bias),)

    def step(self, z, state):
        mu = state[1]
        r = torch.relu(F.linear(mu, self.weight_r, self.bias_r))
        phi = torch.relu(z[0] + F.linear(r, self.weight_p))
        mu = self.decay * mu + (1 - self.decay) * phi.tile((self.scales,))
        return torch.relu(F.linear(mu, self.weight_o, self.bias_o)), mu
