"""The diagnosis of an agent: one recorded rollout, everything that `agents.diagnostics` and `agents.probe` say of it, and a
few lines for people. Figures are drawn by `agents.diagnose_figures`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents import diagnostics
from agents.agent import Agent
from agents.probe import memory_probe
from agents.rollout import Rollout, collect, start
from agents.runlog import RunError, spelled, write_text
from envs.env import Step, Stream
from memory_cells.cells import is_clock
from memory_cells.unroll import path_class

#: environments whose gradient is taken, and rows that it is taken at
COLUMNS, ANCHORS = 16, 4
#: rows recorded: of one environment at most, and of all together
LONGEST, ROWS = 2000, 100_000
#: steps after the cue that are probed, and in a brief diagnosis; environments of that at most
PROBES, FEW_PROBES, FEW_ENVS = 64, 12, 64


def recording_size(env_rows: int | None, unroll_length: int, num_envs: int) -> tuple[int, int]:
    """(T, B) of the recording: twice the learner's rollout, or a whole episode if that is longer, and at most `num_envs`
    environments, fewer where the rows are many."""
    T = min(max(2 * unroll_length, min(env_rows or 0, LONGEST // 2)), LONGEST)
    return T, max(min(num_envs, ROWS // T), 1)


class _Noting:
    """An environment that notes the cue of every row it gives, and its number in the episode."""

    def __init__(self, env: Stream):
        self.env, self.cues, self.numbers = env, [], []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self) -> Step:
        return self._noted(self.env.reset())

    def step(self, action: Tensor) -> Step:
        return self._noted(self.env.step(action))

    def _noted(self, row: Step) -> Step:
        self.cues.append(self.env.cue(self.env.state))
        self.numbers.append(self.env.cues_before(self.env.state))
        return row


def diagnose(agent: Agent, env: Stream, *, length: int, unroll_length: int, gamma: float, trace_lambda: float,
             seed: int, probes: int = PROBES, scaled_rewards: bool = False) -> dict[str, Any]:  # fmt: skip
    """Everything about `agent`, from `length` steps of every environment of `env`, which is reseeded and reset.

    Played as in training: sampled actions, training mode, with the noise of the core if it has any. gamma, trace_lambda and
    unroll_length are the learner's; the cue is probed at `probes` steps. Parts that do not apply are None: "gates" of a core
    without, "probe" where there is no cue, "credit" where no episode ends, and for
    an agent whose rewards are scaled in training, and so its value. Horizons and lengths may be infinite.
    """
    env.seed(seed)
    was = agent.training
    agent.train()
    try:
        noting = _Noting(env)
        generator = torch.Generator(env.device).manual_seed(seed + 1)
        rollout, _ = collect(noting, agent, start(noting, agent), length, generator)
        report = _examine(agent, rollout, noting, unroll_length, gamma, trace_lambda, probes)
        return report | ({"credit": None} if scaled_rewards else {})
    finally:
        agent.train(was)


def _examine(agent: Agent, rollout: Rollout, env: _Noting, unroll_length: int, gamma: float, trace_lambda: float,
             probes: int) -> dict[str, Any]:  # fmt: skip
    core, first = agent.core, rollout.rows.first
    gated = diagnostics.has_gate(core)
    record = [*core.state_names, *(("keep", "write") if gated else ())]
    with torch.no_grad():
        output, _, traces = agent(rollout.rows, rollout.state, rollout.noise, record)
    probe = None
    if env.cues[0] is not None:
        states = torch.cat([traces[name].flatten(2).double() for name in core.state_names], -1)
        number = torch.stack(env.numbers)
        shown = first.clone()
        shown[1:] |= number[1:] != number[:-1]
        probe = memory_probe(states, diagnostics.ages(shown), torch.stack(env.cues), probes) or None
    spec = env.spec
    return {
        "rows": rollout.ended.shape[0], "envs": rollout.ended.shape[1], "ends": diagnostics.ends(rollout),
        "path": path_class(core) if agent.path == "auto" else agent.path,
        "replay_error": diagnostics.replay_error(agent, rollout),
        "unroll_length": unroll_length, "memory_length": spec.memory_length, "credit_length": spec.credit_length,
        "gates": diagnostics.gate_summary(traces["keep"], traces["write"], first) if gated else None,
        "gradient": _gradient(agent, rollout),
        "probe": probe,
        "credit": diagnostics.credit(output.value, rollout, gamma, trace_lambda),
    }  # fmt: skip


def _gradient(agent: Agent, rollout: Rollout) -> dict[str, Any]:
    """`gradient_by_lag` over the whole rollout without any reset, so that the episode's end does not hide the core's reach."""
    rows = Step(*(x[:, :COLUMNS] for x in rollout.rows))
    T, noise = rollout.ended.shape[0], tuple(n[:, :COLUMNS] for n in rollout.noise)
    anchors = sorted({max(T - 1 - i * max(T // 16, 1), 0) for i in range(ANCHORS)})
    with torch.no_grad():
        x = agent.embed(rows)
    found = diagnostics.gradient_by_lag(
        agent.core, x, torch.zeros_like(rows.first), tuple(s[:COLUMNS] for s in rollout.state), anchors,
        diagnostics.head_pull(agent, rows.action[1:]), noise=noise, path=agent.path,
    )  # fmt: skip
    norm = {name: n for name, n in found.norm.items() if n.any() and not is_clock(name)}
    return {"norm": {name: n.tolist() for name, n in norm.items()}, "total_error": found.total_error,
            "decay_length": {name: diagnostics.decay_length(n) for name, n in norm.items()}}  # fmt: skip


def summary(report: dict[str, Any]) -> list[str]:
    """Lines for people."""
    ends, number = report["ends"], lambda x: "endless" if math.isinf(x) else f"{x:.3g}"
    lines = [f"recorded: {report['envs']} environments, {report['rows']} steps each; {ends['episodes']} episodes, of which "
             f"{ends['terminated']} terminated, {ends['truncated']} were truncated and {ends['unfinished']} went on"]
    lines.append(f"replay: acting equals learning up to |ratio - 1| = {report['replay_error']:.1e} (path {report['path']})")
    if gates := report["gates"]:
        lines.append(f"gates: mean keep {gates['keep_mean']:.3f}, write {gates['write_mean']:.3f}; keep below 0.05 on "
                     f"{gates['keep_closed']:.1%}, above 0.95 on {gates['keep_open']:.1%}; horizon of the units 1/(1-keep): "
                     f"median {number(gates['horizon_q50'])} rows, 90 % from {number(gates['horizon_q05'])} to "
                     f"{number(gates['horizon_q95'])}")  # fmt: skip
    else:
        lines.append("gates: this cell has no gate to record")
    gradient, parts = report["gradient"], []
    for name, norm in gradient["norm"].items():
        length, at = gradient["decay_length"][name], _at_rollout(report, norm)
        decay = "does not decay" if math.isinf(length) else f"decays over {length:.3g} rows" if length else "goes nowhere"
        parts.append(f"{name} {decay}, norm {norm[at]:.1e} at lag {at}")
    shown = parts[:4] + [f"and {len(parts) - 4} more"] * (len(parts) > 4)
    lines.append(f"gradient by lag: {'; '.join(shown)}; slow and fast path differ by {gradient['total_error']:.0e}")
    for name, found in (report["probe"] or {}).items():
        best, last = max(found["accuracy"]), _at_decision(report, found)
        lines.append(f"memory probe: {name} is read with {found['accuracy'][last]:.1%} [{found['low'][last]:.1%}, "
                     f"{found['high'][last]:.1%}] {found['step'][last]} steps after it, at best {best:.1%} "
                     f"(chance {found['chance'][last]:.0%})")  # fmt: skip
    if not report["probe"]:
        lines.append("memory probe: no cue to read, or too few episodes")
    if credit := report["credit"]:
        c, share = report["credit_length"], credit["by_end"]["share"]
        known = "" if c is None else f", {sum(share[:c]):.0%} on the last {c} (the task's credit length)"
        lines.append(f"credit: {share[0]:.0%} of all |advantage| is on the last action{known}, "
                     f"{credit['by_row']['share'][0]:.0%} on the first; {credit['total']:.2g} an episode; value "
                     f"{credit['value_at_start']:.2f} at the start, {credit['value_at_decision']:.2f} at the last decision")
    else:
        lines.append("credit: no episode ended")
    return lines


def scalars(report: dict[str, Any]) -> dict[str, float]:
    """What training logs of a diagnosis: a number for each thing that `summary` says, but for the gates."""
    gradient = report["gradient"]
    found = {"replay_error": report["replay_error"], "total_error": gradient["total_error"]}
    for name, norm in gradient["norm"].items():
        found |= {f"decay_length_{name}": gradient["decay_length"][name], f"norm_{name}": norm[_at_rollout(report, norm)]}
    for name, read in (report["probe"] or {}).items():
        at = _at_decision(report, read)
        found |= {f"probe_{name.replace(' ', '_')}_{key}": read[key][at] for key in ("accuracy", "chance")}
    if credit := report["credit"]:
        c, share = report["credit_length"], credit["by_end"]["share"]
        found |= {"credit_last": share[0], "credit_first": credit["by_row"]["share"][0], "credit_total": credit["total"]}
        found |= {} if c is None else {"credit_in_length": sum(share[:c])}
        found |= {name: credit[name] for name in ("value_at_start", "value_at_decision")}
    return found


def _at_rollout(report: dict[str, Any], norm: list[float]) -> int:
    """The lag of the learner's rollout, or the greatest there is."""
    return min(report["unroll_length"], len(norm) - 1)


def _at_decision(report: dict[str, Any], probe: dict[str, list]) -> int:
    """The place in a probe's lists of the step at which the task asks for the cue; of the last where that is not known."""
    m, steps = report["memory_length"], probe["step"]
    known = m is not None and m <= steps[-1]
    return min(range(len(steps)), key=lambda i: abs(steps[i] - m)) if known else -1


def plain(value: Any) -> Any:
    """`value` with its infinities and NaN as the strings of metrics.jsonl, for JSON has none."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return spelled(value) if isinstance(value, float) else value


def write_report(folder: Path, report: dict[str, Any]) -> list[Path]:
    """Writes diagnose.json and the figures into `folder`, in place of older ones. Raises RunError."""
    from agents.diagnose_figures import draw  # matplotlib is slow to import

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {folder}: {error.strerror or error}") from error
    write_text(folder / "diagnose.json", json.dumps(plain(report), allow_nan=False) + "\n")
    return [folder / "diagnose.json", *draw(report, folder)]
