"""Cell -> Cell. Fixed order, innermost first: HDetach (what is read), Zoneout (what is copied), TimeGate (when).

A wrapper is a cell: same `project`, its noise behind that of the cell inside, its own entries behind that cell's state.

Values that change with training are buffers. A part that has some has a method `schedule(progress)`, and `set_progress`
calls them all, however deep they stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memory_cells.cells import LSTM, Cell, State
from memory_cells.gates import Coupled, Free, Refine
from memory_cells.squash import Cumax


class Held(nn.Module):
    """Hands on the share of the memory that a wrapper holds, so that whoever records the gates can see it."""

    def forward(self, share):
        return share


class Wrapper(Cell):
    """Base of all wrappers: hands everything on to `inner`."""

    #: place in the order; a wrapper goes around a plain cell or a wrapper of lower rank
    rank: int
    #: entries that `draw` adds
    noise_entries: int = 0

    def __init__(self, inner: Cell):
        super().__init__(inner.input_size, inner.hidden_size)
        if isinstance(inner, Wrapper) and inner.rank >= self.rank:
            raise ValueError(f"{type(self).__name__} goes inside {type(inner).__name__}, not around it")
        self.inner = inner
        self.state_names, self.recurrent_output, self.memory = inner.state_names, inner.recurrent_output, inner.memory
        self.cuts_gradient = self.cuts_gradient or inner.cuts_gradient
        with torch.no_grad():
            self.projected = len(inner.project(self.like.new_zeros(1, 1, inner.input_size)))

    @property
    def like(self) -> Tensor:
        """A tensor of the inner cell's type, where its parameters are."""
        return next(self.inner.parameters(), torch.zeros(()))

    @property
    def gate(self):
        return self.inner.gate

    @property
    def holds(self):
        return (*self.inner.holds, *([self.held] if hasattr(self, "held") else []))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.inner.project(x)

    def input_map(self):
        return self.inner.input_map() if self.projects_as(Wrapper) else None

    def initial_state(self, batch: int) -> State:
        return self.inner.initial_state(batch)

    def draw(self, length: int, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        noise = self.inner.draw(length, batch, generator)
        return noise + self.draw_own(length, batch, generator) if self.training else noise

    def draw_own(self, length: int, batch: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """The `noise_entries` of this wrapper, in training mode."""
        return ()

    def parts(self, z: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(what the cell inside gets, this wrapper's noise; () where none was drawn)."""
        if len(z) == self.projected or not self.noise_entries:
            return z, ()
        return z[: -self.noise_entries], z[-self.noise_entries :]

    def uniform(self, length: int, batch: int, width: int, generator: torch.Generator | None) -> Tensor:
        return torch.rand(length, batch, width, generator=generator, dtype=self.like.dtype, device=self.like.device)


class HDetach(Wrapper):
    """h-detach (Arpit et al. 2018, arXiv 1810.03023): on rows drawn with probability p, no gradient goes through the read of
    h into the pre-activations. Values stay as they are bit for bit, what h copies or puts out keeps its gradient, the memory
    is never cut, and nothing is rescaled.

    p_detach is the probability of blocking, as in the authors' code (the paper's p is that of keeping). coin "batch": one
    draw a row for the whole batch, as there; "sample": one for each environment. From `detach_until` on, a fraction of the
    training, `schedule` writes 0 into the buffer `p_detach` and the gradient is the cell's own (the authors switch it off
    for their last 40 epochs); the default 1 is never.

    Raises ValueError where output and memory are one state: the cut would take the memory's gradient with it.
    """

    rank, noise_entries, cuts_gradient = 1, 1, True

    def __init__(self, inner: Cell, p_detach: float = 0.25, coin: str = "batch", detach_until: float = 1.0):
        super().__init__(inner)
        if inner.recurrent_output == inner.memory:
            raise ValueError(f"h-detach needs an output apart from the memory; {type(inner).__name__} has one state")
        if not 0 <= p_detach <= 1:
            raise ValueError(f"p_detach must lie in [0, 1], got {p_detach}")
        if coin not in ("batch", "sample"):
            raise ValueError(f"coin must be 'batch' or 'sample', got {coin!r}")
        if not 0 <= detach_until <= 1:
            raise ValueError(f"detach_until is a fraction of the training and must lie in [0, 1], got {detach_until}")
        self.coin, self.at = coin, inner.state_names.index(inner.recurrent_output)
        self.p_start, self.detach_until = float(p_detach), detach_until
        self.register_buffer("p_detach", torch.tensor(self.p_start))
        self.schedule(0.0)

    def schedule(self, progress: float) -> None:
        self.p_detach.fill_(self.p_start if progress < self.detach_until else 0.0)

    def draw_own(self, length, batch, generator):
        drawn = self.uniform(length, batch if self.coin == "sample" else 1, 1, generator) < self.p_detach
        return (drawn.to(self.like.dtype).expand(length, batch, 1),)

    def step(self, z, state):
        z, noise = self.parts(z)
        if noise:
            h = state[self.at]
            state = (*state[: self.at], torch.where(noise[0] > 0, h.detach(), h), *state[self.at + 1 :])
        return self.inner.step(z, state)


class Zoneout(Wrapper):
    """Zoneout (Krueger et al. 2017, arXiv 1606.01305): in training each unit keeps its old value with its state's
    probability; in evaluation it takes the expectation `p * old + (1 - p) * new`.

    zoneout_c is for the memory and zoneout_h for the output; a cell where they are one state takes zoneout_h only. The
    defaults are the paper's for character-level Penn Treebank. A state with probability 0 draws nothing.
    """

    rank = 2

    def __init__(self, inner: Cell, zoneout_c: float | None = None, zoneout_h: float = 0.05):
        super().__init__(inner)
        if inner.recurrent_output == inner.memory and zoneout_c:
            raise ValueError(f"{type(inner).__name__} has no memory apart from its output; give zoneout_h alone")
        rates = {inner.memory: 0.5 if zoneout_c is None else zoneout_c, inner.recurrent_output: zoneout_h}
        for value in rates.values():
            if not 0 <= value < 1:
                raise ValueError(f"a zoneout probability must lie in [0, 1), got {value}")
        self.rates = [rates.get(name, 0.0) for name in inner.state_names]
        self.noise_entries = sum(p > 0 for p in self.rates)
        self.held = Held()

    def draw_own(self, length, batch, generator):
        widths = [s.shape[-1] for s in self.inner.initial_state(1)]
        drawn = [self.uniform(length, batch, w, generator) < p for p, w in zip(self.rates, widths, strict=True) if p]
        return tuple(d.to(self.like.dtype) for d in drawn)

    def step(self, z, state):
        z, noise = self.parts(z)
        masks, mixed = iter(noise), []
        for name, old, new, p in zip(self.state_names, state, self.inner.step(z, state), self.rates, strict=True):
            if p:
                share = next(masks) if noise else p
                share = self.held(share) if name == self.memory else share
                new = torch.where(share > 0, old, new) if noise else p * old + (1 - p) * new
            mixed.append(new)
        return tuple(mixed)


class Gaussian(nn.Module):
    """Openness of the g-LSTM (Thornton et al. 2019, arXiv 1901.07334): `k = exp(-(t - mu)^2 / (factor sigma)^2)`.

    Each unit opens once an episode, around its own mu, for about sigma steps; both are learned. They are held in units of
    `horizon`, so that a learning rate means the same for every horizon; mu starts uniform on [0, horizon] and sigma at a
    third of it. `factor` is a buffer for the temporal curriculum: towards 0 units hardly open, and beyond
    10 * horizon / sigma, 30 at first, all are open and the cell is the one inside. `schedule` moves it linearly from
    sigma_start to sigma_end at `sigma_until`, a fraction of the training, and leaves it there; both are 1 by default. The
    paper's constants were not at hand: that the exponent has no 2, the start, the schedule and the parametrisation are ours.
    """

    def __init__(self, hidden_size: int, horizon: float, sigma_start: float = 1.0, sigma_end: float = 1.0,
                 sigma_until: float = 1.0):  # fmt: skip
        super().__init__()
        if not horizon > 0:
            raise ValueError(f"a Gaussian time gate needs a positive horizon, got {horizon}")
        if not (sigma_start > 0 and sigma_end > 0 and 0 < sigma_until <= 1):
            raise ValueError(f"sigma_start={sigma_start} and sigma_end={sigma_end} must be positive, and "
                             f"sigma_until={sigma_until} in (0, 1]")  # fmt: skip
        if sigma_start == sigma_end and sigma_until != 1:
            raise ValueError(f"sigma_until={sigma_until} is the end of a curriculum from sigma_start to sigma_end; "
                             f"both are {sigma_start}")  # fmt: skip
        self.curriculum = sigma_start, sigma_end, sigma_until
        self.register_buffer("horizon", torch.tensor(float(horizon)))  # a trained gate keeps it, whatever the task's length
        self.mu = nn.Parameter(torch.rand(hidden_size))
        self.sigma = nn.Parameter(torch.full((hidden_size,), 1 / 3))
        self.register_buffer("factor", torch.ones(1))
        self.schedule(0.0)

    def schedule(self, progress: float) -> None:
        start, end, until = self.curriculum
        self.factor.fill_(start + (end - start) * min(progress / until, 1.0))

    def forward(self, t: Tensor, training: bool) -> Tensor:
        """t (B, 1), counted from 1 -> (B, H)."""
        width = (torch.abs(self.sigma) + 1e-3) * (self.factor * self.horizon)
        return torch.exp(-torch.square((t - self.mu * self.horizon) / width))


class Oscillating(nn.Module):
    """Openness of the Phased LSTM (Neil et al. 2016, arXiv 1610.09513), periodic in t::

        phi = ((t - shift) mod period) / period
        k = 2 phi / r  up to r/2,  2 - 2 phi / r  up to r,  then leak * phi

    Period and shift are learned, r = `open_fraction` is not, and leak is 1e-3 in training and 0 in evaluation, as in the
    authors' code; they start at exp(U(1, 6)) and anywhere in the period.
    """

    def __init__(self, hidden_size: int, open_fraction: float = 0.05, leak: float = 1e-3):
        super().__init__()
        if not 0 < open_fraction <= 1:
            raise ValueError(f"open_fraction must lie in (0, 1], got {open_fraction}")
        self.open_fraction, self.leak = open_fraction, leak
        self.period = nn.Parameter(torch.empty(hidden_size).uniform_(1, 6).exp())
        self.shift = nn.Parameter(torch.rand(hidden_size) * self.period.detach())

    def forward(self, t: Tensor, training: bool) -> Tensor:
        """t (B, 1), counted from 1 -> (B, H)."""
        turns = (t - self.shift) / torch.abs(self.period)
        phi, r = turns - torch.floor(turns), self.open_fraction
        closed = (self.leak if training else 0.0) * phi
        return torch.where(phi < r / 2, 2 * phi / r, torch.where(phi < r, 2 - 2 * phi / r, closed))


class TimeGate(Wrapper):
    """`s' = k * proposed + (1 - k) * s` for every state s of the cell inside, k (B, H) a function of the episode's clock.

    The last entry of the state is the clock, (B, 1): rows of this episode so far, so the first row is t = 1 and a reset
    starts it anew. In evaluation k below `threshold` (a buffer) counts as 0 and the unit need not be computed:
    `multiply_adds` says what that saves, and `step_open_units` saves it.

    Raises ValueError around a cell whose states are not all H wide, or do not start at zero: such as the sLSTM's, whose
    parts mean something together only, and cannot be mixed one by one.
    """

    rank = 3

    def __init__(self, inner: Cell, openness: nn.Module, threshold: float = 0.0):
        super().__init__(inner)
        if any(s.shape[1:] != (inner.hidden_size,) for s in inner.initial_state(1)):
            raise ValueError(
                f"a time gate needs states of {inner.hidden_size} units; {type(inner).__name__} has others"
            )
        if any(not s.is_meta and s.any() for s in inner.initial_state(1)):
            raise ValueError(f"a time gate needs states that start at zero; those of {type(inner).__name__} do not")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
        self.state_names = (*inner.state_names, "clock")
        self.openness, self.held = openness, Held()
        self.register_buffer("threshold", torch.full((1,), float(threshold)))

    def initial_state(self, batch: int) -> State:
        inner = self.inner.initial_state(batch)
        return (*inner, inner[0].new_zeros(batch, 1))

    def time_gates(self, state: State) -> list[tuple[Cell, State]]:
        return [(self, state)]

    def open(self, t: Tensor) -> Tensor:
        """k (B, H) at clock t (B, 1)."""
        return self.openness(t, True) if self.training else self._evaluated(t)

    def _evaluated(self, t: Tensor) -> Tensor:
        k = self.openness(t, False)
        return torch.where(k < self.threshold, 0.0, k)

    def step(self, z, state):
        *old, clock = state
        t = clock + 1
        k = self.open(t)
        held = self.held(1 - k)
        new = self.inner.step(z, tuple(old))
        return (*(k * n + held * o for n, o in zip(new, old, strict=True)), t)

    def budget(self, first: Tensor, state: Sequence[Tensor]) -> Tensor:
        """(T, B): the mean openness of the units in every row, with gradient to the time gate's parameters.

        first (T, B) and state as given to `unroll`. Its mean over rows is the computational-budget term of Thornton et al.
        """
        return self.open(clocks(first, state[-1]).unsqueeze(-1)).mean(-1)

    @torch.no_grad()
    def unit_updates(self, first: Tensor, state: Sequence[Tensor]) -> Tensor:
        """(T, B): the share of the units that evaluation updates in every row, in training mode too."""
        k = self._evaluated(clocks(first, state[-1]).unsqueeze(-1))
        return (k > 0).to(k.dtype).mean(-1)

    @torch.no_grad()
    def multiply_adds(self, first: Tensor, state: Sequence[Tensor], times: Tensor | None = None):
        """(executed, of how many): multiply-adds of the cell's matrix products over these rows, closed units left out.

        A unit with k = 0 needs none of its rows of any matrix in that step, for its old value stays. times (T, B) int64:
        how often each row counts, if not once.
        """
        weights = [p for name, p in self.inner.named_parameters() if name.split(".")[-1].startswith("weight")]
        products = sum(w.numel() for w in weights)
        times = torch.ones_like(first, dtype=torch.int64) if times is None else times
        open_units = (self.open(clocks(first, state[-1]).unsqueeze(-1)) > 0).sum(-1)
        return (open_units * times).sum() * (products // self.hidden_size), times.sum() * products


def step_open_units(core: TimeGate, x: Tensor, state: State) -> tuple[State, int]:
    """One row x (B, I) of an LSTM under a time gate in evaluation, computing the rows of open units and no others.

    Returns the state that `step` gives and the multiply-adds that its matrix products executed: as many as
    `TimeGate.multiply_adds` counts. The rows are gathered, which saves arithmetic and not always time. Raises ValueError for
    a cell whose gate mixes units or has parameters of its own.
    """
    inner, plain = core.inner, (Free, Coupled, Refine)
    if not (isinstance(inner, LSTM) and isinstance(inner.gate, plain) and not any(True for _ in inner.gate.parameters())
            and not any(isinstance(m, Cumax) for m in inner.gate.modules())):  # fmt: skip
        raise ValueError(
            f"{type(inner).__name__} with {type(getattr(inner, 'gate', None)).__name__} has no units by themselves"
        )
    h, c, clock = state
    k = core.open(clock + 1)
    row, unit = (k > 0).nonzero(as_tuple=True)
    blocks = len(inner.rows)
    picked = [w.view(blocks, core.hidden_size, -1)[:, unit] for w in (inner.weight_x, inner.weight_h)]
    pre = sum(torch.einsum("gpi,pi->gp", w, v[row]) for w, v in zip(picked, (x, h), strict=True))
    pre = pre + inner.bias.view(blocks, core.hidden_size)[:, unit]
    proposed, openness, mixed = inner.finish(pre.unbind(0), c[row, unit], unit), k[row, unit], []
    for old, new in zip((h, c), proposed, strict=True):
        mixed.append(old.index_put((row, unit), openness * new + (1 - openness) * old[row, unit]))
    return (*mixed, clock + 1), sum(w.numel() for w in picked)


def set_progress(module: nn.Module, progress: float) -> None:
    """Sets every scheduled value in `module` to its place at `progress`, the fraction of the training that is done."""
    for part in module.modules():
        if hasattr(part, "schedule"):
            part.schedule(progress)


def clocks(first: Tensor, clock: Tensor) -> Tensor:
    """(T, B): what a time gate's clock shows in every row, from the clock (B, 1) before the first of them."""
    row = torch.arange(first.shape[0], device=first.device).unsqueeze(1)
    start = torch.where(first, row, -1).cummax(0).values
    return torch.where(start >= 0, row - start + 1, clock.view(1, -1) + row + 1).to(clock.dtype)
