"""A training run on disk: metrics, checkpoints, signals, and going on exactly where a killed run was."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

import torch

from agents import checkpoint
from agents.diagnostics import gates_of
from agents.evaluate import Stopped
from agents.progress import Progress
from agents.runlog import MetricsLog, RunError, TensorBoardMirror
from agents.trainer import Trainer


class Interrupt:
    """Notes the first SIGINT or SIGTERM, so that the update under way can finish and be saved; a second one kills.

    What has not finished `patience` seconds later is not waited for: inside `bounded(last_words)` the process then says
    `last_words()` and leaves, with status 128 + the signal's number and what was saved before. A thread of its own sees to
    that, for Python runs no handler while one long call computes.
    """

    def __init__(self, patience: float = 8.0):
        self.signum: int | None = None
        self.patience = patience
        self._previous: dict[int, Any] = {}
        self._last_words: Callable[[], object] | None = None
        self._left = threading.Event()

    def __bool__(self) -> bool:
        return self.signum is not None

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._wakeup = signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)  # gets every signal's number at once
        threading.Thread(target=self._watch, args=(told,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._tell)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)

    def _watch(self, told: int) -> None:
        with open(told, "rb", buffering=0) as numbers:
            while (number := numbers.read(1)) and number[0] not in self._previous:
                pass
        wait = self.patience if number else 0.0
        while number and not self._left.wait(wait):
            if last_words := self._last_words:
                last_words()
                sys.stdout.flush()
                os._exit(128 + number[0])
            wait = 0.1

    @contextmanager
    def bounded(self, last_words: Callable[[], object]) -> Iterator[None]:
        """What is done inside is not waited for longer than `patience` after a signal."""
        self._last_words = last_words
        try:
            yield
        finally:
            self._last_words = None


def check_like(saved: Any, own: Any, name: str) -> None:
    """Raises ValueError where `saved` is not built like `own`: type, keys, length, shape and dtype; numbers lie in [0, 1e15).
    None and empty containers in `own` ask for nothing. Generator states differ between devices: their size is free."""
    if isinstance(own, torch.Tensor):
        fits = isinstance(saved, torch.Tensor) and saved.dtype == own.dtype
        fits = fits and (saved.shape == own.shape or "generator" in name)
    elif isinstance(own, (dict, list, tuple)):
        fits = isinstance(saved, dict) == isinstance(own, dict) and isinstance(saved, (dict, list, tuple))
        fits = fits and (not own or (saved.keys() == own.keys() if isinstance(own, dict) else len(saved) == len(own)))
    else:
        fits = own is None or (type(saved) is type(own) and 0 <= saved < 10**15)
    if not fits:
        raise ValueError(f"{name} is not what this run would save")
    for key in own if isinstance(own, dict) else range(len(own)) if isinstance(own, (list, tuple)) else ():
        check_like(saved[key], own[key], f"{name}/{key}")


class Session:
    """Runs `trainer` in the folder `run_dir`.

    A checkpoint holds the whole of `trainer.state()` and the length of metrics.jsonl, so rows written after it are cut
    off again when it is resumed.
    """

    def __init__(self, run_dir: Path, trainer: Trainer, *, log_every: int, checkpoint_every: int, keep: int,
                 evaluate_every: int = 0, watch: Callable[[Interrupt], float] | None = None,
                 stop_at_success: float | None = None, diagnose_every: int = 0, examine_every: int = 0,
                 examine: Callable[[], dict[str, float]] | None = None):  # fmt: skip
        self.run_dir, self.trainer, self.keep = run_dir, trainer, keep
        self.log_every, self.checkpoint_every, self.evaluate_every = log_every, checkpoint_every, evaluate_every
        self.watch, self.stop_at_success, self.diagnose_every = watch, stop_at_success, diagnose_every
        self.examine, self.examine_every = examine, examine_every
        if checkpoint.list_checkpoints(run_dir) and not (run_dir / "metrics.jsonl").exists():
            raise RunError(f"{run_dir / 'metrics.jsonl'} is missing; without its record the run cannot go on")
        self.metrics = MetricsLog(run_dir / "metrics.jsonl")
        self.solved = False
        self.saved: tuple[int, bool] | None = None  # the update, and whether its row was pending
        self.pending: dict[str, Any] | None = None  # a row whose evaluation a signal broke off

    def restore(self, which: str = "latest") -> list[str]:
        """Loads a checkpoint, if there is one; a run killed before its first starts anew, with the same result.

        Returns remarks for the user. Raises CheckpointError, RunError.
        """
        found = checkpoint.list_checkpoints(self.run_dir)
        begun = any(not f.name.startswith(f"{self.trainer.step:012d}") for f in found) or self.metrics.offset
        if not begun and which == "latest" and not (self.run_dir / "checkpoints" / "latest").exists():
            return ["no checkpoint yet: starting from the beginning"]
        tensors, meta, folder = checkpoint.load(self.run_dir, which)
        try:
            state = checkpoint.unflatten(tensors, meta["trainer"])
            check_like(state, self.trainer.state_like(state), "trainer")
            check_like([meta["metrics_offset"], meta["solved"]], [0, False], "meta")
            pending = meta.get("pending")
            if not (pending is None or (isinstance(pending, dict) and all(
                    isinstance(v, (int, float, NoneType)) for v in pending.values()))):  # fmt: skip
                raise ValueError("meta/pending is not what this run would save")
            lost = self.trainer.load(state)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise checkpoint.CheckpointError(f"{folder} does not fit this run's config: {error}") from error
        self.solved, self.pending = meta["solved"], pending
        if not self.finished:
            self._drop_results()
        if which != "latest":  # or a kill before the next save would leave a later checkpoint with a record cut back
            checkpoint.make_latest(folder)
        self.metrics.truncate_to(meta["metrics_offset"])
        self.saved = self._moment
        again = [] if which == "latest" else ["what came after that checkpoint is dropped and made anew"]
        return [f"resumed at step {self.trainer.step:,} from {folder.name}", *again, *lost]

    def _drop_results(self) -> None:
        """Removes what was measured at the end of a run that now goes on, from an earlier checkpoint. Raises RunError."""
        for name in ("evaluation.json", "reach.json", "video.mp4", "video.gif", "diagnose"):
            path = self.run_dir / name
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"cannot remove {path}: {error.strerror or error}") from error

    def save(self) -> None:
        if self.saved == self._moment:
            return
        tensors, structure = checkpoint.flatten("trainer", self.trainer.state())
        meta = {"trainer": structure, "metrics_offset": self.metrics.sync(), "solved": self.solved,
                "pending": self.pending}  # fmt: skip
        checkpoint.save(self.run_dir, tensors, meta, self.trainer.step, self.keep)
        self.saved = self._moment

    @property
    def _moment(self) -> tuple[int, bool]:
        return self.trainer.update, self.pending is not None

    def run(self, interrupt: Interrupt) -> bool:
        """Trains to the end (True) or to a signal (False). Saves in either case."""
        trainer, began, first_step = self.trainer, time.monotonic(), self.trainer.step
        # a resumed run has the row of this step already, unless its evaluation was broken off; it hides what it writes anew
        board = TensorBoardMirror(self.run_dir / "tensorboard", purge_step=trainer.step + (self.pending is None))
        early = self.stop_at_success is not None
        with board, Progress(trainer.steps, initial_step=trainer.step, may_end_early=early) as progress:
            self.save()  # so that there is something to resume from at any moment
            while not (interrupt or self.finished):
                histograms = {}
                if self.pending is None:
                    with interrupt.bounded(lambda: self.last_words(progress)):
                        log = trainer.iterate()
                        row = self._row(log) if trainer.update % self.log_every == 0 or trainer.done else {}
                        found, histograms = self._looks()
                    row |= found
                else:
                    row, self.pending = self.pending, None
                if self.watch and self.evaluate_every and trainer.update % self.evaluate_every == 0:
                    try:
                        with interrupt.bounded(lambda: self.last_words(progress)):
                            row["eval/success"] = self.watch(interrupt)
                    except Stopped:
                        self.pending = row
                        break
                    self.solved = self.stop_at_success is not None and row["eval/success"] >= self.stop_at_success
                if row:
                    elapsed = time.monotonic() - began
                    rate = (trainer.step - first_step) / elapsed
                    row = {"step": trainer.step, "update": trainer.update} | row
                    row |= {"time/elapsed": elapsed, "time/steps_per_second": rate}
                    self.metrics.write(row)
                    board.write(trainer.step, {name: value for name, value in row.items() if "/" in name},
                                {f"gates/{name}": x for name, x in histograms.items()})  # fmt: skip
                progress.update(trainer.step, row)
                if trainer.update % self.checkpoint_every == 0:
                    self.save()
            self.save()
        return self.finished

    @property
    def finished(self) -> bool:
        return self.pending is None and (self.trainer.done or self.solved)

    def last_words(self, progress: Progress | None = None) -> None:
        """Of a process that leaves in the middle of something."""
        if progress:
            progress.__exit__()
        kept = checkpoint.list_checkpoints(self.run_dir)
        print(f"what is under way is not waited for any longer; {kept[-1].name if kept else 'nothing'} is saved; "
              f"go on with: python train_agent.py --resume {self.run_dir}")  # fmt: skip

    def _row(self, log: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The record of one moment: episodes since the last row, and the last update's losses and diagnostics."""
        row = {f"train/{name}": value for name, value in self.trainer.tracker.read().items()}
        values = torch.stack([value.double() for value in log.values()]).tolist()  # one wait for a device, not one for each
        return row | {f"learner/{name}": value for name, value in zip(log, values, strict=True)}

    def _looks(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """What the diagnostics that are due after this update say: scalars, histograms."""
        trainer, found, histograms = self.trainer, {}, {}
        if self.diagnose_every and trainer.update % self.diagnose_every == 0:
            gates, histograms = gates_of(trainer.learner.agent, trainer.rollout)
            found |= {f"gates/{name}": value for name, value in gates.items()}
        if self.examine and self.examine_every and trainer.update % self.examine_every == 0:
            found |= {f"diagnose/{name}": value for name, value in self.examine().items()}
        return found, histograms

    def close(self) -> None:
        self.metrics.close()
