"""The runs of a sweep as single jobs of another engine, through Hydra's launchers, into the same results folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf.errors import OmegaConfBaseException

from clipbench.cli import show
from clipbench.errors import UserError, nearest
from clipbench.interrupt import first_interrupt
from clipbench.record import tables
from clipbench.record.files import atomic_write
from clipbench.runs import config
from clipbench.runs.plan import Plan
from clipbench.sweeps.job import PLANS, STOP, Job
from clipbench.sweeps.scheduler import LOOK_AGAIN, conclude, say_interrupted, unfinished

GROUP = "hydra/launcher"
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
QUIET = [f"hydra/{log}_logging=none" for log in ("job", "hydra")] + [
    "hydra.output_subdir=null",
    "hydra.sweep.subdir=.",
]


def launch(
    plans: Sequence[Plan], words: Sequence[str], config_dir: Path | None = None, table: bool = True
) -> int:
    """Make the runs that are not finished, a job each, show the `table` of all and return the exit code.

    What is lost with a job is its own run, which the same command goes on with; joblib's workers are lost together. Ctrl-C
    reaches every job, wherever it runs, through a file in the results folder.
    """
    folder = plans[0].results
    desk = (folder / ".work" / f"launch-{secrets.token_hex(4)}").absolute()
    launcher = make_launcher(words, config_dir, desk)
    todo = unfinished(plans)
    told, trouble, stopped = _hand_out(launcher, todo, desk) if todo else ({}, "", False)
    status = tables.statuses(folder, [plan.run for plan in plans])
    left = [plan for plan in todo if plan.run not in status]
    kept = bool(left and trouble) and any(
        path.is_dir() for path in desk.iterdir()
    )  # what jobs printed, and what those in a queue need
    if not kept:
        _remove(desk)
    if stopped:
        return say_interrupted(plans, status)
    where = f" What the jobs printed is in {desk}." if kept else ""
    if (
        trouble and len(left) == len(todo) and not any(plan.run_folder.exists for plan in todo)
    ):  # no job ever started
        raise UserError(f"{' '.join(words)}: {trouble}{where}")
    code = conclude(
        plans, status, list({text: None for kind, text in told.values() if kind == "mistake"}), table
    )
    if trouble:
        print(f"clipbench: {trouble}{where}", file=sys.stderr)
    for plan in left:
        print(f"not finished: {plan.command}  {told.get(plan.run, ('', ''))[1]}".rstrip(), file=sys.stderr)
    if left:
        print("The same sweep goes on from where they are.", file=sys.stderr)
    return 1 if left or trouble else code


def _hand_out(
    launcher: Launcher, todo: Sequence[Plan], desk: Path
) -> tuple[dict[str, tuple[str, str]], str, bool]:
    """What the jobs say, by run; what went wrong with the launcher itself; whether Ctrl-C was pressed."""
    with atomic_write(desk / PLANS) as partial:
        partial.write_text(json.dumps({plan.run: plan.overrides for plan in todo}), encoding="utf-8")
    told, trouble = {}, ""
    message = "The jobs finish their steps and keep everything."
    with first_interrupt(message) as interrupted, _watch(todo, interrupted, desk / STOP):
        try:
            jobs: Any = launcher.launch([[f"+run={plan.run}"] for plan in todo], 0)
            told = {plan.run: job.return_value for plan, job in zip(todo, jobs, strict=True)}
        except Exception as error:
            trouble = f"The launcher failed. {type(error).__name__}: {shorten(str(error), 240)}"
        while not interrupted() and any(
            plan.run_folder.owner for plan in todo
        ):  # jobs that outlive it, or other sweeps
            time.sleep(LOOK_AGAIN)
        return told, trouble, interrupted()


@contextmanager
def _watch(todo: Sequence[Plan], interrupted: Callable[[], bool], word: Path) -> Iterator[None]:
    """Meanwhile, a line for each run that ends. Once `interrupted()`, the file `word` says so to the jobs."""
    waiting, over = {plan.run: _written(plan) for plan in todo}, threading.Event()

    def look() -> None:
        for plan in [plan for plan in todo if plan.run in waiting and _written(plan) != waiting[plan.run]]:
            del waiting[plan.run]
            rows = tables.read(plan.results, "runs", runs=[plan.run])
            said = show.outcome(dict(rows.iloc[0])) if len(rows) else ""
            print(
                f"{len(todo) - len(waiting)}/{len(todo)}  {plan.label}  {said}", file=sys.stderr, flush=True
            )

    def keep_looking() -> None:
        looked = time.monotonic()
        while not over.wait(0.2):
            if interrupted():
                word.touch()
            if time.monotonic() - looked > LOOK_AGAIN:
                look()
                looked = time.monotonic()

    thread = threading.Thread(target=keep_looking, daemon=True, name="clipbench jobs")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def _written(plan: Plan) -> int:
    """When the run's row was written; 0 without one."""
    with suppress(OSError):
        return (plan.results / "runs" / f"{plan.run}.parquet").stat().st_mtime_ns
    return 0


def _remove(desk: Path) -> None:
    shutil.rmtree(desk, ignore_errors=True)
    with suppress(OSError):  # not there, or not empty: others are at work
        desk.parent.rmdir()


def make_launcher(words: Sequence[str], config_dir: Path | None, desk: Path) -> Launcher:
    """The engine's launcher with the user's `hydra.launcher.KEY=VALUE`. UserError for what is unknown or not installed."""
    own = config_dir.absolute() if config_dir else None
    search = [f"hydra.searchpath=[{_quoted(f'file://{own}')}]"] if own else []
    parsed = config.parse(words)
    chosen = [override for override in parsed if override.key_or_group == GROUP]
    with initialize_config_module("clipbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        _check_choice(chosen, loader.get_group_options(GROUP), own)
        choice = str(chosen[0].input_line)
        fixed = [*QUIET, "hydra.job.name=clipbench", f"hydra.sweep.dir={_quoted(str(desk))}", *search]
        try:
            known = list(compose(None, [*fixed, choice], return_hydra_config=True).hydra.launcher)
            for override in parsed:
                key = override.key_or_group.removeprefix("hydra.launcher.").split(".")[0]
                if override.key_or_group != GROUP and key not in known:
                    names = ", ".join(str(name) for name in known if name != "_target_")
                    raise UserError(
                        f"Unknown key '{override.key_or_group}'.{nearest(key, known)} {choice} takes: {names}."
                    )
            composed = compose(None, [*fixed, *words], return_hydra_config=True)
            job: Any = Job(os.getcwd(), desk, config_dir)
            return Plugins.instance().instantiate_launcher(HydraContext(loader, Callbacks()), job, composed)
        except (HydraException, OmegaConfBaseException) as error:
            cause = f" {str(error.__cause__).splitlines()[0]}." if error.__cause__ else ""
            raise UserError(f"{' '.join(words)}: {' '.join(str(error).split())}.{cause}") from error


def _check_choice(chosen: Sequence[Override], installed: Sequence[str], config_dir: Path | None) -> None:
    """One launcher, and one that is there."""
    there = {*installed, *config.options(GROUP, config_dir)} - {"basic"}
    known = sorted({*there, *EXTRAS})
    if len(chosen) != 1 or not isinstance(name := chosen[0].value(), str):
        given = " ".join(str(override.input_line) for override in chosen) or "none"
        raise UserError(
            f"A sweep is handed to one launcher, {GROUP}=NAME; got {given}. Known: {', '.join(known)}."
        )
    if name not in known:
        raise UserError(f"Unknown {GROUP} '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    if name not in there:
        raise UserError(f"{GROUP}={name} needs a plugin: pip install 'clipbench[{EXTRAS[name]}]'")


def _quoted(text: str) -> str:
    """As one word of Hydra's grammar, whatever is in it."""
    return QuotedString(text, Quote.single).with_quotes()
