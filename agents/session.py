"""A training run on disk: metrics, checkpoints, signals, and going on exactly where a killed run was."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from agents import checkpoint
from agents.progress import Progress
from agents.runlog import MetricsLog, TensorBoardMirror
from agents.trainer import Trainer


class Interrupt:
    """Notes the first SIGINT or SIGTERM, so that the update under way can finish and be saved; a second one kills."""

    def __init__(self):
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)


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
                 evaluate_every: int = 0, watch: Callable[[], float] | None = None,
                 stop_at_success: float | None = None):  # fmt: skip
        self.run_dir, self.trainer, self.keep = run_dir, trainer, keep
        self.log_every, self.checkpoint_every, self.evaluate_every = log_every, checkpoint_every, evaluate_every
        self.watch, self.stop_at_success = watch, stop_at_success
        self.metrics = MetricsLog(run_dir / "metrics.jsonl")
        self.solved = False
        self.saved: int | None = None

    def restore(self) -> list[str]:
        """Loads the latest checkpoint, if there is one; a run killed before its first starts anew, with the same result.

        Returns remarks for the user. Raises CheckpointError, RunError.
        """
        found = checkpoint.list_checkpoints(self.run_dir)
        begun = any(not f.name.startswith(f"{self.trainer.step:012d}") for f in found)
        if not begun and not (self.run_dir / "checkpoints" / "latest").exists():
            self.metrics.truncate_to(0)
            return ["no checkpoint yet: starting from the beginning"]
        tensors, meta, folder = checkpoint.load(self.run_dir)
        try:
            state = checkpoint.unflatten(tensors, meta["trainer"])
            check_like(state, self.trainer.state_like(state), "trainer")
            check_like([meta["metrics_offset"], meta["solved"]], [0, False], "meta")
            lost = self.trainer.load(state)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise checkpoint.CheckpointError(f"{folder} does not fit this run's config: {error}") from error
        self.solved = meta["solved"]
        self.metrics.truncate_to(meta["metrics_offset"])
        self.saved = self.trainer.update
        return [f"resumed at step {self.trainer.step:,} from {folder.name}", *lost]

    def save(self) -> None:
        if self.saved == self.trainer.update:
            return
        tensors, structure = checkpoint.flatten("trainer", self.trainer.state())
        meta = {"trainer": structure, "metrics_offset": self.metrics.sync(), "solved": self.solved}
        checkpoint.save(self.run_dir, tensors, meta, self.trainer.step, self.keep)
        self.saved = self.trainer.update

    def run(self, say: Callable[[str], None] = print) -> int | None:
        """Trains to the end, or to a signal, whose number it returns. Saves in either case."""
        trainer, began, first_step = self.trainer, time.monotonic(), self.trainer.step
        board = TensorBoardMirror(self.run_dir / "tensorboard", purge_step=trainer.step or None)
        self.save()  # so that there is something to resume from at any moment
        with Interrupt() as interrupt, Progress(trainer.steps, initial_step=trainer.step) as progress:
            while not (trainer.done or self.solved or interrupt.signum):
                log = trainer.iterate()
                row: dict[str, Any] = {}
                if trainer.update % self.log_every == 0 or trainer.done:
                    row |= self._row(log)
                if self.watch and self.evaluate_every and trainer.update % self.evaluate_every == 0:
                    row["eval/success"] = self.watch()
                    self.solved = self.stop_at_success is not None and row["eval/success"] >= self.stop_at_success
                if row:
                    elapsed = time.monotonic() - began
                    rate = (trainer.step - first_step) / elapsed
                    row = {"step": trainer.step, "update": trainer.update} | row
                    row |= {"time/elapsed": elapsed, "time/steps_per_second": rate}
                    self.metrics.write(row)
                    board.write(trainer.step, row)
                progress.update(trainer.step, row)
                if trainer.update % self.checkpoint_every == 0:
                    self.save()
            self.save()
        board.close()
        return None if trainer.done or self.solved else interrupt.signum

    def _row(self, log: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The record of one moment: episodes since the last row, and the last update's losses and diagnostics."""
        row = {f"train/{name}": value for name, value in self.trainer.tracker.read().items()}
        return row | {f"learner/{name}": value.item() for name, value in log.items()}

    def close(self) -> None:
        self.metrics.close()
