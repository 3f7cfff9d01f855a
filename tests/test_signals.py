"""SIGINT and SIGTERM: saved, gone within seconds, and the resumed run ends as one that was never stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_resume import ROOT, assert_same, given, launch, outcome, resume, step_of, train

import build
import train_agent
from agents import checkpoint

ONE_SAVE = ["train.checkpoint_every=100000", "train.steps=4000", "cell=lstm"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory) -> dict:
    return outcome(train(tmp_path_factory.mktemp("signals") / "run", *ONE_SAVE))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_leave(number, tmp_path, never_stopped):
    run = tmp_path / "run"
    process = launch(*given(run, *ONE_SAVE))
    while not (run / "metrics.jsonl").is_file() or (run / "metrics.jsonl").read_bytes().count(b"\n") < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10 * max(1, os.getloadavg()[0] / os.cpu_count())
    assert (process.returncode, err) == (128 + number, "")
    assert f"--resume {run}" in out
    assert 0 < step_of(run) < 4000 and not (run / "evaluation.json").exists()
    assert_same(never_stopped, outcome(resume(run)))


class Killer:
    """A watcher whose n-th evaluation gets a SIGTERM before its first step."""

    def __init__(self, nth):
        self.nth, self.calls, self.make = nth, 0, build.watcher

    def __call__(self, *arguments):
        watch = self.make(*arguments)

        def wrapped(stop):
            self.calls += 1
            if self.calls == self.nth:
                os.kill(os.getpid(), signal.SIGTERM)
            return watch(stop)

        return wrapped


@pytest.mark.parametrize("log_every, nth", [(2, 2), (3, 2), (2, 1), (5, 3)])
def test_a_signal_breaks_off_an_evaluation(log_every, nth, tmp_path, monkeypatch):
    """With and without a row of other metrics that waits for it; in the middle of a run, and in its last update."""
    tokens = [f"train.log_every={log_every}", "train.evaluate_every=2", "cell=lstm"]
    whole = outcome(train(tmp_path / "whole", *tokens))
    evaluations = [row for row in whole["rows"] if "eval/success" in row]
    for number in {nth, len(evaluations)}:
        run = tmp_path / f"run{number}"
        with monkeypatch.context() as patch:
            patch.setattr(build, "watcher", Killer(number))
            assert train_agent.main(given(run, *tokens)) == 128 + signal.SIGTERM
        assert checkpoint.load(run)[1]["pending"] is not None and not (run / "evaluation.json").exists()
        with monkeypatch.context() as patch:  # once more, in the same evaluation
            patch.setattr(build, "watcher", Killer(1))
            assert train_agent.main(["--resume", str(run)]) == 128 + signal.SIGTERM
        assert_same(whole, outcome(resume(run)))


def test_a_signal_breaks_off_the_final_evaluation(tmp_path, monkeypatch, capsys):
    run, evaluate = tmp_path / "run", build.evaluate

    def killed(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(build, "evaluate", killed)
        assert train_agent.main(given(run)) == 128 + signal.SIGINT
    assert "stopped in the final evaluation" in capsys.readouterr().out and not (run / "evaluation.json").exists()
    assert_same(outcome(train(tmp_path / "whole")), outcome(resume(run)))


OVERDUE = """
import os, signal, time
from agents.session import Interrupt
with Interrupt(patience=0.2) as interrupt:
    with interrupt.bounded(lambda: print("never said")):
        pass
    with interrupt.bounded(lambda: print("last words")):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            time.sleep(0.01)
"""


IN_ONE_CALL = """
import os, signal, threading, torch
from agents.session import Interrupt
with Interrupt(patience=0.2) as interrupt, interrupt.bounded(lambda: print("last words")):
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    torch.linalg.svd(torch.randn(4000, 4000))
    print("waited")
"""


@pytest.mark.parametrize("program", [OVERDUE, IN_ONE_CALL])
def test_what_takes_too_long_is_not_waited_for(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "last words\n", "")
