"""`clipbench rm`: runs out of a results folder: which ones the filters mean, and their removal, each under
its lease.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipbench.cli.describe import run_label
from clipbench.cli.filters import Filter, read_filter
from clipbench.cli.messages import DONE, runs
from clipbench.cli.status import show_list
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.folder import RunFolder
from clipbench.record.state import UnfinishedRun, damaged_runs, read_folder

DAMAGED = "damaged"
EVERYTHING = "status=done,diverged,failed,timeout,unfinished"

Rows = dict[str, Mapping[str, Any]]
"""By run id: a row of `runs`, or what is known of an unfinished run under the same names."""


def rm(options: Namespace) -> int:
    remove(options.results, options.filters, options.yes)
    return DONE


def remove(folder: Path, words: Sequence[str], yes: bool) -> None:
    """List the runs that `words` mean and, when the user agrees, remove them.

    UserError for a word that means nothing.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. The folder comes first: clipbench rm results/ status=failed"
        )
    if not words:
        raise UserError(
            f"Which runs? clipbench rm {folder} status=failed, for instance. All of them: "
            f"clipbench rm {folder} {EVERYTHING}"
        )
    rows, open_runs = read_folder(folder)
    every: Rows = dict(rows)
    for run, known in open_runs.items():
        every.setdefault(run, known.facts)
    for run in damaged_runs(folder, every):
        every[run] = {"run": run, "status": DAMAGED, "steps": 0}
    filters = [read_filter(word, every) for word in words if word not in every]
    chosen = _chosen(every, set(words) & set(every), filters, set(rows))
    for run, known in open_runs.items():
        if known.owner and run in chosen:
            print(f"Left alone: {run} is being made by {known.owner.name}.")
            del chosen[run]
    _leave_parents(chosen, every)
    if not chosen:
        hints = [_values_there(one, every) for one in filters]
        print(f"Nothing to remove in {folder}." + "".join(hints))
        return
    print(f"{runs(len(chosen))} of {len(every)} in {folder}:")
    show_list([_line(row, open_runs.get(run)) for run, row in chosen.items()])
    if not _agreed(yes, len(chosen)):
        print("Nothing was removed.")
        return
    removed = 0
    for run, row in sorted(chosen.items(), key=_is_parent):
        removed += _remove_run(folder, run, row["status"])
    print(
        f"Removed {runs(removed)}. Figures drawn before still show them; clipbench plot {folder} draws them "
        "anew."
    )


def _chosen(every: Rows, ids: set[str], filters: Sequence[Filter], ended: set[str]) -> Rows:
    """Those of `ids`, or of all where there are none, for which all filters hold. A run that has not `ended`,
    or whose row is damaged, is meant only where its id or its status is named.
    """
    statuses: set[Any] = set()
    for one in filters:
        statuses.update(one.named_statuses)
    chosen = {}
    for run, row in every.items():
        named = run in ids or (not ids and (run in ended or row["status"] in statuses))
        if named and all(one.holds(row) for one in filters):
            chosen[run] = row
    return chosen


def _leave_parents(chosen: Rows, every: Rows) -> None:
    """Take those out of `chosen` that others of `every` start from which are not chosen too: a child is
    nothing without its parent. A line for each.
    """
    for run in list(chosen):
        left = [child for child, row in every.items() if row.get("parent") == run and child not in chosen]
        if left:
            too = f"parent={run}"
            if any(every[child]["status"] == "unfinished" for child in left):
                too += f" {EVERYTHING}"
            print(f"Left alone: {run} is what {runs(len(left))} started from. Remove these first: {too}")
            del chosen[run]


def _is_parent(chosen: tuple[str, Mapping[str, Any]]) -> bool:
    """For an order in which children come before their parents."""
    return not chosen[1].get("parent")


def _values_there(one: Filter, rows: Rows) -> str:
    """What a column of text does have, where nothing was found in it."""
    if one.sign != "=" or any(one.holds(row) for row in rows.values()):
        return ""
    known = sorted({str(row[one.column]) for row in rows.values() if one.column in row})
    short = ", ".join(known[:8])
    if len(known) > 8:
        short += " …"
    return f" No run has {one.word}; {one.column} is one of: {short}."


def _line(row: Mapping[str, Any], known: UnfinishedRun | None) -> list[str]:
    if row["status"] == "unfinished" and known:
        return [known.run, "unfinished", known.progress, known.label]
    if row["status"] == DAMAGED:
        return [row["run"], DAMAGED, "", "its row cannot be read"]
    return [row["run"], row["status"], str(row["steps"]), run_label(row)]


def _agreed(yes: bool, count: int) -> bool:
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("Nothing was removed: where nobody can be asked, add --yes.")
    with suppress(EOFError):
        answer = input(f"Remove {'it' if count == 1 else 'them'} for good? [y/N] ")
        return answer.strip().lower() in ("y", "yes")
    print()
    return False


def _remove_run(folder: Path, run: str, status: str) -> bool:
    """Out of the tables and its folder. False, and a line says why, where it is not what it was: `status`."""
    run_folder = RunFolder(folder, run)
    try:
        if owner := run_folder.lease.acquire():
            print(f"Left alone: {run} is being made by {owner}.")
            return False
        now = tables.statuses(folder, [run]).get(run, "unfinished")
        if now != status and status != DAMAGED:
            run_folder.lease.release()
            print(f"Left alone: {run} is {now} by now.")
            return False
        run_folder.remove()
    except OSError as error:
        raise UserError(
            f"Cannot remove {run}: {error}. What is left of it is removed by the same command."
        ) from error
    return True
