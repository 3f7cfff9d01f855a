"""Everything on a device that is not the CPU: the same bits, no tensor in the wrong place, no value read where none may be."""

import filecmp
import json
from collections import Counter

import pytest
import torch
from pretended import DEVICE, host, pretended

import build
import evaluate_agent
import record_video
import train_agent
from agents import checkpoint
from configs.load import load_config
from envs import ENVS
from memory_cells import VARIANTS, make_core, scan, unroll
from memory_cells.unroll import path_class

# torch warns that loading into "meta" does nothing; here it copies
pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
SMALL = ["smoke", "train.num_envs=8", "train.unroll_length=5", "cell.hidden_size=8", "agent.embedding_size=8",
         "agent.reuse=1", "evaluate.episodes=12"]  # fmt: skip
CPU = torch.device("cpu")


# --- the pretence itself ---------------------------------------------------------------------------------------------


def test_host_and_device_do_not_mix():
    with pretended() as reads:
        x = torch.arange(3.0, device=DEVICE)
        assert (2 * x + torch.tensor(1.0)).device == DEVICE
        for mistake in (lambda: x + torch.ones(3), lambda: x.where(torch.ones(3) > 0, x), lambda: torch.ones(3)[x.long()]):
            with pytest.raises(RuntimeError, match=r"tensors of the host, of shape \[\(3,\)\]"):
                mistake()
        with pytest.raises((RuntimeError, TypeError)):
            x.numpy()
        assert not reads


def test_what_reads_a_value_is_written_down():
    with pretended() as reads:
        x = torch.tensor([1.0, 2.0, 0.0], device=DEVICE)
        assert x.sum().item() == 3 and x.tolist() == [1, 2, 0] and x.cpu().tolist() == [1, 2, 0] and bool(x[1] > 1)
        x[x > 1] = 5
        assert (x.nonzero().shape, host(x, DEVICE).tolist()) == ((2, 1), [1, 5, 0])
    here = "test_what_reads_a_value_is_written_down"
    kinds = ("_local_scalar_dense", "tolist", "_to_copy", "_local_scalar_dense", "nonzero")
    assert reads == [f"{kind} in {here}" for kind in kinds]


def test_a_layer_learns_on_it():
    found = []
    for device in (CPU, DEVICE):
        torch.manual_seed(0)
        with pretended():
            layer = torch.nn.Linear(3, 2).to(device)
            optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
            layer(torch.ones(4, 3, device=device)).square().sum().backward()
            optimizer.step()
            found.append([host(layer.weight, device), host(layer.weight.grad, device)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


# --- what is ours ----------------------------------------------------------------------------------------------------


def trained(device, *tokens):
    """The agent's and the environment's tensors after some updates, the last log, and what read values of the device."""
    config = load_config([*SMALL, "train.steps=100000", *tokens], build.KNOWN_CELLS)
    with pretended() as reads:
        trainer = build.make_trainer(config, device)
        reads.clear()
        for _ in range(2):
            log = trainer.iterate()
        seen = Counter(reads)
        state = {**trainer.learner.agent.state_dict(), **log, "obs": trainer.carry.row.obs}
        return {name: host(x, device) for name, x in state.items()}, seen, trainer


def assert_same_training(*tokens, tolerance=0.0):
    tokens = tokens if any(t.startswith("cell.path") for t in tokens) else (*tokens, "cell.path=eager")
    wanted, _, _ = trained(CPU, *tokens)
    found, reads, trainer = trained(DEVICE, *tokens)
    for name, x in wanted.items():
        torch.testing.assert_close(found[name], x, rtol=tolerance, atol=tolerance)
    steps = trainer.update * trainer.learner.settings.reuse * trainer.learner.settings.minibatches
    # one number before each optimiser step, whether it is finite, and one an iteration, the steps that count
    allowed = {"_local_scalar_dense in Learner._step": steps, "_local_scalar_dense in Trainer.iterate": trainer.update}
    assert all(count <= allowed.get(where, 0) for where, count in reads.items()), reads


@pytest.mark.parametrize("tokens", [
    ["agent=a2c"], ["agent=impala"], ["agent=long"],
    ["agent=ppo", "agent.minibatches=2"],
    ["agent.actor_lag=2", "agent.normalise_reward=true", "agent.normalise_advantage=std"],
    ["agent.full_episode=true", "agent.normalise_reward=true"], ["agent.bptt_length=2", "agent.burn_in=2"],
    ["agent.optimizer=rmsprop", "agent.head_size=8"], ["cell=g-lstm", "agent.budget_cost=0.1"],
    ["cell=hdetach-lstm"], ["cell=zoneout-lstm", "cell.layers=2"], ["cell=rmc", "cell.path=loop"], ["cell=indrnn"],
], ids=" ".join)  # fmt: skip
def test_training(tokens):
    assert_same_training(*tokens)


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
def test_training_with_an_auxiliary_loss(kind):
    # the decoder takes no `cell.path`: on the CPU it runs in a kernel
    assert_same_training(f"aux={kind}", "aux.segment=3", tolerance=1e-5)


@pytest.mark.parametrize("name", ENVS)
def test_every_environment(name):
    config = load_config([*SMALL, f"env={name}"], build.KNOWN_CELLS)
    rows = {}
    for device in (CPU, DEVICE):
        with pretended() as reads:
            env = build.make_env(config, 5, device, seed=3)
            found = [[host(x, device).clone() for x in env.reset()]]
            reads.clear()
            for t in range(12):
                row = env.step((torch.arange(5) + t).remainder(env.num_actions).to(device))
                found.append([host(x, device).clone() for x in row])
            assert not reads
        rows[device] = found
    for a, b in zip(rows[CPU], rows[DEVICE], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_cell(name, monkeypatch):
    monkeypatch.setattr(scan, "_rows", scan._doublings)  # the way of a device, on the CPU as well
    torch.manual_seed(0)
    core, x, first = make_core(name, 5, 8, horizon=20), torch.randn(6, 3, 5), torch.rand(6, 3) < 0.2
    with torch.no_grad():
        noise = core.draw(6, 3)
    path = {"fused": "eager"}.get(path_class(core), path_class(core)) if not hasattr(core, "layers") else "loop"
    found = []
    for device in (CPU, DEVICE):
        with pretended() as reads:
            moved = core.to(device)
            leaf = x.to(device).requires_grad_()
            y, state = unroll(moved, leaf, first.to(device), moved.initial_state(3), path=path,
                              noise=tuple(n.to(device) for n in noise))  # fmt: skip
            loss = y.square().sum() + sum(s.square().sum() for s in state)
            gradients = torch.autograd.grad(loss, [leaf, *moved.parameters()], materialize_grads=True)
            found.append([host(x, device) for x in (y, *state, *gradients)])
            assert not reads
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def on(monkeypatch):
    """Runs a script on a device, whatever its config says."""
    real = build.set_up_torch

    def script(device, main, *argv):
        monkeypatch.setattr(build, "set_up_torch", lambda config: (real(config), device)[1])
        with pretended():
            assert main([str(token) for token in argv]) == 0

    return script


def rows(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def test_from_training_to_the_film(tmp_path, on, capsys):
    tokens = [*SMALL, "device=cpu", "cell.path=eager", "train.steps=400", "train.checkpoint_every=2",
              "train.evaluate_every=4", "train.diagnose_every=3"]  # fmt: skip
    reports = {}
    for name, device in (("host", CPU), ("device", DEVICE)):
        run_dir, film = tmp_path / name, tmp_path / f"{name}.gif"
        on(device, train_agent.main, *tokens, f"run_dir={run_dir}")
        capsys.readouterr()
        on(device, evaluate_agent.main, run_dir, "--diagnose", "--json")
        reports[name] = json.loads(capsys.readouterr().out.replace(str(run_dir), "RUN"))
        on(device, record_video.main, run_dir, "--out", film)
    assert rows(tmp_path / "host") == rows(tmp_path / "device") and len(rows(tmp_path / "host")) > 9
    assert reports["host"] == reports["device"]
    assert filecmp.cmp(tmp_path / "host.gif", tmp_path / "device.gif", shallow=False)


@pytest.mark.parametrize("half, rest", [(CPU, DEVICE), (DEVICE, CPU), (DEVICE, DEVICE)])
def test_a_run_goes_on_elsewhere(half, rest, tmp_path):
    config = load_config([*SMALL, "train.steps=400", "cell.path=eager", "agent.actor_lag=2"], build.KNOWN_CELLS)

    def trainer_on(device, saved=None):
        trainer = build.make_trainer(config, device)
        if saved:
            tensors, meta, _ = checkpoint.load(saved)
            trainer.load(checkpoint.unflatten(tensors, meta["trainer"]))
        for _ in range(3):
            trainer.iterate()
        return trainer

    with pretended():
        tensors, structure = checkpoint.flatten("trainer", trainer_on(half).state())
        checkpoint.save(tmp_path, tensors, {"trainer": structure}, step=3, keep=1)
        moved = trainer_on(rest, tmp_path)
        whole = trainer_on(CPU)
        for _ in range(3):
            whole.iterate()
        for (name, x), y in zip(whole.learner.agent.state_dict().items(), moved.learner.agent.state_dict().values()):
            assert torch.equal(x, host(y, rest)), name
