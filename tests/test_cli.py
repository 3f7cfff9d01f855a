"""The scripts from outside: every slip is one line and exit status 2 with nothing written; a run leaves what it should."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import build
import evaluate_agent
import train_agent
from agents import losses
from agents.checkpoint import list_checkpoints, load
from agents.runlog import MetricsLog, RunError, read_metrics
from configs import Config, flatten_config

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "smoke", "device=cpu", "train.threads=1", "cell.hidden_size=8", "agent.embedding_size=8", "train.num_envs=8",
    "train.steps=500", "train.log_every=1", "train.checkpoint_every=1", "train.evaluate_every=0", "evaluate.episodes=6",
]  # fmt: skip


def script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / name, *arguments], cwd=cwd, capture_output=True, text=True,
                          timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run by process, from a folder that is not the project's, with the default place for runs."""
    place = tmp_path_factory.mktemp("elsewhere")
    done = script("train_agent.py", *TINY, cwd=place)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (run,) = (place / "runs").iterdir()
    assert [p.name for p in place.iterdir()] == ["runs"]
    assert str(run.relative_to(place)) in done.stdout and "record_video.py" in done.stdout
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder: Path) -> dict:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Call a script's main from a folder of its own; it must fail with one line that holds `words`."""
    monkeypatch.chdir(tmp_path)

    def call(main, arguments: list, *words: str) -> str:
        before = contents(tmp_path)
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        told = capsys.readouterr()
        assert not told.out and told.err.startswith("error: "), told
        assert told.err.count("\n") == 1 and told.err.endswith("\n"), told.err
        assert "Traceback" not in told.err and all(c.isprintable() for c in told.err[:-1])
        for word in words:
            assert word in told.err, told.err
        assert contents(tmp_path) == before
        return told.err

    return call


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens, words", [
    (["train.step=3"], ["unknown key 'train.step'", "did you mean train.steps?"]),
    (["env.corridor_lenght=3"], ["did you mean env.corridor_length?"]),
    (["seed=many"], ["seed='many'", "an integer"]), (["deterministic=perhaps"], ["true or false"]),
    (["agent.gamma=1.5"], ["out of range", "from 0 to 1"]), (["train.num_envs=0"], ["from 1"]),
    (["cell=ur-lstn"], ["unknown cell 'ur-lstn'", "did you mean ur-lstm?"]),
    (["env=tmaze_pasive"], ["unknown env", "did you mean tmaze_passive?"]),
    (["agent=pppo"], ["unknown agent", "did you mean ppo?"]),
    (["smoek"], ["did you mean smoke?"]), (["mine.yaml"], ["no such config file"]),
    (["agent.minibatches=3"], ["does not divide train.num_envs=32", "nearest"]),
    (["agent.burn_in=128"], ["at most 127"]), (["agent.entropy_cost=1e300"], ["out of range", "to 1e+30"]),
    (["agent.actor_lag=1000", "train.steps=1e6"], ["agent.actor_lag=1000 lasts for the whole run", "at most 489 updates"]),
    (["aux=reconstruct", "aux.pretrain_updates=489", "train.steps=1e6"], ["aux.pretrain_updates=489", "the whole run"]),
    (["agent.rho_bar=2", "agent.correct_off_policy=false"], ["agent.rho_bar=2.0 does nothing", "at most 1"]),
    (["aux.cost=1"], ["aux.cost does not exist for aux=none, only for aux=reconstruct or predict"]),
    (["cell=Gru"], ["did you mean gru?"]), (["full"], ["choose from"]), (["./full"], ["full is a folder"]),
    (["cell=rmc", "cell.path=fused"], ["cell.path=fused", "cell=rmc", "expected cell.path=auto"]),
    (["cell=lstm", "cell.path=scan"], ["cell.path=scan", "cell=lstm", "expected cell.path=auto"]),
    (["aux=reconstruct", "env.corridor_length=5"], ["aux.segment=8", "at most 7"]),
    (["aux=predict", "env.corridor_length=6"], ["aux.segment=8", "at most 7"]),
    (["aux=reconstruct", "aux.memory=60"], ["aux.memory=60 does not fit into an episode", "at most 52"]),
    (["aux=reconstruct", "aux.memory=9", "agent.full_episode=true"], ["agent.full_episode=true", "expected 0"]),
    (["aux=reconstruct", "aux.memory=9", "agent.start_state=zero"], ["agent.start_state=zero", "expected 0"]),
    (["agent=a2c", "agent.returns=gae", "agent.start_state=zero"], ["off-policy data (agent.start_state=zero)"]),
    (["env=tmaze_bakker", "env.step_limit=3"], ["step_limit", "51"]),
    (["cell=memoryless", "cell.bias=1"], ["takes no bias", "janet"]),
    (["cell=lstm", "cell.reset_form=before"], ["takes no reset_form", "gru"]),
    (["train.cuda_graphs=true", "device=cpu"], ["train.cuda_graphs", "device=cpu"]),
    (["agent.optimizer=rmsprop", "agent.weight_decay=0.1"], ["weight_decay", "adam"]),
    (["--resume"], ["--resume needs one RUN"]), (["--resume", "a", "--resume", "b"], ["--resume needs one RUN"]),
    (["--resume", "nowhere"], ["no such run folder: nowhere"]), (["--resume="], ["--resume needs one RUN"]),
    (["--resume=nowhere"], ["no such run folder: nowhere"]), (["--resum", "x"], ["--resum", "--resume RUN"]),
    (["--seed", "3"], ["unknown option --seed"]), (["seed=1", "seed=2"], ["given twice"]),
    (["run_dir=file/run"], ["cannot make the run folder file/run"]),
    (["run_dir=full"], ["full is not empty; give another folder\n"]),
    (["run_dir=/proc/nothing/here"], ["cannot make the run folder"]),
])  # fmt: skip
def test_train_refuses(tokens, words, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    refused(train_agent.main, tokens, *words)


def test_a_folder_that_cannot_be_written(refused, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    refused(train_agent.main, [*TINY, "run_dir=locked"], "locked", "not writable")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_here(refused):
    refused(train_agent.main, ["device=cuda"], "device=cuda", "device=cpu")


def test_by_process_too(tmp_path):
    for name, arguments, word in (("train_agent.py", ["agent.gama=1"], "agent.gamma"),
                                  ("evaluate_agent.py", ["nowhere"], "no such run folder")):  # fmt: skip
        done = script(name, *arguments, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and word in done.stderr


def test_help_lists_every_key(capsys):
    for arguments in (["--help"], ["smoke", "-h"]):
        assert train_agent.main(arguments) == 0
        text = capsys.readouterr().out
        assert "--resume RUN" in text
        assert all(f"  {key}=" in text for key in flatten_config(Config()) if not key.endswith(".name"))
    with pytest.raises(SystemExit) as left:
        evaluate_agent.main(["--help"])
    assert left.value.code == 0 and "--lengths" in capsys.readouterr().out


def test_help_may_be_cut_off():
    done = subprocess.run(f"{sys.executable} {ROOT / 'train_agent.py'} --help | head -n 1", shell=True, capture_output=True)
    assert done.stdout.startswith(b"Train an agent") and not done.stderr


@pytest.mark.parametrize("change", ["agent.actor_lag=400", "agent.rho_bar=3"])
def test_what_is_refused_for_a_new_run_can_be_read_of_an_old_one(change, run, capsys):
    key, _, value = change.removeprefix("agent.").partition("=")
    lines = (run / "config.yaml").read_text().splitlines()
    lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in lines]
    lines = ["  correct_off_policy: false" if line.startswith("  correct_off_policy:") else line for line in lines]
    (run / "config.yaml").write_text("\n".join(lines) + "\n")
    assert evaluate_agent.main([str(run)]) == 0
    assert train_agent.main([str(run / "config.yaml"), f"run_dir={run / 'new'}"]) == 2
    assert f"agent.{key}" in capsys.readouterr().err


# --- a run -----------------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(finished):
    assert {p.name for p in finished.iterdir()} == {
        "config.yaml", "versions.json", "metrics.jsonl", "tensorboard", "checkpoints", "evaluation.json",
    }  # fmt: skip
    config = build.run_config(finished, [], ())
    assert (config.train.num_envs, config.cell.hidden_size, config.env.corridor_length) == (8, 8, 5)
    versions = json.loads((finished / "versions.json").read_text())
    assert versions["argv"] == TINY and versions["torch"] == torch.__version__ and "git" in versions
    rows = read_metrics(finished / "metrics.jsonl")
    needs = {"step", "update", "train/success", "train/return", "learner/entropy", "learner/policy_loss",
             "learner/value_loss", "learner/grad_norm", "time/steps_per_second"}  # fmt: skip
    assert needs <= set(rows[-1]) and rows[-1]["step"] >= 500
    assert [row["update"] for row in rows] == list(range(1, len(rows) + 1))
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))
    tensors, meta, folder = load(finished)
    assert meta["trainer"]["step"] == rows[-1]["step"] == int(folder.name) and "trainer/agent/policy.weight" in tensors
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["step"] == rows[-1]["step"] and evaluation["episodes"] == 6 and evaluation["seed"] == 12345


def test_evaluate_from_any_folder(finished, tmp_path):
    done = script("evaluate_agent.py", str(finished), "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and not list(tmp_path.iterdir())
    assert json.loads(done.stdout) == json.loads((finished / "evaluation.json").read_text())


# --- a run that is damaged -------------------------------------------------------------------------------------------


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    path.write_bytes(bytes(data))


def newest(run: Path) -> Path:
    return load(run)[2]


BOTH = pytest.mark.parametrize("script", ["train", "evaluate"])


def call(script: str, run: Path) -> tuple:
    return (train_agent.main, ["--resume", run]) if script == "train" else (evaluate_agent.main, [run])


@BOTH
@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json", "manifest.json", "../latest"])
@pytest.mark.parametrize("at", [0.0, 0.4, 0.9])
def test_a_flipped_bit(script, name, at, run, refused):
    folder = newest(run)
    flip(folder / name, at)
    text = refused(*call(script, run))
    assert "newest intact one is" in text and (folder.name in text or name == "../latest")


@BOTH
def test_parts_that_are_gone(script, run, refused, tmp_path):
    folder = newest(run)
    (folder / "meta.json").unlink()
    refused(*call(script, run), "meta.json is missing", "newest intact one is")
    (run / "checkpoints" / "latest").unlink()
    refused(*call(script, run), "no 'latest' file")
    (run / "config.yaml").unlink()
    refused(*call(script, run), "is not a run folder", "config.yaml")
    refused(*call(script, tmp_path / "nowhere"), "no such run folder")
    refused(*call(script, run / "metrics.jsonl"), "is not a run folder (it is a file)")


def test_no_checkpoint_to_evaluate(run, refused):
    shutil.rmtree(run / "checkpoints")
    refused(evaluate_agent.main, [run], "latest")


@BOTH
def test_foreign_folders(script, run, refused, tmp_path):
    (tmp_path / "foreign").mkdir()
    refused(*call(script, tmp_path / "foreign"), "is not a run folder")
    (tmp_path / "foreign" / "config.yaml").write_text("model: {name: resnet}\n")
    refused(*call(script, tmp_path / "foreign"), "config.yaml")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("hidden_size: 8", "hidden_size: 9"))
    refused(*call(script, run), "does not fit this run's config")


def test_a_record_that_lacks_rows(run, refused):
    data = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(data[:-100])
    refused(train_agent.main, ["--resume", run], "rows are missing")
    (run / "metrics.jsonl").unlink()
    refused(train_agent.main, ["--resume", run], "metrics.jsonl is missing")


def test_a_record_without_checkpoints_is_not_begun_anew(run, refused):
    shutil.rmtree(run / "checkpoints")
    refused(train_agent.main, ["--resume", run], "checkpoints")


def test_a_run_that_is_written_cannot_be_resumed(run, refused):
    with MetricsLog(run / "metrics.jsonl"):
        refused(train_agent.main, ["--resume", run], "is being written by another process")


def test_the_nearest_run_is_named(run, refused):
    refused(evaluate_agent.main, [run.with_name(run.name[:-1])], f"did you mean {run}?")


def test_an_older_checkpoint_can_be_named(run, capsys):
    """To look at, and to go on from: the run then ends as it did."""
    whole, rows = load(run), read_metrics(run / "metrics.jsonl", with_time=False)
    older = list_checkpoints(run)[-2]
    assert evaluate_agent.main([str(older), "--json", "--episodes", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == int(older.name)
    flip(newest(run) / "meta.json", 0.5)
    for name in ("video.mp4", "diagnose/diagnose.json"):  # of the older agent's last checkpoint
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("old")
    assert train_agent.main(["--resume", str(older)]) == 0
    assert not (run / "video.mp4").exists() and not (run / "diagnose").exists()
    again = load(run)
    assert whole[0].keys() == again[0].keys() and all(torch.equal(x, again[0][name]) for name, x in whole[0].items())
    assert read_metrics(run / "metrics.jsonl", with_time=False) == rows


def test_a_run_that_has_ended_is_left_as_it_is(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train_agent.main(["--resume", str(run)]) == 0
    assert "this run has ended" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}'])
def test_a_foreign_result_is_made_again(run, text, capsys):
    wanted = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(text)
    assert train_agent.main(["--resume", str(run)]) == 0
    again = json.loads((run / "evaluation.json").read_text())
    assert {k: again[k] for k in ("greedy", "sampled")} == {k: wanted[k] for k in ("greedy", "sampled")}


def test_a_run_is_one_process_until_its_result_is_written(tmp_path, monkeypatch):
    evaluate, folder = build.evaluate_agent, tmp_path / "run"

    def meanwhile(*arguments):
        with pytest.raises(RunError, match="written by another process"):
            MetricsLog(folder / "metrics.jsonl")
        return evaluate(*arguments)

    monkeypatch.setattr(build, "evaluate_agent", meanwhile)
    assert train_agent.main([*TINY, f"run_dir={folder}"]) == 0


# --- not finite ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer(monkeypatch):
    """The trainer that the next training uses, once there is one."""
    made = []
    make = build.make_trainer
    monkeypatch.setattr(build, "make_trainer", lambda *arguments: made.append(make(*arguments)) or made[-1])
    return made


@pytest.mark.parametrize("reuse", [1, 3])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan(what, reuse, trainer, tmp_path, monkeypatch, capsys):
    error, on = losses.value_error, True
    bad = lambda: on and trainer[-1].update == 3  # noqa: E731
    if what == "loss":
        monkeypatch.setattr(losses, "value_error", lambda *a: error(*a) * (float("nan") if bad() else 1))
    else:
        made = build.make_agent

        def make_agent(*arguments):
            agent = made(*arguments)
            agent.policy.weight.register_hook(lambda g: g * float("nan") if bad() else g)
            return agent

        monkeypatch.setattr(build, "make_agent", make_agent)
    run = tmp_path / "run"
    tokens = [*TINY, f"agent.reuse={reuse}", "agent.minibatches=1", f"run_dir={run}"]
    assert train_agent.main(tokens) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told and "last checkpoint is intact" in told
    assert ("the value loss is nan" if what == "loss" else "policy.weight is not finite") in told
    tensors, meta, _ = load(run)
    assert meta["trainer"]["update"] == 3
    for name, p in trainer[-1].learner.agent.state_dict().items():
        assert torch.equal(tensors[f"trainer/agent/{name}"], p)
    on = False
    assert train_agent.main(["--resume", str(run)]) == 0
    assert len(read_metrics(run / "metrics.jsonl")) == trainer[-1].update


def test_interrupted_in_the_last_evaluation(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(build, "evaluate_agent", interrupt)
        assert train_agent.main([*TINY, f"run_dir={run}"]) == 130
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--resume RUN" in told and not (run / "evaluation.json").exists()
    assert train_agent.main(["--resume", str(run)]) == 0 and (run / "evaluation.json").exists()


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, words", [
    ([], ["give a RUN"]), (["RUN", "--lengths", "5,5"], ["given twice", "5,5"]),
    (["RUN", "--lenghts", "5"], ["did you mean --lengths?"]), (["RUN", "--episodes", "0"], ["evaluate.episodes", "from 1"]),
    (["RUN", "--episodes", "ten"], ["evaluate.episodes='ten'", "from 1"]),
    (["RUN", "--lengths", "5,x"], ["--lengths", "5,x", "50,100"]),
    (["RUN", "--lengths", "0"], ["env.corridor_length", "from 1"]), (["RUN", "--lengths"], ["--lengths"]),
    (["RUN", "--jsn"], ["--jsn"]), (["RUN", "other"], ["'other' is not a key=value setting"]),
    (["RUN", "env.corridor_lenght=9"], ["did you mean env.corridor_length?"]),
    (["RUN", "evaluate.seed=x"], ["an integer"]), (["RUN", "env=tmaze_bakker"], ["contradicts env=tmaze_passive"]),
    (["RUN", "cell.hidden_size=4"], ["cell.hidden_size cannot change here", "env"]),
    (["RUN", "cell=gru"], ["contradicts cell=ur-lstm"]), (["RUN", "train.steps=5"], ["train.steps cannot change"]),
    (["RUN", "--episodes", "3", "evaluate.episodes=4"], ["given twice"]),
    (["RUN", "--lengths", "5", "env.corridor_length=4"], ["given twice"]),
    (["RUN", "--lengths", "5,0"], ["env.corridor_length='0'", "from 1"]),
    (["RUN", "env.cue_visible=true"], ["env.cue_visible: what the agent sees", "vector 3", "vector 2 in training"]),
])  # fmt: skip
def test_evaluate_refuses(arguments, words, run, refused):
    refused(evaluate_agent.main, [run if a == "RUN" else a for a in arguments], *words)
