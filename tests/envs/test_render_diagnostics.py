"""Frames of the diagnostic tasks: what differs between them, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import envs

VARIANTS = [
    ("memory_chain", {}), ("memory_chain", {"num_bits": 32, "bsuite_quirk": True, "memory_length": 3}),
    ("umbrella_chain", {}), ("umbrella_chain", {"distractors": 50, "hidden": True}), ("umbrella_chain", {"chain_length": 50}),
    *[("discounting_chain", {"mapping_seed": seed}) for seed in (0, None)],
    ("repeat_previous", {"deck_size": 12, "k": 1}), ("repeat_previous", {"deck_size": 32, "k": 20}),
    ("repeat_first", {"deck_size": 8}), ("autoencode", {"deck_size": 16}), ("count_recall", {"deck_size": 8}),
    ("count_recall", {"deck_size": 26, "kind": "ranks"}), ("copy_delay", {}),
    ("copy_delay", {"length": 30, "symbols": 9, "delay": 2, "reversed": True}),
    *[("state_tracking", {"task": task, "length": 6}) for task in ("parity", "even_pairs", "mod5", "s5", "temporal_xor")],
    ("delayed_catch", {"runs": 3}), ("delayed_catch", {"runs": 60}), ("cartpole_pomdp", {"step_limit": 12}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_frames(name, kwargs):
    """On every row of an episode: well-formed, a function of the state, and not that of the row before."""
    env = envs.make(name, 2, **kwargs)
    generator = torch.Generator().manual_seed(0)
    env.reset()
    before = None
    while True:
        saved = env.state_dict()
        frames = env.render()
        assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[0] == 2 and frames.shape[3] == 3
        assert frames.shape[1] % 2 == 0 and frames.shape[2] % 2 == 0 and frames.std() > 5
        assert before is None or (frames[0] != before[0]).any()
        assert (env.render([1, 0]) == frames[::-1]).all() and env.render([1]).shape[0] == 1
        assert all(torch.equal(value, saved[key]) for key, value in env.state_dict().items())
        if env.ended.any() or env.state.t[0] > 24:
            return
        before = frames
        env.step(torch.randint(env.num_actions, (2,), generator=generator))


def share(frame, colour):
    """Of the pixels that are close to a colour."""
    return (np.abs(frame.astype(int) - np.array(colour)).sum(-1) < 12).mean()


GOOD, BAD = (0x17, 0xA6, 0x73), (0xE0, 0x52, 0x6B)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("memory_chain", {}), ("umbrella_chain", {}), ("copy_delay", {}), ("state_tracking", {"length": 5}),
     ("count_recall", {}), ("delayed_catch", {"runs": 2})],
)  # fmt: skip
def test_success_is_green_and_failure_red(name, kwargs):
    env = envs.make(name, 2, **kwargs)
    env.reset()
    while not env.ended.any():
        best = env.oracle(env.state)
        wrong = (best + 1) % env.num_actions
        if name == "delayed_catch":
            wrong = torch.where(env.state.fruit >= 3, 0, 2)  # to the far wall
        env.step(torch.stack((best[0], wrong[1])))
    assert env.success(env.state).tolist() == [True, False]
    good, bad = env.render()
    assert share(good, GOOD) > 0.001 > share(good, BAD)
    assert share(bad, BAD) > 0.001 > share(bad, GOOD)


def test_what_is_hidden_is_faint():
    """The umbrella's hidden form: the two weathers differ less once they are hidden."""
    env = envs.make("umbrella_chain", 2, hidden=True)
    env.reset()
    env.state.need.copy_(torch.tensor([True, False]))
    env.state.have.fill_(True)
    rain, sun = env.render().astype(int)
    shown = np.abs(rain - sun).sum()
    env.state.t.fill_(1)
    rain, sun = env.render().astype(int)
    assert 0 < np.abs(rain - sun).sum() < 0.7 * shown
