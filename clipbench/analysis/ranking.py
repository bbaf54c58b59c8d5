"""What is compared: the methods of a contest, each at its chosen configuration, against `none` at its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from clipbench import stats
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.settings import in_words
from clipbench.record.rows import REFERENCE
from clipbench.stats import Comparison, Interval


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
    choices: int = 1  # how often it was chosen: the repetitions of a study

    @property
    def name(self) -> str:
        name = self.configuration.name
        return f"{name} (default)" if self.is_default else name

    @property
    def is_default(self) -> bool:
        """Untuned, beside a study's methods."""
        return self.configuration.role == "default"

    @property
    def is_reference(self) -> bool:
        """Not clipped: of these is what the others are compared with."""
        return self.configuration.type == REFERENCE

    @property
    def optimizer(self) -> str:
        return str(self.configuration.settings.get("optim.name", ""))

    @property
    def settings_in_words(self) -> str:
        """ "level 2  lr=0.01": what it was tuned over."""
        return in_words(self.configuration.settings, self.configuration.varied)

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
        """Over the seeds that came to an end; their number is its n, 0 where all diverged."""
        ended = self.scores.dropna()
        if ended.empty:
            return Interval(np.nan, -np.inf, np.inf, 0)
        return stats.t_interval(ended)


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

    @property
    def sign(self) -> int:
        return 1 if self.group.higher_is_better else -1

    @property
    def title(self) -> str:
        group = self.group
        parts = [group.task, group.scale, group.optimizer, group.study, self.context]
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
        methods.
        """
        methods = Counter(method.optimizer for method in self.judged)
        references = [method for method in self.judged if method.is_reference]
        if not references:
            return None
        return max(references, key=lambda method: methods[method.optimizer])

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Each method against none on the seeds they share; positive is better.

        The family of Holm's correction is all of them and, in a study, the methods that were tuned but cannot
        be compared yet.
        """
        reference = self.reference
        if reference is None:
            return {}
        found = {}
        for method in self.judged:
            seeds = method.scores.index.intersection(reference.scores.index)
            if method is reference or seeds.empty:
                continue
            ours = self.sign * method.scores.loc[seeds].to_numpy()
            theirs = self.sign * reference.scores.loc[seeds].to_numpy()
            found[method.name] = stats.compare(theirs, {method.name: ours})[method.name]
        p_values = [comparison.p for comparison in found.values()]
        p_values += [1.0] * len(self.missing)
        adjusted = stats.holm(p_values).tolist()
        for name, p in zip(found, adjusted, strict=False):  # the missing come last
            found[name] = replace(found[name], adjusted=p)
        return found

    @property
    def missing(self) -> tuple[str, ...]:
        """Methods of the study without a final run: they failed, or are still to be run."""
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
        """The comparisons that have a mean difference: neither side diverged."""
        found = {}
        for name, comparison in self.comparisons.items():
            if np.isfinite(comparison.difference.estimate):
                found[name] = comparison
        return found

    @property
    def most_pairs(self) -> int:
        """Of seeds, behind one of the usable comparisons; 0 where there is none."""
        return max((comparison.difference.n for comparison in self.usable.values()), default=0)
