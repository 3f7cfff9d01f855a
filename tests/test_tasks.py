"""The synthetic tasks: layouts by hand, closed forms of the memoryless loss, real digits."""

import gzip
import itertools
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.claims.digits import Digits, permutation, read_idx
from benchmarks.claims.tasks import BLANK, DELIMITER, Adding, Copy, Denoise, Warp
from benchmarks.claims.training import task_loss

ROOT = Path(__file__).resolve().parents[1]
TASKS = [
    Copy(5), Copy(5, scalar=True), Copy(7, variable=True), Adding(20), Denoise(15), Warp(60, 5), Warp(60, 5, "uniform"),
    Warp(60, 5, padding=True), Warp(60, 5, "uniform", True),
]  # fmt: skip
IDS = [str(t) for t in TASKS]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(**options):
    pytest.importorskip("sklearn")
    return Digits(**options)



@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_shapes_weights_and_determinism(task):
    b = task.batch(generator(3), 8)
    T = b.x.shape[0]
    assert b.x.shape == (T, 8, task.inputs) and b.x.dtype == torch.float32
    assert b.target.shape == b.weight.shape == b.scored.shape == (T, 8)
    assert torch.allclose(b.weight.sum(0), torch.ones(8)) and (b.weight[b.scored] > 0).all()
    for again, part in zip(task.batch(generator(3), 8), b):
        assert torch.equal(again, part)
    assert not torch.equal(task.batch(generator(4), 8).x, b.x)
    assert torch.equal(task.held_out(8).x, task.held_out(8).x)


def test_copy_layout_by_hand():
    b = Copy(3).batch(generator(), 4)
    shown = b.x.argmax(-1)
    assert shown.shape[0] == 23
    assert (shown[:10] < 8).all() and (shown[10:12] == BLANK).all()  # T - 1 = 2 blanks
    assert (shown[12] == DELIMITER).all() and (shown[13:] == BLANK).all()
    assert (b.target[:13] == BLANK).all() and torch.equal(b.target[13:], shown[:10])
    assert not b.scored[:13].any() and b.scored[13:].all()
    assert torch.equal(Copy(3, scalar=True).batch(generator(), 4).x[..., 0], shown.float())


def test_variable_copy_asks_after_the_delimiter():
    b = Copy(6, variable=True).batch(generator(), 2000)
    shown = b.x.argmax(-1)
    when = (shown == DELIMITER).int().argmax(0)
    assert ((shown == DELIMITER).sum(0) == 1).all()
    lags, counts = (when - 9).unique(return_counts=True)
    assert lags.tolist() == [1, 2, 3, 4, 5, 6] and counts.min() > 250
    for k in range(50):
        assert torch.equal(b.target[when[k] + 1 : when[k] + 11, k], shown[:10, k])
        assert (b.target[: when[k] + 1, k] == BLANK).all() and (b.target[when[k] + 11 :, k] == BLANK).all()


def test_adding_has_a_marker_in_each_half_and_the_sum_at_the_end():
    b = Adding(11).batch(generator(), 4000)
    value, marker = b.x.unbind(-1)
    assert (marker[:5].sum(0) == 1).all() and (marker[5:].sum(0) == 1).all()
    assert torch.allclose((value * marker).sum(0), b.target[-1])
    share = marker.mean(1)
    assert torch.allclose(share[:5], torch.tensor(1 / 5), atol=0.03)
    assert torch.allclose(share[5:], torch.tensor(1 / 6), atol=0.03)
    assert (b.weight[:-1] == 0).all()


def test_denoise_positions_are_distinct_sorted_and_uniform():
    b = Denoise(15).batch(generator(), 4000)
    shown = b.x.argmax(-1)
    assert shown.shape[0] == 26 and (shown[15] == DELIMITER).all() and (shown[16:] == BLANK).all()
    assert ((shown[:15] < 8).sum(0) == 10).all()
    assert torch.equal(shown[:15].t()[(shown[:15] < 8).t()].view(-1, 10), b.target[-10:].t())
    assert torch.allclose((shown[:15] < 8).float().mean(1), torch.tensor(10 / 15), atol=0.04)
    with pytest.raises(ValueError, match="at least 10"):
        Denoise(9)


@pytest.mark.parametrize("kind", ["variable", "uniform"])
def test_warp_repeats_and_answers_the_character_before(kind):
    plain, padded = (Warp(40, 4, kind, p).batch(generator(), 300) for p in (False, True))
    lengths = []
    for k in range(300):
        shown = plain.x[:, k].argmax(-1).tolist()
        blocks = [[shown[0], 0]]
        for symbol in shown:
            if symbol != blocks[-1][0]:
                blocks.append([symbol, 0])
            blocks[-1][1] += 1
        assert all(1 <= s <= 9 for s, _ in blocks)
        lengths += [n for _, n in blocks[:-1]]
        row = blocks[0][1]
        assert (plain.weight[:row, k] == 0).all()
        for (before, _), (symbol, n) in itertools.pairwise(blocks):
            assert plain.target[row : row + n, k].tolist() == [before] * n
            assert padded.x[row : row + n, k].argmax(-1).tolist() == [symbol] + [0] * (n - 1)
            assert padded.weight[row, k] > 0 and (padded.weight[row + 1 : row + n, k] == 0).all()
            row += n
    found = np.bincount(lengths, minlength=5)[1:] / len(lengths)
    assert np.allclose(found, [0.25] * 4, atol=0.05) if kind == "variable" else found.tolist() == [0, 0, 0, 1]


def memoryless_output(task, b):
    """What the best predictor without the data says: logits (T, B, outputs), or the mean."""
    out = torch.zeros(*b.target.shape, task.outputs)
    if isinstance(task, Adding):
        return out + 1.0
    if isinstance(task, Copy):
        out[..., BLANK] = torch.where(b.scored, -1e9, 1e9)
    if isinstance(task, Warp):  # anything but the dummy and the present character; under padding no row shows another
        out = torch.where(b.x > 0, -1e9, 0.0)
        out[..., 0] = -1e9
    return out


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_the_memoryless_loss_is_that_of_the_best_memoryless_predictor(task):
    b = task.batch(generator(1), 6000)
    out = memoryless_output(task, b)
    assert float(task_loss(task, out, b)) == pytest.approx(task.memoryless, rel=0.03)
    if task.chance is not None:
        guess = (out + 1e-3 * torch.rand(out.shape, generator=generator(2))).argmax(-1)
        assert float((guess == b.target)[b.scored].float().mean()) == pytest.approx(task.chance, abs=0.01)
        worse = task_loss(task, out + 0.5 * torch.randn(task.outputs, generator=generator(5)), b)
        assert float(worse) > task.memoryless


def test_closed_forms():
    assert Copy(200).memoryless == pytest.approx(0.0945, abs=5e-5)
    assert Copy(2000).memoryless == pytest.approx(0.0103, abs=5e-5)
    assert Denoise(100).memoryless == pytest.approx(2.079, abs=1e-3)


def test_digits_are_the_images_in_order_permuted_and_with_blanks():
    plain, mixed, rows = digits(), digits(permuted=True), digits(per_row=8, blanks=5, marked=True)
    a, b, c = (task.held_out(20) for task in (plain, mixed, rows))
    assert a.x.shape == b.x.shape == (64, 20, 1) and c.x.shape == (13, 20, 9)
    assert torch.equal(a.x[permutation(64)], b.x) and not torch.equal(a.x, b.x)
    assert torch.equal(mixed.order, digits(permuted=True).order) and mixed.order.sort().values.tolist() == list(
        range(64)
    )
    assert torch.equal(c.x[:8, :, :8].transpose(0, 1).reshape(20, 64).t(), a.x[..., 0])
    assert (c.x[8:] == 0).all() and (c.x[:8, :, 8] == 1).all()
    assert torch.equal(a.target[-1], c.target[-1]) and set(a.target[-1].tolist()) <= set(range(10))
    assert len(plain.images) == 1437 and len(plain.test_images) == 360 and float(plain.images.max()) == 1.0
    frequency = plain.test_labels.bincount() / 360
    full = plain.held_out(360)
    assert float(task_loss(plain, frequency.log().expand(64, 360, 10), full)) == pytest.approx(
        plain.memoryless, rel=1e-5
    )
    assert plain.memoryless == pytest.approx(math.log(10)) and plain.chance == pytest.approx(0.1)


def test_mnist_from_a_folder(tmp_path):
    def idx(name, array, pack=lambda data: data, suffix=""):
        head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / (name + suffix)).write_bytes(pack(head + array.astype(np.uint8).tobytes()))

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 28, 28)), np.arange(12) % 10
    idx("train-images-idx3-ubyte", images, gzip.compress, ".gz")
    idx("train-labels-idx1-ubyte", labels)
    idx("t10k-images-idx3-ubyte", images[:10])
    idx("t10k-labels-idx1-ubyte", labels[:10])
    task = Digits(folder=str(tmp_path))
    b = task.held_out(10)
    assert b.x.shape == (784, 10, 1) and b.target[-1].tolist() == list(range(10))
    assert torch.allclose(b.x[:, 3, 0], torch.tensor(images[3].ravel() / 255, dtype=torch.float32))
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_idx(tmp_path, "nothing")
    (tmp_path / "short").write_bytes(struct.pack(">HBBI", 0, 8, 1, 9))
    with pytest.raises(ValueError, match="promises"):
        read_idx(tmp_path, "short")
