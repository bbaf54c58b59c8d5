"""Checkpoints: everything of a run that is not finished, so that it resumes bit for bit."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbench.errors import Unreadable, UserError
from clipbench.record.files import atomic_write, read_file, reason, set_aside
from clipbench.record.folder import RunFolder
from clipbench.record.rows import EvalRow, Row, StepRow, is_clipped
from clipbench.train.learner import Learner
from clipbench.train.loop import is_memory

COMPACT_AFTER = 4096
"""Step rows as Python objects before they become one tensor: 64 bytes a step from then on."""

STEP_COLUMNS = [each.name for each in fields(StepRow)]


@dataclass
class RecordedRows:
    """A run's rows so far, and how many of its steps were clipped. 64 bytes a step."""

    steps: list[StepRow] = field(default_factory=list)
    compact: list[Tensor] = field(default_factory=list)  # (n, columns) float64 each
    evals: list[EvalRow] = field(default_factory=list)
    clipped: int = 0
    not_skipped: int = 0

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if isinstance(row, StepRow):
                self.steps.append(row)
                if math.isfinite(row.grad_norm):
                    self.not_skipped += 1
                    self.clipped += is_clipped(row.clip_factor)
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
        columns = dict(zip(STEP_COLUMNS, state["steps"].T, strict=True))
        not_skipped = columns["grad_norm"].isfinite()
        self.not_skipped = int(not_skipped.sum())
        self.clipped = int((not_skipped & is_clipped(columns["clip_factor"])).sum())

    @property
    def share_clipped(self) -> float:
        """Of the steps that were not skipped."""
        return self.clipped / max(1, self.not_skipped)

    @property
    def last_step(self) -> list[StepRow]:
        """The row of the last step, if there is one."""
        if self.steps or not self.compact or not len(self.compact[-1]):
            return self.steps[-1:]
        step, *rest = self.compact[-1][-1].tolist()
        return [StepRow(int(step), *rest)]


def _tensor(rows: Sequence[StepRow]) -> Tensor:
    values = torch.tensor([astuple(row) for row in rows], dtype=torch.float64)
    return values.reshape(-1, len(STEP_COLUMNS))


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

    One that is damaged or of another version is set aside and named in a warning (Unreadable), and
    UnusableCheckpoint is raised. UserError where it cannot be read now: an error of the disk, or of memory,
    says nothing of the checkpoint, which is left as it is.
    """
    for path in reversed(folder.checkpoints()):
        try:
            state = _state_in(path)
            learner.load_state_dict(state["learner"])
            rows.load_state_dict(state["rows"])
            return
        except FileNotFoundError:  # another process that has this run too went on or finished it
            continue
        except Exception as error:
            if _passes(error):
                raise UserError(
                    f"Cannot read {path}: {reason(error)}. It is left as it is; the same command resumes "
                    "from it."
                ) from error
            place = set_aside(folder.results, path)
            message = (
                f"{path} cannot be used ({reason(error)}) and lies in {place} now. The run starts from an "
                "earlier state."
            )
            warnings.warn(message, Unreadable, stacklevel=2)
            raise UnusableCheckpoint(str(path)) from error


def _state_in(path: Path) -> dict[str, Any]:
    """What a checkpoint holds. OSError or an error of memory where it cannot be read, any other where it is
    damaged.
    """
    content = read_file(path)
    with zipfile.ZipFile(io.BytesIO(content)) as parts:  # torch does not compare the checksums
        if damaged := parts.testzip():
            raise ValueError(f"the checksum of {damaged} is another")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _passes(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is one of the disk or of memory: another try may succeed."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return True
        if isinstance(error, Exception) and is_memory(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def checkpoint_rows(folder: RunFolder) -> RecordedRows:
    """Those of the last checkpoint; none where there is none, and after a warning (Unreadable) where it
    cannot be read.
    """
    rows = RecordedRows()
    for path in folder.checkpoints()[-1:]:
        try:
            rows.load_state_dict(_state_in(path)["rows"])
        except Exception as error:
            message = f"{path} cannot be read ({reason(error)}): its rows are not recorded."
            warnings.warn(message, Unreadable, stacklevel=2)
            return RecordedRows()
    return rows


class UnusableCheckpoint(Exception):
    """It is set aside; the learner may be half loaded, so build it anew."""
