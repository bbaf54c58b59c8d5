"""`clipbench study`: what it costs, its phases, and what it has found."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from rich.table import Table

from clipbench.analysis.settings import as_range
from clipbench.api import mistakes_in
from clipbench.cli.estimate import announce, left_words, show_estimate
from clipbench.cli.messages import DONE, FAILED, INTERRUPTED, console, say, size
from clipbench.cli.sweep import exit_code, make_and_show, show_what_is_lacking
from clipbench.output import only_shown
from clipbench.report.draw import draw
from clipbench.runs.plan import Plan
from clipbench.studies.contest import Contest, contests
from clipbench.studies.protocol import FINAL, StudyOutcome, check_folder, estimate_study, run_study
from clipbench.studies.results import (
    ContestCost,
    MethodResult,
    TestValues,
    contest_cost,
    contest_results,
    ended_rows,
    headline,
)
from clipbench.sweeps.estimate import Left
from clipbench.sweeps.grid import split_launcher
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.sweeps.speed import Kind, NoSpeed, Speed
from clipbench.task.content import Contents

FINAL_HEADING = "Final runs, on fresh seeds"
COLUMNS = (
    "method",
    "chosen",
    "validation, tuning (min to max)",
    "test, mean (min to max)",
    "n",
    "test at the defaults",
    "n",
)


def study(options: Namespace) -> int:
    """Make all phases as far as they are not made yet, show what was found and draw the report; or say what
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
        print(f"\n{_heading(name)}: ", end="", flush=True)

    check_folder(found)
    show_cost(found)
    return _conclude(found, run_study(found, make_phase, show_phase))


def _conclude(found: Sequence[Contest], ended: StudyOutcome) -> int:
    """Show what was found and, in one message, what is lacking. The exit code."""
    if ended.interrupted:
        return INTERRUPTED
    if ended.finals is not None:
        rows = ended_rows(ended.plans)
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
    left = Left()
    speeds: dict[Kind, Speed | NoSpeed] = {}
    for name, phase in estimate_study(found, launcher, announce).items():
        print(f"\n{_heading(name)}: ", end="")
        show_estimate(phase)
        left += phase.left
        speeds |= {each.kind: each.speed for each in phase.kinds}
    if left.known:
        print(f"\nAll phases: about {left_words(left)}.")
    for contest in found:
        _show_disk_need(contest, speeds.get(Kind.of(contest.plan)))
    print("Nothing was started." if left.runs else "It is made already.")
    return DONE


def _show_disk_need(contest: Contest, speed: Speed | NoSpeed | None) -> None:
    """What trials that are stopped keep, where the size of a checkpoint was seen while steps were timed."""
    count = contest_cost(contest).stopped_runs
    if count and isinstance(speed, Speed) and speed.checkpoint:
        each, every = size(speed.checkpoint), size(count * speed.checkpoint)
        words = f"at most {count} stopped trials keep checkpoints of about {each}, {every} of disk"
        print(f"{contest.label}: {words} in {contest.results / '.work'}.")


def _heading(phase: str) -> str:
    return FINAL_HEADING if phase == FINAL else phase.capitalize()


def show_cost(found: Sequence[Contest]) -> None:
    """How many runs of how many steps, and what is drawn from where."""
    for contest in found:
        cost = contest_cost(contest)
        repetitions = _counted(cost.repetitions, "repetition")
        print(f"study {cost.study} · {cost.contest} · {cost.steps} steps a run")
        print(
            f"  tuning  {cost.methods} methods × {cost.trials} trials × {repetitions}: "
            f"{cost.tuning_runs} runs{_rung_words(cost)}"
        )
        print(
            f"  final   {cost.methods} winners and {cost.methods} defaults × {repetitions}, "
            f"each at a seed that tuning never saw: {cost.final_runs} runs"
        )
        print(f"  lr      {cost.lr_axis} × {cost.lr:g}")
        for method, axes in cost.own_axes.items():
            own = [f"{name} {axis}" for name, axis in axes.items()]
            print(f"  {method}: {', '.join(own) or 'lr alone'}")


def _rung_words(cost: ContestCost) -> str:
    """ "; of 8 trials 3 go on at step 130: 58 % of the steps"."""
    if len(cost.rungs) == 1:
        return ""
    counts = []
    for (step, _), (_, then) in pairwise(cost.rungs):
        counts.append(f"{then} go on at step {step}")
    share = cost.tuning_steps / (cost.tuning_runs * cost.steps)
    return f"; of {cost.trials} trials {', '.join(counts)}: {share:.0%} of their steps"


def _counted(count: int, thing: str) -> str:
    return f"1 {thing}" if count == 1 else f"{count} {thing}s"


def _table(results: Sequence[MethodResult]) -> Table:
    """A line for each method: what was chosen in how many repetitions, its validation values in tuning, and
    test values of it and of the defaults.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="right" if name == "n" else "left")
    for result in results:
        test, defaults = _test_words(result.chosen), _test_words(result.defaults)
        table.add_row(result.method, _chosen_words(result), _validation_words(result), *test, *defaults)
    return table


def _chosen_words(result: MethodResult) -> str:
    """ "lr=0.003–0.01 (highest tried in 2 of 5) clipping_level=0.5"."""
    words = []
    for name in result.choices[0].hyperparameters:
        values = [choice.hyperparameters.get(name) for choice in result.choices]
        edges = Counter(choice.edge[name] for choice in result.choices if name in choice.edge)
        text = f"{name}={as_range(values)}"
        for side, count in edges.items():
            text += f" ({side} tried in {count} of {len(result.choices)})"
        words.append(text)
    return " ".join(words)


def _validation_words(result: MethodResult) -> str:
    """ "0.412 (0.390 to 0.431)" over the repetitions."""
    values = [choice.validation for choice in result.choices if not choice.diverged]
    lost = len(result.choices) - len(values)
    return _value_words(values, lost)


def _test_words(test: TestValues) -> tuple[str, str]:
    """ "0.412 (0.390 to 0.431), 1 diverged", and how many values that are."""
    return _value_words(test.values, test.diverged), str(len(test.values))


def _value_words(values: Sequence[float], diverged: int) -> str:
    text = "none"
    if values:
        mean = sum(values) / len(values)
        text = f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"
    if diverged:
        text += f", {diverged} diverged"
    return text
