"""Cells of linear recurrences: minGRU, minLSTM, LRU, FFM. A sequence is one parallel scan, a row is one step.

| class   | row     | state                                               | path              |
|---------|---------|-----------------------------------------------------|-------------------|
| MinGRU  | mingru  | h (B,H)                                             | scan; also fused  |
| MinLSTM | minlstm | h (B,H)                                             | scan; also fused  |
| LRU     | lru     | h (B,H, not read back), x (B, 2H): re, im by turns  | scan              |
| FFM     | ffm     | h (B,H, not read back), x (B, 2mc): re, im by turns | scan              |

None takes an option; h-detach does not fit, because no gate reads the past.
Complex memories are kept as real numbers, real and imaginary part by turns, so that a state can be stored, recorded and
compared like any other.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.scan import LinearCell


def _positive(v: Tensor) -> Tensor:
    """`v + 0.5` where v >= 0, else `sigmoid(v)`: positive, continuous (Feng et al. 2024)."""
    return torch.where(v >= 0, v + 0.5, torch.sigmoid(v))


class MinGRU(LinearCell):
    """minGRU (Feng et al. 2024, arXiv 2410.01201; reference [S], after lucidrains/minGRU-pytorch)::

        z = s(W_z x + b_z);  n = g(W_h x + b_h);  h' = (1 - z) * h + z * n

    g(v) = v + 0.5 for v >= 0, else s(v). That package has no biases and works in logarithms; decays below 1 and sums
    need none. Start: as torch.nn.Linear.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, 2 * hidden_size)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        gate, candidate = self.linear(x).chunk(2, -1)
        return torch.sigmoid(-gate), torch.sigmoid(gate) * _positive(candidate)

    def recurrence(self, z):
        return z

    def readout(self, z, memory):
        return (memory,)


class MinLSTM(MinGRU):
    """minLSTM (Feng et al. 2024): `f = s(W_f x + b_f), i = s(W_i x + b_i), h' = f / (f + i) * h + i / (f + i) * n`.

    n = g(W_h x + b_h) as in minGRU. f / (f + i) is computed as s(log f - log i), which neither overflows nor divides
    zero by zero. (The package's parallel form takes g of the incoming state and its sequential one does not [S]; here
    both leave it alone.)
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, 3 * hidden_size)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        forget, write, candidate = self.linear(x).chunk(3, -1)
        balance = F.logsigmoid(forget) - F.logsigmoid(write)
        return torch.sigmoid(balance), torch.sigmoid(-balance) * _positive(candidate)


class _Complex(LinearCell):
    """State: the output, and a complex memory held as real numbers by turns."""

    state_names, recurrent_output, memory = ("h", "x"), "x", "x"
    #: complex entries of the memory
    entries: int

    def initial_state(self, batch: int):
        like = next(self.parameters())
        return like.new_zeros(batch, self.hidden_size), like.new_zeros(batch, 2 * self.entries)

    def remembered(self, state):
        return torch.view_as_complex(state[1].unflatten(-1, (self.entries, 2)).contiguous())


class LRU(_Complex):
    """Linear recurrent unit in its residual block (Orvieto et al. 2023, arXiv 2303.06349; NicolasZucchet/minimal-LRU)::

        u = W x + b;  v = LayerNorm(u)
        s' = exp(-exp(nu) + i exp(theta)) * s + exp(gamma) * (B v);   y = Re(C s') + D * v
        h' = u + (W_1 g + b_1) * sigmoid(W_2 g + b_2),  g = gelu(y)

    |lambda| uniform on the ring (r_min, r_max), phase U(0, 2 pi), gamma = log sqrt(1 - |lambda|^2) and learnt from there;
    B ~ N / sqrt(2H), C ~ N / sqrt(H) for each of the two parts, D ~ N(0, 1). The defaults 0 and 1 are that code's; for
    long memory 0.9 and 0.999 are common [R]. A bare unit is linear in x, hence the block (that code's, norm first).
    gelu is the tanh form, as in JAX. The unit has H complex entries.
    """

    def __init__(self, input_size: int, hidden_size: int, r_min: float = 0.0, r_max: float = 1.0):
        super().__init__(input_size, hidden_size)
        H = self.entries = hidden_size
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"lru: need 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
        self.encoder, self.norm, self.mix = nn.Linear(input_size, H), nn.LayerNorm(H), nn.Linear(H, 2 * H)
        u = torch.rand(H).clamp(1e-6, 1 - 1e-6) * (r_max**2 - r_min**2) + r_min**2  # |lambda|^2
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(u)))
        self.theta = nn.Parameter(torch.log(2 * math.pi * torch.rand(H).clamp_min(1e-6)))
        self.gamma = nn.Parameter(0.5 * torch.log(1 - u))
        self.B = nn.Parameter(torch.randn(2 * H, H) / math.sqrt(2 * H))  # real part, imaginary part
        self.C = nn.Parameter(torch.randn(H, 2 * H) / math.sqrt(H))
        self.D = nn.Parameter(torch.randn(H))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        u = self.encoder(x)
        v = self.norm(u)
        real, imag = (F.linear(v, self.B) * self.gamma.exp().repeat(2)).chunk(2, -1)
        return torch.complex(real, imag), self.D * v, u

    def recurrence(self, z):
        return torch.polar(torch.exp(-self.nu.exp()), self.theta.exp()), z[0]

    def readout(self, z, memory):
        y = F.linear(torch.cat([memory.real, -memory.imag], -1), self.C) + z[1]
        value, gate = self.mix(F.gelu(y, approximate="tanh")).chunk(2, -1)
        return z[2] + value * torch.sigmoid(gate), torch.view_as_real(memory).flatten(-2)


class FFM(_Complex):
    """Fast and forgetful memory (Morad et al. 2023, arXiv 2310.04128; proroklab/ffm standalone/ [C])::

        value (m), skip (H), gates (m + H) = W x + b;   v = value * s(gate_in)
        S_jk' = exp(a_j + i b_k) S_jk + v_j  (m x c complex);   z = W_o [Re S', Im S'] + b_o
        h' = LayerNorm(z) * s(gate_out) + skip * (1 - s(gate_out))      (LayerNorm without parameters)

    a from -limit + 0.01 to log(0.01) / max_period, clamped to [-limit, -1e-8] where it is used and, as the code does, in
    the parameter itself (`constrain()`); b = 2 pi / linspace(min_period, max_period, c). limit = log(max of float64) /
    1024 - 0.01 keeps the authors' exp(-a t) from overflowing; the scan here needs no such limit and keeps it only to be
    their model. context (c) counts complex entries, as in standalone/ (models/ counts real ones).
    """

    def __init__(self, input_size: int, hidden_size: int, memory_size: int = 32, context: int = 4,
                 min_period: float = 1.0, max_period: float = 1024.0):  # fmt: skip
        super().__init__(input_size, hidden_size)
        m, self.entries = memory_size, memory_size * context
        self.widths = [m, hidden_size, m, hidden_size]
        self.pre, self.mix = nn.Linear(input_size, sum(self.widths)), nn.Linear(2 * self.entries, hidden_size)
        self.limit = math.log(torch.finfo(torch.float64).max) / 1024 - 0.01
        slowest = max(min(-1e-6, math.log(0.01) / max_period), -self.limit + 0.01)
        self.a = nn.Parameter(torch.linspace(-self.limit + 0.01, slowest, m))
        self.b = nn.Parameter(2 * math.pi / torch.linspace(min_period, max_period, context))

    @torch.no_grad()
    def constrain(self) -> None:
        self.a.clamp_(-self.limit, -1e-8)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        value, skip, gate_in, gate_out = self.pre(x).split(self.widths, -1)
        v, gate_out = value * torch.sigmoid(gate_in), torch.sigmoid(gate_out)
        drive = v.repeat_interleave(self.entries // v.shape[-1], -1)
        return torch.complex(drive, torch.zeros_like(drive)), gate_out, skip * (1 - gate_out)

    def recurrence(self, z):
        a = self.a.clamp(-self.limit, -1e-8).exp()
        return torch.polar(a[:, None].expand(-1, len(self.b)), self.b.expand(len(a), -1)).flatten(), z[0]

    def readout(self, z, memory):
        x = torch.view_as_real(memory).flatten(-2)
        mixed = self.mix(x)
        return F.layer_norm(mixed, mixed.shape[-1:]) * z[1] + z[2], x
