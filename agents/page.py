"""A comparison as one HTML page that needs nothing but itself: no network, no script, figures and films inside the file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from agents.digest import interval, number

Row = dict[str, Any]
#: figure of agents/figures.py -> what it shows
CAPTIONS = {
    "ranking": "All tasks together: interquartile mean of the normalised score (0: what can be had without the ability under "
    "test; 1: the optimum) with its 95 % bootstrap interval over seeds, stratified by task; and against the baseline.",
    "lengths": "Greedy success against length, mean over seeds with 95 % intervals; points a little aside of their length.",
    "scores": "Normalised score of every cell on every task, mean over seeds.",
    "curves": "Greedy success in training, mean over seeds with 95 % intervals (up to nine cells); a run that solved keeps "
    "its last value. A cell of which not all runs are done on a task has no curve there.",
    "steps": "Steps to solve, a mark a run; runs that did not solve stand at the budget.",
    "profiles": "Performance profiles: the share of runs with a score above each value, with pointwise 95 % bands (up "
    "to nine cells).",
    "lags": "How far credit can travel: the gradient of a row's loss by the state so many rows before, all parts of the state "
    "together, relative to the row itself; after training, geometric mean over runs, without the resets of episodes. Below "
    "1e-6 it is drawn there. Dotted: the memory that the task needs.",
    "horizons": "How long the gates hold on: effective horizon 1 / (1 - mean keep) of the units after training, a bar a run: "
    "90 % of the units, half of them, the median; the tick is the longest unit, for one may hold the cue. Dotted: the memory "
    "that the task needs.",
}
NOTE = """<p class=soft>P(better): probability that a run of the cell scores above one of the baseline on the same task.
p (better): two-sided sign-flip test of no difference, paired by task and seed, Holm-corrected for the number of cells.
P(faster) and p (faster): the same for steps to solve, on all tasks. The pairs count as independent; where the seeds agree
across tasks, p is too small. A cell with a failed run has no figures. Where runs stop early, the score of those that solved
their task is that of the moment: compare their steps. A bootstrap over few seeds is too narrow: of simulated "95 %" intervals
of a mean, 75 % held the truth with three seeds, 84 % with five, 89 % with eight.</p>"""
CONTROL_NOTE = """<p class=soft>The control has no memory: where a task needs some, it should succeed no more often than
chance. ABOVE: the 95 % interval of its runs, which play the same episodes and count as one, lies above chance, so something
tells the cue. Below: it has not learned what can be had without memory.</p>"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --page: #f4f6fa; --card: #fff; --ink: #1f2a44; --soft: #5c6880; --line: #dfe4ee; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #12161f; --card: #1b212d; --ink: #e8ecf5; --soft: #9aa6bd; --line: #2d3646; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }} h2 {{ font-size: 1.2rem; margin: 0 0 .6rem; }}
p {{ margin: .4rem 0 .8rem; }} .soft {{ color: var(--soft); font-size: .92rem; }}
section {{ background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.1rem; margin: 1rem 0; }}
figure {{ margin: 0 0 1.2rem; }} figure:last-child {{ margin: 0; }}
figure svg {{ display: block; width: 100%; height: auto; margin: 0 auto; border-radius: 8px; }}
@media (prefers-color-scheme: dark) {{ figure svg {{ filter: invert(.91) hue-rotate(180deg); }} }}
figcaption {{ color: var(--soft); font-size: .9rem; margin-top: .5rem; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .92rem; white-space: nowrap; }}
th, td {{ text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--card); }}
th {{ color: var(--soft); font-weight: 600; }}
th[scope=row] {{ color: var(--ink); font-weight: 400; }} code, pre {{ font: .88rem/1.5 ui-monospace, monospace; }}
pre {{ overflow-x: auto; background: var(--page); padding: .7rem; border-radius: 8px; margin: .4rem 0; }}
video {{ max-width: 100%; border-radius: 8px; }}
</style></head><body><main>
{body}
</main></body></html>
"""


def page(title: str, about: str, facts: Sequence[str], control: Sequence[str], figures: Sequence[Path],
         ranking: Sequence[Row], longest: Sequence[Row], failures: Sequence[str], films: Mapping[str, Path],
         commands: Sequence[str], remarks: Sequence[str] = ()) -> str:  # fmt: skip
    """The page. control, failures, remarks (on the ranking): a line each; figures: SVG files; ranking, longest: rows of those
    tables (agents/tables.py); films: caption -> MP4 file; commands: what makes it all again."""
    parts = [f"<h1>{escape(title)}</h1><p>{escape(about)}</p>"]
    parts.append("<p class=soft>" + "<br>".join(map(escape, facts)) + "</p>")
    table = _table(_without_empty([_words(row) for row in ranking]), "ranking")
    parts.append(_section("Ranking", "".join(f"<p>{escape(line)}.</p>" for line in remarks) + table + NOTE))
    if control:
        parts.append(_section("The memoryless control", _list(control) + CONTROL_NOTE))
    for path in figures:
        caption = CAPTIONS[path.stem]
        drawing = _wide(_svg(path, caption), f"figure: {path.stem}")
        parts.append(_section("", f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"))
    if longest:
        table = _table([_reached(row) for row in longest], "longest length solved")
        note = "<p class=soft>The longest length up to which at least half of the runs solve, and the longest tried.</p>"
        parts.append(_section("Longest length solved", table + note))
    if films:
        cards = [f'<figure><video controls muted loop playsinline aria-label="{escape(f"film: {caption}")}" '
                 f'src="data:video/mp4;base64,{_base64(path)}"></video>'
                 f"<figcaption>{escape(caption)}</figcaption></figure>" for caption, path in films.items()]  # fmt: skip
        parts.append(_section("The best cell of each task at work", "".join(cards)))
    parts.append(_section("Failed runs", _list(failures) if failures else "<p>None.</p>"))
    parts.append(_section("To make it again", "".join(f"<pre>{escape(command)}</pre>" for command in commands)))
    return PAGE.format(title=escape(title), body="\n".join(parts))


def _section(title: str, inner: str) -> str:
    return f"<section>{f'<h2>{escape(title)}</h2>' if title else ''}{inner}</section>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _wide(inner: str, label: str) -> str:
    """A box that scrolls sideways, with the keyboard too."""
    return f'<div class=wide tabindex=0 role=region aria-label="{escape(label)}">{inner}</div>'


def _svg(path: Path, label: str) -> str:
    """The drawing alone, one picture to a screen reader, never so small that its letters cannot be read; its ids made its
    own so that several live in one page."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    width = float(re.search(r'\swidth="([\d.]+)pt"', text)[1])
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    mark = f"{path.stem}-"
    text = re.sub(r'\bid="', f'id="{mark}', text)
    text = re.sub(r'href="#', f'href="#{mark}', text)
    text = re.sub(r"url\(#", f"url(#{mark}", text)
    size = f"min-width: {0.8 * width:.0f}px; max-width: {1.6 * width:.0f}px"
    return f'<svg role="img" aria-label="{escape(label)}" style="{size}"{text.removeprefix("<svg")}'


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _words(row: Row) -> Row:
    """A row of the ranking for people."""
    return {"cell": row["cell"], "IQM of the score": interval(row, "iqm"), "mean": interval(row, "mean"),
            "P(better)": interval(row, "improvement"), "p (better)": number(row["p_holm"]),
            "P(faster)": interval(row, "faster"), "p (faster)": number(row["p_steps_holm"]),
            "failed": row["failed"] or ""}  # fmt: skip


def _without_empty(rows: Sequence[Row]) -> list[Row]:
    """Without the columns that say nothing of any row."""
    return [{name: value for name, value in row.items() if any(other[name] for other in rows)} for row in rows]


def _reached(row: Row) -> Row:
    """A row of the longest lengths for people."""
    none = f"not known (runs without figures: {row['unknown']})" if row["unknown"] else "none"
    return {"cell": row["cell"], "tasks": row["series"], "longest solved": none if row["longest"] is None else row["longest"],
            "longest tried": row["tried"], "lengths tried": row["lengths"]}  # fmt: skip


def _table(rows: Sequence[Row], label: str) -> str:
    """The first column names the row."""
    lines = ["".join(f"<th scope=col>{escape(name)}</th>" for name in rows[0])]
    for first, *rest in (map(str, row.values()) for row in rows):
        lines.append(f"<th scope=row>{escape(first)}</th>" + "".join(f"<td>{escape(value)}</td>" for value in rest))
    return _wide(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>", label)
