"""What is kept of a run until it is finished: results/.work/<run>/ with its checkpoint, its lease and what asked for it."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbench.errors import Unreadable
from clipbench.record.lease import Lease, holder
from clipbench.record.rows import EvalRow, Row, StepRow
from clipbench.record.tables import atomic_write
from clipbench.train.learner import Learner

COMPACT_AFTER = (
    4096  # step rows as Python objects before they become one tensor: 64 bytes a step from then on
)


@dataclass
class Rows:
    """A run's rows so far. 64 bytes a step."""

    steps: list[StepRow] = field(default_factory=list)
    compact: list[Tensor] = field(default_factory=list)  # (n, 8) float64 each
    evals: list[EvalRow] = field(default_factory=list)

    def add(self, rows: Sequence[Row]) -> None:
        self.steps += [row for row in rows if isinstance(row, StepRow)]
        self.evals += [row for row in rows if isinstance(row, EvalRow)]
        if len(self.steps) >= COMPACT_AFTER:
            self.compact, self.steps = [*self.compact, _tensor(self.steps)], []

    def __iter__(self) -> Iterator[StepRow]:
        for part in self.compact:
            yield from (StepRow(int(step), *rest) for step, *rest in part.tolist())
        yield from self.steps

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": torch.cat([*self.compact, _tensor(self.steps)]),
            "evals": [astuple(row) for row in self.evals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.compact, self.evals = [], [state["steps"]], [EvalRow(*row) for row in state["evals"]]


def _tensor(rows: Sequence[StepRow]) -> Tensor:
    return torch.tensor([astuple(row) for row in rows], dtype=torch.float64).reshape(-1, 8)


class Work:
    """One run's folder. A checkpoint is written whole or not at all; its name says the step."""

    def __init__(self, results_folder: Path, run: str) -> None:
        self.folder = results_folder / ".work" / run
        self.lease = Lease(self.folder)

    def note(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Keep what asked for the run, at its first start; what was noted then comes back."""
        path = self.folder / "plan.json"
        with suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(facts), encoding="utf-8")
        return facts

    def save(self, learner: Learner, rows: Rows) -> None:
        """Replace the checkpoint. UserError where it cannot be written; then the one before is still there."""
        path = self.folder / f"checkpoint-{learner.step:09}.pt"
        with atomic_write(path) as partial:
            try:
                with open(partial, "wb") as file:
                    torch.save({"learner": learner.state_dict(), "rows": rows.state_dict()}, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # what the disk said, which torch's writer hides
                    raise error.__context__ from None
                raise
        for older in checkpoints(self.folder)[:-1]:
            older.unlink(missing_ok=True)

    def load(self, learner: Learner, rows: Rows) -> None:
        """Go on from the last checkpoint, if there is one. One that cannot be read is named in a warning and deleted."""
        for path in reversed(checkpoints(self.folder)):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                learner.load_state_dict(state["learner"])
                rows.load_state_dict(state["rows"])
                return
            except FileNotFoundError:  # another process that has this run too went on or finished it
                continue
            except Exception as error:  # cut, or of another version
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                warnings.warn(
                    f"{path} cannot be used ({reason}). The run starts from an earlier state.",
                    Unreadable,
                    stacklevel=2,
                )
                path.unlink(missing_ok=True)
                raise Restart from error

    def rows(self) -> Rows:
        """Those of the last checkpoint."""
        rows = Rows()
        with suppress(Exception):  # none, or one that `load` will name
            rows.load_state_dict(
                torch.load(checkpoints(self.folder)[-1], map_location="cpu", weights_only=True)["rows"]
            )
        return rows

    def clear_left_over(self) -> None:
        """Of a finished run whose process ended before it cleared, or stalled while another finished the run."""
        if self.folder.exists() and holder(self.folder) is None:
            self.clear()

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # not empty: others are at work
            self.folder.parent.rmdir()


class Restart(Exception):
    """A checkpoint was unusable and is gone; the learner may be half loaded, so build it anew."""


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first. More than one only where a process was killed between writing the new and deleting the old."""
    return sorted(
        path for path in folder.glob("checkpoint-*.pt") if re.fullmatch(r"checkpoint-\d+\.pt", path.name)
    )


def checkpoint_step(folder: Path) -> int:
    """The step that a run will go on from, read off the name."""
    found = checkpoints(folder)
    return int(found[-1].stem.rpartition("-")[2]) if found else 0
