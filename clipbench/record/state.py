"""A results folder at rest: which runs have ended, and what is known of those that have not."""

from __future__ import annotations

import warnings
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbench.errors import Unreadable, UserError
from clipbench.record import tables
from clipbench.record.files import RUN_ID, WORK, is_recorded, reason, table_path
from clipbench.record.folder import RunFolder, run_folders
from clipbench.record.kept import KeptRows
from clipbench.record.lease import AnyOwner
from clipbench.record.rows import TO_GO_ON


@dataclass(frozen=True)
class UnfinishedRun:
    """What is known of a run that is unfinished, was stopped or has failed: `step` of its last checkpoint, or
    the last that somebody's own loop has written; the rest as it was planned.

    `facts`: what plan.json says under the columns' names of `runs`; less where an earlier version wrote it.
    """

    run: str
    step: int
    steps: int | None
    label: str
    owner: AnyOwner | None  # who makes it now
    facts: dict[str, Any]

    @property
    def task(self) -> str:
        """ "cola (mini)", or the task alone where it has no scale; "?" where an earlier version wrote the
        plan, or nobody has yet.
        """
        if "task" not in self.facts or "scale" not in self.facts:
            return "?"
        task, scale = self.facts["task"], self.facts["scale"]
        return f"{task} ({scale})" if scale else str(task)

    @property
    def progress(self) -> str:
        """ "50/1000"; "50" of somebody's own loop, whose length is not known."""
        return str(self.step) if is_recorded(self.run) else f"{self.step}/{self.steps or '?'}"


def read_folder(results: Path) -> tuple[dict[str, dict[str, Any]], dict[str, UnfinishedRun]]:
    """The rows of `runs` by id, and by id what is known of the runs that are unfinished, were stopped
    or have failed.

    UserError where the folder is not there or holds nothing of ours.
    """
    if not results.is_dir():
        raise UserError(f"There is no folder {results}.")
    rows = {}
    table = tables.read(results, "runs").astype(object)
    for row in table.where(table.notna(), None).to_dict("records"):
        if RUN_ID.fullmatch(row["run"]):
            rows[row["run"]] = row
    unfinished = {}
    for run in sorted(_runs_with_files(results)):
        known = run in rows and rows[run]["status"] in ("failed", *TO_GO_ON)
        if not known and table_path(results, "runs", run).exists():  # it has ended, or its row is damaged
            continue
        try:
            unfinished[run] = _unfinished(RunFolder(results, run))
        except OSError as error:
            message = f"Skipped run {run}: {error.filename} cannot be read now ({reason(error)})."
            warnings.warn(message, Unreadable, stacklevel=2)
    if not rows and not unfinished and not damaged_runs(results, rows):
        raise UserError(
            f"{results} holds no runs. A results folder has runs/*.parquet, and {WORK}/ while runs are being "
            "made."
        )
    return rows, unfinished


def _runs_with_files(results: Path) -> set[str]:
    """Ids that have files: a folder with something in it, or steps and evals without a row in `runs`."""
    found = {run for run in run_folders(results) if not RunFolder(results, run).is_empty}
    for table in ("steps", "evals"):
        for path in (results / table).glob("[!.]*.parquet"):
            if RUN_ID.fullmatch(path.stem):
                found.add(path.stem)
    return found


def _unfinished(folder: RunFolder) -> UnfinishedRun:
    plan = folder.plan()
    owner = folder.owner
    label = plan.get("label") or ("loading" if owner else "without a plan")
    facts = {**plan.get("facts", {}), "run": folder.run, "status": "unfinished"}
    step = KeptRows(folder.path).last_step() if is_recorded(folder.run) else folder.checkpoint_step()
    return UnfinishedRun(folder.run, step, plan.get("steps"), label, owner, facts)


def damaged_runs(results: Path, known: Container[str]) -> list[str]:
    """Ids of runs that have a file in `runs` but are not `known`: nothing can be read there."""
    found = []
    for path in sorted((results / "runs").glob("*.parquet")):
        if RUN_ID.fullmatch(path.stem) and path.stem not in known:
            found.append(path.stem)
    return found
