"""Observation -> embedding: one encoder for each kind of observation that an environment declares (`Env.obs_kind`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def hidden(inputs: int, units: int) -> nn.Linear:
    """A linear layer before a ReLU: orthogonal weights times sqrt(2), biases 0, so that it keeps the size of its input."""
    layer = nn.Linear(inputs, units)
    nn.init.orthogonal_(layer.weight, 2**0.5)
    nn.init.zeros_(layer.bias)
    return layer


class VectorEncoder(nn.Module):
    """(..., *obs_shape) numbers and (..., extra) -> (..., size): one linear layer and a ReLU."""

    def __init__(self, obs_shape: Sequence[int], extra: int, size: int):
        super().__init__()
        self.dims = len(obs_shape)
        self.layers = nn.Sequential(nn.Linear(torch.Size(obs_shape).numel() + extra, size), nn.ReLU())

    def forward(self, obs: Tensor, extra: Tensor) -> Tensor:
        x = obs.flatten(obs.dim() - self.dims).to(self.layers[0].weight.dtype)
        return self.layers(torch.cat([x, extra], -1) if extra.shape[-1] else x)


class SymbolEncoder(nn.Module):
    """Symbolic grids (..., h, w, C) of codes: an embedding of every channel's code, summed per cell, then one layer.

    `values`: how many codes each channel has. Computed as one product of the codes, one-hot, with the layer's weight times
    the embeddings: the gradient of an embedding look-up is slow.
    """

    def __init__(self, obs_shape: Sequence[int], values: Sequence[int], extra: int, size: int, width: int = 8):
        super().__init__()
        self.dims, self.cells = len(obs_shape), torch.Size(obs_shape).numel() // len(values)
        offset = torch.tensor([sum(values[:c]) for c in range(len(values))])
        place = offset + sum(values) * torch.arange(self.cells).unsqueeze(1)  # of code 0 in the one-hot row
        self.register_buffer("place", place.flatten(), persistent=False)
        self.codes = nn.Parameter(torch.randn(sum(values), width))
        self.layers = nn.Sequential(hidden(self.cells * width + extra, size), nn.ReLU())

    def forward(self, obs: Tensor, extra: Tensor) -> Tensor:
        linear, relu = self.layers
        of_cells, of_extra = linear.weight.split([linear.in_features - extra.shape[-1], extra.shape[-1]], 1)
        table = (of_cells.unflatten(1, (self.cells, -1)) @ self.codes.t()).flatten(1)
        x = table.new_zeros(*extra.shape[:-1], table.shape[1] + extra.shape[-1])
        x[..., table.shape[1] :] = extra
        x.scatter_(-1, obs.flatten(-self.dims).to(torch.int64) + self.place, 1.0)  # one-hot
        return relu(nn.functional.linear(x, torch.cat([table, of_extra], 1), linear.bias))


class PixelEncoder(nn.Module):
    """Pictures (..., h, w, 3) uint8: two 3x3 convolutions (16 and 32 channels, stride 2 where a side exceeds 16), then one
    layer."""

    def __init__(self, obs_shape: Sequence[int], extra: int, size: int):
        super().__init__()
        height, width, channels = obs_shape
        stride = 2 if max(height, width) > 16 else 1
        self.convolve = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride, 1), nn.ReLU(), nn.Flatten()
        )
        with torch.no_grad():
            flat = self.convolve(torch.zeros(1, channels, height, width)).shape[-1]
        self.layers = nn.Sequential(nn.Linear(flat + extra, size), nn.ReLU())

    def forward(self, obs: Tensor, extra: Tensor) -> Tensor:
        lead = obs.shape[:-3]
        pixels = obs.reshape(-1, *obs.shape[-3:]).movedim(-1, 1).to(self.layers[0].weight.dtype) / 255
        x = self.convolve(pixels).view(*lead, -1)
        return self.layers(torch.cat([x, extra], -1) if extra.shape[-1] else x)


def make_encoder(kind: str, obs_shape: Sequence[int], values: Sequence[int] | None, extra: int, size: int) -> nn.Module:
    """The encoder for observations of `kind` ("vector", "symbols", "pixels") beside `extra` further numbers.

    Raises ValueError for an unknown kind.
    """
    if kind == "vector":
        return VectorEncoder(obs_shape, extra, size)
    if kind == "symbols":
        return SymbolEncoder(obs_shape, values, extra, size)
    if kind == "pixels":
        return PixelEncoder(obs_shape, extra, size)
    raise ValueError(f"unknown kind of observation {kind!r}; known: vector, symbols, pixels")
