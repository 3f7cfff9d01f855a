"""Films: an agent whose units hold the cue by construction, filmed, encoded and decoded again; and the script."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import record_video
import train_agent
from agents.agent import Agent
from agents.encoders import VectorEncoder, make_encoder
from agents.film import FilmError, has_sides, rank_units, shoot
from agents.runlog import read_metrics
from agents.scenes import HEIGHT, WIDTH, scenes, strip_box
from agents.video import write
from envs import ENVS, make
from memory_cells.cells import GatedRNN, Memoryless
from memory_cells.gates import Coupled
from memory_cells.wrappers import Zoneout

L, H = 8, 32
HOLD = 6  # units 0..5 hold the cue, with alternating signs; the others see the junction


def holding_agent() -> Agent:
    """Passive T-maze, solved by hand: the features are (goal up, goal down, junction), a gate latches the cue."""
    agent = Agent(VectorEncoder((2,), 0, 3), 4, GatedRNN(3, H, Coupled()))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.zero_()
        agent.encoder.layers[0].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]]))
        keep, candidate = agent.core.weight_x.view(2, H, 3)
        agent.core.bias[:H] = -9.0
        agent.core.bias[:HOLD] = 9.0
        keep[:HOLD, :2] = -18.0
        sign = torch.tensor([1.0, -1.0]).repeat(HOLD // 2)
        candidate[:HOLD, 0], candidate[:HOLD, 1] = 3 * sign, -3 * sign
        candidate[HOLD:, 2] = 3.0
        up = torch.zeros(H)
        up[0], up[HOLD] = 3.0, 6.0
        agent.policy.weight[1] = up
        up[0] = -3.0
        agent.policy.weight[3] = up
        agent.policy.bias.copy_(torch.tensor([0.0, -5.0, -9.0, -5.0]))
        agent.value.weight[0, HOLD] = 1.0
    return agent


def passive(seed: int = 3):
    return make("tmaze_passive", 24, seed=seed, corridor_length=L)


@pytest.fixture(scope="module")
def film():
    env = passive()
    return shoot(holding_agent(), env, 2)


def scenes_of(film):
    return scenes(film, ("right", "up", "left", "down"), ("hand-made", f"corridor {L}"), "test")


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return stream.codec_context, frames


def column(image: np.ndarray, name: str, side: int, row: int, rows: int) -> np.ndarray:
    """The middle of what strip `name` shows for `row`: (height, 3)."""
    x0, y0, x1, y1 = strip_box(name, side)
    return image[y0:y1, x0 + int((row + 0.5) * (x1 - x0) / rows)].astype(int)


def test_an_episode_is_the_stream_with_what_the_agent_did(film):
    for left, right in film:
        assert (left.cue.item(), right.cue.item()) == (1, -1)
        for episode, turn in ((left, 1), (right, 3)):
            assert episode.rows == L + 2 and episode.decision == L and episode.success
            assert episode.action.tolist() == [0] * L + [turn, -1]
            assert episode.reward.tolist() == [0] * (L + 1) + [1]
            assert episode.probs.shape == (L + 2, 4) and torch.allclose(episode.probs.sum(1), torch.ones(L + 2))
            assert episode.memory.shape == episode.keep.shape == episode.write.shape == (L + 2, H)
            assert (episode.value[:L] == 0).all() and (episode.value[L:] > 0.9).all()  # it reads the junction
            assert episode.frames[-1].shape == (192, 640, 3) and episode.frames[0].dtype == np.uint8
            assert (episode.keep[1:-1, :HOLD] > 0.99).all() and (episode.keep[0, :HOLD] < 0.01).all()
        assert (left.frames[0] != right.frames[0]).any()


def test_the_units_that_hold_the_cue_come_first(film):
    assert set(rank_units(film, HOLD).tolist()) == set(range(HOLD))
    order = rank_units(film, HOLD).tolist()
    assert [unit % 2 for unit in order] == [0, 0, 0, 1, 1, 1]  # higher with the left cue first
    assert len(rank_units(film, 1000)) == H


def test_same_seed_same_film_and_no_other_generator_is_touched(film):
    env = passive()
    agent = holding_agent()
    before = torch.get_rng_state()
    again = shoot(agent, env, 2)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip((e for p in film for e in p), (e for p in again for e in p), strict=True):
        assert all((x == y).all() for x, y in zip(a.frames, b.frames, strict=True))
        assert torch.equal(a.memory, b.memory) and torch.equal(a.probs, b.probs)


def test_the_agent_is_filmed_without_its_noise():
    """As it is evaluated."""
    agent = holding_agent()
    agent.core = Zoneout(agent.core, zoneout_h=0.5)
    film = shoot(agent.train(), passive(), 2)
    assert agent.training
    again = shoot(agent.eval(), passive(), 2)
    for pair, other in zip(film, again, strict=True):
        assert all(np.array_equal(a.value, b.value) for a, b in zip(pair, other, strict=True))



def test_sampled_films_follow_their_generator():
    agent, env = Agent(VectorEncoder((2,), 0, 4), 4, Memoryless(4, 8)), make("tmaze_passive", 16, seed=0, corridor_length=L)
    actions = []
    for seed in (1, 1, 2):
        env.seed(0)
        left, right = shoot(agent, env, 1, torch.Generator().manual_seed(seed))[0]
        actions.append((left.action.tolist(), right.action.tolist()))
    assert actions[0] == actions[1] != actions[2]


def test_mp4_and_gif_hold_every_row_and_show_the_cue_at_the_junction(film, tmp_path):
    mp4, gif = tmp_path / "a.mp4", tmp_path / "a.gif"
    rows = L + 2
    assert write(scenes_of(film), mp4, gif) == 2 * rows
    context, frames = decode(mp4)
    assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    assert (context.width, context.height) == (WIDTH, HEIGHT) and WIDTH % 2 == HEIGHT % 2 == 0
    assert len(frames) == 2 * rows  # steps + 1 of each pair
    data = mp4.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts to play before it is loaded
    at_junction = frames[L].to_ndarray(format="rgb24")
    left, right = (column(at_junction, "memory", side, L, rows) for side in (0, 1))
    told = slice(0, 6)  # the topmost unit: higher with the left cue
    assert (left[told, 0] > left[told, 2] + 50).all() and (right[told, 2] > right[told, 0] + 50).all()
    early = column(at_junction, "memory", 0, 2, rows)
    assert np.abs(early[told] - left[told]).max() < 40  # held through the corridor
    for name in ("keep", "write"):
        assert np.abs(column(at_junction, name, 0, L, rows) - column(at_junction, name, 1, L, rows)).max() < 40
    assert (column(at_junction, "memory", 0, rows - 1, rows) > 230).all()  # the future is empty
    with Image.open(gif) as picture:
        assert picture.n_frames == 2 * rows and picture.size == (WIDTH * 3 // 4, HEIGHT * 3 // 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


def test_a_memoryless_core_shows_no_gate_and_the_same_output_at_the_junction():
    torch.manual_seed(0)
    env = passive()
    agent = Agent(VectorEncoder((2,), 0, 8), 4, Memoryless(8, H))
    with torch.no_grad():
        agent.policy.bias[0] = 20.0  # walks right
    pair = shoot(agent, env, 1)[0]
    assert all(e.keep is None and e.write is None and e.rows == L + 2 for e in pair)
    image = np.asarray(scenes_of([pair])[0].draw(L))
    left, right = (column(image, "memory", side, L, L + 2) for side in (0, 1))
    assert (left == right).all() and left.std() > 10
    assert (column(image, "memory", 0, 0, L + 2) != column(image, "memory", 1, 0, L + 2)).any()  # the cue is seen


def test_of_a_pair_the_shorter_holds_its_last_row():
    torch.manual_seed(0)
    env = make("tmaze_bakker", 64, seed=0, corridor_length=2, step_limit=40)
    pairs = shoot(Agent(VectorEncoder((3,), 0, 4), 4, Memoryless(4, 8)), env, 4, torch.Generator().manual_seed(0))
    pair = next(p for p in pairs if p[0].rows != p[1].rows)
    scene = scenes_of([pair])[0]
    assert scene.rows == max(e.rows for e in pair)
    short = int(pair[1].rows < pair[0].rows)
    half = slice(640 * short, 640 * (short + 1))
    held, last = (np.asarray(scene.draw(t))[60:, half] for t in (pair[short].rows - 1, scene.rows - 1))
    assert (held == last).all()


def test_more_steps_than_pixels_fit(film):
    env = make("tmaze_passive", 8, seed=0, corridor_length=700)
    scene = scenes_of(shoot(holding_agent(), env, 1))[0]
    image = np.asarray(scene.draw(scene.rows - 1))
    for row in (100, 600):
        left, right = (column(image, "memory", side, row, scene.rows)[:6] for side in (0, 1))
        assert (left[:, 0] > left[:, 2] + 50).all() and (right[:, 2] > right[:, 0] + 50).all()


def test_an_environment_that_cannot_be_filmed_is_refused(monkeypatch):
    env = passive()
    agent = holding_agent()
    with pytest.raises(FilmError, match="30 pairs of episodes need 60 environments, got 24"):
        shoot(agent, env, 30)
    env = passive()
    monkeypatch.setattr(env, "render", lambda index: (_ for _ in ()).throw(NotImplementedError("no renderer")))
    with pytest.raises(FilmError, match="no renderer"):
        shoot(agent, env, 1)


@pytest.mark.parametrize("cue", [None, torch.zeros(24, 1), torch.arange(24.0).unsqueeze(1)], ids=["none", "one", "many"])
def test_without_two_cue_values_any_two_episodes_are_filmed(monkeypatch, cue):
    env, agent = passive(), holding_agent()
    monkeypatch.setattr(env, "cue", lambda state: cue)
    film = shoot(agent, env, 2)
    assert len(film) == 2 and all(e.success and e.rows == L + 2 for pair in film for e in pair) and not has_sides(film)
    moves = sum(e.memory.double().std(0, correction=0) for pair in film for e in pair)
    assert rank_units(film, 1).item() == moves.argmax() and len(rank_units(film, 1000)) == H
    first, second = scenes_of(film)
    assert first.draw(3).size == (WIDTH, HEIGHT) and (np.asarray(first.base) != np.asarray(second.base)).any()


@pytest.mark.parametrize("name", ENVS)
def test_every_environment_is_filmed(name):
    """With a different cue on each side wherever it has one that varies."""
    env = make(name, 32, seed=0, **ENVS[name].tiny)
    encoder = make_encoder(env.obs_kind, env.obs_shape, env.obs_values, 0, 4)
    film = shoot(Agent(encoder, env.num_actions, Memoryless(4, 8)), env, 1, max_steps=5)
    env.seed(0)
    env.reset()
    assert has_sides(film) == (len(env.cue(env.state).unique(dim=0)) > 1)
    scene = scenes(film, env.action_names, (name, "about"), "note")[0]
    width, height = scene.draw(scene.rows - 1).size
    assert width == WIDTH and HEIGHT <= height == scene.height and height % 2 == 0


def test_long_episodes_are_broken_off(film):
    (left, right), *_ = shoot(holding_agent(), passive(), 1, max_steps=5)
    for cut, whole in ((left, film[0][0]), (right, film[0][1])):
        assert cut.success is None and cut.rows == 6 and cut.action.tolist() == [0] * 5 + [-1]
        assert torch.equal(cut.memory, whole.memory[:6]) and (cut.frames[5] == whole.frames[5]).all()
    assert all(e.success for e in shoot(holding_agent(), passive(), 1, max_steps=L + 1)[0])  # not one step too early


@pytest.mark.parametrize("size, height", [((192, 640), 944), ((33, 17), 1112), ((400, 600), 1112), ((300, 1200), 944),
                                          ((223, 641), 974)])  # fmt: skip
def test_pictures_of_any_size(monkeypatch, size, height, tmp_path):
    """The page is cut open for taller ones; sides stay even; everything below is moved, not changed."""
    env, agent = passive(), holding_agent()
    picture = np.full((*size, 3), 77, np.uint8)
    monkeypatch.setattr(env, "render", lambda index: np.stack([picture] * len(index)))
    scene = scenes_of(shoot(agent, env, 1))[0]
    frame = np.asarray(scene.draw(L))
    assert frame.shape == (height, WIDTH, 3) and height % 2 == 0
    centre = frame[88 + (height - HEIGHT + 192) // 2]
    assert (centre[320] == 77).all() and (centre[960] == 77).all()
    shown = (frame[:, :640] == 77).all(-1)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    scale = (np.ptp(rows) + 1) / size[0], (np.ptp(columns) + 1) / size[1]
    assert scale[0] == pytest.approx(scale[1], rel=0.02) and rows.min() >= 88 and rows.max() < 280 + height - HEIGHT
    flat = scenes_of(shoot(agent, passive(), 1))[0]
    assert (frame[-(HEIGHT - 280) :] == np.asarray(flat.draw(L))[280:]).all()


def test_of_many_actions_the_likeliest_have_bars(film):
    many = [tuple(replace(e, probs=torch.cat((torch.zeros(e.rows, 16), e.probs), 1)) for e in pair) for pair in film]
    scene = scenes(many, [f"action number {k}" for k in range(20)], ("a", "b"), "c")[0]
    assert scene.common.actions.keys() >= {16, 17, 18, 19} and len(scene.common.actions) == 8
    assert scene.common.actions[19] == "action n…"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert train_agent.main(["smoke", "train.steps=2000", f"run_dir={folder}", "device=cpu"]) == 0
    return folder


def test_the_script_films_a_run(run, capsys):
    assert record_video.main([str(run), "--episodes", "1", "--fps", "20"]) == 0
    assert "7 frames" in capsys.readouterr().out  # corridor 5: 6 steps
    assert record_video.main([str(run), "--max-steps", "3"]) == 0
    assert "4 frames, 0 of 2 episodes successful, 2 cut after --max-steps 3" in capsys.readouterr().out
    assert record_video.main([str(run), "--episodes", "1", "--fps", "20"]) == 0
    assert len(decode(run / "video.mp4")[1]) == 7
    out = run / "other.gif"
    assert record_video.main([str(run), "--out", str(out), "--episodes", "2", "--sampled", "env.corridor_length=3"]) == 0
    assert len(decode(out.with_suffix(".mp4"))[1]) == 2 * 5 and out.exists()


def test_training_films_its_end_and_tensorboard_plays_the_film(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    tiny = ["train.steps=600", "evaluate.episodes=4", "device=cpu", "train.film=true", f"run_dir={run}"]
    # a process of its own: TensorBoard reads files that begin in one second in the order of names, the tenth before the ninth
    script = [sys.executable, Path(train_agent.__file__), "smoke", *tiny]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert f"film: {run / 'video.mp4'} and video.gif: 7 frames" in done.stdout, done.stderr
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    (shown,) = events.Images("film")
    assert shown.encoded_image_string == (run / "video.gif").read_bytes() and shown.step == read_metrics(
        run / "metrics.jsonl")[-1]["step"]  # fmt: skip


def test_a_film_that_cannot_be_made_is_told_and_the_training_stands(run, monkeypatch):
    monkeypatch.setattr(record_video, "shoot", lambda *_: (_ for _ in ()).throw(FilmError("no renderer")))
    assert train_agent.film(run) == "no film: no renderer"


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--out", "{tmp}/a.avi"], ".mp4 or .gif"),
        (["--out", "{tmp}/a"], ".mp4 or .gif"),
        (["--out", "{tmp}/missing/a.mp4"], "No such file"),
        (["--out", "{tmp}/file/a.mp4"], "Not a directory"),
        (["--out", "{tmp}/folder.mp4"], "is a folder"),
        (["--episodes", "0"], "--episodes"),
        (["--episodes", "two"], "--episodes"),
        (["--fps", "nan"], "--fps"),
        (["--max-steps", "0"], "--max-steps"),
        (["--ot", "x"], "--ot"),
        (["env.corridor_lenght=4"], "corridor_length"),
        (["env.cue_visible=true"], "what the agent sees is vector 3"),
        (["cell.hidden_size=4"], "cannot change here"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(run, tmp_path, capsys, arguments, told):
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    before = sorted((*run.rglob("*"), *tmp_path.rglob("*")))
    assert record_video.main([str(run), *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error
    assert sorted((*run.rglob("*"), *tmp_path.rglob("*"))) == before


def test_a_missing_run_is_told(tmp_path, capsys):
    assert record_video.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failed_encode_leaves_nothing(film, tmp_path, monkeypatch):
    ready = scenes_of(film)
    drawn = ready[1].draw
    monkeypatch.setattr(ready[1], "draw", lambda t: drawn(t) if t != 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(ready, tmp_path / "a.mp4", tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
