"""Cells x seeds x environments, everything else equal: steps to solve, final success, and the memoryless control.

    python benchmarks/solve_table.py OUT [cells=a,b] [envs=a,b] [seeds=1,2,3] [jobs=2] [key=value ...]

An entry of envs is an experiment (a name under configs/) or an environment, with or without its level (tmaze_noisy-hard).

Every run is `train_agent.py` with one thread in its own folder under OUT/runs; a finished run is not run again, so the
command goes on where it was stopped. Writes OUT/table.csv and OUT/table.md. "Solved" is the first greedy evaluation in
training (256 episodes) with a success rate of 0.95; success, return and score (0 without the ability under test, 1 at the
optimum) are over 1,000 greedy episodes after training.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
CELLS = "memoryless,lstm,chrono-lstm,ur-lstm,gru"
ENVS = "tmaze_passive,tmaze_bakker"


def run(job: tuple[str, str, str], out: Path, extra: list[str]) -> dict:
    env, cell, seed = job
    folder = out / "runs" / f"{env}-{cell}-{seed}"
    if not (folder / "evaluation.json").exists():
        command = [sys.executable, str(ROOT / "train_agent.py")]
        task = env if (ROOT / "configs" / f"{env}.yaml").exists() else f"env={env}"
        command += ["--resume", str(folder)] if (folder / "config.yaml").exists() else [
            task, f"cell={cell}", f"seed={seed}", f"run_dir={folder}", "train.threads=1", *extra]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            return {"env": env, "cell": cell, "seed": seed, "failed": done.stderr.strip().splitlines()[-1]}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    solved = next((r["step"] for r in rows if r.get("eval/success", 0) >= 0.95), None)
    report = json.loads((folder / "evaluation.json").read_text())
    print(f"{env} {cell} seed {seed}: solved at {solved}, greedy {report['greedy']['success_rate']:.1%}", flush=True)
    return {
        "env": env, "cell": cell, "seed": seed, "solved_at": solved, "steps": report["step"],
        "greedy": report["greedy"]["success_rate"], "sampled": report["sampled"]["success_rate"],
        "episodes": report["episodes"], "return": report["greedy"]["mean_return"], "score": report["greedy"].get("score"),
    }  # fmt: skip


def markdown(rows: list[dict]) -> str:
    lines = ["| environment | cell | solved | steps to solve, by seed (k) | greedy success, by seed | pooled, 95 % Wilson "
             "| score, by seed |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for (env, cell), group in itertools.groupby(rows, key=lambda r: (r["env"], r["cell"])):
        group = list(group)
        good = [r for r in group if "failed" not in r]
        steps = ", ".join(f"{r['solved_at'] / 1000:.0f}" if r["solved_at"] else "-" for r in good)
        wins, n = sum(round(r["greedy"] * r["episodes"]) for r in good), sum(r["episodes"] for r in good)
        scores = ", ".join("-" if r["score"] is None else f"{r['score']:.2f}" for r in good)
        interval = stats.binomtest(wins, n).proportion_ci(0.95, method="wilson") if n else None
        pooled = f"{wins / n:.3f} [{interval.low:.3f}, {interval.high:.3f}]" if n else "failed"
        success = ", ".join(f"{r['greedy']:.3f}" for r in good)
        solved = f"{sum(bool(r['solved_at']) for r in good)}/{len(group)}"
        lines.append(f"| {env} | {cell} | {solved} | {steps} | {success} | {pooled} | {scores} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    out, own, extra = Path(argv[0]), {"cells": CELLS, "envs": ENVS, "seeds": "1,2,3,4,5", "jobs": "2"}, []
    for token in argv[1:]:
        key = token.partition("=")[0]
        if key in own:
            own[key] = token.partition("=")[2]
        else:
            extra.append(token)
    jobs = list(itertools.product(own["envs"].split(","), own["cells"].split(","), own["seeds"].split(",")))
    with ThreadPoolExecutor(int(own["jobs"])) as pool:
        rows = list(pool.map(lambda job: run(job, out, extra), jobs))
    for row in rows:
        if "failed" in row:
            print(f"FAILED {row['env']} {row['cell']} seed {row['seed']}: {row['failed']}", file=sys.stderr)
    good = [r for r in rows if "failed" not in r]
    if good:
        with (out / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(good[0]))
            writer.writeheader()
            writer.writerows(good)
    (out / "table.md").write_text(markdown(rows))
    print(markdown(rows))
    return 1 if len(good) < len(rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
