"""What a study costs and what it has found, as data: for the command line's tables and for anyone else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from clipbench.analysis.choice import winners
from clipbench.record import tables
from clipbench.runs.plan import Plan
from clipbench.studies.contest import Contest
from clipbench.studies.space import Axis


@dataclass(frozen=True)
class ContestCost:
    """How many runs of how many steps, and what is drawn from where.

    The tuning runs are methods × trials × repetitions, the final ones twice methods × repetitions: the
    winners and the defaults. `rungs`: (the step, how many trials of each method come to it in a repetition),
    the last step last. Learning rates are drawn from `lr_axis` × `lr`. `own_axes`: by method, what is drawn
    besides, or instead of the common axis of the learning rate.
    """

    study: str
    contest: str
    steps: int
    methods: int
    trials: int
    repetitions: int
    rungs: tuple[tuple[int, int], ...]
    lr: float
    lr_axis: Axis
    own_axes: Mapping[str, Mapping[str, Axis]]

    @property
    def tuning_runs(self) -> int:
        return self.methods * self.trials * self.repetitions

    @property
    def tuning_steps(self) -> int:
        """Of all trials together, those that are stopped counted to where they are."""
        of_a_method, before = 0, 0
        for step, count in self.rungs:
            of_a_method += count * (step - before)
            before = step
        return self.methods * self.repetitions * of_a_method

    @property
    def final_runs(self) -> int:
        return 2 * self.methods * self.repetitions

    @property
    def stopped_runs(self) -> int:
        """Tuning runs that are stopped early, each of which keeps a checkpoint; fewer where some diverge."""
        _, last = self.rungs[-1]
        return self.methods * self.repetitions * (self.trials - last)


def contest_cost(contest: Contest) -> ContestCost:
    """What the contest takes from nothing, whatever is made already."""
    study = contest.study
    own_axes: dict[str, dict[str, Axis]] = {}
    for method, axes in contest.spaces.items():
        own_axes[method] = {}
        for name, axis in axes.items():
            if name != "lr" or axis != study.space["lr"]:
                own_axes[method][name] = axis
    steps = contest.plan.settings.steps
    return ContestCost(
        study=study.name,
        contest=contest.label,
        steps=steps,
        methods=len(study.methods),
        trials=study.trials,
        repetitions=study.repetitions,
        rungs=tuple((rung.until or steps, rung.count) for rung in contest.rungs),
        lr=contest.lr,
        lr_axis=study.space["lr"],
        own_axes=own_axes,
    )


@dataclass(frozen=True)
class TestValues:
    """Of the headline on test, over the runs that have one; how many diverged."""

    __test__ = False  # no test case of pytest's

    values: tuple[float, ...]
    diverged: int

    @property
    def mean(self) -> float:
        """nan without values."""
        return sum(self.values) / len(self.values) if self.values else float("nan")


@dataclass(frozen=True)
class Choice:
    """What tuning chose for a method in a repetition. `hyperparameters`: of the chosen trial; `edge`: those
    at the "lowest" or "highest" value that was tried; `validation`: its headline in tuning, NaN where it
    diverged.
    """

    repetition: int
    trial: int
    hyperparameters: Mapping[str, float]
    edge: Mapping[str, str]
    validation: float
    diverged: bool


@dataclass(frozen=True)
class MethodResult:
    """What tuning chose for a method, repetition by repetition, and what that came to: `chosen` and
    `defaults`, on test.
    """

    method: str
    choices: tuple[Choice, ...]
    chosen: TestValues
    defaults: TestValues


def contest_results(contest: Contest, rows: pd.DataFrame) -> list[MethodResult]:
    """A result for each method that has a choice, in the study's order.

    `rows`: rows of `runs`, of the contest's study (`ended_rows` of its plans); those of other contests are
    left out.
    """
    rows = contest.rows_of(rows)
    best = winners(rows)
    found = []
    for method in contest.study.methods:
        of_method = rows[rows["method"] == method]
        choices = []
        is_final = pd.Series(False, index=of_method.index)
        for row in best[best["method"] == method].sort_values("repetition").to_dict("records"):
            repetition, trial = int(row["repetition"]), int(row["trial"])
            is_of_it = (of_method["repetition"] == repetition) & (of_method["trial"] == trial)
            is_final |= is_of_it & (of_method["role"] == "final")
            choices.append(
                Choice(
                    repetition=repetition,
                    trial=trial,
                    hyperparameters=row["hyperparameters"],
                    edge=row["edge"],
                    validation=float(row["value"]),
                    diverged=bool(row["diverged"]),
                )
            )
        if choices:
            defaults = of_method[of_method["role"] == "default"]
            result = MethodResult(
                method, tuple(choices), _test_values(of_method[is_final]), _test_values(defaults)
            )
            found.append(result)
    return found


def _test_values(rows: pd.DataFrame) -> TestValues:
    done = rows[rows["status"] == "done"]
    values = tuple(float(value) for value in done["final_test"].dropna())
    return TestValues(values, int((rows["status"] == "diverged").sum()))


def headline(contest: Contest, rows: pd.DataFrame) -> str:
    """The metric that the contest's runs are compared by; "" where none has ended."""
    names = contest.rows_of(rows)["headline"].dropna()
    return str(names.iloc[0]) if len(names) else ""


def ended_rows(plans: Sequence[Plan]) -> pd.DataFrame:
    """Rows of `runs`, of those plans that have one: stopped trials too, whether or not they are to go on."""
    folder = plans[0].results
    runs = [plan.run for plan in plans]
    return tables.read(folder, "runs", runs=list(tables.statuses(folder, runs)))
