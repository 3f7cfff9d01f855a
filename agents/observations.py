"""What an auxiliary decoder reads of an observation, and how far its guess of one is off, by `Env.obs_kind`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Numbers:
    """Vectors, and pixels with `scale` 255: read as they are over `scale`, guessed with squared error."""

    def __init__(self, obs_shape: Sequence[int], scale: float = 1.0):
        self.size, self.scale = torch.Size(obs_shape).numel(), scale

    def read(self, obs: Tensor) -> Tensor:
        """(T, B, *obs_shape) -> (T, B, size)."""
        return obs.flatten(2).float() / self.scale

    def error(self, guess: Tensor, obs: Tensor) -> Tensor:
        """guess (T, B, size) and the true observations -> (T, B), the mean over the entries."""
        return (guess - self.read(obs)).square().mean(-1)


class Codes:
    """Symbols (T, B, ..., C): each code is read as a one-hot vector of its channel, guessed with cross-entropy.

    `values`: how many codes each of the C channels has.
    """

    def __init__(self, obs_shape: Sequence[int], values: Sequence[int]):
        self.values = tuple(values)
        self.cells = torch.Size(obs_shape).numel() // len(self.values)
        self.size = self.cells * sum(self.values)

    def _channels(self, obs: Tensor) -> tuple[Tensor, ...]:
        """C times (T, B, cells) int64."""
        return obs.flatten(2).view(*obs.shape[:2], self.cells, -1).to(torch.int64).unbind(-1)

    def read(self, obs: Tensor) -> Tensor:
        """(T, B, *obs_shape) -> (T, B, size)."""
        hot = [c.unsqueeze(-1) == torch.arange(n, device=obs.device) for c, n in zip(self._channels(obs), self.values)]
        return torch.cat(hot, -1).float().flatten(2)

    def error(self, guess: Tensor, obs: Tensor) -> Tensor:
        """guess (T, B, size), logits, and the true observations -> (T, B), the mean over cells and channels."""
        logits = guess.view(*guess.shape[:2], self.cells, -1).split(self.values, -1)
        found = [F.cross_entropy(a.flatten(0, 2), c.flatten(), reduction="none").view(c.shape).mean(-1)
                 for a, c in zip(logits, self._channels(obs), strict=True)]  # fmt: skip
        return torch.stack(found).mean(0)


def make_target(kind: str, obs_shape: Sequence[int], values: Sequence[int] | None) -> Numbers | Codes:
    """For observations of `kind` ("vector", "symbols", "pixels"). Raises ValueError for an unknown kind."""
    if kind == "symbols":
        return Codes(obs_shape, values)
    if kind not in ("vector", "pixels"):
        raise ValueError(f"unknown kind of observation {kind!r}; known: vector, symbols, pixels")
    return Numbers(obs_shape, 255.0 if kind == "pixels" else 1.0)
