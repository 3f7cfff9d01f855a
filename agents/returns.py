"""Targets and advantages: pure functions of (T, B) tensors.

Row t has value V_t; transition t leads from row t to row t+1 and carries reward r_{t+1}, discount gamma * d_{t+1}
(d = 0 where the episode terminated) and `cut_{t+1}`: row t+1 starts an episode, so this is no transition. There
delta_t = 0 and the trace is 0, hence target_t = V_t; that V_t, of an episode's last row, is the bootstrap of a
truncation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Returns(NamedTuple):
    target: Tensor  # (T, B): regression target of V_t
    advantage: Tensor  # (T, B), without the importance ratio; 0 where there is no transition
    weight: Tensor  # (T, B): clipped importance ratio that a policy gradient multiplies it with


def vtrace(value: Tensor, reward: Tensor, discount: Tensor, cut: Tensor, log_rho: Tensor, *, trace_lambda: float = 1.0,
           rho_bar: float = 1.0, c_bar: float = 1.0) -> Returns:  # fmt: skip
    """V-trace (Espeholt et al. 2018, arXiv 1802.01561, eq. 1, and section 4.2 for the policy gradient).

    value (T+1, B); reward, discount (gamma included), cut (bool), log_rho = log pi/mu: (T, B). With lambda < 1 the trace
    is lambda * min(c_bar, rho) (their remark 2) and the advantage bootstraps from the same mixture, so that on-policy
    data give GAE.
    """
    rho, alive = log_rho.exp(), (~cut).to(value.dtype)
    weight, trace = rho.clamp(max=rho_bar), trace_lambda * rho.clamp(max=c_bar) * alive * discount
    delta = alive * weight * (reward + discount * value[1:] - value[:-1])
    error = _backward_sum(delta, trace)
    target = value[:-1] + error
    following = torch.cat([target[1:], value[-1:]])
    bootstrap = trace_lambda * following + (1 - trace_lambda) * value[1:]
    return Returns(target, alive * (reward + discount * bootstrap - value[:-1]), weight)


def gae(value: Tensor, reward: Tensor, discount: Tensor, cut: Tensor, *, trace_lambda: float = 0.95) -> Returns:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16); target = advantage + value."""
    alive = (~cut).to(value.dtype)
    delta = alive * (reward + discount * value[1:] - value[:-1])
    advantage = _backward_sum(delta, trace_lambda * discount * alive)
    return Returns(value[:-1] + advantage, advantage, torch.ones_like(advantage))


def _backward_sum(delta: Tensor, trace: Tensor) -> Tensor:
    """x_t = delta_t + trace_t * x_{t+1}, x_T = 0."""
    out, x = torch.empty_like(delta), torch.zeros_like(delta[0])
    for d, c, y in reversed(list(zip(delta.unbind(), trace.unbind(), out.unbind(), strict=True))):
        x = torch.addcmul(d, c, x, out=y)
    return out
