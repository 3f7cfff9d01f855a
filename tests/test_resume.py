"""Killed at any moment and resumed, a run ends bit-identical to one that was never stopped.

In one process a death is a copy of the run folder as it is at that moment, which is what a SIGKILL leaves; by process
it is a real SIGKILL.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import build
import train_agent
from agents import checkpoint
from agents.checkpoint import list_checkpoints, load
from agents.runlog import MetricsLog, read_metrics
from agents.trainer import Trainer
from configs.load import load_config
from memory_cells import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "smoke", "device=cpu", "train.threads=1", "env.corridor_length=5", "cell.hidden_size=8", "agent.embedding_size=8",
    "train.num_envs=8", "train.unroll_length=16", "train.steps=600", "train.log_every=2", "train.checkpoint_every=2",
    "train.keep_checkpoints=2", "train.evaluate_episodes=5", "evaluate.episodes=6", "evaluate.num_envs=4",
]  # fmt: skip
CASES = {name: [f"cell={name}", "agent.minibatches=2", "agent.reuse=2"] for name in VARIANTS} | {
    "full episodes, cut off": ["cell=lstm", "env=tmaze_bakker", "env.step_limit=12", "agent.full_episode=true",
                               "agent.normalise_reward=true"],
    "cut off, scaled rewards": ["cell=ur-gru", "env=tmaze_bakker", "env.step_limit=7", "agent.normalise_reward=true",
                                "agent.see_last_action=true", "agent.see_last_reward=true"],
    "pieces and a burn-in": ["cell=ur-lstm", "agent.bptt_length=5", "agent.burn_in=4", "agent.start_state=zero"],
    "old actors": ["cell=gru", "env=tmaze_active", "agent=impala", "agent.actor_lag=3", "agent.minibatches=1"],
    "rmsprop, schedules": ["cell=janet", "agent.optimizer=rmsprop", "agent.learning_rate_end_fraction=0",
                           "agent.entropy_cost_end_fraction=0.1", "agent.exploration=entropy"],
    "ppo": ["cell=c-lstm", "agent=ppo", "agent.normalise_advantage=std", "agent.weight_decay=0.01"],
    "curriculum, budget": ["cell=g-lstm", "cell.sigma_start=0.1", "cell.sigma_end=30", "cell.sigma_until=0.6",
                           "cell.threshold=0.1", "agent.budget_cost=0.1"],
    "coins up to a point": ["cell=hdetach-lstm", "cell.p_detach=0.9", "cell.detach_until=0.5", "agent=impala",
                            "agent.actor_lag=3", "agent.minibatches=1"],
    "rare sights": ["cell=ur-lstm", "agent=long"],
    "looked into": ["cell=cr-lstm", "train.diagnose_every=1", "train.examine_every=2", "agent.actor_lag=2"],
    "a decoder": ["cell=lstm", "aux=reconstruct", "aux.segment=3", "aux.memory=5", "aux.pretrain_updates=4"],
    "until solved": ["cell=lstm", "train.stop_at_success=0", "train.evaluate_every=5"],
}
EVERY_3 = "train.evaluate_every=3"
CASES = {name: tokens if name == "until solved" else [*tokens, EVERY_3] for name, tokens in CASES.items()}  # fmt: skip


def given(run: Path, *tokens: str) -> list[str]:
    """The command line of a tiny run in the folder `run`; of a key given twice the last counts."""
    return list({token.split("=")[0]: token for token in [*TINY, *tokens, f"run_dir={run}"]}.values())


def train(run: Path, *tokens: str) -> Path:
    assert train_agent.main(given(run, *tokens)) == 0
    return run


def resume(run: Path) -> Path:
    assert train_agent.main(["--resume", str(run)]) == 0
    return run


def outcome(run: Path) -> dict:
    """All that a run ends with: state, structure, record and evaluation, less what depends on the clock."""
    tensors, meta, folder = load(run)
    assert {"generators/act", "generators/minibatch", "generators/torch", "env/generator"} <= {
        name.removeprefix("trainer/") for name in tensors
    }
    offset = meta.pop("metrics_offset")
    assert offset == (run / "metrics.jsonl").stat().st_size
    digests = {k: (str(t.dtype), tuple(t.shape), hashlib.sha256(t.numpy().tobytes()).hexdigest())
               for k, t in tensors.items()}  # fmt: skip
    rows = read_metrics(run / "metrics.jsonl", with_time=False)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "steps strictly increase: no row twice"
    evaluation = json.loads((run / "evaluation.json").read_text())
    return {"step": folder.name.split("-")[0], "tensors": digests, "meta": meta, "rows": rows, "evaluation": evaluation}


def assert_same(left: dict, right: dict) -> None:
    for part in left:
        assert left[part] == right[part], part
    assert left.keys() == right.keys()


# --- in one process --------------------------------------------------------------------------------------------------


class Death(BaseException):
    """Not an Exception: nothing on the way may handle it."""


class Moments:
    """Counts the moments of a run: before every update, before and after every row of the record, before every system
    call of a save. At moment `fatal` it copies the run folder to `grave` and dies."""

    def __init__(self, monkeypatch):
        self.seen: list[str] = []
        self.fatal, self.run, self.grave = None, None, None
        monkeypatch.setattr(Trainer, "iterate", self._before("update", Trainer.iterate))
        monkeypatch.setattr(MetricsLog, "write", self._before("row", self._halves(MetricsLog.write)))
        # the modules as the checkpoint code, and only that, sees them
        calls = {name: self._before(name, getattr(os, name)) for name in ("open", "write", "rename", "replace")}
        calls["fsync"] = self._before("fsync", lambda _: None)  # slow, and for power cuts only
        monkeypatch.setattr(checkpoint, "os", SimpleNamespace(**{**vars(os), **calls}))
        rmtree = self._before("rmtree", shutil.rmtree)
        monkeypatch.setattr(checkpoint, "shutil", SimpleNamespace(**{**vars(shutil), "rmtree": rmtree}))

    def _before(self, name, function):
        def wrapped(*arguments, **options):
            self._now(name)
            return function(*arguments, **options)

        return wrapped

    def _halves(self, write):
        def wrapped(log, row):
            if self.run is not None and self.fatal == len(self.seen):  # a row of which only a part got into the file
                log._file.write(b'{"step": 12')
                self._now("half a row")
            self.seen.append("half a row")
            write(log, row)

        return wrapped

    def _now(self, name):
        if self.run is not None and self.fatal == len(self.seen):
            shutil.copytree(self.run, self.grave)
            self.run = None  # what goes on until the exception is through is not recorded
            raise Death(name)
        self.seen.append(name)

    def die(self, run: Path, grave: Path, fatal: int, call) -> None:
        """Runs `call`, which works in the folder `run`, up to moment `fatal`, and leaves what a kill leaves in `run`."""
        self.seen, self.fatal, self.run, self.grave = [], fatal, run, grave
        with pytest.raises(Death):
            call()
        assert not [t for t in threading.enumerate() if "tensorboard" in type(t).__module__], "one still writes into the run"
        shutil.rmtree(run)
        os.rename(grave, run)

    def count(self, call) -> int:
        self.seen, self.fatal, self.run = [], None, None
        call()
        return len(self.seen)


@pytest.fixture
def moments(monkeypatch):
    return Moments(monkeypatch)


FIRST = 4  # the moment after which config.yaml is there: before it there is no run


def survive(tmp_path: Path, moments: Moments, tokens: list[str], rng: random.Random, deaths: int) -> None:
    """Dies `deaths` times at random moments of one run, each between the last death and the end; compares the ends."""
    whole, run, grave = tmp_path / "whole", tmp_path / "run", tmp_path / "grave"
    total = moments.count(lambda: train(whole, *tokens))
    assert {"update", "row", "fsync", "rename", "replace", "half a row"} <= set(moments.seen)
    moments.die(run, grave, rng.randrange(FIRST, total), lambda: train(run, *tokens))
    for _ in range(deaths - 1):
        shutil.copytree(run, tmp_path / "trial")
        left = moments.count(lambda: resume(tmp_path / "trial"))
        shutil.rmtree(tmp_path / "trial")
        if not left:  # it died in its last moment
            break
        moments.die(run, grave, rng.randrange(left // 3 + 1), lambda: resume(run))
    resume(run)
    assert_same(outcome(whole), outcome(run))


@pytest.mark.parametrize("case", CASES)
def test_dead_at_a_random_moment(case, tmp_path, moments):
    survive(tmp_path, moments, CASES[case], random.Random(case), deaths=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_dead_at_many_random_moments(case, tmp_path, moments):
    for attempt in range(10):
        (tmp_path / str(attempt)).mkdir()
        survive(tmp_path / str(attempt), moments, CASES[case], random.Random(f"{case} {attempt}"), deaths=3)


def test_dead_twice_inside_the_first_save(tmp_path, moments):
    """A whole checkpoint of step 0 without `latest`, twice: still a run that has not begun."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    moments.count(lambda: train(whole))
    moments.die(run, tmp_path / "grave", moments.seen.index("rename") + 1, lambda: train(run))
    for _ in range(2):
        assert list_checkpoints(run) and not (run / "checkpoints" / "latest").exists()
        shutil.copytree(run, tmp_path / "trial")
        moments.count(lambda: resume(tmp_path / "trial"))
        shutil.rmtree(tmp_path / "trial")
        moments.die(run, tmp_path / "grave", moments.seen.index("rename") + 1, lambda: resume(run))
    resume(run)
    assert_same(outcome(whole), outcome(run))


def test_dead_before_the_first_save(tmp_path, moments, capsys):
    whole, run = train(tmp_path / "whole"), tmp_path / "run"
    moments.die(run, tmp_path / "grave", FIRST, lambda: train(run))
    assert [p.name for p in run.iterdir()] == ["config.yaml"]
    capsys.readouterr()
    resume(run)
    assert "starting from the beginning" in capsys.readouterr().out
    assert_same(outcome(whole), outcome(run))


def test_a_reward_scale_forgets_the_last_episode(tmp_path):
    """Whole episodes that are cut off on a rollout's last row: the next rollout's return so far starts at zero."""
    config = load_config(given(tmp_path, *CASES["full episodes, cut off"]), build.KNOWN_CELLS)
    trainer = build.make_trainer(config, torch.device("cpu"))
    for _ in range(4):
        trainer.iterate()

    class Spy:
        def __init__(self, scale):
            self.discounted, self.seen = scale.discounted, None

        def __call__(self, reward, *_):
            self.seen = self.discounted
            return reward

    trainer.scale = spy = Spy(trainer.scale)
    assert spy.discounted.any()
    trainer.iterate()
    assert not spy.seen.any()


def test_seeds(tmp_path):
    one, again = outcome(train(tmp_path / "1", "seed=1")), outcome(train(tmp_path / "2", "seed=1"))
    other = outcome(train(tmp_path / "3", "seed=2"))
    assert_same(one, again)
    differing = {name for name in one["tensors"] if one["tensors"][name] != other["tensors"][name]}
    assert {f"trainer/{n}" for n in ("agent/policy.weight", "generators/act", "env/generator")} <= differing
    assert one["rows"] != other["rows"]


def test_rows_after_the_checkpoint_are_cut_off(tmp_path, moments):
    whole, run = tmp_path / "whole", tmp_path / "run"
    moments.count(lambda: train(whole))
    last = len(moments.seen) - moments.seen[::-1].index("update") - 1
    moments.die(run, tmp_path / "grave", last, lambda: train(run))
    kept = load(run)[1]["metrics_offset"]
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 999999, "update": 99}\n{"step": 10000')
    resume(run)
    assert_same(outcome(whole), outcome(run))
    assert (run / "metrics.jsonl").stat().st_size > kept


def test_a_finished_run_is_evaluated_again(tmp_path):
    run = train(tmp_path / "run")
    before, known = (run / "evaluation.json").read_bytes(), outcome(run)
    (run / "evaluation.json").unlink()
    files = {p: p.read_bytes() for p in [run / "metrics.jsonl", *(run / "checkpoints").rglob("*.*")]}
    resume(run)
    assert (run / "evaluation.json").read_bytes() == before
    assert_same(known, outcome(run))
    assert files == {p: p.read_bytes() for p in [run / "metrics.jsonl", *(run / "checkpoints").rglob("*.*")]}


def test_a_run_that_goes_on_from_an_earlier_checkpoint_has_no_result(tmp_path, monkeypatch):
    """Killed before its new end, it must not look done: what was measured at the old end goes first."""
    run = train(tmp_path / "run", "train.checkpoint_every=1")
    (run / "reach.json").write_text("{}")
    older = list_checkpoints(run)[0]
    cut_back = MetricsLog.truncate_to

    def killed(log, offset):
        assert not (run / "evaluation.json").exists() and not (run / "reach.json").exists()
        cut_back(log, offset)
        raise Death

    monkeypatch.setattr(MetricsLog, "truncate_to", killed)
    with pytest.raises(Death):
        train_agent.main(["--resume", str(older)])
    monkeypatch.undo()
    assert resume(run) and (run / "evaluation.json").is_file()
    resumed = json.loads((run / "versions.json").read_text())["resumed"]
    assert len(resumed) == 1 and {"git", "torch", "argv"} <= resumed[0].keys()


def test_what_may_change(tmp_path, moments, capsys):
    whole, run = tmp_path / "whole", tmp_path / "run"
    total = moments.count(lambda: train(whole))
    moments.die(run, tmp_path / "grave", total * 2 // 3, lambda: train(run))
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for token in ("agent.gamma=0.5", "train.steps=2000", "seed=5", "cell=gru", "train.log_every=3", "run_dir=elsewhere",
                  "train.stop_at_success=0.5", "deterministic=false"):  # fmt: skip
        capsys.readouterr()
        assert train_agent.main(["--resume", str(run), token]) == 2
        told = capsys.readouterr()
        assert token.split("=")[0] in told.err and told.err.count("\n") == 1 and told.out == ""
    assert files == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    allowed = ["train.checkpoint_every=3", "train.keep_checkpoints=1", "device=cpu", "train.threads=1"]
    assert train_agent.main(["--resume", str(run), *allowed, "agent.gamma=0.99"]) == 0
    assert_same(outcome(whole), outcome(run))
    assert len(list_checkpoints(run)) == 1


# --- by process ------------------------------------------------------------------------------------------------------

VARIANTS_BY_PROCESS = {
    "ur-lstm": ["cell=ur-lstm", "agent=ppo", "agent.normalise_reward=true"],
    "gru": ["cell=gru", "env=tmaze_active", "agent=impala", "agent.actor_lag=3"],
}
LONGER = ["train.steps=2500", EVERY_3]
SUICIDE = """
import os, signal, sys, types
calls, arguments = int(sys.argv[1]), sys.argv[2:]
sys.path.insert(0, os.getcwd())
import build
import train_agent
from agents import checkpoint
def deadly(function):
    def wrapped(*a, **k):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*a, **k)
    return wrapped
names = ("open", "write", "fsync", "rename", "replace")
checkpoint.os = types.SimpleNamespace(**{**vars(os), **{n: deadly(getattr(os, n)) for n in names}})
sys.exit(train_agent.main(arguments))
"""


def launch(*arguments: str, calls: int | None = None) -> subprocess.Popen:
    """train_agent.py as a process of its own; with `calls`, it kills itself at that system call of its saves."""
    program = ["train_agent.py"] if calls is None else ["-c", SUICIDE, str(calls)]
    return subprocess.Popen([sys.executable, *program, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def step_of(run: Path) -> int:
    try:
        return int((run / "checkpoints" / "latest").read_text().split("-")[0].split(" ")[0])
    except FileNotFoundError:
        return -1


def await_step(process: subprocess.Popen, run: Path, step: int) -> None:
    while step_of(run) < step and process.poll() is None:  # a hang is for the test's own timeout to end
        time.sleep(0.001)


def killed_by_process(variant: str, tmp_path: Path, kills: int, rng: random.Random) -> None:
    """One run killed `kills` times: in turn inside a save at a random system call, and at any time at all."""
    tokens, run = [*VARIANTS_BY_PROCESS[variant], *LONGER], tmp_path / "run"
    known = outcome(train(tmp_path / "whole", *tokens))
    steps, started, killed = known["meta"]["trainer"]["step"], given(run, *tokens, "train.checkpoint_every=1"), 0
    for number in range(kills):
        arguments = ["--resume", str(run)] if (run / "config.yaml").exists() else started
        share = (steps - max(step_of(run), 0)) // (kills - number + 1)  # so that some is left for the next
        if number % 2:
            process = launch(*arguments, calls=rng.randrange(12, 12 + max(share // 110, 1) * 20))
            process.communicate()
        else:
            process = launch(*arguments)
            await_step(process, run, max(step_of(run), 0) + rng.randrange(max(share, 1)))
            time.sleep(rng.random() * 0.05)
            process.kill()
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == kills
    assert_same(known, outcome(resume(run)))


@pytest.mark.parametrize("variant", VARIANTS_BY_PROCESS)
def test_sigkill(variant, tmp_path):
    killed_by_process(variant, tmp_path, 3, random.Random(variant))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS_BY_PROCESS)
def test_sigkill_twenty_times(variant, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "LONGER", ["train.steps=20000", EVERY_3])
    killed_by_process(variant, tmp_path, 20, random.Random(variant))
