"""The relational memory core: slots that attend to each other and to the input, behind LSTM-like gates.

| class | row | state                                                    | path |
|-------|-----|----------------------------------------------------------|------|
| RMC   | rmc | h (B,H): `slots` rows of H / slots; starts at identity rows | loop |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cells.cells import Cell
from memory_cells.constrained import must_divide


def _linear(columns: int, rows: int) -> nn.Linear:
    """Sonnet's default: truncated normal of spread 1 / sqrt(columns), bias 0."""
    layer = nn.Linear(columns, rows)
    nn.init.trunc_normal_(layer.weight, std=columns**-0.5, a=-2 * columns**-0.5, b=2 * columns**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class RMC(Cell):
    """Relational memory core (Santoro et al. 2018, arXiv 1806.01822; sonnet v1 relational_memory.py [C])::

        w = W x + b (F);  X = [M; w];   Y = LN(X + attention(X));  X = LN(Y + MLP(Y));  N = X without its last row
        i, f = s(G_x w + G_m tanh(M) + (0, 1));   M' = i * tanh(N) + f * M;   h' = M' flattened

    F = H / slots, attention of `heads` heads with q, k, v = LN(W_qkv X) and keys scaled by (F / heads)^-1/2, MLP of two
    layers with ReLU between; a gate for each entry (the code's gate_style "unit"), one attention block a step. The state
    starts as identity rows, so that slots differ: at a reset it is not zero. That needs F >= slots, H = 16 at the
    defaults; in a smaller memory the last slots start alike and stay so.
    """

    def __init__(self, input_size: int, hidden_size: int, slots: int = 4, heads: int = 2):
        super().__init__(input_size, hidden_size)
        must_divide("rmc", hidden_size, slots * heads, "slots * heads")
        width = hidden_size // slots
        self.slots, self.heads = slots, heads
        self.inputs, self.qkv, self.norm_qkv = (
            _linear(input_size, width),
            _linear(width, 3 * width),
            nn.LayerNorm(3 * width),
        )
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(_linear(width, width), nn.ReLU(), _linear(width, width))
        self.gates_x, self.gates_memory = _linear(width, 2 * width), _linear(width, 2 * width)
        self.register_buffer("gate_bias", torch.tensor([0.0, 1.0]).repeat_interleave(width), persistent=False)

    def initial_state(self, batch: int):
        like = self.gates_x.weight
        rows = torch.eye(self.slots, self.hidden_size // self.slots, dtype=like.dtype, device=like.device)
        return (rows.flatten().expand(batch, -1).clone(),)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        row = self.inputs(x)
        return row, self.gates_x(row) + self.gate_bias

    def step(self, z, state):
        memory = state[0].unflatten(-1, (self.slots, -1))
        rows = torch.cat([memory, z[0].unsqueeze(-2)], -2)
        rows = self.norm_attention(rows + self.attention(rows))
        rows = self.norm_mlp(rows + self.mlp(rows))
        write, keep = torch.sigmoid(z[1].unsqueeze(-2) + self.gates_memory(torch.tanh(memory))).chunk(2, -1)
        return ((write * torch.tanh(rows[..., :-1, :]) + keep * memory).flatten(-2),)

    def attention(self, rows: Tensor) -> Tensor:
        """(B, N, F) -> (B, N, F); each head's q, k and v lie side by side, as in the code."""
        parts = self.norm_qkv(self.qkv(rows)).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        q, k, v = parts.chunk(3, -1)
        weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2), -1)
        return (weights @ v).transpose(-2, -3).flatten(-2)
