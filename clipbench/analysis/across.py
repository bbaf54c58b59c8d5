"""Several tasks at once: each on the scale mean of none = 0, best run seen = 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipbench import stats
from clipbench.analysis.ranking import Method, Ranking
from clipbench.stats import Interval

REPEATS = 1000  # of the bootstrap

Seeds = dict[str, np.ndarray]  # task → (seeds,)


@dataclass(frozen=True)
class Aggregate:
    """One method over all tasks. `rank`: mean over tasks, 1 is best; `wins`: tasks where its mean is the
    best.
    """

    name: str
    mean: Interval  # interquartile
    median: Interval
    gap: Interval  # optimality gap
    rank: float
    wins: int


@dataclass(frozen=True)
class Across:
    """`rows`: a method each, the best mean rank first."""

    title: str  # what the tasks have in common
    rankings: dict[str, Ranking]  # of each task that is usable
    rows: tuple[Aggregate, ...]
    left_out: tuple[str, ...]  # "task (why)"
    scores: dict[str, Seeds]  # method → task → scaled

    @property
    def methods(self) -> list[Method]:
        """Those of `rows`, as they stand at the first task."""
        first = next(iter(self.rankings.values()))
        return [_method(first, row.name) for row in self.rows]


def across(rankings: Sequence[Ranking]) -> list[Across]:
    """For each optimizer, scale and study with at least two tasks: the methods that all its usable tasks
    have.
    """
    kinds: dict[tuple[str, ...], list[Ranking]] = {}
    for ranking in rankings:
        group = ranking.group
        kind = (group.scale, group.optimizer, group.study, ranking.context, ranking.split)
        if group.place.trains and not group.apart:
            kinds.setdefault(kind, []).append(ranking)
    found = []
    for (*shared, _), members in kinds.items():
        title = " · ".join(filter(None, shared))
        result = _across(title, members)
        if result is not None:
            found.append(result)
    return found


def _across(title: str, rankings: Sequence[Ranking]) -> Across | None:
    """None for fewer than two usable tasks."""
    usable: dict[str, Ranking] = {}
    left_out = []
    for ranking in rankings:
        task, why = ranking.group.task, _unusable(ranking)
        if why:
            left_out.append(f"{task} ({why})")
        else:
            usable[task] = ranking
    if len(usable) < 2:
        return None
    names = _shared(usable)
    scores = {name: _scaled(usable, name) for name in names}
    ranks = _ranks(scores)
    rows = []
    for name in names:
        aggregate = Aggregate(
            name=name,
            mean=_bootstrap(usable, name, stats.interquartile_mean),
            median=_bootstrap(usable, name, stats.median),
            gap=_bootstrap(usable, name, stats.optimality_gap),
            rank=float(ranks.loc[name].mean()),
            wins=int((ranks.loc[name] == 1).sum()),
        )
        rows.append(aggregate)
    rows.sort(key=lambda row: row.rank)
    return Across(title, usable, tuple(rows), tuple(left_out), scores)


def _shared(rankings: Mapping[str, Ranking]) -> list[str]:
    """The methods that are judged at every task, by name."""
    tasks = []
    for ranking in rankings.values():
        tasks.append({method.name for method in ranking.judged})
    return sorted(set.intersection(*tasks))


def _unusable(ranking: Ranking) -> str:
    """Why a task has no scale; "" where it has one."""
    if ranking.reference is None or not ranking.reference.score.n:
        return "no run without clipping came to an end"
    none, best = _scale_ends(ranking)
    if np.isfinite(best) and ranking.sign * (best - none) > 0:
        return ""
    return "all runs are equal"


def _scale_ends(ranking: Ranking) -> tuple[float, float]:
    """(mean of none, the best run of any method): what 0 and 1 stand for."""
    best = -np.inf
    for method in ranking.judged:
        ended = method.scores.dropna().to_numpy()
        best = max(best, (ranking.sign * ended).max(initial=-np.inf))
    mean = np.nan
    if ranking.reference is not None:
        mean = ranking.reference.scores.dropna().mean()
    return float(mean), float(ranking.sign * best)


def _method(ranking: Ranking, name: str) -> Method:
    return next(method for method in ranking.judged if method.name == name)


def _scaled(rankings: Mapping[str, Ranking], name: str) -> Seeds:
    """A method's scores at each task, none's mean 0 and the best run 1."""
    found = {}
    for task, ranking in rankings.items():
        scores = _method(ranking, name).scores.to_numpy(float)
        found[task] = stats.scaled(scores, *_scale_ends(ranking))
    return found


def _ranks(scores: Mapping[str, Seeds]) -> pd.DataFrame:
    """Of each method (row) at each task (column) by its mean; a run that diverged is worse than any."""
    means: dict[str, dict[str, float]] = {}
    for name, tasks in scores.items():
        for task, values in tasks.items():
            filled = np.nan_to_num(values, nan=-np.inf)
            means.setdefault(task, {})[name] = filled.mean()
    return pd.DataFrame(means).rank(ascending=False)


def _bootstrap(rankings: Mapping[str, Ranking], name: str, statistic: Callable[[Seeds], float]) -> Interval:
    """The seeds of the method and of none are drawn together, as they are paired, and 0 anew each time; 1
    stays where it is.
    """
    ends, pairs = {}, {}
    for task, ranking in rankings.items():
        ours = _method(ranking, name).scores
        none = ranking.reference.scores if ranking.reference else ours
        both = pd.concat([ours, none.reindex(ours.index)], axis=1)
        ends[task] = _scale_ends(ranking)
        pairs[task] = both.to_numpy(float)

    def drawn(parts: Mapping[str, np.ndarray]) -> float:
        scores = {}
        for task, part in parts.items():
            ours, none = part[:, 0], part[:, 1]
            mean, best = ends[task]
            scores[task] = stats.scaled(ours, _mean(none, mean), best)
        return statistic(scores)

    rng = np.random.default_rng(0)
    return stats.stratified_bootstrap(pairs, drawn, rng, REPEATS)


def _mean(values: np.ndarray, otherwise: float) -> float:
    finite = values[np.isfinite(values)]
    if len(finite):
        return float(finite.mean())
    return otherwise
