"""Training from recordings is training: the same bits, whatever is swapped in. On the CPU a tape stands in for CUDA graphs."""

import pytest
import torch
from tape import TapeRecorder

import build
from agents.graphs import Recorded
from configs.load import load_config
from envs import ENVS
from memory_cells import scan

SMALL = ["smoke", "train.num_envs=8", "train.unroll_length=6", "train.steps=100000", "cell.hidden_size=8",
         "agent.embedding_size=8", "agent.optimizer=rmsprop", "train.stagger_episodes=false"]  # fmt: skip


def trained(*tokens, recorder=None, iterations=Recorded.WARM_UP + 3, resume=None):
    """State and logs after some iterations. Adam reads its step count on the CPU, so RMSProp; and its rate is constant."""
    path = [] if any(token.startswith("cell.path") for token in tokens) else ["cell.path=eager"]  # seen by the tape
    config = load_config([*SMALL, *path, *tokens], build.KNOWN_CELLS)
    trainer = build.make_trainer(config, torch.device("cpu"))
    trainer.recorder = recorder
    trainer._record()
    if resume:
        trainer.load(resume)
    logs = [{k: v.clone() for k, v in trainer.iterate().items()} for _ in range(iterations)]
    return trainer.state(), logs


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("tokens", [
    [], ["agent=long"], ["agent=ppo", "agent.minibatches=4", "agent.reuse=2"],
    ["agent.actor_lag=2", "agent.normalise_reward=true"],
    ["agent.full_episode=true", "agent.normalise_reward=true"], ["agent.bptt_length=2", "agent.burn_in=2"],
    ["cell=g-lstm", "agent.budget_cost=0.1", "cell.sigma_start=0.1", "cell.sigma_end=2", "cell.sigma_until=0.001"],
    ["cell=hdetach-lstm", "cell.detach_until=0.002"], ["cell=zoneout-lstm"], ["cell=minlstm", "cell.path=scan"],
    ["cell=rmc", "cell.path=loop"], ["cell=indrnn"],
], ids=" ".join)  # fmt: skip
def test_a_recorded_run_has_the_same_bits(tokens, monkeypatch):
    monkeypatch.setattr(scan, "_rows", scan._doublings)  # the GPU's way, which looks at no value
    whole, logs = trained(*tokens)
    recorded, found = trained(*tokens, recorder=TapeRecorder())
    assert_same(whole, recorded)
    assert_same(logs, found)


@pytest.mark.parametrize("name", ENVS)
def test_every_environment_can_be_recorded(name):
    env = [f"env={name}", "agent=vtrace", "agent.head_size=null", "agent.minibatches=1", "cell=gru"]
    whole, _ = trained(*env)
    recorded, _ = trained(*env, recorder=TapeRecorder())
    assert_same(whole, recorded)


def test_a_resumed_run_is_recorded_anew():
    whole, _ = trained(recorder=TapeRecorder(), iterations=9)
    half, _ = trained(recorder=TapeRecorder(), iterations=4)
    assert_same(whole, trained(recorder=TapeRecorder(), iterations=5, resume=half)[0])


def test_an_input_of_another_shape_is_refused():
    double = Recorded(lambda x: 2 * x, TapeRecorder())
    for n in range(Recorded.WARM_UP + 2):
        assert torch.equal(double(torch.full((3,), n)), torch.full((3,), 2 * n))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(1,\)"):
        double(torch.zeros(1, dtype=torch.int64))


def test_the_tape_freezes_what_python_decides():
    calls = iter(range(100))
    counted = Recorded(lambda x: x + next(calls), TapeRecorder())
    found = [int(counted(torch.tensor(0))) for _ in range(Recorded.WARM_UP + 3)]
    assert found == [0, 1, 2, 3, 3, 3]
