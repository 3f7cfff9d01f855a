"""Loss terms: pure functions of (T, B) tensors and a mask that is true where row t is followed by a transition.

`policy` (T, B, A) are log-probabilities, `logits.log_softmax(-1)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the true entries of mask; 0 if there are none."""
    return torch.where(mask, x, 0).sum() / mask.sum().clamp(min=1)


def log_prob(policy: Tensor, action: Tensor) -> Tensor:
    """log pi(action); entries without an action (-1) are read as action 0 and must be masked out."""
    return policy.gather(-1, action.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def policy_gradient(log_pi: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-log pi * A; off-policy, `advantage` comes multiplied with its importance ratio."""
    return masked_mean(-log_pi * advantage, mask)


def ppo(log_pi: Tensor, log_mu: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7); `advantage` without an importance ratio.

    Algorithm 1 there takes advantages and value targets once a rollout. The learner makes them anew from the values of the
    moment for every minibatch of every pass, as a recurrent replay gives them anyway.
    """
    ratio = (log_pi - log_mu).exp()
    return masked_mean(-torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage), mask)


def value_error(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error."""
    return masked_mean(0.5 * (value - target).square(), mask)


def negative_entropy(policy: Tensor, mask: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """sum_a pi log pi. Its gradient vanishes where the policy is deterministic."""
    return masked_mean(weight * (policy.exp() * policy).sum(-1), mask)


def uniform_kl(policy: Tensor, mask: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """KL(uniform || pi) = -mean_a log pi - log A. Its gradient by the logits is pi - 1/A: largest, not nil, where the
    policy is deterministic, so no action's probability dies for good."""
    return masked_mean(weight * (-policy.mean(-1) - math.log(policy.shape[-1])), mask)


def _scramble(x: Tensor) -> Tensor:
    """Mixes the bits of int64, much as splitmix64 does (Steele et al. 2014; there with unsigned shifts)."""
    for factor, shift in ((-0x61C8864680B583EB, 30), (-0x40A7B892E31B1A47, 27), (-0x6B2FB644ECCEEE15, 31)):
        x = x * factor
        x = x ^ (x >> shift)
    return x


def rarity(obs: Tensor, first: Tensor, mask: Tensor) -> Tensor:
    """Weights (T, B) float64 of mean 1 over the true entries, under which every distinct observation of `obs` (T, B, ...)
    counts alike, however often it was seen; on an episode's first row it is another one. They are told apart by a 64-bit
    hash of their bits, without a host sync."""
    bits = _scramble(obs.flatten(2).contiguous().view(_INTEGERS[obs.element_size()]).long())
    factor = _scramble(torch.arange(1, bits.shape[-1] + 1, device=obs.device))
    hashed = (_scramble(first.long()) + (bits * factor).sum(-1)).flatten()
    ordered, order = hashed.sort()
    below = torch.cat((mask.new_zeros(1, dtype=torch.long), mask.flatten()[order].cumsum(0)))
    count = below[torch.searchsorted(ordered, hashed, right=True)] - below[torch.searchsorted(ordered, hashed)]
    weight = mask / count.clamp(min=1).view_as(mask).double()
    return weight * (mask.sum() / weight.sum().clamp(min=1))


def logit_energy(policy: Tensor, mask: Tensor) -> Tensor:
    """Mean squared centred logit, which is the centred log-probability."""
    return masked_mean((policy - policy.mean(-1, keepdim=True)).square().mean(-1), mask)


def normalise(advantage: Tensor, mask: Tensor, how: str, floor: float) -> Tensor:
    """ "none"; "std": (A - mean) / (std + 1e-8); "scale": A / max(root mean square, floor), signs and zero kept."""
    if how == "none":
        return advantage
    if how == "scale":
        return advantage / masked_mean(advantage.square(), mask).sqrt().clamp(min=floor)
    mean = masked_mean(advantage, mask)
    return (advantage - mean) / (masked_mean((advantage - mean).square(), mask).sqrt() + 1e-8)
