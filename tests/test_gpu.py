"""What only a CUDA device can show. `make test-gpu`."""

import json

import pytest
import torch

import build
import train_agent
from agents import checkpoint
from agents.graphs import CudaRecorder, Recorded
from agents.rollout import collect
from agents.runlog import read_metrics
from configs.load import load_config
from memory_cells import VARIANTS, make_core, unroll

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SMALL = ["smoke", "device=cuda", "train.num_envs=32", "train.steps=20000"]


def trainer_of(*tokens):
    config = load_config([*SMALL, *tokens], build.KNOWN_CELLS)
    return build.make_trainer(config, build.set_up_torch(config))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_sequence_function_equals_the_loop(name):
    torch.manual_seed(0)
    core = make_core(name, 8, 16, horizon=20).double().cuda()
    x = torch.randn(12, 6, 8, dtype=torch.float64, device="cuda", requires_grad=True)
    first = torch.rand(12, 6, device="cuda") < 0.2
    found = []
    for path in ("loop", "auto"):
        y, _ = unroll(core, x, first, core.initial_state(6), path=path, noise=())
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *core.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_no_host_sync_inside_a_rollout():
    trainer = trainer_of()
    torch.cuda.set_sync_debug_mode("error")
    try:
        collect(trainer.env, trainer.learner.actor, trainer.carry, 16, trainer.generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def bits(trainer):
    return {name: x.clone() for name, x in trainer.learner.agent.state_dict().items()}


@pytest.mark.parametrize("tokens", [
    [], ["agent=ppo", "agent.minibatches=4"], ["agent.actor_lag=2"], ["cell=hdetach-lstm"], ["cell=minlstm"],
    ["env=minigrid_memory", "agent.head_size=16"],
], ids=" ".join)  # fmt: skip
def test_recorded_as_cuda_graphs_training_has_the_same_bits(tokens):
    """Rollout, gradient and optimiser step are one graph each, with registered generators."""
    whole, recorded = trainer_of(*tokens), trainer_of(*tokens, "train.cuda_graphs=true")
    for _ in range(Recorded.WARM_UP + 3):
        a, b = whole.iterate(), recorded.iterate()
    assert recorded._roll.replay is not None and recorded.learner._descend.replay is not None
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(bits(whole), bits(recorded), rtol=0, atol=0)
    assert torch.equal(whole.carry.row.obs, recorded.carry.row.obs)


def test_a_whole_update_can_be_one_graph():
    trainer = trainer_of("deterministic=false")
    learner, (rollout, valid, _) = trainer.learner, trainer.roll(trainer.carry)
    learner.schedule(1e-3, 0.01, 0.0)

    def update():
        norm, log = learner.gradients(rollout, valid)
        learner.descend(norm)
        return log["loss"]

    recorder = CudaRecorder(trainer.env.device)
    for _ in range(3):
        recorder.warm_up(update)
    loss, replay = recorder.record(update, ())
    before = bits(trainer)
    replay()
    assert torch.isfinite(loss)
    assert any(not torch.equal(x, before[name]) for name, x in bits(trainer).items())


def test_resume_is_exact_and_checkpoints_move(tmp_path):
    tokens = [*SMALL, "train.steps=4000", "train.checkpoint_every=2", "train.evaluate_every=0"]
    assert train_agent.main([*tokens, f"run_dir={tmp_path / 'whole'}"]) == 0
    trainer = trainer_of()
    del trainer
    config = load_config([*tokens, f"run_dir={tmp_path / 'cut'}"], build.KNOWN_CELLS)
    run = build.make_trainer(config, build.set_up_torch(config))
    for _ in range(3):
        run.iterate()
    saved = run.state()
    again = build.make_trainer(config, build.set_up_torch(config))
    again.load(saved)
    while not again.done:
        again.iterate()
    tensors, meta, _ = checkpoint.load(tmp_path / "whole")
    whole = checkpoint.unflatten(tensors, meta["trainer"])
    for key, value in again.learner.agent.state_dict().items():
        assert torch.equal(value.cpu(), whole["agent"][key])
    assert train_agent.main(["--resume", str(tmp_path / "whole"), "device=cpu"]) == 0
    assert read_metrics(tmp_path / "whole" / "metrics.jsonl")


@pytest.mark.slow
def test_the_default_trains_to_the_same_mark(tmp_path):
    assert train_agent.main(["device=cuda", "deterministic=false", f"run_dir={tmp_path / 'run'}"]) == 0
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["greedy"]["success_rate"] >= 0.95
