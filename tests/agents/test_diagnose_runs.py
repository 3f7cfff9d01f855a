"""Gates watched in training, TensorBoard, and the diagnosis of a run."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import build
import evaluate_agent
import train_agent
from agents.agent import Agent
from agents.checkpoint import flatten
from agents.diagnose import recording_size
from agents.diagnostics import gates_of
from agents.encoders import VectorEncoder
from agents.runlog import TensorBoardMirror, read_metrics
from agents.session import Interrupt, Session
from configs.groups import ENVS
from configs.load import load_config
from envs.env import Step
from memory_cells import VARIANTS
from memory_cells.cells import Memoryless

TINY = [
    "smoke", "device=cpu", "train.threads=1", "env.corridor_length=5", "cell.hidden_size=8", "agent.embedding_size=8",
    "train.num_envs=8", "train.steps=800", "train.log_every=2", "train.evaluate_every=0", "evaluate.episodes=32",
    "evaluate.num_envs=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """In a process of its own: TensorBoard sorts the event files of one second by a number that counts a process's writers,
    and 10 comes before 9."""
    run = tmp_path_factory.mktemp("diagnose") / "run"
    script = Path(train_agent.__file__)
    often = ["train.diagnose_every=3", "train.examine_every=4"]
    subprocess.run([sys.executable, script, *TINY, *often, f"run_dir={run}"], check=True)
    return run


@pytest.mark.parametrize("cell", ["zoneout-lstm", "hdetach-lstm", "noisy-lstm", "g-lstm", "lru", "nru"])
def test_looking_into_an_agent_changes_nothing(cell):
    config, cpu = load_config([*TINY, f"cell={cell}"], build.KNOWN_CELLS), torch.device("cpu")
    one, two = (build.make_trainer(config, cpu) for _ in range(2))
    examine = build.examiner(config, one.learner.agent, cpu)
    for _ in range(3):
        logs = one.iterate(), two.iterate()
        assert all(torch.equal(a, b) for a, b in zip(*(log.values() for log in logs), strict=True))
        gates_of(one.learner.agent, one.rollout)
        found = examine()
        assert found == examine()
    left, right = (flatten("trainer", trainer.state()) for trainer in (one, two))
    assert left[1] == right[1] and all(torch.equal(left[0][k], right[0][k]) for k in left[0] | right[0])
    assert one.learner.agent.training
    assert found["total_error"] < 1e-3 and found["replay_error"] < 1e-4 and 0 <= found["credit_in_length"] <= 1


def looked_into(*tokens):
    """What training would log of a fresh agent."""
    sizes = [t for t in TINY if not t.startswith(("smoke", "env.", "train.evaluate"))]
    config, cpu = load_config([*sizes, "train.unroll_length=16", *tokens], build.KNOWN_CELLS), torch.device("cpu")
    found = build.examiner(config, build.make_agent(config, build.make_env(config, 1, cpu, seed=0)), cpu)()
    assert found["replay_error"] < 1e-3 and found["total_error"] < 1e-2
    assert not any(math.isnan(value) for value in found.values())
    return found


@pytest.mark.parametrize("cell", VARIANTS)
def test_every_cell_can_be_looked_into(cell):
    assert "probe_cue_0_accuracy" in looked_into("env=tmaze_passive", "env.corridor_length=5", f"cell={cell}")


@pytest.mark.parametrize("env", ENVS)
def test_every_environment_can_be_played_for_a_look(env):
    looked_into(f"env={env}", "cell=ur-lstm", *(["env.id=CartPole-v1"] if env == "gymnasium" else []))


def test_the_gates_of_a_rollout():
    config = load_config([*TINY, "cell=cr-lstm", "agent.full_episode=true"], build.KNOWN_CELLS)
    trainer = build.make_trainer(config, torch.device("cpu"))
    trainer.iterate()
    agent, rollout = trainer.learner.agent, trainer.rollout
    found, histograms = gates_of(agent, rollout)
    T = rollout.rows.first.shape[0]
    assert T == 7 and histograms["keep"].shape == (T, 8, 8)  # all phases of the episode
    with torch.no_grad():
        _, _, traces = agent(rollout.rows, rollout.state, rollout.noise, record=("keep", "write"))
    assert torch.equal(histograms["keep"], traces["keep"])
    assert found["keep_mean"] == pytest.approx(float(traces["keep"].mean()))
    assert found["write_open"] == pytest.approx(float((traces["write"] > 0.95).double().mean()))
    mean = traces["keep"].double().mean((0, 1))
    torch.testing.assert_close(histograms["log10_horizon"], (1 / (1 - mean)).log10())
    longer = rollout._replace(rows=Step(*(torch.cat([x] * 5) for x in rollout.rows)), noise=())
    assert len(gates_of(agent, longer)[1]["keep"]) == 12  # every third of 35 rows
    wide = rollout._replace(rows=Step(*(torch.cat([x] * 40, 1) for x in rollout.rows)),
                            state=tuple(torch.cat([s] * 40) for s in rollout.state))  # fmt: skip
    assert gates_of(agent, wide)[1]["keep"].shape == (T, 256, 8)
    assert gates_of(Agent(VectorEncoder((2,), 0, 4), 4, Memoryless(4, 4)), rollout) == ({}, {})


def test_the_record_and_tensorboard(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    rows = read_metrics(watched / "metrics.jsonl")
    seen = [row["update"] for row in rows if "gates/keep_mean" in row]
    assert seen and all(update % 3 == 0 for update in seen)
    looked = next(row for row in rows if row["update"] == seen[-1])
    assert {"gates/write_open", "gates/horizon_q05", "gates/horizon_q95"} <= set(looked)
    events = EventAccumulator(str(watched / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    tags = events.Tags()
    assert {tag.split("/")[0] for tag in tags["scalars"]} == {"train", "learner", "gates", "diagnose", "time", "final"}
    examined = [row for row in rows if "diagnose/replay_error" in row]
    assert [row["update"] for row in examined] == [u for u in range(1, rows[-1]["update"] + 1) if u % 4 == 0]
    assert {"diagnose/norm_c", "diagnose/decay_length_h", "diagnose/probe_cue_0_accuracy", "diagnose/probe_cue_0_chance",
            "diagnose/credit_in_length", "diagnose/value_at_decision"} <= set(examined[-1])  # fmt: skip
    assert [e.step for e in events.Scalars("diagnose/norm_c")] == [row["step"] for row in examined]
    steps = [row["step"] for row in rows if "gates/keep_mean" in row]
    assert sorted(tags["histograms"]) == ["gates/keep", "gates/log10_horizon"]
    assert [e.step for e in events.Histograms("gates/keep")] == steps
    assert [e.step for e in events.Scalars("gates/keep_mean")] == steps
    assert metadata.PLUGIN_NAME in events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    evaluation = json.loads((watched / "evaluation.json").read_text())
    assert events.Scalars("final/greedy_success")[-1].value == pytest.approx(evaluation["greedy"]["success_rate"])


def test_the_step_axis_after_a_resume(tmp_path):
    """What was written before the checkpoint is there once, what a killed run wrote after it is hidden."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def session():
        trainer = build.make_trainer(load_config(TINY, build.KNOWN_CELLS), torch.device("cpu"))
        return Session(tmp_path, trainer, log_every=1, checkpoint_every=100, keep=1, diagnose_every=1)

    class Soon(Interrupt):
        def __bool__(self):
            return one.trainer.update == 3

    one = session()
    assert not one.run(Soon())
    one.close()
    later = TensorBoardMirror(tmp_path / "tensorboard")
    later.write(one.trainer.step + 1, {"train/return": 99.0})
    later.close()
    two = session()
    two.restore()
    assert two.run(Interrupt())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert [e.step for e in events.Scalars("gates/keep_mean")] == steps and len(steps) > 4
    assert 99.0 not in [e.value for e in events.Scalars("train/return")]


def report_of(capsys, *arguments):
    capsys.readouterr()
    assert evaluate_agent.main(list(map(str, arguments))) == 0
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


def test_diagnose_adds_to_the_report_and_changes_nothing_of_it(watched, capsys):
    plainly = json.loads(report_of(capsys, watched, "--json"))
    assert not (watched / "diagnose").exists()
    full = json.loads(report_of(capsys, watched, "--json", "--diagnose"))
    found = full.pop("diagnose")
    assert full == plainly and found == json.loads((watched / "diagnose" / "diagnose.json").read_text())
    assert sorted(p.name for p in (watched / "diagnose").iterdir()) == [
        "credit.png", "diagnose.json", "gates.png", "gradient.png", "probe.png",
    ]  # fmt: skip
    assert found["replay_error"] < 1e-4 and found["gradient"]["total_error"] < 1e-3
    assert list(found["gradient"]["norm"]) == ["h", "c"] and len(found["gates"]["horizon_of_unit"]) == 8
    assert len(found["gradient"]["norm"]["h"]) > found["unroll_length"]  # beyond the rollout
    assert found["memory_length"] == 5 and found["credit_length"] == 1 and found["ends"]["terminated"] > 32
    lines = report_of(capsys, watched, "--diagnose").splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [
        "recorded", "replay", "gates", "gradient by lag", "memory probe", "credit", "figures",
    ]  # fmt: skip
    assert lines[0] == report_of(capsys, watched).strip()
    assert evaluate_agent.main([str(watched), "--diagnose", "--lengths", "3,5"]) == 2
    assert "not with --lengths" in capsys.readouterr().err


def test_how_much_is_recorded():
    assert recording_size(7, 16, 256) == (32, 256)  # twice the rollout
    assert recording_size(251, 64, 256) == (251, 256)  # a whole episode
    assert recording_size(None, 64, 8) == (128, 8)
    assert recording_size(100_000, 64, 256) == (1000, 100) and recording_size(5, 3000, 256) == (2000, 50)
