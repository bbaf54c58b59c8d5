"""`clipbench study`: what it costs, its two phases, and what it has found."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from rich.table import Table

from clipbench.api import mistakes_in
from clipbench.cli.estimate import announce, left_words, show_estimate
from clipbench.cli.messages import DONE, FAILED, INTERRUPTED, console, say
from clipbench.cli.sweep import exit_code, make_and_show, show_what_is_lacking
from clipbench.output import only_shown
from clipbench.report.draw import draw
from clipbench.runs.plan import Plan
from clipbench.studies.contest import Contest, contests
from clipbench.studies.protocol import StudyOutcome, check_folder, estimate_study, run_study
from clipbench.studies.results import (
    MethodResult,
    TestValues,
    contest_cost,
    contest_results,
    ended_rows,
    headline,
)
from clipbench.sweeps.grid import split_launcher
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.task.content import Contents

HEADINGS = {"tuning": "Tuning: ", "final": "Final runs, on fresh seeds: "}
COLUMNS = (
    "method",
    "chosen",
    "validation, tuning",
    "test, mean (min to max)",
    "n",
    "test at the defaults",
    "n",
)


def study(options: Namespace) -> int:
    """Make both phases as far as they are not made yet, show what was found and draw the report; or say what
    that would cost.
    """
    overrides, launcher = split_launcher(options.overrides)
    found = contests(overrides, options.config_dir, Contents(read=not options.dry_run, announce=announce))
    if options.dry_run:
        return _show_dry_run(found, launcher)

    def make_phase(plans: list[Plan]) -> SweepOutcome:
        ended = make_and_show(plans, launcher, options.config_dir)
        show_what_is_lacking(ended)
        return ended

    def show_phase(name: str, plans: Sequence[Plan]) -> None:
        if name == "tuning":
            show_cost(found)
        print(f"\n{HEADINGS[name]}", end="", flush=True)

    return _conclude(found, run_study(found, make_phase, show_phase))


def _conclude(found: Sequence[Contest], ended: StudyOutcome) -> int:
    """Show what was found and, in one message, what is lacking. The exit code."""
    if ended.interrupted:
        return INTERRUPTED
    if ended.finals is not None:
        rows = ended_rows([*ended.tuning.plans, *ended.finals.plans])
        if len(ended.finals.finished) + len(ended.finals.failed):
            for contest in found:
                if contest.label in ended.chosen:
                    print(f"\n{contest.study.name} · {contest.label} · {headline(contest, rows)}")
                    console().print(_table(contest_results(contest, rows)))
            folder = found[0].results
            with only_shown("The report is not drawn"):
                for path in draw(folder, folder / "figures"):
                    print(path)
    lacking = [mistakes_in(phase) for phase in ended.phases if phase.mistakes]
    lacking = [*dict.fromkeys(lacking), *ended.shortfall]
    if lacking:
        say(" ".join(lacking), FAILED)
    for phase in ended.phases:
        if code := exit_code(phase):
            return code
    return FAILED if lacking else DONE


def _show_dry_run(found: Sequence[Contest], launcher: Sequence[str]) -> int:
    check_folder(found)
    show_cost(found)
    tuning, finals = estimate_study(found, launcher, announce)
    print("\nTuning: ", end="")
    show_estimate(tuning)
    print("\nFinal runs: ", end="")
    show_estimate(finals)
    left = tuning.left + finals.left
    if left.known:
        print(f"\nBoth phases: about {left_words(left)}.")
    print("Nothing was started." if left.runs else "It is made already.")
    return DONE


def show_cost(found: Sequence[Contest]) -> None:
    """How many runs of how many steps, and what is drawn from where."""
    for contest in found:
        cost = contest_cost(contest)
        tuning_seeds, final_seeds = _seeds(cost.tuning_seeds), _seeds(cost.final_seeds)
        print(f"study {cost.study} · {cost.contest} · {cost.steps} steps a run")
        print(
            f"  tuning  {cost.methods} methods × {cost.trials} trials × {tuning_seeds}: "
            f"{cost.tuning_runs} runs"
        )
        print(
            f"  final   {cost.methods} winners and {cost.methods} defaults × {final_seeds} that tuning never "
            f"saw: {cost.final_runs} runs"
        )
        print(f"  lr      {cost.lr_axis} × {cost.lr:g}")
        for method, axes in cost.own_axes.items():
            own = [f"{name} {axis}" for name, axis in axes.items()]
            print(f"  {method}: {', '.join(own) or 'lr alone'}")


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _table(results: Sequence[MethodResult]) -> Table:
    """A line for each method: what was chosen, its validation value in tuning, and test values of it and of
    the defaults.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="right" if name == "n" else "left")
    for result in results:
        chosen = []
        for name, value in result.hyperparameters.items():
            edge = f" ({result.edge[name]} tried)" if name in result.edge else ""
            chosen.append(f"{name}={value:g}{edge}")
        validation = f"{result.validation:.3f}"
        if result.diverged:
            validation = f"{result.diverged} of {result.seeds} diverged"
        test, defaults = _test_words(result.chosen), _test_words(result.defaults)
        table.add_row(result.method, " ".join(chosen), validation, *test, *defaults)
    return table


def _test_words(test: TestValues) -> tuple[str, str]:
    """ "0.412 (0.390 to 0.431), 1 diverged", and how many values that are."""
    text = "none"
    if test.values:
        text = f"{test.mean:.3f} ({min(test.values):.3f} to {max(test.values):.3f})"
    if test.diverged:
        text += f", {test.diverged} diverged"
    return text, str(len(test.values))
