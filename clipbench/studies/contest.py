"""From a study to its runs: one contest for each task and optimizer, in which all methods meet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from hydra.core.override_parser.types import Override

from clipbench.errors import UserError
from clipbench.record.rows import REFERENCE
from clipbench.runs import config
from clipbench.runs.build import optimizer_class_of
from clipbench.runs.plan import Contents, Plan, make_plan
from clipbench.studies import space
from clipbench.studies.space import Axis
from clipbench.studies.spec import HYPERPARAMETERS, Study, read_study
from clipbench.sweeps.grid import expand, later_wins

SEVERAL = ("task", "optim")  # what may have several values: a contest for each


@dataclass(frozen=True)
class Contest:
    """One task and optimizer, on which all methods meet. `base`: the overrides that all its runs share."""

    study: Study
    base: tuple[str, ...]
    config_dir: Path | None
    composed: config.Composed
    contents: Contents

    @cached_property
    def plan(self) -> Plan:
        """A run of no method in particular, for what all runs have in common."""
        return self._plan(REFERENCE, self.study.final_seeds[0], "default")

    @property
    def label(self) -> str:
        """ "cola (mini) · adamw"."""
        settings = self.plan.settings
        return f"{settings.task.name} ({settings.scale}) · {settings.optim.name}"

    @property
    def results(self) -> Path:
        """The folder that the runs of all methods, and of every contest of the study, go into."""
        return self.plan.results

    @cached_property
    def spaces(self) -> dict[str, dict[str, Axis]]:
        """The axes of each method: the learning rate, and those of its hyperparameters that the study has a
        space for.
        """
        return {method: self.study.axes(method) for method in self.study.methods}

    @cached_property
    def lr(self) -> float:
        """The learning rate that the space is centred on: the task's, or the optimizer's own default."""
        optim = self.plan.settings.optim
        lr = optim.lr
        if not lr:
            lr = inspect.signature(optimizer_class_of(optim)).parameters["lr"].default
        if not isinstance(lr, (int, float)):
            raise UserError(
                f"{self.label} has no default learning rate to draw others around. Give one: optim.lr=0.1"
            )
        return float(lr)

    @cached_property
    def tuning_plans(self) -> tuple[Plan, ...]:
        found = []
        for seed in self.study.tuning_seeds:
            for method in self.study.methods:
                for number in range(self.study.trials):
                    found.append(self.trial(method, number, seed, "tune"))
        return tuple(found)

    def tuning(self) -> list[Plan]:
        """Every method at every trial and tuning seed."""
        return list(self.tuning_plans)

    def finals(self, chosen: Mapping[str, int]) -> list[Plan]:
        """The chosen trial of each method, and each method at its defaults, on the final seeds."""
        found = []
        for seed in self.study.final_seeds:
            for method in self.study.methods:
                found.append(self.trial(method, chosen[method], seed, "final"))
                found.append(self._plan(method, seed, "default"))
        return found

    def trial(self, method: str, number: int, seed: int, role: str) -> Plan:
        """A run of the method's trial of that number."""
        return self._plan(method, seed, role, [*self.draws[method][number], f"tag.trial={number}"])

    @cached_property
    def draws(self) -> dict[str, list[list[str]]]:
        """The overrides of each trial, by method: at trial i all methods have the same point of the axes that
        they share.
        """
        study = self.study
        names = space.names([study.space, *study.own.values()])
        points = space.points(names, study.trials, study.draws)
        found: dict[str, list[list[str]]] = {}
        for method, axes in self.spaces.items():
            found[method] = []
            for number in range(study.trials):
                at = {name: float(points[name][number]) for name in axes}
                found[method].append(self._drawn(axes, at))
        return found

    def _drawn(self, axes: Mapping[str, Axis], at: Mapping[str, float]) -> list[str]:
        """The overrides of one point."""
        found = []
        for name, axis in axes.items():
            unit = self.lr if name == "lr" else 1.0
            value = axis.at(at[name], unit)
            found.append(_override(name, value))
        return found

    def rows_of(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of this task, scale and optimizer, of whatever study."""
        settings = self.plan.settings
        same_task = (table["task"] == settings.task.name) & (table["scale"] == settings.scale)
        return table[same_task & (table["optimizer"] == settings.optim.name)]

    def _plan(self, method: str, seed: int, role: str, overrides: Sequence[str] = ()) -> Plan:
        tag = (f"tag.study={self.study.name}", f"tag.role={role}", f"tag.method={method}")
        own = (f"optim.clipping_type={method}", f"seed={seed}", *tag, *overrides)
        return make_plan([*self.base, *own], self.config_dir, self.composed, self.contents)


def _override(name: str, value: float) -> str:
    """What sets a hyperparameter; those of a user's own rule stand in `optim.clip`."""
    shared = name == "lr" or name in HYPERPARAMETERS
    key = f"optim.{name}" if shared else f"optim.clip.{name}"
    return f"{key}={value:g}"


def contests(
    overrides: Sequence[str], config_dir: Path | None = None, contents: Contents | None = None
) -> list[Contest]:
    """The study that the overrides ask for, on each task and with each optimizer. `contents`: what data hold.

    UserError for what is unknown or not a study's to set.
    """
    study, rest = read_study(config.parse(overrides), config_dir)
    for override in rest:
        _check_override(override)
    composed: config.Composed = {}
    contents = contents or Contents()
    shared = [str(override.input_line) for override in rest]
    found: dict[str, Contest] = {}
    for point in expand(later_wins(["threads=1", *shared])):
        shortened = _shortened(point, study, config_dir, composed)
        contest = Contest(study, (*point, *shortened), config_dir, composed, contents)
        found[contest.label] = contest
    return list(found.values())


def _check_override(override: Override) -> None:
    """UserError for what the study sets itself, seeds and hyperparameters, and for several values of a key
    that all its runs must share.
    """
    key, line = override.key_or_group, override.input_line
    if key == "seed" or key.startswith("tag"):
        raise UserError(
            f"{line}: a study sets this itself. "
            "Its seeds: study.tuning_seeds=[1000,1001] study.final_seeds=[0,1,2]"
        )
    name = key.removeprefix("optim.")
    if name in HYPERPARAMETERS:
        raise UserError(
            f"{line}: a study draws {name} itself, from study.space.{name}; "
            "for a space of your own write study/NAME.yaml."
        )
    if override.is_sweep_override() and key not in SEVERAL:
        raise UserError(
            f"{line} has several values: "
            f"a study takes several of {', '.join(SEVERAL)} and optim.clipping_type only."
        )


def _shortened(
    overrides: Sequence[str], study: Study, config_dir: Path | None, composed: config.Composed
) -> list[str]:
    """The study's share of the task's steps, where the overrides do not say how many."""
    given = {override.key_or_group for override in config.parse(overrides)}
    if "steps" in given:
        return []
    settings = config.load(overrides, config_dir, composed)
    found = []
    for name in ("steps", "eval_every", "warmup"):
        value = getattr(settings, name)
        if value and name not in given:
            found.append(f"{name}={max(1, round(study.length * value))}")
    return found
