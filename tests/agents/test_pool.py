"""The pool with children that are a line of Python each: states, reasons, resumption after signals, stopping, the lock."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agents.pool import RESUMES, Job, create_folder, last_row, locked, run_all
from agents.runlog import RunError

ROOT = Path(__file__).resolve().parents[2]
#: what a child does; `n` counts its starts, in a file beside its folder
HEAD = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True); (folder / "versions.json").write_text("{}")
count = folder.with_suffix(".starts"); n = len(count.read_text()) + 1 if count.exists() else 1; count.write_text("x" * n)
def finish(): (folder / "evaluation.json").write_text(sys.argv[2])
"""


def job(tmp_path: Path, name: str, code: str) -> Job:
    folder = tmp_path / "runs" / name
    folder.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-S", "-c", HEAD + code, str(folder)]
    return Job(name, "lstm", "maze", folder, tmp_path / "logs" / f"{name}.log", [*command, "start"], [*command, "resume"], 100)


def run(tmp_path: Path, *jobs: Job, workers: int = 2, show=lambda job: None) -> int | None:
    with locked(tmp_path) as lock:
        return run_all(jobs, workers, lock, show)


def starts(job: Job) -> int:
    return len(job.folder.with_suffix(".starts").read_text())


def test_states_and_reasons(tmp_path):
    fine, cheap = job(tmp_path, "fine", "finish()"), job(tmp_path, "cheap", "finish()")
    told = job(tmp_path, "told", "print('error: the disk is full\\n40 % done', file=sys.stderr); sys.exit(2)")
    crash = job(tmp_path, "crash", "print('step 3'); raise RuntimeError('no such gate')")
    silent = job(tmp_path, "silent", "os._exit(7)")
    seen = []
    assert run(tmp_path, fine, told, crash, silent, cheap, show=lambda j: j and seen.append((j.name, j.state))) is None
    assert [j.state for j in (fine, told, crash, silent, cheap)] == ["done", "failed", "failed", "failed", "done"]
    assert (told.why, crash.why, silent.why) == ("the disk is full", "RuntimeError: no such gate", "exit status 7")
    assert crash.failure.read_text() == "RuntimeError: no such gate\n" and not fine.failure.exists()
    assert starts(crash) == 1  # an error is no reason to try again in the same call
    assert {("fine", "running"), ("fine", "done"), ("crash", "running"), ("crash", "failed")} <= set(seen)


def test_what_is_done_is_not_run_again_and_what_failed_is(tmp_path):
    fine, crash = job(tmp_path, "fine", "finish()"), job(tmp_path, "crash", "sys.exit('broken') if n == 1 else finish()")
    run(tmp_path, fine, crash)
    again = [job(tmp_path, j.name, j.start[3].removeprefix(HEAD)) for j in (fine, crash)]
    assert [j.state for j in again] == ["done", "waiting"]
    run(tmp_path, *again)
    assert [j.state for j in again] == ["done", "done"] and [starts(j) for j in again] == [1, 2]
    assert not crash.failure.exists() and (crash.folder / "evaluation.json").read_text() == "resume"


def test_a_killed_child_goes_on_so_many_times(tmp_path):
    once = job(tmp_path, "once", "finish() if n == 2 else os.kill(os.getpid(), signal.SIGKILL)")
    always = job(tmp_path, "always", "os.kill(os.getpid(), signal.SIGSEGV)")
    left = job(tmp_path, "left", "finish() if n == 2 else sys.exit(128 + signal.SIGTERM)")  # saved and left, as asked
    run(tmp_path, once, always, left)
    assert (once.state, once.kills, starts(once)) == ("done", 1, 2) and (left.state, starts(left)) == ("done", 2)
    assert (once.folder / "evaluation.json").read_text() == "resume"
    assert (always.state, starts(always)) == ("failed", RESUMES + 1)
    assert always.why == f"killed by SIGSEGV {RESUMES + 1} times"


def test_a_folder_that_was_hardly_begun_is_begun_again(tmp_path):
    fine = job(tmp_path, "fine", "finish()")
    fine.folder.mkdir(parents=True)
    (fine.folder / ".tmp-config.yaml-1").write_text("half a file")
    run(tmp_path, fine)
    assert fine.state == "done" and (fine.folder / "evaluation.json").read_text() == "start"
    assert {p.name for p in fine.folder.iterdir()} == {"versions.json", "evaluation.json"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_nothing_stays(tmp_path, number):
    """The first child saves and leaves, the second has finished meanwhile, the third was never started."""
    leaves = job(tmp_path, "leaves", "signal.signal(15, lambda *_: sys.exit(143)); time.sleep(60)")
    ends = job(tmp_path, "ends", "signal.signal(15, lambda *_: (finish(), sys.exit(0))); time.sleep(60)")
    never = job(tmp_path, "never", "finish()")

    def shoot():
        while not all(j.folder.with_suffix(".starts").exists() for j in (leaves, ends)):
            time.sleep(0.01)
        time.sleep(0.2)  # for the handlers
        os.kill(os.getpid(), number)

    threading.Thread(target=shoot).start()
    assert run(tmp_path, leaves, ends, never) == number
    assert [j.state for j in (leaves, ends, never)] == ["stopped", "done", "waiting"]
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_one_comparison_a_folder(tmp_path, monkeypatch):
    """A child holds its parent's lock, so the next call waits for it; and gives up where it never leaves."""
    code = "import sys, time; print('up', flush=True); time.sleep(float(sys.argv[1]))"
    with locked(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-S", "-c", code, "2"], pass_fds=(lock,), stdout=subprocess.PIPE)
        child.stdout.readline()
    began, said = time.monotonic(), []
    with locked(tmp_path, said.append):
        assert child.poll() is not None and time.monotonic() - began > 0.5 and len(said) == 1
    child.communicate()
    monkeypatch.setattr("agents.pool.PATIENCE", -9.5)
    with locked(tmp_path), pytest.raises(RunError, match="is in use by another comparison"), locked(tmp_path):
        pass


WATCHED = "from agents.pool import leave_with_parent\nimport sys, time\nleave_with_parent({parent})\ntime.sleep(60)"


def test_a_child_leaves_with_its_parent(tmp_path):
    """The parent is killed, so it can tell nobody."""
    pid = tmp_path / "pid"
    code = (f"import subprocess, sys, os, time\nchild = subprocess.Popen([sys.executable, '-c', {WATCHED!r}.format(parent=os."
            f"getpid())])\nopen({str(pid)!r}, 'w').write(str(child.pid) + ' ')\ntime.sleep(60)")  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not pid.exists() or not pid.read_text().endswith(" "):
        time.sleep(0.02)
    child = int(pid.read_text())
    os.kill(child, 0)  # it lives
    parent.kill()
    parent.wait()
    began = time.monotonic()
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() - began < 60
        time.sleep(0.05)


def test_last_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) == {}
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
    assert last_row(path) == {"step": 2}
    path.write_text('{"step": 1, "pad": "' + "x" * 20_000 + '"}\n{"step": 2}\n')
    assert last_row(path) == {"step": 2}


def test_folder_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make the folder"):
        create_folder(tmp_path / "file" / "out")
