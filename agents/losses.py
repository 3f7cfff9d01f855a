"""Loss terms: pure functions of (T, B) tensors and a mask that is true where row t is followed by a transition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the true entries of mask; 0 if there are none."""
    return torch.where(mask, x, 0).sum() / mask.sum().clamp(min=1)


def log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """log pi(action); entries without an action (-1) are read as action 0 and must be masked out."""
    return logits.log_softmax(-1).gather(-1, action.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def policy_gradient(log_pi: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-log pi * A; off-policy, `advantage` comes multiplied with its importance ratio."""
    return masked_mean(-log_pi * advantage, mask)


def ppo(log_pi: Tensor, log_mu: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7); `advantage` without an importance ratio."""
    ratio = (log_pi - log_mu).exp()
    return masked_mean(-torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage), mask)


def value_error(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error."""
    return masked_mean(0.5 * (value - target).square(), mask)


def negative_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """sum_a pi log pi. Its gradient vanishes where the policy is deterministic."""
    log_pi = logits.log_softmax(-1)
    return masked_mean((log_pi.exp() * log_pi).sum(-1), mask)


def uniform_kl(logits: Tensor, mask: Tensor) -> Tensor:
    """KL(uniform || pi) = -mean_a log pi - log A. Its gradient by the logits is pi - 1/A: largest, not nil, where the
    policy is deterministic, so no action's probability dies for good."""
    return masked_mean(-logits.log_softmax(-1).mean(-1) - math.log(logits.shape[-1]), mask)


def logit_energy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean squared centred logit."""
    return masked_mean((logits - logits.mean(-1, keepdim=True)).square().mean(-1), mask)


def normalise(advantage: Tensor, mask: Tensor, how: str, floor: float) -> Tensor:
    """ "none"; "std": (A - mean) / (std + 1e-8); "scale": A / max(root mean square, floor), signs and zero kept."""
    if how == "none":
        return advantage
    if how == "scale":
        return advantage / masked_mean(advantage.square(), mask).sqrt().clamp(min=floor)
    mean = masked_mean(advantage, mask)
    return (advantage - mean) / (masked_mean((advantage - mean).square(), mask).sqrt() + 1e-8)
