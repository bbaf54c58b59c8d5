"""`clipbench status`: a results folder at rest: what ended how, what is unfinished, who is at work. From file
names and `runs`; no checkpoint is opened.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.table import Table

from clipbench.cli.describe import last_lines, run_label, task_label
from clipbench.cli.messages import DONE, console, runs
from clipbench.record.files import is_recorded
from clipbench.record.rows import ENDED, from_json
from clipbench.record.state import UnfinishedRun, read_folder

LIST_LENGTH = 20  # lines of a list; the rest is counted
COLUMNS = (*ENDED, "unfinished", "being made")

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of `runs` by id."""


def status(options: Namespace) -> int:
    show_status(options.results)
    return DONE


def show_status(folder: Path) -> None:
    """Print it all. UserError where the folder holds nothing of ours."""
    rows, open_runs = read_folder(folder)
    unfinished = [run for run in open_runs.values() if run.run not in rows]
    at_work = [run for run in open_runs.values() if run.owner]
    _print_counts(folder, rows, unfinished, at_work)
    console().print(_by_task(rows, open_runs))
    by_owner: dict[str, list[UnfinishedRun]] = {}
    for run in at_work:
        if run.owner:
            by_owner.setdefault(run.owner.name, []).append(run)
    for name in sorted(by_owner):
        print(f"\nBeing made by {name}, with the last step that is kept:")
        show_list([_unfinished_line(run) for run in by_owner[name]])
    _show_idle([run for run in unfinished if not run.owner])
    tried_again = {run.run for run in at_work}
    over = [run for run in open_runs.values() if run.run in rows and rows[run.run]["status"] == "timeout"]
    if over := [run for run in over if not run.owner]:
        print("\nOut of time. The same command with a larger max_time=, or null, goes on from this step:")
        show_list([_unfinished_line(run) for run in over])
    failed: list[Mapping[str, Any]] = []
    recorded: list[Mapping[str, Any]] = []
    for run_id, row in rows.items():
        if row["status"] == "failed" and run_id not in tried_again:
            (recorded if is_recorded(run_id) else failed).append(row)
    if failed:
        print("\nFailed. The same command tries again:")
        _show_failures(failed, _command)
    if recorded:
        print("\nFailed, in loops of your own:")
        _show_failures(recorded, _recorded_line)


def _show_idle(idle: Sequence[UnfinishedRun]) -> None:
    """The unfinished runs with nobody at work on them."""
    resumable = [run for run in idle if not is_recorded(run.run)]
    if resumable:
        print("\nUnfinished, with nobody at work on them. Re-run the same command to resume from this step:")
        show_list([_unfinished_line(run) for run in resumable])
    left = [run for run in idle if is_recorded(run.run)]
    if left:
        print(
            "\nLoops of your own that ended without closing their Recorder, with the last step that is kept."
        )
        print("They cannot be resumed; the next Recorder in this folder puts their rows into the tables:")
        show_list([_unfinished_line(run) for run in left])


def _print_counts(
    folder: Path, rows: Rows, unfinished: Sequence[UnfinishedRun], at_work: Sequence[UnfinishedRun]
) -> None:
    """ "results: 9 runs: 6 done, 1 diverged, 1 failed, 1 unfinished; 1 being made now"."""
    statuses = Counter(row["status"] for row in rows.values())
    parts = [f"{statuses[name]} {name}" for name in ENDED if statuses[name]]
    if unfinished:
        parts.append(f"{len(unfinished)} unfinished")
    now = f"; {len(at_work)} being made now" if at_work else ""
    print(f"{folder}: {runs(len(rows) + len(unfinished))}: {', '.join(parts)}{now}\n")


def _unfinished_line(run: UnfinishedRun) -> list[str]:
    return [run.run, run.progress, run.label]


def _by_task(rows: Rows, open_runs: Mapping[str, UnfinishedRun]) -> Table:
    """How many runs of each task ended how."""
    counts: dict[str, Counter[str]] = {}
    for row in rows.values():
        counts.setdefault(task_label(row), Counter())[row["status"]] += 1
    for run, known in open_runs.items():
        count = counts.setdefault(task_label(rows[run]) if run in rows else known.task, Counter())
        count["unfinished"] += run not in rows
        count["being made"] += known.owner is not None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("task")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for task in sorted(counts):
        table.add_row(task, *(str(counts[task][name] or "·") for name in COLUMNS))
    return table


def _command(row: Mapping[str, Any]) -> str:
    return shlex.join(["clipbench", "run", *from_json(row["overrides"], list)])


def _recorded_line(row: Mapping[str, Any]) -> str:
    return f"{row['run']}  step {row['steps']}  {run_label(row)}"


def _show_failures(rows: Sequence[Mapping[str, Any]], in_words: Callable[[Mapping[str, Any]], str]) -> None:
    """Each `in_words`, and once for those that failed alike, how."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(last_lines(row["error"] or ""), []).append(row)
    for error, group in alike.items():
        for row in group[:LIST_LENGTH]:
            print(f"  {in_words(row)}")
        _count_the_rest(len(group))
        for line in error.splitlines():
            print(f"      {line}")


def show_list(lines: Sequence[Sequence[str]]) -> None:
    """The first 20 of them, indented, and how many more there are."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for line in lines[:LIST_LENGTH]:
        table.add_row(*line)
    console().print(Padding(table, (0, 0, 0, 2), expand=False))
    _count_the_rest(len(lines))


def _count_the_rest(count: int) -> None:
    if count > LIST_LENGTH:
        print(f"  and {count - LIST_LENGTH} more")
