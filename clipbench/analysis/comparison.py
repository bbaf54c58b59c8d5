"""Groups → what is compared: the methods of a contest, each at its chosen configuration, against `none` at
its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from clipbench import stats
from clipbench.analysis.choice import Candidate, best_first, edge, is_without_clipping
from clipbench.analysis.groups import Configuration, Group
from clipbench.analysis.settings import hyperparameters, in_words, is_of_the_method
from clipbench.record.rows import is_clipped
from clipbench.stats import Comparison, Interval


@dataclass(frozen=True)
class Method:
    """A way of clipping at its chosen configuration. `scores` by seed, NaN where the run diverged."""

    configuration: Configuration
    tried: int  # configurations that it was chosen from
    edges: tuple[str, ...]  # of what was tried, where the choice lies: "lr", "clipping_level"
    scores: pd.Series
    clipped: float  # share of steps
    without: bool  # among what was tried is no clipping: a level of ∞, or p = 1
    ms_per_step: float
    skipped: int  # steps whose gradient was not finite

    @property
    def name(self) -> str:
        name = self.configuration.name
        return f"{name} (default)" if self.is_default else name

    @property
    def is_default(self) -> bool:
        """Untuned, beside a study's methods."""
        return self.configuration.role == "default"

    @property
    def is_none(self) -> bool:
        return self.configuration.type == "none"

    @property
    def optimizer(self) -> str:
        return str(self.configuration.settings.get("optim.name", ""))

    @property
    def settings_in_words(self) -> str:
        """ "level 2  lr=0.01": what it was tuned over."""
        return in_words(self.configuration.settings)

    @property
    def diverged(self) -> int:
        return len(self.configuration.diverged)

    @property
    def n(self) -> int:
        return len(self.configuration.runs)

    @property
    def score(self) -> Interval:
        """Over the seeds that came to an end; their number is its n, 0 where all diverged."""
        ended = self.scores.dropna()
        return stats.t_interval(ended) if len(ended) else Interval(np.nan, -np.inf, np.inf, 0)


@dataclass(frozen=True)
class Ranking:
    """The methods of one contest, best first: they differ only in how they clip and in the learning rate.

    They are judged on `split`: test where there is one.
    """

    group: Group
    context: str  # what sets it apart from the group's other rankings
    methods: tuple[Method, ...]
    configurations: tuple[Configuration, ...]  # all that were run, chosen or not
    split: str

    @property
    def sign(self) -> int:
        return 1 if self.group.higher_is_better else -1

    @property
    def title(self) -> str:
        group = self.group
        parts = [group.task, group.scale, group.optimizer, group.study, self.context]
        return " · ".join(part for part in parts if part)

    @cached_property
    def in_points(self) -> bool:
        """Whether differences are told in hundredths: the metric is a share, or a correlation."""
        values = [np.zeros(0)] + [method.scores.dropna() for method in self.methods]
        return self.group.higher_is_better and bool((np.abs(np.concatenate(values)) <= 1).all())

    @property
    def judged(self) -> tuple[Method, ...]:
        """The untuned defaults of a study stand beside the comparison, not in it."""
        return tuple(method for method in self.methods if not method.is_default)

    @cached_property
    def none(self) -> Method | None:
        """What the others are compared with; of several optimizers' the one whose optimizer has the most
        methods.
        """
        methods = Counter(method.optimizer for method in self.judged)
        references = [method for method in self.judged if method.is_none]
        return max(references, key=lambda method: methods[method.optimizer], default=None)

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Each method against none on the seeds they share; positive is better.

        The family of Holm's correction is all of them and, in a study, the methods that were tuned but cannot
        be compared yet.
        """
        if self.none is None:
            return {}
        pairs = {}
        for method in self.judged:
            seeds = method.scores.index.intersection(self.none.scores.index)
            if method is not self.none and len(seeds):
                ours, none = method.scores.loc[seeds], self.none.scores.loc[seeds]
                pairs[method.name] = self.sign * ours.to_numpy(), self.sign * none.to_numpy()
        p_values = [stats.paired_t(ours, none) for ours, none in pairs.values()]
        adjusted = stats.holm(p_values + [1.0] * len(self.missing))
        found = {}
        for (name, (ours, none)), p in zip(pairs.items(), adjusted, strict=False):  # the missing come last
            found[name] = replace(stats.compare(none, {name: ours})[name], adjusted=float(p))
        return found

    @property
    def missing(self) -> tuple[str, ...]:
        """Methods of the study without a final run: they failed, or are still to be run."""
        named = {*self.group.tuning["method"], *self.group.failed["method"].fillna("")}
        there = {method.configuration.name for method in self.judged}
        return tuple(sorted(named - there - {""}))

    @property
    def learning_rates(self) -> set[float]:
        tried = {configuration.settings["lr"] for configuration in self.configurations}
        return tried | set(self.group.tuning.get("lr", ()))

    @property
    def equal_budget(self) -> bool:
        """A study's methods had as many trials each, unless some were tuned further than others."""
        return bool(self.group.study) and len({method.tried for method in self.judged}) <= 1

    @property
    def usable(self) -> dict[str, Comparison]:
        """The comparisons that have a mean difference: neither side diverged."""
        found = {}
        for name, comparison in self.comparisons.items():
            if np.isfinite(comparison.difference.estimate):
                found[name] = comparison
        return found


def rankings(group: Group) -> list[Ranking]:
    """One for each set of settings that is neither the rule's nor the learning rate: batch sizes, for one,
    are not compared.
    """
    contexts: dict[frozenset[Any], list[Configuration]] = {}
    for configuration in group.configurations:
        contexts.setdefault(_context(configuration, group), []).append(configuration)
    split = "test" if group.runs["final_test"].notna().any() or group.runs.empty else "val"
    if not contexts:
        return [Ranking(group, "", (), (), split)]
    steps = group.steps[np.isfinite(group.steps["grad_norm"])]  # what is not finite is skipped, not clipped
    shares = is_clipped(steps["clip_factor"]).groupby(steps["run"], observed=False).agg(["sum", "size"])
    common = frozenset.intersection(*contexts)
    found = []
    for context, configurations in contexts.items():
        methods = []
        for chosen, tried in _chosen(group, configurations):
            methods.append(_method(group, chosen, tried, split, shares))
        methods.sort(key=lambda method: _place(method, group))
        apart = sorted(context - common, key=str)
        words = "  ".join(f"{key.rpartition('.')[2]}={value}" for key, value in apart)
        found.append(Ranking(group, words, tuple(methods), tuple(configurations), split))
    return found


def _context(configuration: Configuration, group: Group) -> frozenset[Any]:
    """The settings that methods must share to be compared; none where each stands for itself."""
    if group.apart:
        return frozenset()
    return frozenset(item for item in configuration.settings.items() if not is_of_the_method(item[0]))


def _place(method: Method, group: Group) -> tuple[bool, float, float, str]:
    mean = method.score.estimate * (-1 if group.higher_is_better else 1)
    return method.is_default, method.diverged / method.n, float(np.nan_to_num(mean)), method.name


def _chosen(
    group: Group, configurations: Iterable[Configuration]
) -> list[tuple[Configuration, list[Mapping[str, Any]]]]:
    """For each method its configuration by the rule of choice, and the settings of all that it was chosen
    from.

    In a study tuning has chosen already, and the group holds the final runs of that choice only.
    """
    families: dict[tuple[str, str], list[Configuration]] = {}
    for configuration in configurations:
        families.setdefault((configuration.role, configuration.name), []).append(configuration)
    chosen = []
    for (role, name), family in families.items():
        candidates = []
        for each in family:
            candidates.append(Candidate(each, len(each.runs), len(each.diverged), each.final))
        best = best_first(candidates, group.higher_is_better)[0].what
        tuned = group.tuning[group.tuning["method"] == name] if role == "final" else group.tuning[:0]
        if tuned.empty:
            tried = [each.settings for each in family]
        else:
            tried = list(tuned.drop_duplicates("trial")["settings"])
        chosen.append((best, tried))
    return chosen


def _method(
    group: Group,
    configuration: Configuration,
    tried: list[Mapping[str, Any]],
    split: str,
    shares: pd.DataFrame,
) -> Method:
    """`shares`: of each run, by id, how many steps were clipped (sum) of how many that count (size)."""
    runs = group.runs.loc[list(configuration.runs)]
    scores = runs.set_index("seed")["final_test" if split == "test" else "final"].astype(float)
    steps = shares.loc[[run for run in configuration.runs if run in shares.index]].sum()
    times = 1000 * runs["seconds"].astype(float) / runs["steps"].astype(float)
    drawn = [hyperparameters(settings) for settings in tried]
    edges = []
    for name, value in hyperparameters(configuration.settings).items():
        if edge(name, value, [each.get(name) for each in drawn]):
            edges.append(name)
    return Method(
        configuration=configuration,
        tried=len(tried),
        edges=tuple(edges),
        scores=scores.where(runs["status"].to_numpy() == "done").sort_index(),
        clipped=float(steps["sum"] / steps["size"]) if steps["size"] else np.nan,
        without=any(is_without_clipping(settings) for settings in tried),
        ms_per_step=float(times.median()),
        skipped=int(runs["skipped"].fillna(0).sum()),
    )
