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

    The tuning runs are methods × trials × tuning seeds, the final ones twice methods × final seeds: the
    winners and the defaults. Learning rates are drawn from `lr_axis` × `lr`. `own_axes`: by method, what is
    drawn besides, or instead of the common axis of the learning rate.
    """

    study: str
    contest: str
    steps: int
    methods: int
    trials: int
    tuning_seeds: int
    final_seeds: int
    lr: float
    lr_axis: Axis
    own_axes: Mapping[str, Mapping[str, Axis]]

    @property
    def tuning_runs(self) -> int:
        return self.methods * self.trials * self.tuning_seeds

    @property
    def final_runs(self) -> int:
        return 2 * self.methods * self.final_seeds


def contest_cost(contest: Contest) -> ContestCost:
    """What the contest takes from nothing, whatever is made already."""
    study = contest.study
    own_axes: dict[str, dict[str, Axis]] = {}
    for method, axes in contest.spaces.items():
        own_axes[method] = {}
        for name, axis in axes.items():
            if name != "lr" or axis != study.space["lr"]:
                own_axes[method][name] = axis
    return ContestCost(
        study=study.name,
        contest=contest.label,
        steps=contest.plan.settings.steps,
        methods=len(study.methods),
        trials=study.trials,
        tuning_seeds=len(study.tuning_seeds),
        final_seeds=len(study.final_seeds),
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
class MethodResult:
    """What tuning chose for a method and what that came to.

    `hyperparameters`: of the chosen trial; `edge`: those at the "lowest" or "highest" value that was tried.
    `validation`: the headline in tuning, mean over `seeds` runs, of which `diverged` diverged. `chosen` and
    `defaults`: on test.
    """

    method: str
    trial: int
    hyperparameters: Mapping[str, float]
    edge: Mapping[str, str]
    validation: float
    seeds: int
    diverged: int
    chosen: TestValues
    defaults: TestValues


def contest_results(contest: Contest, rows: pd.DataFrame) -> list[MethodResult]:
    """A result for each method that has a complete trial, in the study's order.

    `rows`: rows of `runs`, of the contest's study (`ended_rows` of its plans); those of other contests are
    left out.
    """
    rows = contest.rows_of(rows)
    best = winners(rows)
    found = []
    for method in contest.study.methods:
        of_method = rows[rows["method"] == method]
        for _, row in best[best["method"] == method].iterrows():
            is_final = (of_method["role"] == "final") & (of_method["trial"] == row["trial"])
            found.append(
                MethodResult(
                    method=method,
                    trial=int(row["trial"]),
                    hyperparameters=row["hyperparameters"],
                    edge=row["edge"],
                    validation=float(row["value"]),
                    seeds=int(row["seeds"]),
                    diverged=int(row["diverged"]),
                    chosen=_test_values(of_method[is_final]),
                    defaults=_test_values(of_method[of_method["role"] == "default"]),
                )
            )
    return found


def _test_values(rows: pd.DataFrame) -> TestValues:
    values = tuple(float(value) for value in rows["final_test"].dropna())
    return TestValues(values, int((rows["status"] == "diverged").sum()))


def headline(contest: Contest, rows: pd.DataFrame) -> str:
    """The metric that the contest's runs are compared by; "" where none has ended."""
    names = contest.rows_of(rows)["headline"].dropna()
    return str(names.iloc[0]) if len(names) else ""


def ended_rows(plans: Sequence[Plan]) -> pd.DataFrame:
    """Rows of `runs`, of those plans that have ended."""
    folder = plans[0].results
    ended = tables.statuses(folder, [plan.run for plan in plans])
    return tables.read(folder, "runs", runs=list(ended))
