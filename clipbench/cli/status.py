"""A results folder at rest: what ended how, what is unfinished, who is at work. From file names and `runs`; no checkpoint is opened."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from clipbench.record.rows import ENDED
from clipbench.record.state import UnfinishedRun, read_folder

MOST = 20  # lines of a list


def show(folder: Path) -> None:
    """Print it all. UserError where the folder holds nothing of ours."""
    rows, works = read_folder(folder)
    status = Counter(row["status"] for row in rows.values())
    unfinished = [work for run, work in works.items() if run not in rows]
    owned = [work for work in works.values() if work.owner]
    parts = [f"{status[name]} {name}" for name in ENDED if status[name]]
    parts += [f"{len(unfinished)} unfinished"] if unfinished else []
    now = f"; {len(owned)} being made now" if owned else ""
    print(f"{folder}: {runs(len(rows) + len(unfinished))}: {', '.join(parts)}{now}\n")
    _print(_by_task(rows, works))
    for owner in sorted({str(work.owner) for work in owned}):
        mine = [work for work in owned if work.owner == owner]
        print(f"\nBeing made by {owner}, with the step of the last checkpoint:")
        show_list([[work.run, work.progress, work.label] for work in mine])
    if idle := [work for work in unfinished if not work.owner]:
        print("\nUnfinished, with nobody at work on them. The same command goes on from this step:")
        show_list([[work.run, work.progress, work.label] for work in idle])
    if failed := [
        row
        for run, row in rows.items()
        if row["status"] == "failed" and not (run in works and works[run].owner)
    ]:
        print("\nFailed. The same command tries again:")
        _failures(failed)


def label(row: Mapping[str, Any]) -> str:
    """A row of `runs` in the words of Plan.label: "cola (mini) · adamw · norm clipping_level=1 · seed 0"."""
    fields = [
        f"{name}={row[name]:g}" for name in ("clipping_level", "p_autoclip", "beta") if pd.notna(row[name])
    ]
    method = " ".join([row["clipping_type"], *fields])
    tag = " ".join(
        f"{row[name]:g}" if name == "trial" else row[name]
        for name in ("study", "role", "trial")
        if pd.notna(row[name])
    )
    return (
        f"{row['task']} ({row['scale']}) · {row['optimizer']} · {method} · seed {row['seed']}"
        + f" · {tag}" * bool(tag)
    )


def _by_task(rows: Mapping[str, Mapping[str, Any]], works: Mapping[str, UnfinishedRun]) -> Table:
    counts: dict[str, Counter[str]] = {}
    for row in rows.values():
        counts.setdefault(f"{row['task']} ({row['scale']})", Counter())[row["status"]] += 1
    for run, work in works.items():
        task = f"{rows[run]['task']} ({rows[run]['scale']})" if run in rows else work.task
        count = counts.setdefault(task, Counter())
        count["unfinished"] += run not in rows
        count["being made"] += work.owner is not None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("task")
    for name in (columns := (*ENDED, "unfinished", "being made")):
        table.add_column(name, justify="right")
    for task in sorted(counts):
        table.add_row(task, *(str(counts[task][name] or "·") for name in columns))
    return table


def _failures(rows: Sequence[Mapping[str, Any]]) -> None:
    """The commands, and once for those that failed alike, how."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(ending(row["error"] or ""), []).append(row)
    for error, group in alike.items():
        for row in group[:MOST]:
            print("  " + shlex.join(["clipbench", "run", *json.loads(row["overrides"])]))
        _more(len(group))
        print("".join(f"      {line}\n" for line in error.splitlines()), end="")


def ending(error: str, lines: int = 3) -> str:
    """The last lines of a traceback; of the report on a worker that died, the first: what follows them is its whole stack."""
    kept = [line for line in error.strip().splitlines() if line.strip(" ~^")]
    return "\n".join(kept[-lines:] if error.startswith("Traceback") else kept[:lines])


def show_list(lines: Sequence[Sequence[str]]) -> None:
    """The first MOST of them, indented, and how many more there are."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for line in lines[:MOST]:
        table.add_row(*line)
    _print(Padding(table, (0, 0, 0, 2), expand=False))
    _more(len(lines))


def _more(count: int) -> None:
    if count > MOST:
        print(f"  and {count - MOST} more")


def _print(what: Table | Padding) -> None:
    Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False).print(
        what
    )


def runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"
