"""The rows of somebody's own loop on the disk, a line each, until they go into the tables. A process that is
killed leaves them there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipbench.record.rows import EvalRow, StepRow

ROWS = "rows.jsonl"
KINDS: dict[str, type[StepRow] | type[EvalRow]] = {"step": StepRow, "eval": EvalRow}
TAIL = 4096  # bytes in which the last step is looked for


class KeptRows:
    """<folder>/rows.jsonl: `["step", 12, …]` or `["eval", 12, …]` in each line, in the order of the columns.

    A line that was cut off by a crash or a full disk is passed over, and one that stands there twice counts
    once.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROWS

    def append(self, rows: Sequence[StepRow | EvalRow]) -> None:
        """OSError where the disk refuses; they may be given again."""
        lines = []
        for row in rows:
            kind = "step" if isinstance(row, StepRow) else "eval"
            lines.append(json.dumps([kind, *vars(row).values()]) + "\n")
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    lines.insert(0, "\n")
            file.write("".join(lines).encode())

    def steps(self) -> Iterator[StepRow]:
        last = 0
        for row in self._rows():
            if isinstance(row, StepRow) and row.step > last:
                last = row.step
                yield row

    def evals(self) -> list[EvalRow]:
        """Of one step, split and metric the last, in the order of the first."""
        found = {}
        for row in self._rows():
            if isinstance(row, EvalRow):
                found[row.step, row.split, row.metric] = row
        return list(found.values())

    def last_step(self) -> int:
        """0 where there is none. Only the end of the file is read."""
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return 0
        last = 0
        for line in lines:
            row = _row(line)
            if row is not None:
                last = max(last, row.step)
        return last

    def _rows(self) -> Iterator[StepRow | EvalRow]:
        try:
            file = open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return
        with file:
            for line in file:
                row = _row(line)
                if row is not None:
                    yield row


def _row(line: bytes) -> StepRow | EvalRow | None:
    try:
        kind, *values = json.loads(line)
        return KINDS[kind](*values)
    except (ValueError, TypeError, KeyError):
        return None
