"""How a study is made: tune every method on the same budget, choose on validation, run the choice and the
defaults on fresh seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipbench.analysis.choice import winners
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.runs.plan import Plan
from clipbench.studies.contest import Contest
from clipbench.studies.results import ended_rows
from clipbench.sweeps.estimate import Estimate, Known, estimate
from clipbench.sweeps.outcome import SweepOutcome

Chosen = dict[str, dict[str, int]]
"""By contest's label and method: the number of the trial."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study. `finals` is None where no contest came so far: see `chosen`, which lacks those
    in which a method has no complete trial. `shortfall`: sentences on the runs that failed and what to do;
    none after an interrupt, and none where mistakes stopped all of it.
    """

    tuning: SweepOutcome
    finals: SweepOutcome | None
    chosen: Chosen
    shortfall: tuple[str, ...]

    @property
    def phases(self) -> list[SweepOutcome]:
        """Tuning and, where there are any, the final runs."""
        return [self.tuning] if self.finals is None else [self.tuning, self.finals]

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to stop: the same study resumes from there."""
        return any(phase.interrupted for phase in self.phases)

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What the user must mend, each once."""
        found: dict[str, None] = {}
        for phase in self.phases:
            found |= dict.fromkeys(phase.mistakes)
        return tuple(found)


def run_study(
    contests: Sequence[Contest],
    make_runs: Callable[[list[Plan]], SweepOutcome],
    phase: Callable[[str, list[Plan]], None] = lambda name, plans: None,
) -> StudyOutcome:
    """All phases, as far as they are not made yet. Nothing is chosen before every tuning run has ended.

    `make_runs` makes a phase's runs, as `sweeps.scheduler.make_runs` does; `phase` is called before each,
    with "tuning" or "final" and its runs. A contest in which a method has no complete trial gets no final
    runs; the others go on. UserError as of `check_folder` and of `make_runs`.
    """
    check_folder(contests)
    tuning_plans = _tuning_plans(contests)
    phase("tuning", tuning_plans)
    tuning = make_runs(tuning_plans)
    if tuning.interrupted:
        return StudyOutcome(tuning, None, {}, ())
    chosen = choice(contests)
    if not chosen:
        lacking = () if tuning.mistakes else shortfall(contests, chosen)
        return StudyOutcome(tuning, None, chosen, lacking)
    final_plans = []
    for contest in contests:
        if contest.label in chosen:
            final_plans += contest.finals(chosen[contest.label])
    phase("final", final_plans)
    finals = make_runs(final_plans)
    lacking = () if finals.interrupted else shortfall(contests, chosen)
    return StudyOutcome(tuning, finals, chosen, lacking)


def _tuning_plans(contests: Sequence[Contest]) -> list[Plan]:
    found = []
    for contest in contests:
        found += contest.tuning()
    return found


def check_folder(contests: Sequence[Contest]) -> None:
    """UserError where the results folder holds tuning runs of the same name that this study would not make:
    they would be taken for its own.
    """
    folder = contests[0].results
    planned = {plan.run for plan in _tuning_plans(contests)}
    table = tables.read(folder, "runs", ["run", "task", "scale", "optimizer", "study", "role", "method"])
    table = table[(table["role"] == "tune") & ~table["run"].isin(planned)]
    for contest in contests:
        settings, study = contest.plan.settings, contest.study
        others = contest.rows_of(table)
        others = others[(others["study"] == study.name) & others["method"].isin(study.methods)]
        if others.empty:
            continue
        count = "1 run" if len(others) == 1 else f"{len(others)} runs"
        methods = ", ".join(sorted(set(others["method"])))
        where = f"study={study.name} task={settings.task.name} optimizer={settings.optim.name}"
        raise UserError(
            f"{folder} holds {count} of study '{study.name}' on {contest.label} ({methods}) "
            "that this command would not make: a setting, a space, a seed, the budget or the source of a "
            "rule or task has changed since. Take another folder, results=DIR, or remove them: clipbench rm "
            f"{folder} {where}"
        )


def choice(contests: Sequence[Contest]) -> Chosen:
    """By `analysis.choice.winners`, of the contests' tuning runs and no others. Without the contests in which
    a method has no trial at every tuning seed.
    """
    table = winners(ended_rows(_tuning_plans(contests)))
    chosen: Chosen = {}
    for contest in contests:
        of_contest = contest.rows_of(table)
        complete = of_contest[of_contest["seeds"] == len(contest.study.tuning_seeds)]
        if set(complete["method"]) == set(contest.study.methods):
            pairs = zip(complete["method"], complete["trial"], strict=True)
            chosen[contest.label] = {method: int(trial) for method, trial in pairs}
    return chosen


def shortfall(contests: Sequence[Contest], chosen: Chosen) -> tuple[str, ...]:
    """A sentence for each contest that lacks runs, and what to do; none where every run is there."""
    folder = contests[0].results
    lines = []
    for contest in contests:
        finals = contest.finals(chosen[contest.label]) if contest.label in chosen else []
        counts = []
        methods: dict[str, None] = {}
        for name, plans in (("tuning", contest.tuning()), ("final", finals)):
            lacking = _not_finished(plans)
            methods |= dict.fromkeys(str(plan.settings.tag.method) for plan in lacking)
            if lacking:
                counts.append(f"{len(lacking)} of {len(plans)} {name} runs failed")
        if counts:
            then = "" if finals else "; without a complete trial of each method nothing was chosen"
            lines.append(f"{contest.label}: {' and '.join(counts)} ({', '.join(methods)}){then}.")
    if lines:
        lines.append(
            f"Why: clipbench status {folder}. "
            "Mend it and give the same command again: it makes only what is missing."
        )
    return tuple(lines)


def _not_finished(plans: Sequence[Plan]) -> list[Plan]:
    if not plans:
        return []
    status = tables.statuses(plans[0].results, [plan.run for plan in plans])
    return [plan for plan in plans if status.get(plan.run, "failed") == "failed"]


def estimate_study(
    contests: Sequence[Contest],
    launcher: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> tuple[Estimate, Estimate]:
    """Of tuning and of the final runs, as `sweeps.estimate`. UserError as of `check_folder`.

    As long as a contest's tuning is not over, the first trial stands for the one that will be chosen.
    """
    check_folder(contests)
    known: Known = {}
    tuning = estimate(_tuning_plans(contests), launcher, known, announce)
    chosen = choice(contests)
    final_plans = []
    for contest in contests:
        trials = dict.fromkeys(contest.study.methods, 0)
        if contest.label in chosen and not _not_finished(contest.tuning()):
            trials = chosen[contest.label]
        final_plans += contest.finals(trials)
    return tuning, estimate(final_plans, launcher, known, announce)
