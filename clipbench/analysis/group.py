"""The runs of one task, scale and optimizer, sorted into configurations. Runs of one differ in nothing but
the seed; those of a study's method also in what each repetition has chosen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from clipbench.analysis.places import GRADIENT, Place
from clipbench.analysis.settings import Settings
from clipbench.record.files import is_recorded

LONGEST_STEM = 160  # bytes; a file system takes 255 with what is added


@dataclass(frozen=True)
class Configuration:
    """A clipping type or a transform with its settings; `label` names those that set it apart. `finals`:
    final validation metric of each run in `done`.

    `settings` are what all its runs share. `varied`, by name: what the repetitions of a study chose, a value
    each in their order, where it is not the same; `settings` holds None there.

    Of the group's `variants` configurations of its type it is number `variant`, from 0, by level, quantile,
    beta, learning rate.
    """

    label: str
    settings: Settings
    done: tuple[str, ...]
    diverged: tuple[str, ...]
    finals: np.ndarray  # (len(done),)
    variant: int
    variants: int
    name: str  # the type, or what a study calls the method
    role: str  # in a study "final" or "default", else ""
    varied: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    place: Place = GRADIENT

    @property
    def type(self) -> str:
        """The clipping type, or the transform."""
        return self.settings[self.place.type_key]

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others of its place are compared with, whatever its settings."""
        return self.type == self.place.reference

    @property
    def runs(self) -> tuple[str, ...]:
        return self.done + self.diverged

    @property
    def final(self) -> float:
        """Mean over the seeds that came to an end; NaN where none did."""
        if not len(self.finals):
            return float("nan")
        return float(self.finals.mean())


@dataclass(frozen=True)
class Group:
    """What one set of figures shows. `configurations` stand best first by their final validation metric,
    those without one last.

    `evals` of runs that were evaluated under several conditions are those of the last one, which `final` is
    of; `conditions` are all of theirs.
    """

    task: str
    scale: str
    optimizer: str
    headline: str
    configurations: tuple[Configuration, ...]
    steps: pd.DataFrame
    evals: pd.DataFrame
    higher_is_better: bool
    notes: tuple[str, ...]  # which runs are left out
    study: str  # "" outside one
    runs: pd.DataFrame  # of the configurations, by run
    tuning: pd.DataFrame  # a study's trials, by run: never drawn or judged together with the others
    failed: pd.DataFrame
    apart: bool  # each configuration stands for itself, with those of other optimizers
    place: Place = GRADIENT
    conditions: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def is_recorded(self) -> bool:
        """Whether its runs are of somebody's own loops, which may have begun at other weights and seen other
        batches: nothing pairs them.
        """
        return bool(len(self.runs)) and all(map(is_recorded, self.runs.index))

    @property
    def tuned_once(self) -> bool:
        """Whether it is a study of an earlier version: one choice for all final runs, and so no more than
        what holds at these settings.
        """
        return bool(self.study) and not self.in_repetitions

    @property
    def in_repetitions(self) -> bool:
        """Whether its runs are told apart by the repetition of a study; by their seed where not."""
        own = self.tuning if self.runs.empty else self.runs
        return not own.empty and bool(own["repetition"].notna().all())

    @property
    def unit(self) -> str:
        """What its intervals and tests count: "repetition" in a study with repetitions, else "seed"."""
        return "repetition" if self.in_repetitions else "seed"

    @property
    def name(self) -> str:
        """Task, scale, optimizer, study and place, as far as there is one that needs saying."""
        return " ".join(self._parts)

    @property
    def stem(self) -> str:
        """The same as the beginning of a file's name, a hash instead of the end of a long one."""
        name = "_".join(self._parts)
        stem = re.sub(r"[^\w.-]+", "-", name)
        if len(stem.encode()) <= LONGEST_STEM:
            return stem
        return f"{stem[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    @property
    def _parts(self) -> list[str]:
        parts = [self.task, self.scale, self.optimizer, self.study, self.place.title]
        return list(filter(None, parts))

    def steps_of(self, *configurations: Configuration) -> pd.DataFrame:
        """The rows of `steps` of their runs, one run after the other."""
        runs: list[str] = []
        for configuration in configurations:
            runs += configuration.runs
        return self.steps.iloc[self._rows(runs)]

    def _rows(self, runs: Iterable[str]) -> np.ndarray:
        """Where these runs stand in `steps`, which holds one run after the other. Those without steps are
        left out.
        """
        run = self.steps["run"].cat
        codes = run.categories.get_indexer(list(runs))
        codes = np.sort(codes[codes >= 0])
        starts = np.searchsorted(run.codes, codes)
        ends = np.searchsorted(run.codes, codes + 1)
        rows = [np.zeros(0, int)]
        for start, end in zip(starts, ends, strict=True):
            rows.append(np.arange(start, end))
        return np.concatenate(rows)

    def curve(self, column: str, *configurations: Configuration) -> pd.DataFrame:
        """A column of `steps` against step, one column per run of these, of all by default; NaN after a run's
        end. (steps, runs)
        """
        steps = self.steps_of(*configurations) if configurations else self.steps
        runs = steps["run"].cat.remove_unused_categories().cat
        names = runs.categories
        at, row = np.unique(steps["step"].to_numpy(), return_inverse=True)
        table = np.full((len(at), len(names)), np.nan)
        table[row, runs.codes] = steps[column].to_numpy()
        index = pd.Index(at, name="step")
        return pd.DataFrame(table, index, names)

    def metric(self, split: str) -> pd.DataFrame:
        """The headline metric against step, one column per run. (evaluations, runs)"""
        rows = self.evals_of(split)
        return rows.pivot(index="step", columns="run", values="value")

    def evals_of(self, split: str) -> pd.DataFrame:
        """The rows of `evals` that hold the headline metric of a split."""
        is_headline = self.evals["metric"] == self.headline
        is_of_split = self.evals["split"] == split
        return self.evals[is_headline & is_of_split]
