"""One supervised run: input -> core -> linear readout, a number of optimiser steps, a curve. Budgets are steps, never seconds.

`train(spec, seed)` is a function of its arguments: data, initial weights and noise come from the seed, the evaluation
sequences are the same for all. With a folder it leaves a checkpoint now and then and goes on from there.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from agents import checkpoint
from benchmarks.claims import auxiliary
from benchmarks.claims.digits import Digits
from benchmarks.claims.tasks import Adding, Batch, Copy, Denoise, Task, Warp
from memory_cells import Cell, make_core, unroll
from memory_cells.constrained import constrain

TASKS: dict[str, type[Task]] = {"copy": Copy, "adding": Adding, "denoise": Denoise, "warp": Warp, "digits": Digits}


@dataclass(frozen=True)
class Spec:
    """Everything about a run but its seed.

    task, task_options: a class of TASKS and its arguments. variant, hidden, core: arguments of `make_core`.
    steps, batch, optimiser ("adam", or "rmsprop" with smoothing 0.9), lr, clip (norm, None for none).
    eval_every: steps from one evaluation to the next, on `eval_size` sequences.
    stop_loss, stop_accuracy: after two evaluations in a row as good as this the run ends, for its curve is flat from there;
    the loss is in units of the memoryless one.
    truncation: rows K that the gradient goes back, None for all; truncation_style "last": only through the last K rows of a
    sequence, "every": cut after every K rows.
    auxiliary: arguments of `auxiliary.Settings`, None for no such loss.
    budget: weight of the time gate's openness in the loss. threshold: openness below which a unit is not computed in
    evaluation. curriculum: (from, to, steps) of the factor on sigma, moved geometrically, then kept.
    detach_until: step at which h-detach is switched off, None for never.
    """

    task: str
    variant: str
    hidden: int
    steps: int
    task_options: dict = field(default_factory=dict)
    core: dict = field(default_factory=dict)
    batch: int = 32
    optimiser: str = "adam"
    lr: float = 1e-3
    clip: float | None = 1.0
    eval_every: int = 100
    eval_size: int = 200
    stop_loss: float | None = None
    stop_accuracy: float | None = None
    truncation: int | None = None
    truncation_style: str = "last"
    auxiliary: dict | None = None
    budget: float = 0.0
    threshold: float = 0.0
    curriculum: tuple[float, float, int] | None = None
    detach_until: int | None = None


class Model(nn.Module):
    def __init__(self, core: Cell, outputs: int):
        super().__init__()
        self.core, self.readout = core, nn.Linear(core.hidden_size, outputs)

    def forward(self, x: Tensor, first: Tensor, truncation: int | None = None, style: str = "last") -> Tensor:
        """x (T, B, I), first (T, B) -> (T, B, outputs). "last": rows before the last K give no gradient to the core."""
        if style not in ("last", "every"):
            raise ValueError(f"truncation_style must be 'last' or 'every', got {style!r}")
        T, state, parts = x.shape[0], self.core.initial_state(x.shape[1]), []
        K = min(truncation or T, T)
        cuts = [0, *([T - K] if K < T else []), T] if style == "last" else [*range(0, T, K), T]
        for a, b in itertools.pairwise(cuts):
            with torch.set_grad_enabled(torch.is_grad_enabled() and (style == "every" or b == T)):
                y, state = unroll(self.core, x[a:b], first[a:b], tuple(s.detach() for s in state) if a else state)
            parts.append(y)
        return self.readout(torch.cat(parts))


def episodes(x: Tensor) -> Tensor:
    """`first` (T, B) of sequences that are one episode each."""
    first = torch.zeros(x.shape[:2], dtype=torch.bool)
    first[0] = True
    return first


def task_loss(task: Task, output: Tensor, batch: Batch) -> Tensor:
    """The task's loss, mean over sequences."""
    if task.loss == "mse":
        error = (output.squeeze(-1) - batch.target).square()
    else:
        error = F.cross_entropy(output.flatten(0, 1), batch.target.flatten(), reduction="none").view(batch.target.shape)
    return (error * batch.weight).sum(0).mean()


@torch.no_grad()
def evaluate(model: Model, task: Task, batch: Batch) -> dict[str, float]:
    """Relative loss, accuracy on the scored rows, and with a time gate the part of the units that were updated."""
    model.eval()
    first = episodes(batch.x)
    output = model(batch.x, first)
    found = {"loss": float(task_loss(task, output, batch)) / task.memoryless}
    if task.chance is not None:
        found["accuracy"] = float((output.argmax(-1) == batch.target)[batch.scored].float().mean())
    gate = time_gate(model.core)
    if gate is not None:
        executed, total = gate.multiply_adds(first, gate.initial_state(first.shape[1]))
        found["updates"] = float(executed) / float(total)
    model.train()
    return found


def time_gate(core: Cell):
    """The wrapper with a computational budget, outermost if there is one; None if there is none."""
    return next((m for m in core.modules() if hasattr(m, "budget") and hasattr(m, "multiply_adds")), None)


class Run:
    """The state of a run: model, optimiser, generators, curve."""

    def __init__(self, spec: Spec, seed: int):
        self.spec, self.seed, self.step, self.curve, self.cpu, self.trained = spec, seed, 0, [], 0.0, []
        torch.manual_seed(seed)
        self.task = TASKS[spec.task](**spec.task_options)
        core = make_core(spec.variant, self.task.inputs, spec.hidden, **spec.core)
        self.model = Model(core, self.task.outputs)
        self.decoder = None
        if spec.auxiliary is not None:
            self.decoder = auxiliary.Decoder(core, self.task.inputs, auxiliary.Settings(**spec.auxiliary))
        self.parameters = [*self.model.parameters(), *(self.decoder.parameters() if self.decoder else ())]
        kinds: dict[str, Callable] = {
            "adam": lambda p: torch.optim.Adam(p, spec.lr),
            "rmsprop": lambda p: torch.optim.RMSprop(p, spec.lr, alpha=0.9),
        }
        self.optimiser = kinds[spec.optimiser](self.parameters)
        self.data, self.anchors = Generator().manual_seed(1000 + seed), Generator().manual_seed(2000 + seed)
        self.held_out = self.task.held_out(spec.eval_size)
        self.gate = time_gate(core)
        self.coins = [m for m in core.modules() if hasattr(m, "p_detach")]
        if self.gate is None and (spec.budget or spec.threshold or spec.curriculum):
            raise ValueError(f"{spec.variant} has no time gate for a budget, a threshold or a curriculum")
        if spec.detach_until is not None and not self.coins:
            raise ValueError(f"{spec.variant} has no h-detach to switch off")
        if self.gate is not None:
            self.gate.threshold.fill_(spec.threshold)

    def update(self) -> float:
        """One optimiser step; the training loss in units of the memoryless one. Raises FloatingPointError."""
        spec, batch = self.spec, self.task.batch(self.data, self.spec.batch)
        first = episodes(batch.x)
        self._schedule()
        alone = self.decoder is not None and self.step < self.decoder.settings.pretrain
        loss = main = task_loss(self.task, self.model(batch.x, first, spec.truncation, spec.truncation_style), batch)
        if self.decoder is not None:
            term = self.decoder.settings.cost * self.decoder.loss(self.model.core, batch.x, first, self.anchors)
            loss = term if alone else main + term
        if spec.budget:
            loss = loss + spec.budget * self.gate.budget(first, self.gate.initial_state(spec.batch)).mean()
        self.optimiser.zero_grad()
        loss.backward()
        if spec.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, spec.clip)
        self.optimiser.step()
        constrain(self.model)
        self.step += 1
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"the loss is {float(loss.detach())} at step {self.step}")
        return float(main.detach()) / self.task.memoryless

    def _schedule(self) -> None:
        spec = self.spec
        if spec.curriculum is not None:
            start, end, steps = spec.curriculum
            self.gate.openness.factor.fill_(start * (end / start) ** min(1.0, self.step / steps))
        if spec.detach_until is not None and self.step == spec.detach_until:
            for coin in self.coins:
                coin.p_detach.fill_(0.0)

    def finished(self) -> bool:
        """Whether the steps are done, or the last two evaluations were both good enough to stop."""
        spec, last = self.spec, self.curve[-2:]
        good = [row for row in last if (spec.stop_loss is not None and row["loss"] <= spec.stop_loss)
                or (spec.stop_accuracy is not None and row.get("accuracy", 0) >= spec.stop_accuracy)]  # fmt: skip
        return self.step >= spec.steps or len(good) == 2

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(), "decoder": self.decoder.state_dict() if self.decoder else {},
            "optimiser": self.optimiser.state_dict(), "step": self.step, "curve": self.curve, "trained": self.trained,
            "cpu": self.cpu, "generators": [self.data.get_state(), self.anchors.get_state(), torch.get_rng_state()],
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        if self.decoder:
            self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.curve, self.trained, self.cpu = (state[k] for k in ("step", "curve", "trained", "cpu"))
        for generator, saved in zip((self.data, self.anchors), state["generators"]):
            generator.set_state(saved)
        torch.set_rng_state(state["generators"][2])


def train(spec: Spec, seed: int, folder: Path | None = None, checkpoint_every: int = 1000,
          after_step: Callable[[Run], None] | None = None) -> dict:  # fmt: skip
    """Runs `spec` to its end and returns {"curve": [{"step", "train", "loss", ...}], "cpu_seconds", "parameters", ...}.

    folder: for checkpoints, every `checkpoint_every` steps; one that is there is gone on from, exactly.
    Raises FloatingPointError where the loss is not finite, and what `make_core` raises.
    """
    run = Run(spec, seed)
    if folder is not None and checkpoint.list_checkpoints(folder):
        tensors, meta, _ = checkpoint.load(folder)
        run.restore(checkpoint.unflatten(tensors, meta))
    clock = time.process_time()
    while not run.finished():
        run.trained.append(run.update())
        if run.step % spec.eval_every == 0 or run.step == spec.steps:
            found = evaluate(run.model, run.task, run.held_out)
            if not math.isfinite(found["loss"]):
                raise FloatingPointError(f"the loss in evaluation is {found['loss']} at step {run.step}")
            run.curve.append({"step": run.step, "train": sum(run.trained) / len(run.trained), **found})
            run.trained = []
        if folder is not None and run.step % checkpoint_every == 0:
            run.cpu, clock = run.cpu + time.process_time() - clock, time.process_time()
            tensors, structure = checkpoint.flatten("run", run.state())
            checkpoint.save(folder, tensors, structure, run.step, keep=1)
        if after_step is not None:
            after_step(run)
    return {
        "curve": run.curve, "steps": run.step, "cpu_seconds": run.cpu + time.process_time() - clock,
        "parameters": sum(p.numel() for p in run.model.core.parameters()), "memoryless": run.task.memoryless,
        "chance": run.task.chance, "torch": torch.__version__,
    }  # fmt: skip
