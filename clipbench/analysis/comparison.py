"""Groups → what is compared: one arm for each way of clipping, at its chosen setting, against `none` at its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from clipbench import stats
from clipbench.analysis.groups import RESOLVED, SYMBOLS, Group, Method
from clipbench.plot import style
from clipbench.record.rows import NO_CLIPPING, is_clipped
from clipbench.stats import Comparison, Interval


@dataclass(frozen=True)
class Arm:
    """A method at its chosen setting. `scores` by seed, NaN where the run diverged. `tried`: the settings that it was chosen from."""

    method: Method
    tried: int
    edges: tuple[str, ...]  # of what was tried, where the choice lies: "lr", "clipping_level"
    scores: pd.Series
    clipped: float  # share of steps
    without: bool  # among what was tried is no clipping: a level of ∞, or p = 1
    ms_per_step: float
    colour: str
    dash: style.Dash

    @property
    def name(self) -> str:
        return self.method.name + " (default)" * (self.method.role == "default")

    @property
    def optimizer(self) -> str:
        return str(self.method.settings.get("optim.name", ""))

    @property
    def words(self) -> str:
        """ "lr=0.01 level=2": its own numbers."""
        numbers = {key: self.method.settings[key] for key in RESOLVED[1:]} | {
            key.removeprefix("optim.clip."): value
            for key, value in self.method.settings.items()
            if key.startswith("optim.clip.")
        }
        symbols = SYMBOLS | {"clipping_level": "level "}
        return "  ".join(
            symbols.get(key, key + "=")
            + (f"{value:g}".replace("inf", "∞") if isinstance(value, (int, float)) else str(value))
            for key, value in numbers.items()
            if value is not None
        )

    @property
    def diverged(self) -> int:
        return len(self.method.diverged)

    @property
    def n(self) -> int:
        return len(self.method.runs)

    @property
    def score(self) -> Interval:
        """Over the seeds that came to an end; their number is its n, 0 where all diverged."""
        ended = self.scores.dropna()
        return stats.t_interval(ended) if len(ended) else Interval(np.nan, -np.inf, np.inf, 0)


@dataclass(frozen=True)
class Section:
    """Arms that differ only in how they clip and in the learning rate, best first. They are judged on `split`: test where there is one."""

    group: Group
    context: str  # what sets it apart from the group's other sections
    arms: tuple[Arm, ...]
    methods: tuple[Method, ...]  # every setting that was run, chosen or not
    split: str

    @property
    def sign(self) -> int:
        return 1 if self.group.higher_is_better else -1

    @property
    def title(self) -> str:
        group = self.group
        return " · ".join(filter(None, [group.task, group.scale, group.optimizer, group.study, self.context]))

    @property
    def in_points(self) -> bool:
        """Whether differences are told in hundredths: the metric is a share, or a correlation."""
        values = np.concatenate([arm.scores.dropna() for arm in self.arms] or [np.zeros(0)])
        return self.group.higher_is_better and bool((np.abs(values) <= 1).all())

    @property
    def judged(self) -> tuple[Arm, ...]:
        """The untuned defaults of a study stand beside the comparison, not in it."""
        return tuple(arm for arm in self.arms if arm.method.role != "default")

    @cached_property
    def none(self) -> Arm | None:
        """What the others are compared with; of several optimizers' the one whose optimizer has the most arms."""
        arms = Counter(arm.optimizer for arm in self.judged)
        return max(
            (arm for arm in self.judged if arm.method.type == "none"),
            key=lambda arm: arms[arm.optimizer],
            default=None,
        )

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Each arm against none on the seeds they share; positive is better.

        The family of Holm's correction is all of them and, in a study, the methods that were tuned but cannot be compared yet.
        """
        if self.none is None:
            return {}
        pairs = {}
        for arm in self.judged:
            both = pd.concat([arm.scores, self.none.scores], axis=1, join="inner") * self.sign
            if arm is not self.none and len(both):
                pairs[arm.name] = both.to_numpy().T
        p = [stats.paired_t(a, b) for a, b in pairs.values()]
        adjusted = stats.holm([*p, *[1.0] * len(self.missing)])[: len(p)]
        return {
            name: Comparison(**vars(stats.compare(none, {name: arm})[name]) | {"adjusted": float(p)})
            for (name, (arm, none)), p in zip(pairs.items(), adjusted, strict=True)
        }

    @property
    def missing(self) -> tuple[str, ...]:
        """Methods of the study without a final run: they failed, or are still to be made."""
        named = {*self.group.tuning["method"], *self.group.failed["method"].fillna("")}
        return tuple(sorted(named - {"", *(arm.method.name for arm in self.judged)}))

    @property
    def learning_rates(self) -> set[float]:
        return {method.settings["lr"] for method in self.methods} | set(self.group.tuning.get("lr", ()))

    @property
    def equal_budget(self) -> bool:
        """A study's methods had as many trials each, unless some were tuned further than others."""
        return bool(self.group.study) and len({arm.tried for arm in self.judged}) <= 1


def sections(group: Group) -> list[Section]:
    """One for each set of settings that is neither the rule's nor the learning rate: batch sizes, for one, are not compared."""
    contexts: dict[frozenset, list[Method]] = {}
    for method in group.methods:
        apart = frozenset(item for item in method.settings.items() if not (group.apart or _own(item[0])))
        contexts.setdefault(apart, []).append(method)
    split = "test" if group.runs["final_test"].notna().any() or group.runs.empty else "val"
    steps = group.steps[np.isfinite(group.steps["grad_norm"])]  # what is not finite is skipped, not clipped
    shares = is_clipped(steps["clip_factor"]).groupby(steps["run"], observed=False).agg(["sum", "size"])
    common = frozenset.intersection(*contexts) if contexts else frozenset()
    found = []
    for context, methods in contexts.items():
        hues = style.hues({method.type for method in methods})
        arms = tuple(
            _arm(group, method, tried, split, shares, hues[method.type])
            for method, tried in _chosen(group, methods)
        )
        words = "  ".join(
            f"{key.rpartition('.')[2]}={value}" for key, value in sorted(context - common, key=str)
        )
        found.append(
            Section(
                group, words, tuple(sorted(arms, key=lambda arm: _order(arm, group))), tuple(methods), split
            )
        )
    return found or [Section(group, "", (), (), split)]


def _own(key: str) -> bool:
    return key in RESOLVED or key.startswith("optim.clip.")


def _order(arm: Arm, group: Group) -> tuple:
    mean = arm.score.estimate * (-1 if group.higher_is_better else 1)
    return (arm.method.role == "default", arm.diverged / arm.n, np.nan_to_num(mean), arm.name)


def _chosen(group: Group, methods: Iterable[Method]) -> list[tuple[Method, list[Mapping[str, Any]]]]:
    """For each method the setting with the fewest diverged runs, then the best validation mean, and all that it was chosen from.

    A setting with fewer seeds than others of its method is left out: its mean is luck. In a study tuning has chosen already, and the
    group holds the final runs of that choice only.
    """
    families: dict[tuple[str, str], list[Method]] = {}
    for method in methods:
        families.setdefault((method.role, method.name), []).append(method)
    chosen = []
    for (role, name), family in families.items():
        most = max(len(method.runs) for method in family)
        full = [
            method for method in family if len(method.runs) == most
        ]  # best first, as the group's methods are
        tuned = group.tuning[group.tuning["method"] == name] if role == "final" else group.tuning[:0]
        trials: Iterable[Mapping[str, Any]] = tuned.drop_duplicates("trial")["settings"]
        tried = [method.settings for method in family] if tuned.empty else list(trials)
        chosen.append((min(full, key=lambda method: len(method.diverged)), tried))
    return chosen


def _arm(
    group: Group, method: Method, tried: list[Mapping[str, Any]], split: str, shares: pd.DataFrame, hue: str
) -> Arm:
    runs = group.runs.loc[list(method.runs)]
    scores = runs.set_index("seed")["final_test" if split == "test" else "final"].astype(float)
    there = [run for run in method.runs if run in shares.index]
    steps = shares.loc[there].sum()
    times = 1000 * runs["seconds"].astype(float) / runs["steps"].astype(float)
    return Arm(
        method=method,
        tried=len(tried),
        edges=tuple(
            key.removeprefix("optim.clip.")
            for key in (*RESOLVED[1:], *(key for key in method.settings if key.startswith("optim.clip.")))
            if _at_edge(method.settings[key], [each.get(key) for each in tried], NO_CLIPPING.get(key))
        ),
        without=any(each.get(key) == value for each in tried for key, value in NO_CLIPPING.items()),
        scores=scores.where(runs["status"].to_numpy() == "done").sort_index(),
        clipped=float(steps["sum"] / steps["size"]) if steps["size"] else np.nan,
        ms_per_step=float(times.median()),
        colour=method.colour if group.apart else style.shade(hue, 0, 2) if method.role == "default" else hue,
        dash=method.dash if group.apart else style.dash(method.type, 0),
    )


def _at_edge(value: Any, tried: list[Any], no_edge: float | None) -> bool:
    values = {each for each in tried if _is_number(each)}
    return _is_number(value) and value != no_edge and len(values) > 1 and value in (min(values), max(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
