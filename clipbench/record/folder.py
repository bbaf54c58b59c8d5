"""What a results folder holds beside its tables: the folder of each run that has not ended, and those of
launched jobs.

The one place that knows what lies under `.work`. From file names and `plan.json`; no checkpoint is opened,
nothing heavy is imported.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipbench.errors import Unreadable, UserError
from clipbench.record.files import (
    MODELS,
    RUN_ID,
    TABLES_OF_A_RUN,
    WORK,
    atomic_write,
    model_path,
    read_file,
    reason,
    set_aside,
    table_path,
)
from clipbench.record.lease import AnyOwner, Lease, holder
from clipbench.record.rows import Column, columns, from_json

PLAN = "plan.json"
OF_A_PLAN = (
    Column("label", "text", "the run in words"),
    Column("steps", "int", "steps to make", least=0),
    Column("started", "text", "UTC"),
)
"""What plan.json holds beside `overrides`, a list of texts, and `facts`, cells of `runs`. Earlier versions
wrote less.
"""


class RunFolder:
    """results/.work/<run>: what is kept of a run until it has ended: its checkpoint, its lease, its
    plan.json.
    """

    def __init__(self, results: Path, run: str) -> None:
        self.results, self.run = results, run
        self.path = results / WORK / run
        self.lease = Lease(self.path)

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def is_empty(self) -> bool:
        return not self.exists or not any(self.path.iterdir())

    @property
    def owner(self) -> AnyOwner | None:
        """Who makes the run now; None where nobody does."""
        return holder(self.path)

    def plan(self) -> dict[str, Any]:
        """What was written at the run's first start; {} where there is nothing, and after a warning
        (Unreadable) where it is damaged or cannot be read now.
        """
        path = self.path / PLAN
        try:
            found, fault = self._read_plan()
        except OSError as error:
            message = f"{path} cannot be read now ({reason(error)}). It is left as it is."
            warnings.warn(message, Unreadable, stacklevel=2)
            return {}
        if fault:
            message = f"{path} is damaged ({fault}): what run {self.run} is cannot be told."
            warnings.warn(message, Unreadable, stacklevel=2)
        return found

    def _read_plan(self) -> tuple[dict[str, Any], str]:
        """(what it holds, what is wrong with it). OSError where it could not be read."""
        try:
            content = read_file(self.path / PLAN)
        except FileNotFoundError:
            return {}, ""
        found = from_json(content.decode("utf-8", "replace") or "null", dict)
        if found is None:
            return {}, "no mapping as JSON"
        fault = _fault_of_plan(found)
        return ({}, fault) if fault else (found, "")

    def write_plan(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what asked for the run, at its first start; later calls give back what was written then. One
        that is damaged is set aside, with a warning (Unreadable).

        UserError where it cannot be read now, or not be written.
        """
        path = self.path / PLAN
        try:
            found, fault = self._read_plan()
        except OSError as error:
            raise UserError(
                f"Cannot read {path}: {reason(error)}. It is left as it is; give the same command again."
            ) from error
        if fault:
            place = set_aside(self.results, path)
            warnings.warn(f"{path} is damaged ({fault}) and lies in {place} now.", Unreadable, stacklevel=2)
        if found:
            return dict(facts) | found
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(facts), encoding="utf-8")
        return dict(facts)

    def checkpoint_path(self, step: int) -> Path:
        return self.path / f"checkpoint-{step:09}.pt"

    def checkpoints(self) -> list[Path]:
        """Oldest first. More than one only where a process was killed between writing the new and deleting
        the old.
        """
        found = [path for path in self.path.glob("checkpoint-*.pt") if _step_of(path) is not None]
        return sorted(found)

    def checkpoint_step(self) -> int:
        """The step that the run will resume from, read off the name."""
        found = self.checkpoints()
        return _step_of(found[-1]) or 0 if found else 0

    def clear(self) -> None:
        """Remove all of it, with what a killed process left half written among the tables."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._clear_partials()
        with suppress(OSError):  # not empty: others are at work
            self.path.parent.rmdir()

    def clear_if_abandoned(self) -> None:
        """`clear` for a finished run whose process ended before it cleared, or stalled while another finished
        the run.
        """
        if self.exists and self.owner is None:
            self.clear()

    def remove(self) -> None:
        """The run out of the tables, its kept weights and its folder; `runs` first, because its file means
        that the run is complete.

        OSError where that fails; what is left is removed by another call. Only under the lease.
        """
        for table in reversed(TABLES_OF_A_RUN):
            table_path(self.results, table, self.run).unlink(missing_ok=True)
        model_path(self.results, self.run).unlink(missing_ok=True)
        shutil.rmtree(self.path)
        self._clear_partials()
        with suppress(OSError):
            self.path.parent.rmdir()

    def _clear_partials(self) -> None:
        for table in TABLES_OF_A_RUN:
            for partial in (self.results / table).glob(f".{self.run}.parquet.*.tmp"):
                partial.unlink(missing_ok=True)
        for partial in (self.results / MODELS).glob(f".{self.run}.safetensors.*.tmp"):
            partial.unlink(missing_ok=True)


def _fault_of_plan(plan: Mapping[str, Any]) -> str:
    """What is wrong with the content of a plan.json, in words; "" for nothing."""
    for column in OF_A_PLAN:
        if column.name in plan and (fault := column.fault(plan[column.name])):
            return fault
    overrides, facts = plan.get("overrides", []), plan.get("facts", {})
    if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
        return "overrides is not a list of texts"
    if not isinstance(facts, dict):
        return "facts is not a mapping"
    for column in columns("runs"):
        if column.name in facts and (fault := column.fault(facts[column.name])):
            return fault
    return ""


def _step_of(checkpoint: Path) -> int | None:
    found = re.fullmatch(r"checkpoint-([0-9]{1,18})\.pt", checkpoint.name)
    return int(found[1]) if found else None


class LaunchFolder:
    """results/.work/launch-<random>: what the jobs of one launch read and write while they run.

    A job finds its overrides here, so that they need not pass through an engine's own grammar, and it is
    asked to stop by a file. What engines write (what jobs printed, their queue) goes into folders beside
    these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, results: Path) -> LaunchFolder:
        """One that no other launch has. It is made at the first write."""
        return cls((results / WORK / f"launch-{secrets.token_hex(4)}").absolute())

    def write_plans(self, by_run: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep what asks for each run: its `overrides`, and the step `until` which it is to be trained."""
        with atomic_write(self.path / "plans.json") as partial:
            partial.write_text(json.dumps(by_run), encoding="utf-8")

    def plan_of(self, run: str) -> dict[str, Any]:
        """What asks for the run."""
        found: dict[str, dict[str, Any]] = json.loads((self.path / "plans.json").read_text(encoding="utf-8"))
        return found[run]

    def request_stop(self) -> None:
        """Ask every job to keep a checkpoint and end."""
        (self.path / "stop").touch()

    @property
    def stop_is_requested(self) -> bool:
        return (self.path / "stop").exists()

    @property
    def holds_output(self) -> bool:
        """Whether an engine has written something: what jobs printed, or what those in a queue need."""
        return self.path.is_dir() and any(path.is_dir() for path in self.path.iterdir())

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # not there, or not empty: others are at work
            self.path.parent.rmdir()


def unfinished_runs(results: Path) -> list[str]:
    """Ids of the runs that have no row yet: they are being made, or were left."""
    found = [run for run in run_folders(results) if not RunFolder(results, run).is_empty]
    return sorted(run for run in found if not table_path(results, "runs", run).exists())


def run_folders(results: Path) -> Iterator[str]:
    """Ids of the runs that have a folder, without a look into it."""
    for path in (results / WORK).glob("*"):
        if path.is_dir() and RUN_ID.fullmatch(path.name):
            yield path.name
