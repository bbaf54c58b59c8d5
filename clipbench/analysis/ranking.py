"""What is compared: the methods of a contest, each at its chosen configuration, against the reference at its
own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from clipbench import stats
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.names import optimizer_name, task_name
from clipbench.analysis.settings import in_words
from clipbench.analysis.steps import measured_alone
from clipbench.stats import Comparison, Interval

MUST_AGREE = ("data", "git")
"""Columns of `runs`: two runs that trained are compared only where these are equal, a model and what was made
of it where the first is.
"""


@dataclass(frozen=True)
class Method:
    """A way of clipping at its chosen configuration; in a study that repeats its tuning, at what each
    repetition has chosen. `scores` by seed or repetition, NaN where the run diverged.
    """

    configuration: Configuration
    tried: int  # configurations that it was chosen from, of the repetition that had the fewest
    edges: Mapping[str, int]  # of what was tried, where the choice lies, and in how many choices: {"lr": 2}
    scores: pd.Series
    clipped: float  # share of steps
    without: bool  # among what was tried is no clipping: a level of ∞, or p = 1
    ms_per_step: float
    skipped: int  # steps whose gradient was not finite
    untested: int = 0  # runs that are done but have no value of the split that is judged
    choices: int = 1  # how often it was chosen: the repetitions of a study

    @property
    def name(self) -> str:
        """Of a transform with its settings: "round bits=8"."""
        configuration = self.configuration
        if not configuration.place.trains:
            return " ".join([configuration.type, *self._settings_in_words.split()])
        return f"{configuration.name} (default)" if self.is_default else configuration.name

    @property
    def is_default(self) -> bool:
        """Untuned, beside a study's methods."""
        return self.configuration.role == "default"

    @property
    def is_reference(self) -> bool:
        """Not clipped: of these is what the others are compared with."""
        return self.configuration.is_reference

    @property
    def optimizer(self) -> str:
        return str(self.configuration.settings.get("optim.name", ""))

    @property
    def settings_in_words(self) -> str:
        """ "level 2  lr=0.01": what it was tuned over; nothing of what its name says."""
        return self._settings_in_words if self.configuration.place.trains else ""

    @property
    def _settings_in_words(self) -> str:
        configuration = self.configuration
        return in_words(configuration.settings, configuration.varied, configuration.place)

    @property
    def unit(self) -> str:
        """What `scores` are told by: "repetition" or "seed"."""
        return str(self.scores.index.name)

    @property
    def diverged(self) -> int:
        return len(self.configuration.diverged)

    @property
    def n(self) -> int:
        return len(self.configuration.runs)

    @property
    def score(self) -> Interval:
        """Over the runs that came to an end; their number is its n, 0 where all diverged."""
        return mean_over_runs(self.scores.dropna())


def mean_over_runs(values: pd.Series) -> Interval:
    """With its 95 % t-interval, without bounds for fewer than three values; NaN for none."""
    if len(values) < stats.FEWEST:
        mean = float(values.mean()) if len(values) else np.nan
        return Interval(mean, -np.inf, np.inf, len(values))
    return stats.t_interval(values)


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
    def unit(self) -> str:
        """What is paired and counted: "repetition" or "seed"."""
        return self.group.unit

    @cached_property
    def measured_alone(self) -> bool:
        """Whether its runs' seconds tell how fast the methods are: none was trained beside others."""
        runs = self.group.runs
        return "lockstep" not in runs or measured_alone(runs)

    @property
    def judged_on(self) -> str:
        """`split` in full: "test" or "validation"."""
        return "test" if self.split == "test" else "validation"

    @property
    def sign(self) -> int:
        return 1 if self.group.higher_is_better else -1

    @property
    def title(self) -> str:
        group = self.group
        optimizer = optimizer_name(group.optimizer)
        place = group.place.title
        parts = [task_name(group.task), group.scale, optimizer, group.study, place, self.context]
        return " · ".join(filter(None, parts))

    @cached_property
    def in_points(self) -> bool:
        """Whether differences are told in hundredths: the metric is a share, or a correlation."""
        if not self.group.higher_is_better:
            return False
        # The maximum is NaN where all runs diverged.
        return not any(method.scores.abs().max() > 1 for method in self.methods)

    @property
    def judged(self) -> tuple[Method, ...]:
        """The untuned defaults of a study stand beside the comparison, not in it."""
        return tuple(method for method in self.methods if not method.is_default)

    @cached_property
    def reference(self) -> Method | None:
        """What the others are compared with; of several optimizers' the one whose optimizer has the most
        methods. None for loops of one's own.
        """
        if self.group.is_recorded:
            return None
        methods = Counter(method.optimizer for method in self.judged)
        references = [method for method in self.judged if method.is_reference]
        if not references:
            return None
        return max(references, key=lambda method: methods[method.optimizer])

    @property
    def tuned_once(self) -> bool:
        """A study whose one choice of settings ran at several seeds: they say nothing of another choice."""
        return self.group.tuned_once

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Each method against the reference on the seeds or repetitions that they share, like with like;
        positive is better.

        The family is all of them and, in a study, the methods that were tuned but cannot be compared yet.
        """
        pairs = {name: (ours, theirs) for name, (_, ours, theirs) in self._pairs.items()}
        more = len(self.missing)
        return stats.compare_pairs(pairs, resolution=self.resolution, worth=self.worth, more=more)

    def paired_differences(self, name: str) -> pd.Series:
        """Of a method that is compared: its value less the reference's in each pair, positive is better, NaN
        where a side diverged.
        """
        places, ours, theirs = self._pairs[name]
        return pd.Series(ours - theirs, places)

    @cached_property
    def _pairs(self) -> dict[str, tuple[pd.Index, np.ndarray, np.ndarray]]:
        """{method: (what pairs them, its values, the reference's)}, positive is better."""
        reference = self.reference
        if reference is None:
            return {}
        found = {}
        for method in self.judged:
            places = self._alike(method, reference)
            if method is not reference and len(places):
                ours = self.sign * method.scores.loc[places].to_numpy()
                theirs = self.sign * reference.scores.loc[places].to_numpy()
                found[method.name] = (places, ours, theirs)
        return found

    def _alike(self, method: Method, reference: Method) -> pd.Index:
        """The seeds or repetitions at which both ran on the same data and the same version."""
        shared = method.scores.index.intersection(reference.scores.index)
        ours, theirs = self._origins(method), self._origins(reference)
        return pd.Index([place for place in shared if ours.get(place) == theirs.get(place)])

    def _origins(self, method: Method) -> dict[Any, tuple[str, ...]]:
        """By seed or repetition, what must be equal of two runs that are compared."""
        found: dict[Any, tuple[str, ...]] = {}
        for column in MUST_AGREE if self.group.place.trains else MUST_AGREE[:1]:
            for place, value in self._values(method, column).items():
                found[place] = (*found.get(place, ()), value)
        return found

    def _values(self, method: Method, column: str) -> dict[Any, str]:
        """A text column of a method's runs, by seed or repetition; empty where there is none."""
        runs = self.group.runs
        if column not in runs:
            return {}
        rows = runs.loc[list(method.configuration.runs)]
        return dict(zip(rows[self.unit], rows[column].fillna(""), strict=True))

    @cached_property
    def unlike(self) -> dict[str, int]:
        """Of each method, pairs that are left out for another data set or version."""
        found = {}
        for method in self.judged:
            if self.reference is None or method is self.reference:
                continue
            shared = method.scores.index.intersection(self.reference.scores.index)
            left_out = len(shared) - len(self._alike(method, self.reference))
            if left_out:
                found[method.name] = left_out
        return found

    def differing(self, column: str) -> bool:
        """Whether the two sides of a pair that is compared differ in this column of `runs`."""
        if self.reference is None:
            return False
        theirs = self._values(self.reference, column)
        for method in self.judged:
            ours = self._values(method, column)
            for place in self._alike(method, self.reference):
                if ours.get(place) != theirs.get(place):
                    return True
        return False

    @property
    def spaces_differ(self) -> bool:
        """Whether in a study a trial had another learning rate for one method than for another."""
        tuning = self.group.tuning
        if not len(tuning) or "trial" not in tuning or "lr" not in tuning:
            return False
        keys = [name for name in ("repetition", "trial") if name in tuning]
        return bool((tuning.groupby(keys, dropna=False)["lr"].nunique() > 1).any())

    @property
    def resolution(self) -> float:
        """The change of the metric from one prediction; NaN where no run says it."""
        return self._of_reference("resolution")

    @property
    def worth(self) -> float:
        """The smallest difference worth telling; NaN where no run says it."""
        return self._of_reference("worth")

    def _of_reference(self, column: str) -> float:
        runs = self.group.runs
        if column not in runs or self.reference is None:
            return float("nan")
        rows = runs.loc[list(self.reference.configuration.runs)]
        return float(rows[column].astype(float).max())

    @property
    def baseline(self) -> float:
        """What anyone gets without learning, on test; NaN where no run says it."""
        runs = self.group.runs
        if "baseline_test" not in runs or self.split != "test":
            return float("nan")
        return float(runs["baseline_test"].astype(float).median())

    @property
    def baseline_name(self) -> str:
        """As its runs say it; "" where none does."""
        runs = self.group.runs
        names = list(runs["baseline"].dropna()) if "baseline" in runs else []
        return str(names[0]) if names else ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Methods of the study without a final run: they failed, or are still to be run."""
        if self.group.is_recorded:
            return ()
        tuned = set(self.group.tuning["method"])
        failed = set(self.group.failed["method"].dropna())
        judged = {method.configuration.name for method in self.judged}
        missing = (tuned | failed) - judged
        missing.discard("")
        return tuple(sorted(missing))

    @property
    def learning_rates(self) -> set[float]:
        tried: set[float] = set()
        for configuration in self.configurations:
            tried.update(configuration.varied.get("lr", [configuration.settings["lr"]]))
        tried.update(self.group.tuning.get("lr", ()))
        return tried

    @property
    def budgets(self) -> set[int]:
        """How many settings each method was chosen from, as far as these numbers differ."""
        return {method.tried for method in self.judged}

    @property
    def equal_budget(self) -> bool:
        """A study's methods had as many trials each, unless some were tuned further than others."""
        return bool(self.group.study) and len(self.budgets) <= 1

    @property
    def usable(self) -> dict[str, Comparison]:
        """The comparisons that have a mean difference: both sides came to an end in a pair at least."""
        found = {}
        for name, comparison in self.comparisons.items():
            if np.isfinite(comparison.difference.estimate):
                found[name] = comparison
        return found

    @property
    def most_pairs(self) -> int:
        """Behind one of the usable comparisons; 0 where there is none."""
        return max((comparison.difference.n for comparison in self.usable.values()), default=0)
