"""The bench from Python: `clipbench.run`, `.sweep` and `.study` make runs, `clipbench.results` reads them.

They do what the commands do and print nothing. The commands are built on the functions below them.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipbench.errors import EXIT, UserError, own_error
from clipbench.escape import visible
from clipbench.output import listening
from clipbench.processes import check_main_guard

if TYPE_CHECKING:
    import pandas as pd

    from clipbench.runs.events import Sink
    from clipbench.runs.plan import Contents, Plan
    from clipbench.sweeps.outcome import SweepOutcome


def run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> pd.DataFrame:
    """Make one run, unless it is finished. Its row of the table `runs`, a DataFrame of one row.

    `overrides`: a list of strings, each KEY=VALUE as on the command line; `clipbench run --help` lists the
    keys. `config_dir`: a folder of your own with `task/NAME.yaml` and the like, as `--config-dir`.

        >>> import clipbench
        >>> row = clipbench.run(["task=cola", "steps=20", "optim.clipping_type=auto"]).iloc[0]
        >>> row["status"], row["final_test"]

    A run that diverges or raises is a row too: see its `status` and `error`. It trains in this process.
    Ctrl-C finishes the step, writes a checkpoint and raises KeyboardInterrupt; the same call resumes.
    UserError for a mistake in what was asked for, and where another process makes this run.
    """
    import torch

    from clipbench.interrupt import first_interrupt

    plan = plan_run(_checked(overrides), _folder(config_dir))
    threads = torch.get_num_threads()
    try:
        if finished_row(plan) is None:
            with first_interrupt(_say_nothing) as interrupted:
                if make_with_parent(plan, interrupted, lambda each: nullcontext()) is None:
                    raise KeyboardInterrupt
    finally:
        torch.set_num_threads(threads)
    return rows_of([plan])


def sweep(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> pd.DataFrame:
    """Make every run of a grid that is not finished yet. The rows of all of them, made now or before, in the
    grid's order.

    `overrides` as for `run`, with several values where there is an axis; without an axis it is every clipping
    type at two seeds. `hydra/launcher=NAME` hands the runs to another engine.

        >>> import clipbench
        >>> runs = clipbench.sweep(["task=cola", "steps=20", "optim.clipping_type=none,norm", "seed=0,1"])
        >>> runs.groupby("clipping_type")["final_test"].mean()

    A run that fails is a row with status "failed" and its traceback. The runs train in worker processes,
    which need nothing of the script that calls this. Ctrl-C writes checkpoints and raises
    KeyboardInterrupt; the same call resumes. UserError for a mistake: where only some runs cannot be made, it
    is raised after the others are recorded.
    """
    check_main_guard()
    plans, launcher = plan_sweep(_checked(overrides), _folder(config_dir))
    outcome = _make_quietly(plans, launcher, _folder(config_dir))
    _raise_for(outcome)
    return rows_of(plans)


def study(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> pd.DataFrame:
    """In each of several repetitions, tune every method on the same budget and run the winners at a fresh
    seed. The rows of all its runs; the columns `repetition`, `role`, `method` and `trial` tell trials, final
    runs and defaults apart.

    `overrides` as for `clipbench study`: `study=NAME`, `study.KEY=VALUE`, and keys of a run.

        >>> import clipbench
        >>> runs = clipbench.study(["task=cola", "study=quick", "study.trials=2", "steps=20"])
        >>> runs[runs["role"] == "final"].groupby("method")["final_test"].mean()

    `clipbench.selection.winners(runs)` says what tuning chose. Where runs failed, so that a
    task lacks some or has no final runs, a UserWarning says which. Otherwise as `sweep`.
    """
    from clipbench.studies.contest import contests
    from clipbench.studies.protocol import run_study
    from clipbench.sweeps.grid import split_launcher

    check_main_guard()
    folder = _folder(config_dir)
    rest, launcher = split_launcher(_checked(overrides))
    found = contests(rest, folder)

    def make_phase(plans: list[Plan]) -> SweepOutcome:
        return _make_quietly(plans, launcher, folder)

    outcome = run_study(found, make_phase)
    for phase in outcome.phases:
        _raise_for(phase)
    if outcome.shortfall:
        warnings.warn(" ".join(outcome.shortfall), stacklevel=2)
    return rows_of(outcome.plans)


class Results:
    """The three tables of a results folder, each read when it is first asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"There is no folder {self.folder}.")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run that has ended: settings, status, values and environment."""
        return self._table("runs")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per run and training step: loss, gradient norm before and after clipping, lr, seconds."""
        return self._table("steps")

    @cached_property
    def evals(self) -> pd.DataFrame:
        """One row per run, evaluation, split and metric."""
        return self._table("evals")

    def _table(self, name: str) -> pd.DataFrame:
        from clipbench.record import tables

        return tables.read(self.folder, name)

    def __repr__(self) -> str:
        """ "Results('results'): 6 runs (5 done, 1 failed) on cola (mini); 1 unfinished"."""
        from clipbench.record.folder import unfinished_runs
        from clipbench.record.rows import ENDED

        counts = Counter(self.runs["status"])
        ended = [f"{counts[status]} {status}" for status in ENDED if counts[status]]
        names = (self.runs["task"] + " (" + self.runs["scale"].fillna("") + ")").str.removesuffix(" ()")
        tasks = sorted(set(names))
        text = f"Results({str(self.folder)!r}): {len(self.runs)} runs"
        if ended:
            text += f" ({', '.join(ended)}) on {', '.join(tasks)}"
        if unfinished := unfinished_runs(self.folder):
            text += f"; {len(unfinished)} unfinished"
        return visible(text)


def results(folder: str | Path = "results") -> Results:
    """The tables of a results folder as DataFrames: `.runs`, `.steps`, `.evals`. UserError where there is no
    such folder.

        >>> import clipbench
        >>> found = clipbench.results("results")
        >>> found.runs.groupby("clipping_type")["final_test"].describe()

    A table is read when it is first asked for, and kept; a new call reads anew. A file that is damaged or not
    ours is named in a warning and skipped. The columns: results/README.md.
    """
    return Results(folder)


def plan_run(overrides: Sequence[str], config_dir: Path | None, contents: Contents | None = None) -> Plan:
    """The run that the overrides ask for; `contents`: what data hold. UserError for a mistake in them, a
    launcher included.
    """
    from clipbench.runs.plan import make_plan
    from clipbench.sweeps.grid import split_launcher

    rest, launcher = split_launcher(overrides)
    if launcher:
        raise UserError(
            f"{launcher[0]}: a launcher makes a sweep. For one run: clipbench sweep optim.clipping_type=auto "
            "seed=0 …"
        )
    return make_plan(rest, config_dir, contents=contents)


def finished_row(plan: Plan) -> dict[str, Any] | None:
    """The row of a run that has come to the end that the plan asks for; None where it is to be made."""
    from clipbench.record import tables
    from clipbench.record.rows import TO_GO_ON

    row = tables.row_of(plan.results, plan.run)
    if row is None or not plan.ends_with(row):
        return None
    if row["status"] not in TO_GO_ON:
        plan.run_folder.clear_if_abandoned()
    return row


def make_with_parent(
    plan: Plan,
    interrupted: Callable[[], bool],
    sink_of: Callable[[Plan], AbstractContextManager[Sink | None]],
) -> dict[str, Any] | None:
    """As `make_run`, of a run that is to be made; the one that it starts from is made before it where it is
    missing. `sink_of` gives the sink of each.

    Where the parent is recorded and cannot be made again as it is, the run is recorded as failed.
    """
    from clipbench.runs.ending import orphaned
    from clipbench.runs.events import Ended

    parent = plan.parent
    if parent and finished_row(parent) is None:
        try:
            with sink_of(parent) as sink:
                if make_run(parent, interrupted, sink) is None:
                    return None
        except UserError as error:
            end = orphaned(plan, str(error))
            if isinstance(end, Ended):
                return end.row
            raise
    with sink_of(plan) as sink:
        return make_run(plan, interrupted, sink)


def make_run(plan: Plan, interrupted: Callable[[], bool], sink: Sink | None = None) -> dict[str, Any] | None:
    """The row of a run that is made in this process; `sink` is called with its events. None if it was
    interrupted: a checkpoint is kept.

    A run that raises is recorded as failed. UserError where another process makes it, where it cannot be
    recorded, and where its code calls sys.exit.
    """
    from clipbench.runs.ending import record_failure
    from clipbench.runs.events import Ended, MadeElsewhere, Refused
    from clipbench.runs.lockstep import train_group

    tell = listening(sink)
    try:
        for event in train_group([plan], interrupted):
            tell(event)
            match event:
                case Ended(row=row):
                    return row
                case Refused(mistake=mistake):
                    raise UserError(mistake)
                case MadeElsewhere(owner=owner, status=""):
                    raise UserError(
                        f"This run is being made by {owner}. Wait for it, or stop that process first."
                    )
                case MadeElsewhere():
                    return finished_row(plan)
    except UserError:
        raise
    except EXIT as error:
        raise UserError(own_error(plan.label, error)) from error
    except Exception:
        row = record_failure(plan, traceback.format_exc())
        tell(Ended(plan.run, row))
        return row
    return None


def plan_sweep(
    overrides: Sequence[str], config_dir: Path | None, contents: Contents | None = None
) -> tuple[list[Plan], list[str]]:
    """The runs of a grid, and the overrides of the launcher that is to make them, if there is one.
    `contents`: what data hold.
    """
    from clipbench.sweeps.grid import make_plans, split_launcher

    rest, launcher = split_launcher(overrides)
    return make_plans(rest, config_dir, contents), launcher


def rows_of(plans: Sequence[Plan]) -> pd.DataFrame:
    """The rows of `runs` of those that have ended, in the order of `plans`."""
    from clipbench.record import tables
    from clipbench.record.files import table_path

    folder = plans[0].results
    ended = [plan.run for plan in plans if table_path(folder, "runs", plan.run).exists()]
    return tables.read(folder, "runs", runs=ended)


def mistakes_in(outcome: SweepOutcome) -> str:
    """What kept runs from being made, and how many; "" where nothing did."""
    if not outcome.mistakes:
        return ""
    missing = sum(outcome.statuses.get(plan.run, "not made") == "not made" for plan in outcome.plans)
    count = f"{missing} of {len(outcome.plans)} runs were not made"
    return f"{' '.join(outcome.mistakes)} ({count}; re-run the same command for them.)"


def _make_quietly(plans: Sequence[Plan], launcher: Sequence[str], config_dir: Path | None) -> SweepOutcome:
    from clipbench.interrupt import first_interrupt
    from clipbench.sweeps.launch import launch
    from clipbench.sweeps.scheduler import make_runs

    with first_interrupt(_say_nothing) as interrupted:
        if launcher:
            return launch(plans, launcher, config_dir, interrupted)
        return make_runs(plans, interrupted)


def _raise_for(outcome: SweepOutcome) -> None:
    """KeyboardInterrupt or UserError where runs have no row: somebody asked to stop, or what is lacking."""
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.mistakes:
        raise UserError(mistakes_in(outcome))
    if outcome.not_made:
        count = f"{len(outcome.not_made)} of {len(outcome.plans)} runs have not ended"
        raise UserError(f"{outcome.launcher_error} {count}; the same call resumes them.".lstrip())


def _checked(overrides: Sequence[str]) -> list[str]:
    """UserError for anything but a list of overrides."""
    example = 'clipbench.run(["task=cola", "seed=1"])'
    if isinstance(overrides, (str, Mapping)):
        raise UserError(
            f"Overrides are a list of strings, one for each key, as in {example}; got {overrides!r}."
        )
    checked = list(overrides)
    for override in checked:
        if not isinstance(override, str):
            raise UserError(f"An override is a string KEY=VALUE, as in {example}; got {override!r}.")
        if override.startswith("-"):
            raise UserError(
                f"{override} is an option of the command line, not an override. "
                'In Python --config-dir DIR is config_dir="DIR".'
            )
    return checked


def _folder(config_dir: str | Path | None) -> Path | None:
    return Path(config_dir) if config_dir is not None else None


def _say_nothing() -> None:
    """Nothing is printed from Python: KeyboardInterrupt follows."""
