"""The three scripts on environments that are not ours: trained, evaluated, filmed, resumed; and every slip is a line."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path

import av
import pytest
import torch

import build
import evaluate_agent
import record_video
import train_agent
from agents.checkpoint import load, unflatten
from agents.runlog import read_metrics
from configs.env_gymnasium import GymnasiumConfig
from configs.load import load_config
from envs.gymnasium_stream import VECTORIZATIONS, GymnasiumStream, make_gymnasium

sys.path.append(str(Path(__file__).parent / "envs"))  # gym_cases, which "gym_cases:ID" imports, here and in workers

TINY = [
    "smoke", "env=gymnasium", "device=cpu", "train.threads=1", "cell.hidden_size=8", "agent.embedding_size=8",
    "train.num_envs=4", "train.steps=300", "train.unroll_length=8", "train.checkpoint_every=1", "train.evaluate_every=2",
    "train.evaluate_episodes=3", "evaluate.episodes=6", "evaluate.num_envs=3",
]  # fmt: skip
COUNTING = "env.id=gym_cases:Counting-v0"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("gymnasium") / "run"
    assert train_agent.main([*TINY, COUNTING, "train.stagger_episodes=false", f"run_dir={run}"]) == 0
    return run


def test_settings_are_what_the_stream_takes():
    fields = {f.name: f for f in dataclasses.fields(GymnasiumConfig)}
    takes = {**inspect.signature(GymnasiumStream).parameters, **inspect.signature(make_gymnasium).parameters}
    assert set(fields) - {"name"} == set(takes) - {"source", "num_envs", "device", "seed", "render", "options"}
    for name, field in fields.items():
        assert name in ("name", "id") or field.default == takes[name].default, name
    assert fields["vectorization"].metadata["choices"] == VECTORIZATIONS


def test_a_run_and_its_evaluation(run, capsys):
    config = build.run_config(run, [], ())
    assert (config.env.name, config.env.id) == ("gymnasium", "gym_cases:Counting-v0")
    assert json.loads((run / "versions.json").read_text())["exact_resume"] is False
    rows = read_metrics(run / "metrics.jsonl")
    assert all(row["train/length"] <= 4 for row in rows if row.get("train/length"))
    capsys.readouterr()
    assert evaluate_agent.main([str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((run / "evaluation.json").read_text())
    assert report["greedy"]["score"] is None and set(report["reference"].values()) == {None}
    assert evaluate_agent.main([str(run), "env.vectorization=async", "env.workers=2"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("6 episodes: greedy success") and "optimum" not in line and "score" not in line
    greedy = report["greedy"]
    assert f"{greedy['success_rate']:.1%}" in line and f"{greedy['mean_return']:.3f}" in line  # workers change nothing


def test_ours_can_be_resumed_exactly_and_have_a_score(tmp_path, capsys):
    ours = [token for token in TINY if token != "env=gymnasium"]
    assert train_agent.main([*ours, f"run_dir={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["exact_resume"] is True
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["greedy"]["score"] == pytest.approx((report["greedy"]["mean_return"] - 0.5) / 0.5)
    assert f"score {report['sampled']['score']:.2f} (optimum 1, chance success 50%, score 0" in capsys.readouterr().out


def test_a_resume_starts_the_episodes_anew_and_says_so(run, tmp_path, capsys):
    tensors, meta, _ = load(run)
    state = unflatten(tensors, meta["trainer"])
    trainer = build.make_trainer(build.run_config(run, [], ()), torch.device("cpu"))
    state["tracker"]["running"] += 100.0
    assert any("not exact" in remark and "episodes start anew" in remark for remark in trainer.load(state))
    assert (trainer.tracker.running == 0).all() and trainer.env.ended.all()
    trainer.iterate()
    assert trainer.tracker.read()["length"] <= 4
    longer = (run / "config.yaml").read_text().replace("steps: 300", "steps: 500")
    (tmp_path / "run").mkdir()
    for path in run.rglob("*"):
        target = tmp_path / "run" / path.relative_to(run)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    (tmp_path / "run" / "config.yaml").write_text(longer)
    assert train_agent.main(["--resume", str(tmp_path / "run"), "env.timeout=5"]) == 0
    told = capsys.readouterr().out
    assert "resumed at step" in told and told.count("the resume is not exact") == 1
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] >= 500


def test_a_film(run, capsys):
    assert record_video.main([str(run), "--episodes", "2", "--fps", "10"]) == 0
    assert "of 4 episodes successful" in capsys.readouterr().out
    with av.open(str(run / "video.mp4")) as container:
        frames = list(container.decode(container.streams.video[0]))
    assert 4 <= len(frames) <= 10 and frames[0].height % 2 == frames[0].width % 2 == 0


FURTHER = ["MiniGrid-Dynamic-Obstacles-5x5-v0", "FrozenLake-v1", "popgym-RepeatPreviousEasy-v0", "popgym-BattleshipEasy-v0",
           "popgym-ConcentrationEasy-v0", "popgym-MineSweeperEasy-v0"]  # fmt: skip


@pytest.mark.parametrize("id", ["MiniGrid-DoorKey-5x5-v0", "Blackjack-v1",
                                *(pytest.param(id, marks=pytest.mark.slow) for id in FURTHER)])  # fmt: skip
def test_trains_without_code(id):
    if id.startswith("popgym"):
        pytest.importorskip("popgym")
    tokens = [*TINY, f"env.id={id}", "train.stagger_episodes=false", "cell=memoryless"]
    trainer = build.make_trainer(load_config(tokens, build.KNOWN_CELLS), torch.device("cpu"))
    while not trainer.done:
        assert torch.isfinite(trainer.iterate()["loss"])


@pytest.mark.parametrize("tokens, words", [
    (["env.id=CartPol-v1"], ["cannot make CartPol-v1", "CartPole"]), (["env.id=a b"], ["an id such as CartPole-v1"]),
    (["env.id=runs.foreign.evil:X-v0"], ["is not valid", "MODULE:ID"]), (["env.id=no_such_module:X-v0"], ["no_such_module"]),
    (["env.kwargs=gravity"], ["expected name=value"]), (["env.kwargs=gravitas=1"], ["unexpected keyword argument 'gravitas'"]),
    (["env.vectorisation=async"], ["did you mean env.vectorization?"]), (["env.vectorization=asink"], ["did you mean async?"]),
    (["env.vectorization=vector"], ["CartPoleVectorEnv restarts all", "train.stagger_episodes=false"]),
    (["env.id=Pendulum-v1"], ["continuous actions"]), (["env.observation=symbols"], ["grid of codes named image"]),
    ([COUNTING, "cell=chrono-lstm"], ["needs a horizon", "give cell.horizon"]),
    ([COUNTING, "agent.full_episode=true"], ["longest episode"]),
    (["env.corridor_length=5"], ["does not exist for env=gymnasium"]),
])  # fmt: skip
def test_slips_are_one_line(tokens, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_agent.main([*TINY, *tokens]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and all(word in told for word in words), told
    assert not list(tmp_path.iterdir())


def test_more_slips(run, capsys):
    for main, tokens, word in (
        (evaluate_agent.main, ["--lengths", "3,4"], "env=gymnasium has no length to vary"),
        (evaluate_agent.main, ["env.id=CartPole-v1"], "env.id: what the agent may do is 2"),
        (record_video.main, ["env.id=gym_cases:Faulty-v0"], "no render mode rgb_array"),
    ):
        assert main([str(run), *tokens]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and word in told, told


@pytest.mark.parametrize("how, told", [
    (["env.vectorization=async", "env.workers=2", "env.kwargs=fault=exit,unlucky=-1"],
     r"worker \d \(.*\) is dead: exit status 7"),
    (["env.kwargs=fault=raise,unlucky=-1"], r"environment \d: RuntimeError: the simulator is broken"),
])  # fmt: skip
def test_an_environment_that_fails_ends_the_run_with_a_line(how, told, tmp_path, capsys):
    run = tmp_path / "run"
    tokens = ["env.id=gym_cases:Faulty-v0", "train.stagger_episodes=false", f"run_dir={run}"]
    assert train_agent.main([*TINY, *tokens, *how]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(told, error) and f"go on with: --resume {run}" in error
    assert load(run)[1]["trainer"]["update"] == 0
