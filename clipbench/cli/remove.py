"""Runs out of a results folder: which ones a filter means, and their removal, each under its lease."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from clipbench.cli import status
from clipbench.errors import UserError, nearest
from clipbench.record import tables
from clipbench.record.folder import RunFolder
from clipbench.record.state import UnfinishedRun, read_folder

FILTER = """\
A FILTER is KEY=VALUE, where KEY is a column of `runs`; all filters must hold.
  status=failed  task=cola,voc  clipping_type!=none  'seed>2'  'lr<=0.01'  clipping_level=null
Several values mean any of them. < and > need quotes in a shell. Or give ids of runs, as `clipbench status` shows them.
Unfinished runs are meant only by their ids or by status=unfinished. A run that a process is making is left alone.
"""
EVERYTHING = "status=done,diverged,failed,unfinished"
COLUMNS = tables.SCHEMAS["runs"]
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class Condition:
    """One FILTER. A value is None where the word says null."""

    word: str
    column: str
    sign: str
    values: tuple[Any, ...]

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """A column that is not known of an unfinished run holds nothing, != included."""
        if self.column not in row:
            return False
        found = None if pd.isna(row[self.column]) else row[self.column]
        if self.sign in ("=", "!="):
            return (found in self.values) == (self.sign == "=")
        return found is not None and OPERATORS[self.sign](found, self.values[0])


def remove(folder: Path, words: Sequence[str], yes: bool) -> None:
    """List the runs that `words` mean and, when the user agrees, remove them. UserError for a word that means nothing."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. The folder comes first: clipbench rm results/ status=failed"
        )
    if not words:
        raise UserError(
            f"Which runs? clipbench rm {folder} status=failed, for instance. All of them: clipbench rm {folder} {EVERYTHING}"
        )
    rows, works = read_folder(folder)
    every = rows | {run: work.facts for run, work in works.items() if run not in rows}
    conditions = [condition(word, every) for word in words if word not in every]
    ids = {word for word in words if word in every}
    named = any(
        one.column == "status" and one.sign == "=" and "unfinished" in one.values for one in conditions
    )
    meant = every if named else {run: row for run, row in every.items() if run in rows or run in ids}
    chosen = {
        run: row
        for run, row in meant.items()
        if (run in ids or not ids) and all(one(row) for one in conditions)
    }
    made = {run: work.owner for run, work in works.items() if work.owner and run in chosen}
    for run, owner in made.items():
        print(f"Left alone: {run} is being made by {owner}.")
        del chosen[run]
    if not chosen:
        print(f"Nothing to remove in {folder}." + "".join(_there(one, every) for one in conditions))
        return
    print(f"{status.runs(len(chosen))} of {len(every)} in {folder}:")
    status.show_list([_line(row, works.get(run)) for run, row in chosen.items()])
    if not _agreed(yes, len(chosen)):
        print("Nothing was removed.")
        return
    removed = [run for run, row in chosen.items() if _removed(folder, run, row["status"])]
    print(
        f"Removed {status.runs(len(removed))}. Figures drawn before still show them; clipbench plot {folder} draws them anew."
    )


def condition(word: str, ids: Iterable[str] = ()) -> Condition:
    """ "seed>2", "task=cola,voc". UserError for an unknown column or a value that its type does not have."""
    found = re.fullmatch(r"([\w.]+)(!=|<=|>=|=|<|>)(.+)", word)
    if not found:
        close = nearest(word, ids)
        raise UserError(
            f"'{word}' is neither the id of a run there nor KEY=VALUE.{close} In a shell < and > need quotes: 'seed>2'."
        )
    column, sign, text = found.groups()
    if column not in COLUMNS.names:
        raise UserError(
            f"Unknown column '{column}'.{nearest(column, COLUMNS.names)} Known: {', '.join(COLUMNS.names)}."
        )
    values = tuple(_value(word, column, part) for part in text.split(","))
    if sign not in ("=", "!=") and (len(values) > 1 or values[0] is None):
        raise UserError(f"'{word}': {sign} takes one value.")
    return Condition(word, column, sign, values)


def _value(word: str, column: str, text: str) -> Any:
    kind = COLUMNS.field(column).type
    if text == "null":
        return None
    if pa.types.is_string(kind):
        return text
    if pa.types.is_boolean(kind):
        if text not in ("true", "false"):
            raise UserError(f"'{word}': {column} is true or false, got '{text}'.")
        return text == "true"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"'{word}': {column} is a number (inf and null are allowed), got '{text}'.") from None


def _there(one: Condition, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What a column of text does have, where nothing was found in it."""
    if one.sign != "=" or any(one(row) for row in rows.values()):
        return ""
    known = sorted({str(row[one.column]) for row in rows.values() if one.column in row})
    short = ", ".join(known[:8]) + (" …" if len(known) > 8 else "")
    return f" No run has {one.word}; {one.column} is one of: {short}."


def _line(row: Mapping[str, Any], work: UnfinishedRun | None) -> list[str]:
    if row["status"] == "unfinished" and work:
        return [work.run, "unfinished", work.progress, work.label]
    return [row["run"], row["status"], str(row["steps"]), status.label(row)]


def _agreed(yes: bool, count: int) -> bool:
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("Nothing was removed: where nobody can be asked, add --yes.")
    with suppress(EOFError):
        return input(f"Remove {'it' if count == 1 else 'them'} for good? [y/N] ").strip().lower() in (
            "y",
            "yes",
        )
    print()
    return False


def _removed(folder: Path, run: str, status: str) -> bool:
    """Gone from the tables and its folder. False, and a line says why, where it is not what it was: `status`."""
    run_folder = RunFolder(folder, run)
    try:
        if owner := run_folder.lease.acquire():
            print(f"Left alone: {run} is being made by {owner}.")
            return False
        if (now := tables.statuses(folder, [run]).get(run, "unfinished")) != status:
            run_folder.lease.release()
            print(f"Left alone: {run} is {now} by now.")
            return False
        run_folder.remove()
    except OSError as error:
        raise UserError(
            f"Cannot remove {run}: {error}. What is left of it is removed by the same command."
        ) from error
    return True
