"""Cells: what happens in one step, and nothing else. No cell loops over time, resets, or reads a config.

Shapes: T time, B environments, I input, H hidden. `project` does everything that needs no state, for all T at once;
`step` does the rest for one row. The first entry of the state is the output.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.gates import Free, Gate
from memory_cells.inits import Init, Rows, orthogonal_rows, torch_default_rows, xavier_rows
from memory_cells.squash import Sigmoid

State = tuple[Tensor, ...]


def is_clock(name: str) -> bool:
    """Whether an entry of the state, such as "clock" or "layer0.clock-2", counts rows and remembers nothing else."""
    return name.split(".")[-1].split("-")[0] == "clock"


class Cell(nn.Module):
    """Base of all cells."""

    #: one name per entry of the state
    state_names: tuple[str, ...] = ("h",)
    #: which of them is read back into the pre-activations, and which carries the memory
    recurrent_output: str = "h"
    memory: str = "h"
    #: what holds shares of the memory against the step inside, innermost first (`wrappers.Held`)
    holds: tuple[nn.Module, ...] = ()
    #: whether the gradient with noise is on purpose not the derivative
    cuts_gradient: bool = False

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size

    @abstractmethod
    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """(T, B, I) -> tensors (T, B, .), everything that needs no state."""

    @abstractmethod
    def step(self, z: tuple[Tensor, ...], state: State) -> State:
        """One step: the entries of `z` are one row of `project`, then one of `draw`, each (B, .)."""

    def input_map(self) -> tuple[Tensor, Tensor] | None:
        """(weight (W, I), bias (W,)) if `project` is one linear map with them and no more, else None. The sequence function
        may then make it step by step, where the rest is, which saves a pass through memory."""
        return None

    def projects_as(self, owner: type[Cell]) -> bool:
        """Whether `project` is that of `owner`: not one of a class between, nor of this cell alone."""
        return getattr(self.project, "__func__", None) is owner.project

    def draw(self, length: int, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Noise for `length` rows, each (T, B, .), which `step` finds behind the entries of `project`.

        () for a cell without noise and in eval mode. It is drawn once and kept with the data, so that a replay of the
        same rows is the same computation.
        """
        return ()

    def initial_state(self, batch: int) -> State:
        """The state at the start of an episode, each (B, H); zeros unless a cell says otherwise."""
        parameter = next(self.parameters())
        return tuple(parameter.new_zeros(batch, self.hidden_size) for _ in self.state_names)

    def time_gates(self, state: State) -> list[tuple[Cell, State]]:
        """Every time gate in the cell (`wrappers.TimeGate`) and its own part of the cell's `state`."""
        return []

    def set_bias(self, blocks: list[Tensor]) -> None:
        """Writes per-block biases over the start of `self.bias`."""
        start = 0
        with torch.no_grad():
            for block in blocks:
                self.bias[start : start + len(block)] = block
                start += len(block)


def _drawn(rows: Rows, hidden_size: int) -> Tensor:
    return torch_default_rows(rows, hidden_size, 1)[:, 0]


class MappedInput(Cell):
    """A cell whose `project` is the linear map by `weight_x` (W, I) and `bias` (W,)."""

    weight_x: nn.Parameter
    bias: nn.Parameter

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(x, self.weight_x, self.bias),)

    def input_map(self):
        return (self.weight_x, self.bias) if self.projects_as(MappedInput) else None


class _Affine(MappedInput):
    """Stacked affine maps of (x, h), as wide as `rows` says; row order: the gate's inputs, then the cell's own."""

    def __init__(self, input_size: int, hidden_size: int, rows: list[int], weights: str):
        super().__init__(input_size, hidden_size)
        self.rows = rows
        if weights not in ("orthogonal", "torch"):
            raise ValueError(f"weights must be 'orthogonal' or 'torch', got {weights!r}")
        own = weights == "orthogonal"
        x_rows = (
            xavier_rows(rows, hidden_size, input_size) if own else torch_default_rows(rows, hidden_size, input_size)
        )
        h_rows = orthogonal_rows(rows, hidden_size) if own else torch_default_rows(rows, hidden_size, hidden_size)
        self.weight_x, self.weight_h = nn.Parameter(x_rows), nn.Parameter(h_rows)
        # torch.nn adds two biases, each drawn like the weights; we hold their sum
        self.bias = nn.Parameter(
            torch.zeros(sum(rows)) if own else _drawn(rows, hidden_size) + _drawn(rows, hidden_size)
        )


class LSTM(_Affine):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), no peepholes (Tallec & Ollivier 2018, eq. 11-15)::

        keep, write = gate(...);  c' = keep * c + write * tanh(a_u);  h' = s(a_o) * tanh(c')

    With `Free` it is the usual LSTM, with `Coupled` the tied LSTM of Gu et al. 2020, with `Refine` their UR-LSTM.
    `init=None` leaves every bias as drawn (torch's default).

    `peepholes` (Gers & Schmidhuber 2000, as in Neil et al. 2016) add `w * c` to every pre-activation of the gate and
    `w_o * c'` to that of the output gate, w per unit; they start from U(-1/sqrt(H), 1/sqrt(H)), which is our choice.
    """

    state_names, memory = ("h", "c"), "c"

    def __init__(self, input_size: int, hidden_size: int, gate: Gate | None = None, init: Init | None = None,
                 squash=Sigmoid, weights: str = "orthogonal", peepholes: bool = False):  # fmt: skip
        gate = gate or Free(squash)
        super().__init__(input_size, hidden_size, [*gate.widths(hidden_size), hidden_size, hidden_size], weights)
        self.gate, self.squash_output = gate, squash()
        names = (*gate.inputs, "output") if peepholes else ()
        self.peepholes = nn.ParameterDict({name: nn.Parameter(_drawn(1, hidden_size)) for name in names})
        if init is not None:
            self.set_bias(gate.biases(init, hidden_size))

    def step(self, z, state):
        h, c = state
        return self.finish((z[0] + F.linear(h, self.weight_h)).split(self.rows, -1), c)

    def finish(self, pre: Sequence[Tensor], c: Tensor, units: Tensor | None = None) -> State:
        """(h', c') from all pre-activations and the old c; `units` says which units they are of, if not of all in order."""
        *gates, candidate, output = pre
        peep = {name: w if units is None else w[units] for name, w in self.peepholes.items()}
        if peep:
            gates = [a + peep[name] * c for name, a in zip(self.gate.inputs, gates, strict=True)]
        keep, write = self.gate(*gates)
        c = keep * c + write * torch.tanh(candidate)
        if peep:
            output = output + peep["output"] * c
        return self.squash_output(output) * torch.tanh(c), c


class GRU(_Affine):
    """Gated recurrent unit (Cho et al. 2014); `keep` multiplies the old state (PyTorch's z, one minus Cho's)::

    reset_form "after"  (cuDNN, PyTorch):  n = tanh(W x + b + r * (U h + b_h))
    reset_form "before" (Cho):             n = tanh(W x + b + U (r * h))
    h' = keep * h + write * n
    """

    def __init__(self, input_size: int, hidden_size: int, gate: Gate, init: Init | None = None,
                 reset_form: str = "after", squash=Sigmoid, weights: str = "orthogonal"):  # fmt: skip
        if len(gate.inputs) == 0 or isinstance(gate, Free):
            raise ValueError(f"a GRU has one update gate for keep and write; {type(gate).__name__} does not fit")
        if reset_form not in ("after", "before"):
            raise ValueError(f"reset_form must be 'after' or 'before', got {reset_form!r}")
        super().__init__(input_size, hidden_size, [*gate.widths(hidden_size), hidden_size, hidden_size], weights)
        self.gate, self.squash_reset, self.reset_form = gate, squash(), reset_form
        if reset_form == "after":
            self.bias_h = nn.Parameter(torch.zeros(hidden_size))
            if weights == "torch":  # torch.nn keeps the candidate's two biases apart here
                self.bias_h.data = _drawn(1, hidden_size)
                self.bias.data[-hidden_size:] = _drawn(1, hidden_size)
        if init is not None:
            self.set_bias(gate.biases(init, hidden_size))

    def step(self, z, state):
        (h,), H = state, self.hidden_size
        if self.reset_form == "after":
            *gates, reset, new = z[0].split(self.rows, -1)
            *h_gates, h_reset, h_new = F.linear(h, self.weight_h).split(self.rows, -1)
            candidate = torch.tanh(new + self.squash_reset(reset + h_reset) * (h_new + self.bias_h))
            keep, write = self.gate(*(a + b for a, b in zip(gates, h_gates, strict=True)))
        else:
            # the two halves of z are added to the two matrix products whole, which the fused path does in place
            *gates, reset = (z[0] + F.linear(h, self.weight_h[:-H])).split(self.rows[:-1], -1)
            candidate = torch.tanh(z[1] + F.linear(self.squash_reset(reset) * h, self.weight_h[-H:]))
            keep, write = self.gate(*gates)
        return (keep * h + write * candidate,)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.reset_form == "after":
            return super().project(x)
        H = self.hidden_size
        gates = F.linear(x, self.weight_x[:-H], self.bias[:-H])
        return gates, F.linear(x, self.weight_x[-H:], self.bias[-H:])

    def input_map(self):
        return (self.weight_x, self.bias) if self.reset_form == "after" and self.projects_as(GRU) else None


class GatedRNN(_Affine):
    """`h' = keep * h + write * tanh(W x + U h + b)`, no output gate.

    `Coupled()` is the gated RNN (Tallec & Ollivier 2018, eq. 10), `Static` their leaky RNN (eq. 5), `Coupled(offset=1)`
    is JANET (van der Westhuizen & Lasenby 2018).
    """

    def __init__(self, input_size: int, hidden_size: int, gate: Gate, init: Init | None = None,
                 weights: str = "orthogonal"):  # fmt: skip
        super().__init__(input_size, hidden_size, [*gate.widths(hidden_size), hidden_size], weights)
        self.gate = gate
        if init is not None:
            self.set_bias(gate.biases(init, hidden_size))

    def step(self, z, state):
        (h,) = state
        *gates, candidate = (z[0] + F.linear(h, self.weight_h)).split(self.rows, -1)
        keep, write = self.gate(*gates)
        return (keep * h + write * torch.tanh(candidate),)


class Memoryless(MappedInput):
    """`y = tanh(W x + b)`: the control. Its state is its last output, which nothing reads."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.weight_x = nn.Parameter(xavier_rows(1, hidden_size, input_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def step(self, z, state):
        return (torch.tanh(z[0]),)
