"""The page: a table of verdicts, the numbers behind each, a figure of the curves, and the command that re-makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims import runs as store
from benchmarks.claims import verdict as v
from benchmarks.claims.arms import Claim, Missing

TRUTH = {True: "holds", False: "does not hold", None: "open"}
COLOURS = ("#0b6e99", "#d1495b", "#edae49", "#5b8c5a", "#7b5ea7", "#6b6b6b")


@dataclass(frozen=True)
class Finding:
    """label: the verdict, or "not run" or "incomplete". found: condition -> arm -> runs. statements: condition -> what was
    judged. notes: failed and missing runs."""

    label: str
    found: dict[str, dict[str, list[dict]]]
    statements: dict[str, list[v.Statement]]
    notes: list[str]
    core_hours: float


def judge(claim: Claim, out: Path, seeds: Sequence[int], quick: bool) -> Finding:
    """Reads the runs of `claim` and applies its rule at every condition that is complete.

    A run that failed or was not started for want of core-hours leaves its condition undecided; it is never left
    out of an average. "not run" and "incomplete" are for runs that nobody has tried yet.
    """
    found: dict[str, dict[str, list[dict]]] = {}
    statements, notes, waiting, broken, used = {}, [], 0, 0, {}
    for (condition, arm), spec in claim.specs(quick).items():
        if isinstance(spec, Missing):
            notes.append(f"{arm} at {condition}: {spec}")
            broken += 1
            continue
        for seed in seeds:
            result, name = store.read(out, spec, seed), store.name(spec, seed)
            reason = store.failure(out, spec, seed)
            if result is not None:
                found.setdefault(condition, {}).setdefault(arm, []).append(result)
                used[name] = result["cpu_seconds"]
            elif reason is not None:
                notes.append(f"{arm} at {condition}, seed {seed}: {reason}")
                broken += 1
            else:
                waiting += 1
    for condition, arms in claim.conditions.items():
        ready = found.get(condition, {})
        if all(len(ready.get(arm, ())) == len(seeds) for arm in arms):
            statements[condition] = claim.judge(ready)
    all_statements = [s for part in statements.values() for s in part]
    label = v.conclude(all_statements)
    if label != v.REFUTED and broken:
        label = v.UNDECIDED
    elif label != v.REFUTED and waiting:
        label = "incomplete" if found else "not run"
    return Finding(label, found, statements, notes, sum(used.values()) / 3600)


def page(claims: Sequence[Claim], findings: Mapping[str, Finding], seeds: Sequence[int], quick: bool) -> str:
    """The page in Markdown."""
    command = f"python benchmarks/paper_claims.py OUT --seeds {len(seeds)}{' --quick' if quick else ''}"
    lines = ["# Each paper's claim, shown", ""]
    if quick:
        lines += ["**QUICK: shortened tasks and a few hundred steps. It shows that everything runs; its verdicts say nothing "
                  "about the claims.**", ""]  # fmt: skip
    lines += [f"Made by `{command} --report`. Seeds {', '.join(map(str, seeds))}; torch {torch.__version__}; one core a run. "
              "Losses are in units of the memoryless loss.", "",
              "A claim is *shown* if the 95 % intervals over seeds of all its statements lie on the claimed side, *refuted* "
              "if one lies on the other, *undecided within budget* otherwise; `benchmarks/claims/verdict.py` is the rule.",
              "", "| claim | paper | verdict | core-hours, of cap | command |", "|---|---|---|---|---|"]  # fmt: skip
    for claim in claims:
        found = findings[claim.id]
        lines.append(f"| [{claim.sentence}](#{claim.id}) | {claim.paper} | *{_quick(found.label, quick)}* | "
                     f"{found.core_hours:.2f} of {claim.cap} | `{command} --only {claim.id}` |")  # fmt: skip
    for claim in claims:
        section = _section(claim, findings[claim.id], f"{command} --only {claim.id}", quick)
        lines += ["", f"## {claim.id}", "", *section]
    return "\n".join(lines) + "\n"


def _quick(label: str, quick: bool) -> str:
    return f"{label} (quick)" if quick else label


def _section(claim: Claim, finding: Finding, command: str, quick: bool) -> list[str]:
    lines = [f"{claim.sentence} — {claim.paper}", "", f"Verdict: *{_quick(finding.label, quick)}*.", "",
             f"Measured: {claim.metric}", "", f"Varied: {claim.varied}", ""]  # fmt: skip
    if finding.found:
        lines += ["| condition | arm | cell | hidden, parameters | steps by seed | final loss | mean loss over budget | "
                  "accuracy |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for condition, arms in finding.found.items():
        for arm, found in arms.items():
            spec, scored = found[0]["spec"], "accuracy" in found[0]["curve"][-1]
            lines.append(f"| {condition} | {arm} | {spec['variant']} | {spec['hidden']}, {found[0]['parameters']:,} | "
                         f"{', '.join(str(r['steps']) for r in found)} | {v.one([v.final(r) for r in found])} | "
                         f"{v.one([v.area(r) for r in found])} | "
                         f"{v.one([v.best(r) for r in found]) if scored else '-'} |")  # fmt: skip
    for condition, statements in finding.statements.items():
        lines += ["", f"At {condition}:", ""]
        lines += [f"- {s.text} — {TRUTH[s.truth]}" for s in statements]
    lines += [f"- not counted: {note}" for note in finding.notes]
    if finding.found:
        lines += ["", f"![{claim.id}](claims-{claim.id}.png)"]
    return [*lines, "", f"`{command}`"]


def draw(claim: Claim, finding: Finding, path: Path, quick: bool) -> None:
    """A panel a condition: every seed's curve, and their mean in bold; the dashed line is the memoryless predictor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = list(finding.found.items())
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.4), squeeze=False, sharey=True)
    for axis, (condition, arms) in zip(axes[0], panels):
        for colour, (arm, found) in zip(COLOURS, arms.items()):
            for run in found:
                axis.plot(*_curve(run, claim.plot), color=colour, alpha=0.35, linewidth=0.9)
            longest = max(found, key=lambda run: run["steps"])
            steps = _curve(longest, claim.plot)[0]
            mean = np.mean([np.interp(steps, *_curve(run, claim.plot)) for run in found], 0)
            axis.plot(steps, mean, color=colour, linewidth=2.2, label=arm)
        level = 1.0 if claim.plot == "loss" else next(iter(arms.values()))[0]["chance"]
        axis.axhline(level, color="0.5", linestyle="--", linewidth=0.8)
        axis.set(title=condition, xlabel="optimiser steps")
        axis.grid(color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, 1.3 if claim.plot == "loss" else 1.0)
    axes[0][0].set_ylabel("loss / memoryless loss" if claim.plot == "loss" else "accuracy")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{claim.id}{' (quick: not the declared setting)' if quick else ''}: {finding.label}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curve(run: dict, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values; a regression has no accuracy and shows its loss."""
    return [row["step"] for row in run["curve"]], [row.get(metric, row["loss"]) for row in run["curve"]]


def write(
    claims: Sequence[Claim], findings: Mapping[str, Finding], seeds: Sequence[int], quick: bool, folder: Path
) -> Path:
    """`folder`/claims.md and a figure for every claim that has runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for claim in claims:
        if findings[claim.id].found:
            draw(claim, findings[claim.id], folder / f"claims-{claim.id}.png", quick)
    target = folder / "claims.md"
    target.write_text(page(claims, findings, seeds, quick))
    return target
