"""Running statistics of training, as tensors that a checkpoint can hold, changed in place."""

from __future__ import annotations

import torch
from torch import Tensor


class EpisodeTracker:
    """Returns, lengths, successes and truncations of the episodes that end, summed until they are read. What ends an episode
    of which the tracker has not seen the start (`partial`) counts for nothing."""

    def __init__(self, num_envs: int, device: torch.device):
        self.running = torch.zeros(2, num_envs, device=device, dtype=torch.float64)  # return, length so far
        self.partial = torch.zeros(num_envs, device=device, dtype=torch.bool)
        self.sums = torch.zeros(5, device=device, dtype=torch.float64)  # episodes, return, length, success, truncated

    def add(self, reward: Tensor, discount: Tensor, valid: Tensor, ended: Tensor, success: Tensor) -> None:
        """One rollout, each (T, B): reward and discount of transition t, whether it is one, whether it ends the episode, and
        how. An end with a discount is a truncation."""
        ended = ended & valid
        whole = ended & ~(self.partial & (ended.cumsum(0) == 1))  # the first end is a partial episode's
        self.partial &= ~ended.any(0)
        steps = torch.stack([torch.where(valid, reward, 0).to(torch.float64), valid.to(torch.float64)])
        finished = torch.zeros(2, device=self.sums.device, dtype=torch.float64)
        for t in range(reward.shape[0]):
            self.running += steps[:, t]
            finished += (self.running * whole[t]).sum(-1)
            self.running *= ~ended[t]
        how = torch.stack([(success & whole).sum(), (whole & (discount != 0)).sum()])
        self.sums += torch.cat([whole.sum().view(1), finished, how])

    def read(self) -> dict[str, float | int | None]:
        """Means over the episodes since the last call; None where none ended."""
        episodes, *sums = self.sums.tolist()
        self.sums.zero_()
        mean = (lambda x: x / episodes) if episodes else (lambda x: None)
        return {"episodes": int(episodes)} | dict(zip(("return", "length", "success", "truncated"), map(mean, sums)))

    def state_dict(self) -> dict[str, Tensor]:
        return {"running": self.running, "sums": self.sums, "partial": self.partial}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        self.running.copy_(saved["running"])
        self.partial.copy_(saved["partial"])
        self.sums.copy_(saved["sums"])


class RewardScale:
    """Divides rewards by the root mean square of the discounted return so far (running, over all environments)."""

    def __init__(self, num_envs: int, gamma: float, device: torch.device):
        self.gamma = gamma
        self.discounted = torch.zeros(num_envs, device=device)
        self.moments = torch.tensor([1e-4, 1e-4], device=device, dtype=torch.float64)  # count, sum of squares

    def __call__(self, reward: Tensor, discount: Tensor, valid: Tensor) -> Tensor:
        """reward, discount (without gamma), valid: (T, B). Returns scaled rewards, (T, B)."""
        for t in range(reward.shape[0]):
            now = self.gamma * self.discounted + reward[t]
            square = torch.where(valid[t], now, 0).to(torch.float64).square().sum()
            self.moments += torch.stack([valid[t].sum().to(torch.float64), square])
            self.discounted.copy_(torch.where(valid[t], now * discount[t], 0))
        return reward / (self.moments[1] / self.moments[0]).sqrt().clamp(min=1e-4).to(reward.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        return {"discounted": self.discounted, "moments": self.moments}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        self.discounted.copy_(saved["discounted"])
        self.moments.copy_(saved["moments"])
