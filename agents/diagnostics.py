"""What gates do, how far a gradient goes back, whether replay equals acting, where the return is attributed to.

Functions of an agent or a cell and of rows that were played; none plays, draws or writes anything. Their results are
dicts and lists of numbers; `agents.diagnose` puts them together for a run. T rows, B environments, H units, time-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from agents.agent import Agent
from agents.losses import log_prob
from agents.returns import vtrace
from agents.rollout import Rollout
from envs.env import Step
from memory_cells.cells import Cell, State
from memory_cells.unroll import by_row, reset, unroll

#: a gate nearer to 0 or to 1 than this is saturated
SATURATED = 0.05
#: environments of a rollout whose gates are looked at
LOOKED_AT = 256
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: a norm below this is no measurement of a float32 gradient
FLOOR = 1e-30


def ages(first: Tensor) -> Tensor:
    """(T, B) int64: rows since the start of the episode, 0 on its first row. Raises ValueError unless row 0 is `first`."""
    if not first[0].all():
        raise ValueError("the rows must begin with the first row of an episode")
    row = torch.arange(first.shape[0], device=first.device).unsqueeze(1)
    return row - torch.where(first, row, 0).cummax(0).values


def mean_by(x: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means of x (N, ...) over the entries that share an index (N,), (size, ...) in float64, and their counts (size,)."""
    sums = torch.zeros(size, *x.shape[1:], dtype=torch.float64, device=x.device).index_add_(0, index, x.double())
    counts = torch.bincount(index, minlength=size)
    return sums / counts.view(-1, *(1,) * (x.dim() - 1)), counts


# --- gates -----------------------------------------------------------------------------------------------------------


def horizons(keep: Tensor) -> Tensor:
    """1 / (1 - keep), in rows: the mean age of what a unit holds that keeps the share `keep` of its memory in every row."""
    return 1 / (1 - keep.double())


def _quantiles(keep: Tensor) -> dict[str, float]:
    """Of the horizons of units with these mean keeps, (H,). Those of `keep`, carried over: a horizon may be infinite."""
    q = torch.tensor(QUANTILES, dtype=torch.float64, device=keep.device)
    return {f"q{round(100 * p):02d}": h for p, h in zip(QUANTILES, horizons(keep.double().quantile(q)).tolist())}


def gate_levels(keep: Tensor, write: Tensor) -> dict[str, float]:
    """Of gates (..., H): their means, the share of keeps and of writes below 0.05 and above 0.95, and over the units the
    quantiles of `horizons` of each unit's mean keep."""
    keep, write, found = keep.detach(), write.detach(), {}
    for name, x in (("keep", keep), ("write", write)):
        found[f"{name}_mean"] = float(x.double().mean())
        found[f"{name}_closed"] = float((x < SATURATED).double().mean())
        found[f"{name}_open"] = float((x > 1 - SATURATED).double().mean())
    return found | {f"horizon_{q}": h for q, h in _quantiles(keep.double().flatten(0, -2).mean(0)).items()}


def gate_summary(keep: Tensor, write: Tensor, first: Tensor) -> dict[str, Any]:
    """`gate_levels` of gates (T, B, H), the horizon of every unit, and both over an episode: "by_row" has a list for each,
    by the row of the episode. first (T, B) begins with the first row of an episode."""
    keep, write, age = keep.detach(), write.detach(), ages(first).flatten()
    size = int(age.max()) + 1
    (keep_by, counts), (write_by, _) = (mean_by(x.flatten(0, 1), age, size) for x in (keep, write))
    quantiles = [_quantiles(units) for units in keep_by]
    by_row = {f"horizon_{q}": [row[q] for row in quantiles] for q in quantiles[0]}
    by_row |= {"keep_mean": keep_by.mean(-1).tolist(), "write_mean": write_by.mean(-1).tolist(), "rows": counts.tolist()}
    per_unit = horizons(keep.double().flatten(0, 1).mean(0)).tolist()
    return gate_levels(keep, write) | {"horizon_of_unit": per_unit, "by_row": by_row}


def has_gate(core: Cell) -> bool:
    """Whether `unroll` can record "keep" and "write" of it."""
    return getattr(core, "gate", None) is not None


def gates_of(agent: Agent, rollout: Rollout) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Of the agent as it stands on the rows of a rollout, of 256 environments at most, with the noise that was drawn for
    them: `gate_levels`, and for histograms the keeps of some of the rows, (16 at most, B, H), and log10 of the units'
    horizons, (H,), up to 1e6. ({}, {}) for a core without a gate.

    Draws nothing and changes nothing, so a run that asks for it is the same run.
    """
    if not has_gate(agent.core):
        return {}, {}
    rows = Step(*(x[:, :LOOKED_AT] for x in rollout.rows))
    state, noise = tuple(s[:LOOKED_AT] for s in rollout.state), tuple(n[:, :LOOKED_AT] for n in rollout.noise)
    with torch.no_grad():
        _, _, traces = agent(rows, state, noise, record=("keep", "write"))
    keep = traces["keep"]
    reach = horizons(keep.double().flatten(0, 1).mean(0)).clamp(max=1e6).log10()
    return gate_levels(keep, traces["write"]), {"keep": keep[:: -(-len(keep) // 16)], "log10_horizon": reach}


# --- gradient by lag -------------------------------------------------------------------------------------------------

#: (row t, output y_t (B, H)) -> (B, H): the gradient of loss_t by the output
Pull = Callable[[int, Tensor], Tensor]


class LagGradient(NamedTuple):
    norm: dict[str, Tensor]  # per state part (K + 1,) float64: norm of d loss_t / d part_{t-k}, k = 0..K; mean over t and B
    total_error: float  # how far the rows' gradients are from adding up to the fast path's, relative


@parametrize.cached()
def gradient_by_lag(core: Cell, x: Tensor, first: Tensor, state: State, rows: Sequence[int], pull: Pull, *,
                    noise: tuple[Tensor, ...] = (), path: str = "auto") -> LagGradient:  # fmt: skip
    """Norm of the gradient that row t's loss sends to the state k rows before, for every t in `rows`.

    x (T, B, I), first (T, B), state before row 0, noise as drawn. Lag 0 is the state after row t, of which the output is a
    part; the greatest lag is that of the smallest t to the state before row 0. Computed row by row on the plain loop; the
    gradients of all t by `state` and by `x` are then summed and held against one backward pass through `unroll`'s `path`:
    `total_error` is the largest difference, relative to the largest entry of the same tensor.
    """
    x, start = x.detach().requires_grad_(), _leaves(state)
    z, initial = core.project(x) + noise, core.initial_state(first.shape[1])
    states, pulls, totals, norms = [start], {}, None, []
    for row, fresh in zip(by_row(z), first.unbind(), strict=True):
        now = core.step(row, reset(states[-1], initial, fresh))
        states.append(tuple(s.view_as(s) for s in now))  # nodes of their own: no entry is an input of another one
    lags = min(rows) + 2
    for t in rows:
        y = states[t + 1][0]
        pulls[t] = pull(t, y.detach())
        wanted = [s for row in states[: t + 2] for s in row if s.requires_grad]
        found = torch.autograd.grad((pulls[t] * y).sum(), [*wanted, x], retain_graph=True, allow_unused=True)
        grads = {id(s): g for s, g in zip([*wanted, x], found, strict=True)}
        part = [_filled(grads, s) for s in (*start, x)]
        totals = part if totals is None else [a + b for a, b in zip(totals, part, strict=True)]
        norms.append([[_norm(grads, s) for s in states[t + 1 - k]] for k in range(lags)])
    means = torch.stack([torch.stack([torch.stack(row) for row in one]) for one in norms]).mean(0)
    norm = {name: means[:, i] for i, name in enumerate(core.state_names)}

    again, fresh = x.detach().requires_grad_(), _leaves(state)
    y, _ = unroll(core, again, first, fresh, path=path, noise=noise)
    loss = sum((pulls[t] * y[t]).sum() for t in rows)
    wanted = [s for s in (*fresh, again) if s.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    grads = {id(s): g for s, g in zip(wanted, found, strict=True)}
    fast = [_filled(grads, s) for s in (*fresh, again)]
    largest = max(float(f.abs().max()) for f in fast)
    error = max(float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6 * largest, FLOOR)
                for a, b in zip(totals, fast, strict=True))  # fmt: skip
    return LagGradient(norm, error)


def _leaves(state: State) -> State:
    return tuple(s.detach().clone().requires_grad_(s.is_floating_point()) for s in state)


def _filled(grads: dict[int, Tensor | None], s: Tensor) -> Tensor:
    found = grads.get(id(s))
    return torch.zeros_like(s) if found is None else found


def _norm(grads: dict[int, Tensor | None], s: Tensor) -> Tensor:
    """Mean over the environments of the norm of a state entry's gradient."""
    return _filled(grads, s).double().flatten(1).norm(dim=1).mean()


def head_pull(agent: Agent, action: Tensor) -> Pull:
    """The unit vectors along d(V_t - log pi_t(a_t)) / d y_t, one for each environment; action (T, B).

    That is the direction in which the losses of row t pull: the value loss along the gradient of V, the policy loss along
    that of log pi. Error and advantage, which only scale them, are set to one, so that an agent without any error left
    still shows how far its gradients go. No row is without a direction unless both gradients vanish.
    """

    def pull(t: int, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            output = agent.outputs(y)
            loss = output.value - log_prob(output.logits.log_softmax(-1), action[t])
            (found,) = torch.autograd.grad(loss.sum(), y)
        return found / found.norm(dim=-1, keepdim=True).clamp(min=FLOOR)

    return pull


def decay_length(norm: Tensor, most: int = 200) -> float:
    """The length L, in rows, of the exponential exp(-k / L) that the norms at lags 1..K, (K + 1,) from lag 0 on, fall by.

    A Theil-Sen fit of the logarithm: the median slope over all pairs of `most` lags at equal distances, which a fast start
    or a few odd lags do not move. Lags without any gradient, as a dilated layer has, are left out. Infinite where the fit
    falls by less than 1 % over all lags; 0 where no two lags are left.
    """
    from scipy import stats  # slow to import

    lags = torch.arange(1, len(norm))
    lags = lags[(norm[1:] > FLOOR).cpu()]
    if len(lags) < 2:
        return 0.0
    lags = lags[torch.linspace(0, len(lags) - 1, min(most, len(lags))).round().long()]
    slope = float(stats.theilslopes(norm.cpu()[lags].log().numpy(), lags.numpy()).slope)
    return math.inf if -slope * (len(norm) - 1) < 0.01 else -1 / slope


# --- replay and credit -----------------------------------------------------------------------------------------------


def replay_error(agent: Agent, rollout: Rollout) -> float:
    """max |pi / mu - 1| over the actions of a rollout: pi of the rows replayed at once, as learning does, mu as acted."""
    with torch.no_grad():
        output, _ = agent(rollout.rows, rollout.state, rollout.noise)
        action, valid = rollout.rows.action[1:], ~rollout.rows.first[1:]
        now, then = (log_prob(logits.log_softmax(-1), action) for logits in (output.logits[:-1], rollout.logits))
        ratio = (now - then).exp()
    return float(torch.where(valid, ratio - 1, 0).abs().max())


def ends(rollout: Rollout) -> dict[str, int]:
    """How many episodes of a rollout end by themselves, are truncated (and bootstrap), and go on after its last row."""
    terminated = rollout.ended & (rollout.rows.discount[1:] == 0)
    return {"episodes": int(rollout.rows.first.sum()), "terminated": int(terminated.sum()),
            "truncated": int((rollout.ended & ~terminated).sum()), "unfinished": int((~rollout.ended[-1]).sum())}  # fmt: skip


def credit(value: Tensor, rollout: Rollout, gamma: float, trace_lambda: float) -> dict[str, Any] | None:
    """Which actions the return is attributed to, in the episodes that end inside the rollout; None where none does.

    value (T+1, B) of the rows. The policy gradient moves the action of a row by its advantage, so |advantage| (V-trace on
    policy: that of GAE with the learner's gamma and lambda, before normalisation) is the credit or blame that the action
    gets. "by_end"[i]: means over the episodes of the i-th last action, i = 0 the last one; "share" is that action's part of
    all credit. "by_row"[i]: the same from the start, where the cue is in most tasks. An agent that has nothing left to
    learn hands out little credit ("total", per episode), and its shares are then noise.
    """
    rows, T = rollout.rows, rollout.ended.shape[0]
    cut = rows.first[1:]
    found = vtrace(value, rows.reward[1:], gamma * rows.discount[1:], cut, torch.zeros_like(value[1:]),
                   trace_lambda=trace_lambda)  # fmt: skip
    row = torch.arange(T, device=cut.device).unsqueeze(1)
    end = torch.where(rollout.ended, row, T).flip(0).cummin(0).values.flip(0)  # the transition that ends the episode
    whole = ~cut & (end < T)
    if not whole.any():
        return None
    to_end, age = (end - row)[whole], ages(rows.first)[:-1][whole]
    size, table = torch.stack([found.advantage.abs(), value[:-1]], -1)[whole], {}
    episodes = int((to_end == 0).sum())
    total = float(size[:, 0].double().sum())
    for name, index in (("by_end", to_end), ("by_row", age)):
        means, counts = mean_by(size, index, int(index.max()) + 1)
        table[name] = {"advantage": means[:, 0].tolist(), "value": means[:, 1].tolist(), "actions": counts.tolist()}
        table[name]["share"] = (means[:, 0] * counts / max(total, FLOOR)).tolist()
    return {"episodes": episodes, "total": total / episodes, "value_at_start": table["by_row"]["value"][0],
            "value_at_decision": table["by_end"]["value"][0], **table}  # fmt: skip
