"""Images as sequences: scikit-learn's 8x8 digits, or MNIST from a local folder."""

from __future__ import annotations

import functools
import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from benchmarks.claims.tasks import Batch, Task

HELD_OUT = 36  # of every class, of scikit-learn's 1,797 digits


@dataclass
class Digits(Task):
    """Real images read `per_row` pixels a row, the class asked for on the last row.

    per_row: 1 is pixel by pixel (64 rows), 8 row by row. permuted: one fixed permutation of the pixels, the same for every
    image and every seed. blanks: rows of zeros behind the image; with `marked`, a further channel is 1 on the image's rows,
    which lets a blank be told from a black pixel. folder: one with MNIST's four idx files (gzipped or not) in place of
    scikit-learn's digits. The held-out images are the same for every seed.

    Memoryless loss: the entropy of the classes' frequencies in the held-out set, of a predictor that knows them; chance: the
    largest of these. They are ln 10 and 1/10 for scikit-learn's digits, where every class is held out equally often.
    """

    per_row: int = 1
    permuted: bool = False
    blanks: int = 0
    marked: bool = False
    folder: str | None = None
    outputs = 10

    def __post_init__(self):
        self.images, self.labels, self.test_images, self.test_labels = load(self.folder)
        pixels = self.images.shape[1]
        if pixels % self.per_row:
            raise ValueError(f"per_row must divide the {pixels} pixels, got {self.per_row}")
        self.inputs = self.per_row + self.marked
        frequency = torch.bincount(self.test_labels, minlength=10).double() / len(self.test_labels)
        self.memoryless = float(-(frequency * frequency.clamp(min=1e-12).log()).sum())
        self.chance = float(frequency.max())
        self.order = permutation(pixels) if self.permuted else torch.arange(pixels)

    def batch(self, generator: Generator, size: int) -> Batch:
        index = torch.randint(len(self.images), (size,), generator=generator)
        return self._sequences(self.images[index], self.labels[index])

    def held_out(self, size: int) -> Batch:
        """The first `size` held-out images (all of scikit-learn's 360 if there are fewer)."""
        return self._sequences(self.test_images[:size], self.test_labels[:size])

    def _sequences(self, images: Tensor, labels: Tensor) -> Batch:
        B = len(images)
        x = images[:, self.order].view(B, -1, self.per_row).transpose(0, 1)
        if self.marked:
            x = torch.cat([x, torch.ones(*x.shape[:2], 1)], -1)
        x = torch.cat([x, torch.zeros(self.blanks, B, self.inputs)])
        target = torch.zeros(x.shape[:2], dtype=torch.int64)
        weight = torch.zeros(x.shape[:2])
        target[-1], weight[-1] = labels, 1.0
        return Batch(x.contiguous(), target, weight, weight > 0)


def permutation(pixels: int) -> Tensor:
    """The one permutation, (pixels,)."""
    return torch.randperm(pixels, generator=Generator().manual_seed(92))


@functools.cache
def load(folder: str | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (N, pixels) in [0, 1], their labels (N,), and the same held out."""
    if folder is not None:
        found = [read_idx(Path(folder), f"{part}-{kind}") for part in ("train", "t10k")
                 for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]  # fmt: skip
        return tuple(a.flatten(1).float() / 255 if a.dim() == 3 else a.long() for a in found)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RuntimeError("the 8x8 digits come with scikit-learn: pip install scikit-learn") from None
    data, label = load_digits(return_X_y=True)
    order = torch.randperm(len(data), generator=Generator().manual_seed(0))  # neighbours are by the same writer
    images, labels = torch.tensor(data, dtype=torch.float32)[order] / 16, torch.tensor(label)[order]
    classes = [(labels == k).nonzero().flatten() for k in range(10)]
    held_out = torch.stack([index[:HELD_OUT] for index in classes], 1).flatten()  # classes in turn, all equally often
    rest = torch.cat([index[HELD_OUT:] for index in classes])
    return images[rest], labels[rest], images[held_out], labels[held_out]


def read_idx(folder: Path, name: str) -> Tensor:
    """An array of bytes in LeCun's idx format, `folder/name` or `folder/name.gz`. Raises ValueError, FileNotFoundError."""
    for path in (folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")):
        if path.exists():
            break
    else:
        raise FileNotFoundError(f"no {name}[.gz] in {folder}")
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    zero, kind, dims = struct.unpack_from(">HBB", data)
    if zero != 0 or kind != 8:
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{dims}I", data, 4)
    if len(data) != 4 + 4 * dims + math.prod(shape):
        raise ValueError(f"{path} holds {len(data)} bytes, its header promises {4 + 4 * dims + math.prod(shape)}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * dims).copy()).view(shape)
