"""How a study is made: in each repetition, tune every method on the same budget, choose on validation, run
the choice and the defaults at a fresh seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from clipbench.analysis.choice import winners
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.runs.plan import Plan, statuses
from clipbench.studies.contest import Contest, Place
from clipbench.studies.halving import Rung, promoted
from clipbench.studies.results import ended_rows
from clipbench.sweeps.estimate import Estimate, Known, estimate
from clipbench.sweeps.outcome import SweepOutcome

Chosen = dict[str, dict[int, dict[str, int]]]
"""By contest's label, repetition and method: the number of the trial."""

Numbers = dict[Place, list[int]]
"""By repetition and method: numbers of trials."""

FINAL = "final"
"""The name of the phase of the final runs."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study. `tuning`: of each rung. `finals` is None where no contest came so far: see
    `chosen`, which lacks the repetitions in which a method has no trial. `shortfall`: sentences on the runs
    that failed and what to do; none after an interrupt, and none where mistakes stopped all of it.
    """

    tuning: tuple[SweepOutcome, ...]
    finals: SweepOutcome | None
    chosen: Chosen
    shortfall: tuple[str, ...]

    @property
    def phases(self) -> list[SweepOutcome]:
        """Tuning, rung by rung, and, where there are any, the final runs."""
        return [*self.tuning, self.finals] if self.finals else [*self.tuning]

    @property
    def plans(self) -> list[Plan]:
        """Every run that was asked for, once."""
        found: dict[str, Plan] = {}
        for phase in self.phases:
            found |= {plan.run: plan for plan in phase.plans}
        return list(found.values())

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
    """All phases, as far as they are not made yet. No trial goes on, and nothing is chosen, before every run
    of the phase has ended.

    `make_runs` makes a phase's runs, as `sweeps.scheduler.make_runs` does; `phase` is called before each,
    with a name of `rung_name` or "final" and its runs. A repetition in which a method has no trial gets no
    final runs; the others go on. UserError as of `check_folder` and of `make_runs`.
    """
    check_folder(contests)
    made: list[SweepOutcome] = []
    for name, plans in _tuning_phases(contests):
        phase(name, plans)
        made.append(make_runs(plans))
        if made[-1].interrupted:
            return StudyOutcome(tuple(made), None, {}, ())
    tuning = tuple(made)
    chosen = choice(contests)
    final_plans = []
    for contest in contests:
        final_plans += contest.finals(chosen.get(contest.label, {}))
    if not final_plans:
        has_mistakes = any(outcome.mistakes for outcome in tuning)
        return StudyOutcome(tuning, None, chosen, () if has_mistakes else shortfall(contests, chosen))
    phase(FINAL, final_plans)
    finals = make_runs(final_plans)
    lacking = () if finals.interrupted else shortfall(contests, chosen)
    return StudyOutcome(tuning, finals, chosen, lacking)


def _tuning_phases(contests: Sequence[Contest]) -> Iterator[tuple[str, list[Plan]]]:
    """The name and the runs of each rung, of all contests together. To be asked for when the one before has
    been made: its values say which trials go on.
    """
    count = max(len(contest.rungs) for contest in contests)
    for number in range(count):
        plans = []
        for contest in contests:
            plans += _plans_at_rung(contest, number) or []
        if plans:
            yield rung_name(number, count), plans


def rung_name(number: int, count: int) -> str:
    """ "tuning", or of several rungs "tuning, rung 1 of 2"."""
    return "tuning" if count == 1 else f"tuning, rung {number + 1} of {count}"


def _plans_at_rung(contest: Contest, number: int) -> list[Plan] | None:
    """The trials that come to a rung: all to the first one; to any other the best of those before, by
    validation there. None as long as a run before has not ended.

    From the table `evals` alone, so that it matters neither in which order runs ended nor how much further
    they were trained, by a study of other rungs for instance.
    """
    everyone = list(range(contest.study.trials))
    numbers: Numbers = dict.fromkeys(contest.trials, everyone)
    if number >= len(contest.rungs):
        return []
    for rung, then in zip(contest.rungs[:number], contest.rungs[1:], strict=False):
        plans = contest.tuning_to(rung, numbers)
        if len(statuses(plans)) < len(plans):
            return None
        numbers = _promoted(contest, rung, numbers, then.count)
    return contest.tuning_to(contest.rungs[number], numbers)


def _promoted(contest: Contest, rung: Rung, numbers: Numbers, count: int) -> Numbers:
    """The best `count` of these trials at a rung."""
    values, higher_is_better = _values_at(rung, contest.tuning_to(rung, numbers))
    found: Numbers = {}
    for place, trials in contest.trials.items():
        at_the_rung = {}
        for number in numbers[place]:
            run = trials[number].run
            if run in values:
                at_the_rung[number] = values[run]
        found[place] = promoted(at_the_rung, count, higher_is_better)
    return found


def _values_at(rung: Rung, plans: Sequence[Plan]) -> tuple[dict[str, float], bool]:
    """By run id: the validation values of the headline at a rung; and whether more of it is better."""
    runs = ended_rows(plans)
    runs = runs[runs["headline"].notna()]
    if runs.empty:
        return {}, True
    headline, higher_is_better = runs["headline"].iloc[0], runs["higher_is_better"].iloc[0]
    evals = tables.read(plans[0].results, "evals", ["run", "step", "split", "metric", "value"], runs["run"])
    rows = evals[(evals["split"] == "val") & (evals["metric"] == headline) & (evals["step"] == rung.until)]
    return dict(zip(rows["run"], rows["value"].astype(float), strict=True)), bool(higher_is_better)


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
    """By `analysis.choice.winners`, of the contests' tuning runs and no others. Without the contests whose
    tuning is not over, and the repetitions in which a method has no trial.
    """
    table = winners(ended_rows(_tuning_plans(contests)))
    chosen: Chosen = {}
    for contest in contests:
        last = _plans_at_rung(contest, len(contest.rungs) - 1)
        if last is None or len(statuses(last)) < len(last):
            continue
        of_contest = contest.rows_of(table)
        for repetition in range(contest.study.repetitions):
            own = of_contest[of_contest["repetition"] == repetition]
            if set(own["method"]) == set(contest.study.methods):
                trials = dict(zip(own["method"], own["trial"].astype(int), strict=True))
                chosen.setdefault(contest.label, {})[repetition] = trials
    return chosen


def shortfall(contests: Sequence[Contest], chosen: Chosen) -> tuple[str, ...]:
    """A sentence for each contest that lacks runs, and what to do; none where every run is there."""
    folder = contests[0].results
    lines = []
    for contest in contests:
        repetitions = chosen.get(contest.label, {})
        counts = []
        methods: dict[str, None] = {}
        phases = (("tuning", contest.tuning(), _tuning_lacks(contest)), _final_lacks(contest, repetitions))
        for name, plans, lacking in phases:
            methods |= dict.fromkeys(str(plan.settings.tag.method) for plan in lacking)
            if lacking:
                counts.append(f"{len(lacking)} of {len(plans)} {name} runs failed")
        if counts:
            then = _nothing_chosen(len(repetitions), contest.study.repetitions)
            lines.append(f"{contest.label}: {' and '.join(counts)} ({', '.join(methods)}){then}.")
    if lines:
        lines.append(
            f"Why: clipbench status {folder}. "
            "Mend it and give the same command again: it makes only what is missing."
        )
    return tuple(lines)


def _nothing_chosen(count: int, repetitions: int) -> str:
    if count == repetitions:
        return ""
    where = "" if not count else f" in {repetitions - count} of {repetitions} repetitions"
    return f"; without a complete trial of each method nothing was chosen{where}"


def _tuning_lacks(contest: Contest) -> list[Plan]:
    """The trials that have not come to where they were to go, as far as that is known."""
    found: dict[str, Plan] = {}
    for number in range(len(contest.rungs)):
        for plan in _not_finished(_plans_at_rung(contest, number) or []):
            found.setdefault(plan.run, plan)
    return list(found.values())


def _final_lacks(
    contest: Contest, chosen: Mapping[int, Mapping[str, int]]
) -> tuple[str, list[Plan], list[Plan]]:
    plans = contest.finals(chosen)
    return "final", plans, _not_finished(plans)


def _not_finished(plans: Sequence[Plan]) -> list[Plan]:
    status = statuses(plans)
    return [plan for plan in plans if status.get(plan.run, "failed") == "failed"]


def estimate_study(
    contests: Sequence[Contest],
    launcher: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> dict[str, Estimate]:
    """Of each phase by its name, tuning rung by rung and the final runs, as `sweeps.estimate`. UserError as
    of `check_folder`.

    As long as it is not known which trials go on, or are chosen, the first ones stand for them.
    """
    check_folder(contests)
    known: Known = {}
    found: dict[str, Estimate] = {}
    count = max(len(contest.rungs) for contest in contests)
    for number in range(count):
        plans: list[Plan] = []
        begins: dict[str, int] = {}
        for contest in contests:
            own = _likely_plans(contest, number)
            plans += own
            if own:
                begins |= {plan.run: contest.rungs[number].begin for plan in own}
        if plans:
            found[rung_name(number, count)] = estimate(plans, launcher, known, announce, begins)
    chosen = choice(contests)
    final_plans = []
    for contest in contests:
        study = contest.study
        trials: dict[int, dict[str, int]] = {}
        for repetition in range(study.repetitions):
            trials[repetition] = dict.fromkeys(study.methods, 0)
        if not _tuning_lacks(contest):
            trials |= chosen.get(contest.label, {})
        final_plans += contest.finals(trials)
    found[FINAL] = estimate(final_plans, launcher, known, announce)
    return found


def _likely_plans(contest: Contest, number: int) -> list[Plan]:
    """Those of a rung; the first trials stand for those that go on where that is not known yet."""
    plans = _plans_at_rung(contest, number)
    if plans is not None:
        return plans
    rung = contest.rungs[number]
    first = list(range(rung.count))
    return contest.tuning_to(rung, dict.fromkeys(contest.trials, first))
