"""The axes multiplied out: any combination of gate, initialisation, squash, topology and wrappers either obeys the first law
(fast paths equal the loop, in outputs and gradients) or is refused with a reason."""

import itertools

import pytest
import torch

from memory_cells import unroll
from memory_cells.variants import CELLS, GATES, INITS, SQUASHES, WRAPPERS

T, B, I, H = 5, 3, 3, 4
AXES = {
    "cell": ["lstm", "gru", "gated-rnn"],
    "gate": [g for g in GATES if g],
    "init": [i for i in INITS if i],
    "squash": list(SQUASHES),
    "wrappers": [(), *((w,) for w in WRAPPERS), ("hdetach", "zoneout"), ("hdetach", "zoneout", "gaussian")],
}
PRODUCT = list(itertools.product(*AXES.values()))


def pairs(combination):
    return set(itertools.combinations(enumerate(combination), 2))


def cover():
    """Combinations in which every pair of values of two axes occurs, chosen greedily."""
    missing, chosen = set().union(*map(pairs, PRODUCT)), []
    while missing:
        # the best of a sample: the best of all takes minutes
        best = max(PRODUCT[len(chosen) % 37 :: 37], key=lambda c: len(pairs(c) & missing))
        best = best if pairs(best) & missing else max(PRODUCT, key=lambda c: len(pairs(c) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def make(cell, gate, init, squash, wrappers):
    torch.manual_seed(0)
    start = INITS[init](30.0)
    squasher = SQUASHES[squash](H, start)
    core = CELLS[cell](
        I, H, GATES[gate](squasher), start, **({"squash": squasher} if squash and cell != "gated-rnn" else {})
    )
    for wrapper in wrappers:
        core = WRAPPERS[wrapper](core, 30.0)
    return core.double()


def check(combination, paths):
    try:
        core = make(*combination)
    except ValueError as refused:
        assert len(str(refused)) > 20
        return False
    x, first = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True), torch.rand(T, B) < 0.2
    state, noise, found = tuple(s + 0.5 for s in core.initial_state(B)), core.draw(T, B), []
    for path in ("loop", *paths):
        y, new = unroll(core, x, first, state, path=path, noise=noise)
        loss = y.square().sum() + sum(s.sum() for s in new)
        found.append([y, *new, *torch.autograd.grad(loss, [x, *core.parameters()])])
    assert all(v.isfinite().all() for v in found[0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-10)
    return True


def test_every_pair_of_parts():
    chosen = cover()
    assert set().union(*map(pairs, PRODUCT)) <= set().union(*map(pairs, chosen))
    fits = [c for c in chosen if check(c, ("eager",))]
    assert len(fits) > len(chosen) / 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cell", AXES["cell"])
def test_every_combination(cell):
    mine = [c for c in PRODUCT if c[0] == cell]
    assert sum(check(c, ("fused",)) for c in mine) > len(mine) / 6
