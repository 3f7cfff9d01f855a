"""The finished runs of a comparison as one text file to commit, and back: a comparison may take more than one machine.

    python benchmarks/run_records.py keep OUT FILE       # FILE.jsonl: a line for every run under OUT/runs that is done
    python benchmarks/run_records.py restore FILE OUT    # makes them there; compare_cells.py ... out=OUT then goes on

A line holds what the tables and figures are made of: config, metrics, final evaluation, reach of gates and gradients, and
versions; no checkpoint, so such a run can be neither filmed nor resumed. A run that is there already is left alone, in
FILE as in OUT. Absolute paths are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

#: of a run's folder; the last one that is written makes it count as done
FILES = ("config.yaml", "metrics.jsonl", "reach.json", "versions.json", "evaluation.json")


def record(run: Path) -> dict[str, str]:
    """File -> text of a run that is done, without the paths of the machine that it ran on."""
    found = {name: (run / name).read_text() for name in FILES if (run / name).is_file()}
    found["config.yaml"] = yaml.safe_dump(yaml.safe_load(found["config.yaml"]) | {"run_dir": None}, sort_keys=False)
    if "versions.json" in found:
        versions = json.loads(found["versions.json"])
        for part in (versions, *versions.get("resumed", ())):
            paths = (token.startswith("run_dir=") or Path(token).is_absolute() for token in part["argv"])
            part["argv"] = [token for token, path in zip(part["argv"], paths, strict=True) if not path]
        found["versions.json"] = json.dumps(versions, indent=2) + "\n"
    return found


def read(file: Path) -> dict[str, dict[str, str]]:
    """Run -> its files. Raises SystemExit where a line is no record."""
    records = {}
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), 1):
        try:
            one = json.loads(line)
            name, files = one["run"], one["files"]
            texts = all(key in FILES and isinstance(text, str) for key, text in files.items())
            if not name or Path(name).name != name or not texts:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SystemExit(f"error: {file}, line {number} is no record of a run") from None
        records[name] = files
    return records


def keep(out: Path, file: Path) -> None:
    if not out.is_dir():
        raise SystemExit(f"error: no such folder: {out}")
    done = {path.parent.name: path.parent for path in sorted(out.glob("runs/*/evaluation.json"))}
    records = {name: record(run) for name, run in done.items()} | read(file)
    lines = [json.dumps({"run": name, "files": records[name]}) + "\n" for name in sorted(records)]
    new = file.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(file)
    print(f"{file}: {len(records)} runs")


def restore(file: Path, out: Path) -> None:
    if not file.is_file():
        raise SystemExit(f"error: no such file: {file}")
    made = 0
    for name, files in read(file).items():
        run = out / "runs" / name
        if run.exists():
            continue
        run.mkdir(parents=True)
        for part in FILES:
            if part in files:
                (run / part).write_text(files[part])
        made += 1
    print(f"{out}: {made} runs made")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("keep", "restore"):
        print(__doc__.strip(), file=sys.stderr)
        sys.exit(2)
    {"keep": keep, "restore": restore}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
