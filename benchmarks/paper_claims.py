"""Each paper's claim, shown: synthetic tasks and sequential digits at the smallest setting that tells the arms apart.

    python benchmarks/paper_claims.py OUT [--quick] [--only NAME,...] [--seeds 3] [--jobs 2] [--report [FOLDER]] [--list]

A run is a number of optimiser steps and one file in OUT/runs; what is there is not run again, so the same command goes on
where it was stopped, killed or not. A verdict is *shown*, *refuted* or *undecided within budget*; benchmarks/claims/verdict.py
says by which rule, benchmarks/claims/table.py what is compared. --quick is a form of minutes with shortened tasks, which says
nothing about the claims. --report writes claims.md and figures to FOLDER (OUT unless given) from what is in OUT, after running
nothing; --report docs/results makes the page of the documentation.

Exit status 1 if a run failed, could not start, or a cell is missing; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.claims import report, runs
from benchmarks.claims.table import CLAIMS

FIRST_SEED = 11  # 1 to 10 served to find the settings, so no verdict may rest on them


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="the form of minutes")
    parser.add_argument("--only", default=",".join(CLAIMS), metavar="NAME,...", help=", ".join(CLAIMS))
    parser.add_argument("--seeds", type=int, default=3, help=f"how many, from {FIRST_SEED}")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one core each; 0: in this process")
    parser.add_argument("--report", nargs="?", type=Path, const=Path(), metavar="FOLDER", help="only write the page")
    parser.add_argument("--list", action="store_true", help="only print the claims and their cost")
    options = parser.parse_args(argv)
    unknown = [name for name in options.only.split(",") if name not in CLAIMS]
    if unknown:
        parser.error(f"unknown claim {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    if options.seeds < 1 or options.jobs < 0:
        parser.error("--seeds must be at least 1 and --jobs at least 0")
    return options


def main(argv: list[str]) -> int:
    options = parse(argv)
    claims, seeds = [CLAIMS[name] for name in options.only.split(",")], range(FIRST_SEED, FIRST_SEED + options.seeds)
    jobs, problems = runs.plan(claims, seeds, options.quick)
    stopped: list[str] = []
    if options.report is None:
        _estimate(claims, jobs, options)
        for line in problems:
            print(f"error: {line}", file=sys.stderr)
        if options.list:
            return int(bool(problems))
        stopped = runs.run_all(options.out, claims, jobs, options.jobs, lambda line: print(line, flush=True))
        for line in stopped:
            print(f"error: {line}", file=sys.stderr)
    findings = {claim.id: report.judge(claim, options.out, seeds, options.quick) for claim in claims}
    for claim in claims:
        found = findings[claim.id]
        print(f"{'QUICK ' if options.quick else ''}{claim.id}: {found.label} ({found.core_hours:.2f} core-hours)")
    if options.report is not None:
        folder = options.report if options.report != Path() else options.out
        print(f"wrote {report.write(claims, findings, seeds, options.quick, folder)}")
    return int(bool(stopped or problems or any(found.notes for found in findings.values())))


def _estimate(claims, jobs, options) -> None:
    todo = [job for job in jobs if runs.read(options.out, job.spec, job.seed) is None]
    if options.quick:
        print(f"QUICK: shortened tasks; {len(todo)} of {len(jobs)} runs to do, minutes in all")
        return
    print("estimated CPU core-hours if no run stops early (measured on one core of a 2-core machine):")
    for claim in claims:
        print(f"  {claim.id:12} {claim.core_hours(options.seeds):5.2f}, cap {claim.cap}")
    total, cap = sum(claim.core_hours(options.seeds) for claim in claims), sum(claim.cap for claim in claims)
    print(f"  {'all':12} {total:5.2f}, cap {cap:.1f}; {len(todo)} of {len(jobs)} runs to do", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
