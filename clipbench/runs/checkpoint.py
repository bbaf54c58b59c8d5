"""Checkpoints: everything of a run that is not finished, so that it resumes bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from clipbench.errors import Unreadable
from clipbench.record.files import atomic_write
from clipbench.record.folder import RunFolder
from clipbench.record.rows import EvalRow, Row, StepRow
from clipbench.train.learner import Learner

COMPACT_AFTER = 4096
"""Step rows as Python objects before they become one tensor: 64 bytes a step from then on."""


@dataclass
class RecordedRows:
    """A run's rows so far. 64 bytes a step."""

    steps: list[StepRow] = field(default_factory=list)
    compact: list[Tensor] = field(default_factory=list)  # (n, columns) float64 each
    evals: list[EvalRow] = field(default_factory=list)

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if isinstance(row, StepRow):
                self.steps.append(row)
            elif isinstance(row, EvalRow):
                self.evals.append(row)
        if len(self.steps) >= COMPACT_AFTER:
            self.compact.append(_tensor(self.steps))
            self.steps = []

    def __iter__(self) -> Iterator[StepRow]:
        for part in self.compact:
            for step, *rest in part.tolist():
                yield StepRow(int(step), *rest)
        yield from self.steps

    def state_dict(self) -> dict[str, Any]:
        steps = torch.cat([*self.compact, _tensor(self.steps)])
        return {"steps": steps, "evals": [astuple(row) for row in self.evals]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.compact = [], [state["steps"]]
        self.evals = [EvalRow(*row) for row in state["evals"]]


def _tensor(rows: Sequence[StepRow]) -> Tensor:
    values = torch.tensor([astuple(row) for row in rows], dtype=torch.float64)
    return values.reshape(-1, len(fields(StepRow)))


def save_checkpoint(folder: RunFolder, learner: Learner, rows: RecordedRows) -> None:
    """Replace the run's checkpoint. UserError where it cannot be written; the one before stays then."""
    state = {"learner": learner.state_dict(), "rows": rows.state_dict()}
    with atomic_write(folder.checkpoint_path(learner.step)) as partial:
        try:
            with open(partial, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # what the disk said, which torch's writer hides
                raise error.__context__ from None
            raise
    for older in folder.checkpoints()[:-1]:
        older.unlink(missing_ok=True)


def load_checkpoint(folder: RunFolder, learner: Learner, rows: RecordedRows) -> None:
    """Go on from the last checkpoint, if there is one.

    One that cannot be read is named in a warning and deleted, and UnusableCheckpoint is raised.
    """
    for path in reversed(folder.checkpoints()):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            learner.load_state_dict(state["learner"])
            rows.load_state_dict(state["rows"])
            return
        except FileNotFoundError:  # another process that has this run too went on or finished it
            continue
        except Exception as error:  # cut, or of another version
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            message = f"{path} cannot be used ({reason}). The run starts from an earlier state."
            warnings.warn(message, Unreadable, stacklevel=2)
            path.unlink(missing_ok=True)
            raise UnusableCheckpoint(str(path)) from error


def checkpoint_rows(folder: RunFolder) -> RecordedRows:
    """Those of the last checkpoint; none where there is none, or one that `load_checkpoint` will name."""
    rows = RecordedRows()
    with suppress(Exception):
        state = torch.load(folder.checkpoints()[-1], map_location="cpu", weights_only=True)
        rows.load_state_dict(state["rows"])
    return rows


class UnusableCheckpoint(Exception):
    """It is gone now; the learner may be half loaded, so build it anew."""
