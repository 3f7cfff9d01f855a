"""Runs as child processes, several at once: started, watched, resumed when a signal killed them, and never left behind.

A child killed by a signal goes on from its checkpoint, exactly, up to RESUMES times; one that leaves with an error has
failed, and what it printed last says why. Children have a session of their own, so that Ctrl-C reaches this process
alone, which asks them to save and leave. If this process is killed, each child sees that its parent is gone
(`leave_with_parent`) and does the same.

A lock on the folder is shared with the children: as long as one of them is still leaving, nobody else can start there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.results import done
from agents.runlog import RunError, write_text

RESUMES = 3
#: seconds that a child gets to save and leave before it is killed
PATIENCE = 20.0
POLL_SECONDS = 0.05


@dataclass
class Job:
    """`start` and `resume` are the child's command lines, `log` a file for what it prints; `steps` its budget."""

    name: str
    cell: str
    task: str
    folder: Path
    log: Path
    start: list[str]
    resume: list[str]
    steps: int
    state: str = "waiting"  # running, done, failed, stopped
    why: str = ""
    kills: int = 0
    seconds: float = 0.0  # running time in this process's life

    def __post_init__(self) -> None:
        if done(self.folder):
            self.state = "done"

    @property
    def failure(self) -> Path:
        """The file that says why the last attempt failed; it goes when the run is tried again."""
        return self.log.with_suffix(".failed")

    @property
    def progress(self) -> dict[str, Any]:
        """The last row of its metrics, {} where there is none yet."""
        return last_row(self.folder / "metrics.jsonl")

    @property
    def success(self) -> float | None:
        """Greedy success rate of its final evaluation, None before that."""
        try:
            return float(json.loads((self.folder / "evaluation.json").read_text())["greedy"]["success_rate"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def leave_with_parent(parent: int) -> None:
    """Called in a child: once `parent` is no longer its parent, the process gets SIGTERM, and is ended if that does not
    end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def available_cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_folder(folder: Path) -> None:
    """Raises RunError where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"the folder {folder} is not writable")


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], object] = print) -> Iterator[int]:
    """Holds the folder's lock, and gives the descriptor that children must inherit. Waits for children of a killed process to
    leave. Raises RunError where somebody else holds it for longer."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for attempt in range(int((PATIENCE + 10) / 0.2)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 5:
                    say("waiting for the runs of an earlier call to leave")
                time.sleep(0.2)
        else:
            raise RunError(f"{folder} is in use by another comparison")
        yield descriptor
    finally:
        os.close(descriptor)


def run_all(jobs: Sequence[Job], workers: int, lock: int, show: Callable[[Job | None], object],
            environment: Callable[[int], dict[str, str]] = lambda slot: {}) -> int | None:  # fmt: skip
    """Runs what is not done, in order, `workers` at a time; returns the number of the signal that stopped it, or None.

    show: called with each job whose state has changed, and with None many times a second. environment: what a child's
    environment has beside this one's, by the slot (0..workers-1) it runs in.
    """
    waiting = [job for job in jobs if job.state == "waiting"][::-1]
    running: dict[int, tuple[Job, subprocess.Popen, float]] = {}
    stop: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: stop.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
    try:
        while running or (waiting and not stop):
            for slot in range(workers):
                if slot not in running and waiting and not stop:
                    job = waiting.pop()
                    running[slot] = job, _launch(job, lock, environment(slot)), time.monotonic()
                    job.state = "running"
                    show(job)
            if stop:
                _end(running)
            time.sleep(POLL_SECONDS)
            for slot, (job, child, began) in list(running.items()):
                if child.poll() is not None:
                    del running[slot]
                    job.seconds += time.monotonic() - began
                    _judge(job, child.returncode, bool(stop))
                    if job.state == "waiting":
                        waiting.append(job)
                    show(job)
            show(None)
    finally:
        _end(running)
        for number, handler in before.items():
            signal.signal(number, handler)
    return stop[0] if stop else None


def _launch(job: Job, lock: int, extra: dict[str, str]) -> subprocess.Popen:
    begun = (job.folder / "versions.json").is_file()  # the last file that is written before training
    if job.folder.exists() and not begun:
        shutil.rmtree(job.folder)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.failure.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **extra}
    with open(job.log, "ab") as log:
        return subprocess.Popen(job.resume if begun else job.start, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                env=environment, start_new_session=True, pass_fds=(lock,))  # fmt: skip


def _judge(job: Job, status: int, stopping: bool) -> None:
    """What a child's end means. Beside its own signals, 128 + SIGINT or SIGTERM: it was asked, saved and left."""
    number = -status if status < 0 else status - 128 if status - 128 in (signal.SIGINT, signal.SIGTERM) else 0
    if done(job.folder):
        job.state = "done"
    elif number and stopping:
        job.state = "stopped"
    elif number and job.kills < RESUMES:
        job.kills += 1
        job.state = "waiting"
    else:
        job.state = "failed"
        killed = f"killed by {signal.Signals(number).name} {job.kills + 1} times" if number else ""
        job.why = killed or _reason(job.log) or f"exit status {status}"
        write_text(job.failure, job.why + "\n")


def _end(running: dict[int, tuple[Job, subprocess.Popen, float]]) -> None:
    """Asks every child to leave, and ends those that do not."""
    children = [child for _, child, _ in running.values() if child.poll() is None]
    for child in children:
        child.terminate()
    deadline = time.monotonic() + PATIENCE
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(deadline - time.monotonic(), 0))
        child.kill()
        child.wait()


def _reason(log: Path) -> str:
    """The last line that names an error, else the last one at all."""
    lines = [line.strip() for line in _tail(log).decode(errors="replace").split("\n") if line.strip()]
    named = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception|Interrupt)\b", line)]
    text = (named or lines or [""])[-1].removeprefix("error: ")
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a metrics file that somebody may be writing to; {} where there is none."""
    for line in reversed(_tail(path).split(b"\n")[:-1]):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            return row if isinstance(row, dict) else {}
    return {}


def _tail(path: Path, size: int = 8192) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
            return file.read()
    except OSError:
        return b""


def on_gpus(slot: int) -> dict[str, str]:
    """What a child's environment needs so that runs are dealt out to the GPUs that there are."""
    if not torch.cuda.is_available():
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]}


def train_command(script: Path, *arguments: str) -> list[str]:
    """The command line of a child that watches this process: `script --child PID arguments`."""
    return [sys.executable, str(script), "--child", str(os.getpid()), *arguments]
