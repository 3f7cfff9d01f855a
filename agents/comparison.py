"""Many runs of train_agent.py side by side: each a process of its own with one thread, in a folder of its own.

What is done is not run again, what was cut off goes on from its checkpoint, what fails is noted and left alone. Nothing here
knows what a run is about: a job is a command line and a folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from agents.runlog import write_text

ROOT = Path(__file__).resolve().parents[1]
REVIVALS = 3  # times that a run killed by a signal is resumed before it counts as failed
PARENT = "GATEMAZE_PARENT"  # environment variable: the process without which a run has no point


@dataclass(frozen=True)
class Job:
    """`tokens` are the arguments of train_agent.py, `run_dir` among them; `steps` the most it can take."""

    name: str
    folder: Path
    tokens: tuple[str, ...]
    steps: int

    @property
    def done(self) -> bool:
        return (self.folder / "evaluation.json").is_file()

    @property
    def failure(self) -> Path:
        """The file that says why the last attempt failed; beside the folder, which may not exist."""
        return self.folder.with_name(self.folder.name + ".failed")

    def why(self) -> str | None:
        """One line, or None where the run has not failed."""
        return self.failure.read_text().strip() if self.failure.is_file() and not self.done else None

    def step(self) -> int:
        """Environment steps on record, for display: the last whole line of metrics.jsonl."""
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().split(b"\n")[:-1]
            return int(json.loads(lines[-1])["step"]) if lines else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def leave_with_parent() -> None:
    """In a run: exit once the process named by the variable PARENT is gone. A checkpoint is whole at any moment, so it may."""
    if parent := os.environ.get(PARENT):

        def watch() -> None:
            while os.getppid() == int(parent):
                time.sleep(0.5)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def execute(job: Job, children: set[subprocess.Popen], stopped: threading.Event) -> None:
    """Runs the job to its end, resuming it where a signal cut it off. A failure is written to `job.failure`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}
    for _ in range(1 + REVIVALS):
        if stopped.is_set():
            return
        begun = (job.folder / "config.yaml").is_file()
        arguments = ["--resume", str(job.folder)] if begun else list(job.tokens)
        child = subprocess.Popen([sys.executable, str(ROOT / "train_agent.py"), *arguments], env=environment,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
        children.add(child)
        said = child.communicate()[1].strip().splitlines()
        children.discard(child)
        if child.returncode == 0:
            job.failure.unlink(missing_ok=True)
            return
        number = -child.returncode if child.returncode < 0 else child.returncode - 128
        if number not in list(signal.Signals):
            return write_text(job.failure, (said[-1] if said else f"exit status {child.returncode}") + "\n")
    write_text(job.failure, f"ended by {signal.Signals(number).name} {1 + REVIVALS} times\n")


def run_all(jobs: Sequence[Job], workers: int, say: Callable[[str], None] = print) -> None:
    """Runs what is not done, `workers` at a time. On an exception (Ctrl-C) the children get a SIGTERM, on which they save."""
    children: set[subprocess.Popen] = set()
    todo = [job for job in jobs if not job.done]
    running: set[str] = set()
    board = Board(jobs, running, say)
    stopped = threading.Event()

    def one(job: Job) -> None:
        if stopped.is_set():
            return
        running.add(job.name)
        try:
            execute(job, children, stopped)
        finally:
            running.discard(job.name)
        if not stopped.is_set():
            board.ended(job)

    with ThreadPoolExecutor(max(workers, 1)) as pool, board:
        try:
            waiting = [pool.submit(one, job) for job in todo]
            while not all(future.done() for future in waiting):
                time.sleep(0.25)
                board.tick()
            for future in waiting:
                future.result()
        except BaseException:
            stopped.set()
            for child in list(children):
                child.terminate()
            raise


class Board:
    """What one sees: on a terminal the state of every run and the time left, elsewhere a line when a run ends."""

    def __init__(self, jobs: Sequence[Job], running: set[str], say: Callable[[str], None]):
        self.jobs, self.running, self.say = jobs, running, say
        self.console, self.live = Console(), None
        self.began = time.monotonic()
        self.finished = sum(job.done for job in jobs)
        self.before = self.work()[0]

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, get_renderable=self.picture)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.refresh()
            self.live.stop()

    def work(self) -> tuple[int, int]:
        """Environment steps done or spared by an early end, and those of the whole."""
        counts = [job.steps if job.done or job.why() else job.step() for job in self.jobs]
        return sum(counts), sum(job.steps for job in self.jobs)

    def left(self) -> str:
        done, total = self.work()
        gained, elapsed = done - self.before, time.monotonic() - self.began
        if gained <= 0:
            return "-"
        seconds = int((total - done) * elapsed / gained)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def tick(self) -> None:
        if self.live:
            self.live.refresh()

    def ended(self, job: Job) -> None:
        self.finished += 1
        if not self.live:
            state = f"FAILED: {job.why()}" if job.why() else "done"
            self.say(f"[{self.finished}/{len(self.jobs)}] {job.name} {state}, at most {self.left()} left")

    def picture(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("run", "", "steps", "state"):
            table.add_column(title)
        for job in [j for j in self.jobs if j.name in self.running or j.why()][:24]:
            step, why = job.step(), job.why()
            share = min(step / job.steps, 1.0)
            bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
            table.add_row(job.name, bar, f"{step:,}", f"[red]failed: {why}" if why else "running")
        done, failed = sum(j.done for j in self.jobs), sum(j.why() is not None for j in self.jobs)
        table.caption = f"{done} of {len(self.jobs)} runs done, {failed} failed, at most {self.left()} left"
        return table
