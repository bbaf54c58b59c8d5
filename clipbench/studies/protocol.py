"""A study is made: tune every method on the same budget, choose on validation, run the choice and the defaults on fresh seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from clipbench.analysis.choice import winners
from clipbench.cli.status import runs
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.report.draw import draw
from clipbench.runs.plan import Plan
from clipbench.studies.contest import Arena
from clipbench.sweeps import estimate
from clipbench.sweeps.launch import launch
from clipbench.sweeps.scheduler import make_runs

Chosen = dict[str, dict[str, int]]  # arena: method: trial


def make(arenas: Sequence[Arena], launcher: Sequence[str], config_dir: Path | None) -> int:
    """All phases, as far as they are not made yet, and the exit code. Nothing is chosen before every tuning run has ended.

    An arena in which a method has no complete trial gets no final runs; the others go on. What is lacking is one message at the end.
    """
    folder = arenas[0].plan.results
    tuning = [plan for arena in arenas for plan in arena.tuning()]
    check_folder(arenas, tuning)
    show_cost(arenas)
    engine: Callable[[list[Plan]], int] = (
        (lambda plans: launch(plans, launcher, config_dir, table=False))
        if launcher
        else (lambda plans: make_runs(plans, table=False))
    )
    print("\nTuning: ", end="", flush=True)
    code, mistakes = _made(engine, tuning)
    chosen = choice(arenas, tuning)
    if code == 130 or (mistakes and not chosen):
        return _end(code, mistakes)
    if chosen:
        print("\nFinal runs, on fresh seeds: ", end="", flush=True)
        ready = [arena for arena in arenas if arena.label in chosen]
        finals = [plan for arena in ready for plan in arena.finals(chosen[arena.label])]
        final_code, more = _made(engine, finals)
        if final_code == 130:
            return 130
        code, mistakes = code or final_code, mistakes + [each for each in more if each not in mistakes]
        if tables.statuses(folder, [plan.run for plan in finals]):
            show_outcome(ready, [*tuning, *finals])
            for path in draw(folder, folder / "figures"):
                print(path)
    return _end(code, mistakes + shortfall(arenas, chosen))


def _made(engine: Callable[[list[Plan]], int], plans: list[Plan]) -> tuple[int, list[str]]:
    """The engine's exit code and, where it stopped at a mistake of the user's, which."""
    try:
        return engine(plans), []
    except UserError as error:
        return 2, [str(error)]


def _end(code: int, lacking: Sequence[str]) -> int:
    """Say what is lacking, in one message."""
    if lacking:
        print(f"clipbench: {' '.join(lacking)}", file=sys.stderr)
    return code or int(bool(lacking))


def shortfall(arenas: Sequence[Arena], chosen: Chosen) -> list[str]:
    """A sentence for each arena that lacks runs, and what to do; none where every run is there."""
    lines, folder = [], arenas[0].plan.results
    for arena in arenas:
        phases = {
            "tuning": arena.tuning(),
            "final": arena.finals(chosen[arena.label]) if arena.label in chosen else [],
        }
        status = tables.statuses(folder, [plan.run for plans in phases.values() for plan in plans])
        left = {
            name: [plan for plan in plans if status.get(plan.run, "failed") == "failed"]
            for name, plans in phases.items()
        }
        counts = [
            f"{len(each)} of {len(phases[name])} {name} runs failed" for name, each in left.items() if each
        ]
        methods = ", ".join(
            dict.fromkeys(str(plan.settings.tag.method) for each in left.values() for plan in each)
        )
        then = "" if arena.label in chosen else "; without a complete trial of each method nothing was chosen"
        lines += [f"{arena.label}: {' and '.join(counts)} ({methods}){then}."] if counts else []
    advice = f"Why: clipbench status {folder}. Mend it and give the same command again: it makes only what is missing."
    return [*lines, advice] if lines else []


def dry_run(arenas: Sequence[Arena], launcher: Sequence[str]) -> None:
    """What it would cost. As long as tuning is not over, the first trial stands for the one that will be chosen."""
    tuning = [plan for arena in arenas for plan in arena.tuning()]
    check_folder(arenas, tuning)
    show_cost(arenas)
    folder = arenas[0].plan.results
    status = tables.statuses(folder, [plan.run for plan in tuning])
    over = {
        arena.label: all(status.get(plan.run, "failed") != "failed" for plan in arena.tuning())
        for arena in arenas
    }
    first = {arena.label: dict.fromkeys(arena.study.methods, 0) for arena in arenas}
    chosen = first | {label: methods for label, methods in choice(arenas, tuning).items() if over[label]}
    print("\nTuning: ", end="")
    known: estimate.Known = {}
    left = estimate.show(tuning, launcher, known)
    print("\nFinal runs: ", end="")
    left += estimate.show(
        [plan for arena in arenas for plan in arena.finals(chosen[arena.label])], launcher, known
    )
    if left.known:
        print(f"\nBoth phases: about {left}.")
    print("Nothing was started." if left.runs else "It is made already.")


def check_folder(arenas: Sequence[Arena], tuning: Sequence[Plan]) -> None:
    """UserError where the folder holds tuning runs of the same name that this study would not make: they would be taken for its own."""
    folder, planned = arenas[0].plan.results, {plan.run for plan in tuning}
    table = tables.read(folder, "runs", ["run", "task", "scale", "optimizer", "study", "role", "method"])
    table = table[(table["role"] == "tune") & ~table["run"].isin(planned)]
    for arena in arenas:
        mine = _of(table, arena)
        if len(other := mine[(mine["study"] == arena.study.name) & mine["method"].isin(arena.study.methods)]):
            settings, methods = arena.plan.settings, ", ".join(sorted(set(other["method"])))
            where = f"study={arena.study.name} task={settings.task.name} optimizer={settings.optim.name}"
            raise UserError(
                f"{folder} holds {runs(len(other))} of study '{arena.study.name}' on {arena.label} ({methods}) that this command would "
                "not make: a setting, a space, a seed, the budget or the source of a rule or task has changed since. "
                f"Take another folder, results=DIR, or remove them: clipbench rm {folder} {where}"
            )


def choice(arenas: Sequence[Arena], tuning: Sequence[Plan]) -> Chosen:
    """By `selection.winners`, of these runs and no others. Without the arenas in which a method has no trial at every tuning seed."""
    table = winners(_rows(tuning))
    chosen = {}
    for arena in arenas:
        part = _of(table, arena)
        complete = part[part["seeds"] == len(arena.study.tuning_seeds)]
        if set(complete["method"]) == set(arena.study.methods):
            chosen[arena.label] = dict(zip(complete["method"], complete["trial"], strict=True))
    return chosen


def _rows(plans: Sequence[Plan]) -> pd.DataFrame:
    """Of those that have ended."""
    folder = plans[0].results
    there = tables.statuses(folder, [plan.run for plan in plans])
    return tables.read(folder, "runs", runs=list(there))


def _of(table: pd.DataFrame, arena: Arena) -> pd.DataFrame:
    settings = arena.plan.settings
    where = (
        (table["task"] == settings.task.name)
        & (table["scale"] == settings.scale)
        & (table["optimizer"] == settings.optim.name)
    )
    return table[where]


def show_cost(arenas: Sequence[Arena]) -> None:
    """How many runs of how many steps, and what is drawn from where."""
    for arena in arenas:
        study = arena.study
        methods, tune, final = len(study.methods), len(study.tuning_seeds), len(study.final_seeds)
        print(f"study {study.name} · {arena.label} · {arena.plan.settings.steps} steps a run")
        print(
            f"  tuning  {methods} methods × {study.trials} trials × {_seeds(tune)}: {methods * study.trials * tune} runs"
        )
        print(
            f"  final   {methods} winners and {methods} defaults × {_seeds(final)} that tuning never saw: {2 * methods * final} runs"
        )
        print(f"  lr      {study.space['lr']} × {arena.lr:g}")
        for method, axes in arena.spaces.items():
            own = ", ".join(
                f"{name} {axis}" for name, axis in axes.items() if name != "lr" or axis != study.space["lr"]
            )
            print(f"  {method}: {own or 'lr alone'}")


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def show_outcome(arenas: Sequence[Arena], plans: Sequence[Plan]) -> None:
    """A line for each method: what was chosen, its validation value in tuning, and test values of it and of the defaults."""
    rows = _rows(plans)
    best = winners(rows)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
    for arena in arenas:
        part = _of(rows, arena)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in (
            "method",
            "chosen",
            "validation, tuning",
            "test, mean (min to max)",
            "n",
            "test at the defaults",
            "n",
        ):
            table.add_column(name, justify="right" if name == "n" else "left")
        for row in (
            _of(best, arena).set_index("method", drop=False).loc[list(arena.study.methods)].itertuples()
        ):
            shown = [
                f"{name}={value:g}" + (f" ({row.edge[name]} tried)" if name in row.edge else "")
                for name, value in row.hyperparameters.items()
            ]
            method = part[part["method"] == row.method]
            table.add_row(
                row.method,
                " ".join(shown),
                f"{row.diverged} of {row.seeds} diverged" if row.diverged else f"{row.value:.3f}",
                *_test(method[(method["role"] == "final") & (method["trial"] == row.trial)]),
                *_test(method[method["role"] == "default"]),
            )
        print(f"\n{arena.study.name} · {arena.label} · {part['headline'].iloc[0]}")
        console.print(table)


def _test(part: pd.DataFrame) -> tuple[str, str]:
    values, diverged = part["final_test"].dropna(), int((part["status"] == "diverged").sum())
    text = f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})" if len(values) else "none"
    return text + f", {diverged} diverged" * bool(diverged), str(len(values))
