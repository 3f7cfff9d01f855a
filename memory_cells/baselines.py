"""Simple recurrences that the gated cells are compared with: one state `h`, which is both output and memory.

| class       | rows of VARIANTS     | state   | path                       |
|-------------|----------------------|---------|----------------------------|
| Elman       | elman, irnn          | h (B,H) | fused                      |
| Elman, norm | rnn-orth             | h (B,H) | fused                      |
| IndRNN      | indrnn (two layers)  | h (B,H) | fused; needs `constrain()` |
| OrthRNN     | orth-rnn             | h (B,H) | fused                      |
| GORU        | goru                 | h (B,H) | fused                      |
| RHN         | rhn                  | h (B,H) | fused                      |

None takes an option of its own; h-detach does not fit, because output and memory are one.
JANET with beta = 0 has no row of its own: equations and start are those of `gated-rnn` and `chrono-gated-rnn`. Tags [C]
and [R] are those of the reference: read in the authors' code, or recalled and not checked.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.cells import Cell, MappedInput, _drawn
from memory_cells.constrained import register_orthogonal, rotations
from memory_cells.inits import orthogonal_rows, torch_default_rows, xavier_rows

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class Elman(MappedInput):
    """`h' = act(W x + U h + b)` (Elman 1990), or `act(LayerNorm(W x + U h + b))` with `norm`.

    start "torch": every entry as torch.nn.RNN draws it (our one bias holds the sum of its two).
    start "identity": U = I, W ~ N(0, 0.001^2), b = 0: the IRNN (Le, Jaitly & Hinton 2015, arXiv 1504.00941; constants [R]).
    start "orthogonal": U orthogonal, W Xavier, b = 0. With ReLU and `norm` it is the RNN-orth that the NRU authors ran
    (Chandar et al. 2019; apsarath/myTorch rnn_orth.yaml [C]): nothing keeps U orthogonal while it trains.
    """

    def __init__(self, input_size: int, hidden_size: int, activation: str = "tanh", start: str = "torch",
                 norm: bool = False):  # fmt: skip
        super().__init__(input_size, hidden_size)
        if activation not in ACTIVATIONS or start not in ("torch", "identity", "orthogonal"):
            raise ValueError(f"no Elman cell with activation {activation!r} and start {start!r}")
        H, I = hidden_size, input_size
        w, u, b = {
            "torch": lambda: (torch_default_rows(1, H, I), torch_default_rows(1, H, H), _drawn(1, H) + _drawn(1, H)),
            "identity": lambda: (0.001 * torch.randn(H, I), torch.eye(H), torch.zeros(H)),
            "orthogonal": lambda: (xavier_rows(1, H, I), orthogonal_rows(1, H), torch.zeros(H)),
        }[start]()
        self.weight_x, self.weight_h, self.bias = nn.Parameter(w), nn.Parameter(u), nn.Parameter(b)
        self.activation, self.norm = ACTIVATIONS[activation], nn.LayerNorm(H) if norm else None  # its parameters

    def step(self, z, state):
        pre = z[0] + F.linear(state[0], self.weight_h)
        return (self.activation(pre if self.norm is None else self.norm(pre)),)


class IndRNN(MappedInput):
    """`h' = relu(W x + b + u * h)`, u (H,): each unit reads only itself (Li et al. 2018, arXiv 1803.04831 [C]).

    u ~ U(0, 1).
    The paper's constraint |u| <= magnitude ** (1 / length) (magnitude 2 or 10) is kept by `constrain()`, which the
    learner calls after every optimiser step. The default, magnitude 1, is |u| <= 1 for any length: in an episode of no
    fixed length a larger u lets a ReLU state explode. Units mix only between layers, so stack at least two.
    """

    def __init__(self, input_size: int, hidden_size: int, magnitude: float = 1.0, length: int = 1):
        super().__init__(input_size, hidden_size)
        self.bound = magnitude ** (1 / length)
        self.weight_x = nn.Parameter(xavier_rows(1, hidden_size, input_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.weight_h = nn.Parameter(torch.rand(hidden_size))

    @torch.no_grad()
    def constrain(self) -> None:
        self.weight_h.clamp_(-self.bound, self.bound)

    def step(self, z, state):
        return (torch.relu(z[0] + state[0] * self.weight_h),)


def modrelu(pre: Tensor, bias: Tensor, offset: float = 0.0) -> Tensor:
    """`sign(a) * relu(|a| + offset + b)`: the real modReLU (Arjovsky et al. 2016)."""
    return torch.sign(pre) * torch.relu(torch.abs(pre) + (bias + offset))


class OrthRNN(Cell):
    """`h' = modReLU(W x + U h; b)` with U orthogonal at every moment, U = U_0 exp(A) (Lezcano-Casado 2019, expRNN).

    U_0: 2 x 2 rotations of random angle (Henaff et al. 2016), W Kaiming normal, b ~ U(-0.01, 0.01), no other bias, as in
    the authors' copy experiment [C]. They give A a tenth of the learning rate; our optimiser has one rate for all.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.weight_x = nn.Parameter(nn.init.kaiming_normal_(torch.empty(hidden_size, input_size)))
        self.bias = nn.Parameter(torch.empty(hidden_size).uniform_(-0.01, 0.01))
        register_orthogonal(self, "weight_h", rotations(hidden_size))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x),)

    def step(self, z, state):
        return (modrelu(z[0] + F.linear(state[0], self.weight_h), self.bias),)


class GORU(Cell):
    """Gated orthogonal recurrent unit (Jing et al. 2017, arXiv 1706.02761; jingli9111/GORU-tensorflow goru.py [C])::

        r, g = s(W_r x + U_r h + b_r), s(W_g x + U_g h + b_g)
        c = modReLU(r * (U h) + W_c x; b_c);   h' = g * h + (1 - g) * c

    modReLU adds 0.001 to |a|, as in the code. Gate weights and W_c ~ U(-0.01, 0.01), b_r = 2, b_c = 0.01, b_g drawn as
    TensorFlow's default (Glorot uniform). The authors make U a product of planar rotations; ours is the whole
    orthogonal group (`parametrizations.orthogonal`) from a random start, so any H fits.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        H = hidden_size
        self.weight_x = nn.Parameter(torch.empty(3 * H, input_size).uniform_(-0.01, 0.01))
        self.weight_gates = nn.Parameter(torch.empty(2 * H, H).uniform_(-0.01, 0.01))
        glorot = math.sqrt(3 / H)
        self.bias = nn.Parameter(torch.cat([torch.full((H,), 2.0), torch.empty(H).uniform_(-glorot, glorot)]))
        self.bias_modrelu = nn.Parameter(torch.full((H,), 0.01))
        register_orthogonal(self, "weight_h", orthogonal_rows(1, H))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        H = self.hidden_size
        gates = F.linear(x, self.weight_x[: 2 * H], self.bias)
        return gates, F.linear(x, self.weight_x[2 * H :])

    def step(self, z, state):
        (h,) = state
        reset, keep = torch.sigmoid(z[0] + F.linear(h, self.weight_gates)).split(self.hidden_size, -1)
        candidate = modrelu(reset * F.linear(h, self.weight_h) + z[1], self.bias_modrelu, 0.001)
        return (keep * h + (1 - keep) * candidate,)


class RHN(Cell):
    """Recurrent highway network of the given depth, coupled gates (Zilly et al. 2017, arXiv 1607.03474 [C])::

        for l = 1..depth:  a = tanh([l = 1] W_a x + R_a^l s + b_a^l);  t = sigmoid([l = 1] W_t x + R_t^l s + b_t^l)
                           s = (a - s) * t + s

    h' is the last s. The transform bias starts at -2 (the authors' for depths 4 to 10; -4 in their Hutter runs), so each
    of the `depth` layers keeps about 88 % at first. Their variational dropout is left out.
    """

    def __init__(self, input_size: int, hidden_size: int, depth: int = 4, transform_bias: float = -2.0):
        super().__init__(input_size, hidden_size)
        if depth < 1:
            raise ValueError(f"rhn: depth must be at least 1, got {depth}")
        self.weight_x = nn.Parameter(xavier_rows(2, hidden_size, input_size))
        self.weights_h = nn.ParameterList(orthogonal_rows(2, hidden_size) for _ in range(depth))
        start = torch.cat([torch.zeros(hidden_size), torch.full((hidden_size,), transform_bias)])
        self.biases = nn.ParameterList(start.clone() for _ in range(depth))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.biases[0]),)

    def step(self, z, state):
        (s,) = state
        for l, weight in enumerate(self.weights_h):
            pre = z[0] + F.linear(s, weight) if l == 0 else F.linear(s, weight, self.biases[l])
            a, t = pre.split(self.hidden_size, -1)
            s = (torch.tanh(a) - s) * torch.sigmoid(t) + s
        return (s,)
