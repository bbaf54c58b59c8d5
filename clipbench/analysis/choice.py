"""The one rule by which settings are chosen, and what tuning chose by it: from the table `runs` alone, the
same for every method.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clipbench.analysis.settings import hyperparameters, settings_of
from clipbench.record.rows import NO_CLIPPING

CONTEST = ["study", "task", "scale", "optimizer"]  # methods are compared within one of these
RIVALS = [*CONTEST, "repetition", "method"]  # a choice is made among the trials of one of these
TRIALS = [*RIVALS, "trial", "value", "diverged", "seeds", "hyperparameters", "place"]


@dataclass(frozen=True)
class Candidate:
    """A setting that may be chosen: how many seeds it has, how many of them diverged, and the mean validation
    value of the others; the step at which it was stopped, ∞ where it was not.

    `what`: the setting itself, whatever the caller takes for it.
    """

    what: Any
    seeds: int
    diverged: int
    value: float
    stopped: float = math.inf


def best_first(candidates: Iterable[Candidate], higher_is_better: bool) -> list[Candidate]:
    """The rule of choice: fewest diverged runs, then what was trained further, where some was stopped early,
    then the best mean validation value, then the order given.

    One with fewer seeds than others is left out: its mean is luck. One without a value is the last among
    equals.
    """
    candidates = list(candidates)
    most = max((each.seeds for each in candidates), default=0)
    complete = [each for each in candidates if each.seeds == most]
    sign = -1 if higher_is_better else 1

    def place(each: Candidate) -> tuple[int, float, float]:
        if math.isnan(each.value):
            return each.diverged, -each.stopped, math.inf
        return each.diverged, -each.stopped, sign * each.value

    return sorted(complete, key=place)


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """The tuning trials of all studies in `runs`, best first within each method.

    One row for each study, task, scale, optimizer, repetition, method and trial, with: value, the mean over
    the tuning seeds (one in a repetition) of the last validation value; diverged, how many of its runs did;
    seeds; hyperparameters, {name: value} of what was drawn; place among the method's in the repetition, from
    1 for the winner. `repetition` is null in a study that tuned once.

    A trial with fewer diverged runs is better, then one that was not stopped early, then one with the better
    value, then the one with the smaller number. A run that failed, or whose max_time was over, is no result:
    a trial that lacks a run that others have has no place (it is left out).
    """
    tuned = runs[(runs["role"] == "tune") & ~runs["status"].isin(["failed", "timeout"])]
    tuned = tuned.sort_values(["started", "run"])
    tuned = tuned.drop_duplicates([*RIVALS, "trial", "seed"], keep="last")
    rows = []
    for key, part in tuned.groupby(RIVALS, dropna=False, sort=False):
        rivals = dict(zip(RIVALS, key, strict=True))
        for place, candidate in enumerate(_ranked(part), 1):
            row = dict(rivals)
            row.update(candidate.what)
            row["value"] = candidate.value
            row["diverged"] = candidate.diverged
            row["seeds"] = candidate.seeds
            row["place"] = place
            rows.append(row)
    return pd.DataFrame(rows, columns=TRIALS)


def pool(tuning: pd.DataFrame) -> pd.Series:
    """The last validation value of every tuning trial of a method, over all repetitions; NaN where a run of
    it diverged. What a budget of so many trials brings is told by any order of them.

    A trial that was stopped early counts with what it had come to: those that went on had come further by
    then.
    """
    ended = tuning["final"].astype(float).where(tuning["status"].isin(["done", "stopped"]))
    by_trial = ended.groupby([tuning["repetition"].fillna(0), tuning["trial"]])
    return by_trial.agg(lambda part: part.mean(skipna=False)).sort_index()


def _ranked(runs: pd.DataFrame) -> list[Candidate]:
    """The trials of one method in one repetition, best first."""
    candidates = []
    for _, part in runs.groupby("trial"):  # by number
        ended = part[part["status"].isin(["done", "stopped"]) & part["final"].notna()]
        value = float(ended["final"].mean()) if len(ended) else math.nan
        first = part.iloc[0].to_dict()
        what = {"trial": int(first["trial"]), "hyperparameters": _drawn(first)}
        diverged = len(part) - len(ended)
        is_stopped = ended["status"] == "stopped"
        stopped = float(ended["steps"][is_stopped].min()) if is_stopped.any() else math.inf
        candidates.append(Candidate(what, len(part), diverged, value, stopped))
    higher_is_better = bool(runs["higher_is_better"].iloc[0])
    return best_first(candidates, higher_is_better)


def _drawn(run: Mapping[str, Any]) -> dict[str, float]:
    """The hyperparameters of a run that are numbers, the learning rate first."""
    found = hyperparameters(settings_of(run))
    ordered = {"lr": found.pop("lr"), **found}
    return {name: float(value) for name, value in ordered.items() if is_numeric(value)}


def is_numeric(value: Any) -> bool:
    """Whether a setting's value is a number or the text "inf", as which the tables hold an infinite one;
    `float` takes both.
    """
    if isinstance(value, str):
        return value == "inf"
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def winners(runs: pd.DataFrame) -> pd.DataFrame:
    """The first of each method's `trials` in each repetition, with `trials`, how many there were, and `edge`,
    {name: "lowest" or "highest"}.

    A hyperparameter is at the edge when no trial was drawn beyond it: the best may lie outside the space. ∞
    and p = 1 are no edge.
    """
    every = trials(runs)
    best = every[every["place"] == 1].drop(columns="place").reset_index(drop=True)
    counts, edges = [], []
    for _, part in every.groupby(RIVALS, dropna=False, sort=False):
        tried = list(part["hyperparameters"])
        counts.append(len(tried))
        edges.append(edges_of(tried[0], tried))
    return best.assign(trials=counts, edge=edges)


def edges_of(chosen: Mapping[str, Any], tried: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """{name: "lowest" or "highest"} of the `chosen` hyperparameters at the edge of what was `tried`."""
    tried = list(tried)
    found = {}
    for name, value in chosen.items():
        side = edge(name, value, [settings.get(name) for settings in tried])
        if side:
            found[name] = side
    return found


def edge(name: str, value: Any, tried: Iterable[Any]) -> str:
    """ "lowest" or "highest" where nothing was tried beyond `value` on that side; else "".

    "" too for what is not a number, where all that was tried is equal, and for the values of no clipping, ∞
    and p = 1: beyond these there is nothing. What is not a number in `tried` is passed over.
    """
    if not is_numeric(value) or float(value) == NO_CLIPPING.get(name):
        return ""
    values = set(map(float, filter(is_numeric, tried)))
    if len(values) < 2:
        return ""
    if float(value) == min(values):
        return "lowest"
    if float(value) == max(values):
        return "highest"
    return ""


def is_without_clipping(settings: Mapping[str, Any]) -> bool:
    """Whether these settings leave every gradient alone: a level of ∞, or p = 1."""
    return any(settings.get(key) == value for key, value in NO_CLIPPING.items())
