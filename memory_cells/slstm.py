"""Two LSTMs whose gates are not a pair of sigmoids: sLSTM (exponential gates) and ON-LSTM (ordered master gates).

| class  | row     | state                                    | path  |
|--------|---------|------------------------------------------|-------|
| SLSTM  | slstm   | h, c, n, m (B,H each); m starts at -1e30 | fused |
| ONLSTM | on-lstm | h, c (B,H)                               | fused |

Options: on-lstm takes `chunk`. h-detach fits both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.cells import Cell
from memory_cells.constrained import largest_divisor, must_divide, register_masked
from memory_cells.inits import torch_default_rows, xavier_rows
from memory_cells.squash import cumax


def log_sigmoid(a: Tensor) -> Tensor:
    """`log s(a)`, without overflow, in the operations that the fused path knows."""
    return -(torch.relu(-a) + torch.log(1 + torch.exp(-torch.abs(a))))


class SLSTM(Cell):
    """sLSTM (Beck et al. 2024, arXiv 2405.04517; NX-AI/xlstm slstm.py [C]), the cell without block or norm::

        i, f, z, o = W x + R h + b              R block-diagonal, one block a head, zero at the start
        m' = max(i, log s(f) + m)               m' = i on an episode's first row
        c' = e^(log s(f) + m - m') c + e^(i - m') tanh(z);   n' = e^(log s(f) + m - m') n + e^(i - m')
        h' = s(o) * c' / n'

    The code asks whether n is zero in the *whole* batch, which is wrong where environments reset one by one. Here m
    starts at -1e30, which gives m' = i and drops the old state by the same equations, environment by environment.
    Forget bias: from +5 down to -7 within each head, as the exponent 0.3 of a power law (the code's first block); other
    biases 0. W is dense and Xavier. heads: None takes the largest of 4, 2, 1 that divides H.
    """

    state_names, memory = ("h", "c", "n", "m"), "c"

    def __init__(self, input_size: int, hidden_size: int, heads: int | None = None):
        super().__init__(input_size, hidden_size)
        H = hidden_size
        heads = heads or next(n for n in (4, 2, 1) if H % n == 0)
        must_divide("slstm", H, heads, "heads")
        width = H // heads
        forget = 5 - 12 * (torch.arange(width) / max(width - 1, 1)) ** 0.3
        self.weight_x = nn.Parameter(xavier_rows(4, H, input_size))
        self.bias = nn.Parameter(torch.cat([torch.zeros(H), forget.repeat(heads), torch.zeros(2 * H)]))
        head = torch.arange(H, device="cpu") // width
        mask = (head[:, None] == head[None, :]).repeat(4, 1)
        register_masked(self, "weight_h", torch.zeros(4 * H, H), mask)

    def initial_state(self, batch: int):
        zero = self.bias.new_zeros(batch, self.hidden_size)
        return zero, zero.clone(), zero.clone(), torch.full_like(zero, -1e30)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.bias),)

    def step(self, z, state):
        h, c, n, m = state
        write, forget, candidate, output = (z[0] + F.linear(h, self.weight_h)).split(self.hidden_size, -1)
        kept = log_sigmoid(forget) + m
        m = write + torch.relu(kept - write)
        keep, write = torch.exp(kept - m), torch.exp(write - m)
        c = keep * c + write * torch.tanh(candidate)
        n = keep * n + write
        return torch.sigmoid(output) * c / n, c, n, m


class ONLSTM(Cell):
    """ON-LSTM (Shen et al. 2019, arXiv 1810.09536; yikangshen/Ordered-Neurons ON_LSTM.py [C])::

        mf = cumax(a_mf), mi = 1 - cumax(a_mi)       one number for each chunk of `chunk` units
        w = mf * mi;  f^ = f * w + (mf - w);  i^ = i * w + (mi - w);  c' = f^ * c + i^ * tanh(a_u);  h' = o * tanh(c')

    Rows of the weights as in the code: input master, forget master, output, candidate, input, forget; every entry as
    torch draws it, no forget bias. The authors' language model has chunks of 10 and weight dropout 0.45 (left out).
    chunk: None takes the largest divisor of H not above 10 that leaves at least four chunks.
    """

    state_names, memory = ("h", "c"), "c"

    def __init__(self, input_size: int, hidden_size: int, chunk: int | None = None):
        super().__init__(input_size, hidden_size)
        self.chunk = largest_divisor(hidden_size, min(10, hidden_size // 4)) if chunk is None else chunk
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        must_divide("on-lstm", hidden_size, self.chunk, "chunk")
        self.levels = hidden_size // self.chunk
        if self.levels < 2:
            raise ValueError(f"on-lstm: one chunk orders nothing; hidden_size {hidden_size} needs a chunk below itself")
        rows = 4 * hidden_size + 2 * self.levels
        self.weight_x = nn.Parameter(torch_default_rows([rows], input_size, input_size))
        self.weight_h = nn.Parameter(torch_default_rows([rows], hidden_size, hidden_size))
        biases = (torch_default_rows([rows], fan_in, 1)[:, 0] for fan_in in (input_size, hidden_size))
        self.bias = nn.Parameter(sum(biases))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.bias),)

    def step(self, z, state):
        (h, c), H, n = state, self.hidden_size, self.levels
        master_write, master_keep, output, candidate, write, keep = (z[0] + F.linear(h, self.weight_h)).split(
            [n, n, H, H, H, H], -1
        )
        mi = (1 - cumax(master_write)).repeat_interleave(self.chunk, -1)
        mf = cumax(master_keep).repeat_interleave(self.chunk, -1)
        w = mf * mi
        keep = torch.sigmoid(keep) * w + (mf - w)
        write = torch.sigmoid(write) * w + (mi - w)
        c = keep * c + write * torch.tanh(candidate)
        return torch.sigmoid(output) * torch.tanh(c), c
