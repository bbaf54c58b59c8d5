"""From a study to its runs: one contest for each task and optimizer, in which all methods meet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from hydra.core.override_parser.types import Override

from clipbench.errors import UserError
from clipbench.runs import config
from clipbench.runs.build import optimizer_class_of
from clipbench.runs.plan import Contents, Plan, make_plan
from clipbench.studies import space
from clipbench.studies.halving import Rung, rungs
from clipbench.studies.space import Axis
from clipbench.studies.spec import HYPERPARAMETERS, Study, read_study
from clipbench.sweeps.grid import expand, later_wins

SEVERAL = ("task", "optim")  # what may have several values: a contest for each

Place = tuple[int, str]
"""A repetition and a method: where trials are chosen among."""


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
        return self._plan(self.study.methods[0], 0, "default")

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
    def trials(self) -> dict[Place, tuple[Plan, ...]]:
        """Every trial of every method in every repetition, by number, to its end."""
        found = {}
        for repetition in range(self.study.repetitions):
            for method in self.study.methods:
                plans = []
                for number in range(self.study.trials):
                    plans.append(self._trial(method, repetition, number, "tune"))
                found[repetition, method] = tuple(plans)
        return found

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        """The stretches in which trials are made, the same for every method and repetition."""
        settings = self.plan.settings
        return rungs(self.study.trials, settings.steps, settings.eval_every, self.study.halving)

    def tuning(self) -> list[Plan]:
        """Every trial to its end, those that will be stopped before it among them."""
        found: list[Plan] = []
        for plans in self.trials.values():
            found += plans
        return found

    def tuning_to(self, rung: Rung, numbers: Mapping[Place, Sequence[int]]) -> list[Plan]:
        """The trials of these numbers, to a rung."""
        found = []
        for place, plans in self.trials.items():
            for number in numbers[place]:
                found.append(replace(plans[number], until=rung.until))
        return found

    def finals(self, chosen: Mapping[int, Mapping[str, int]]) -> list[Plan]:
        """In each repetition of `chosen` the trial that was chosen for each method, and each method at its
        defaults, at the repetition's final seed.
        """
        found = []
        for repetition, trials in chosen.items():
            for method in self.study.methods:
                found.append(self._trial(method, repetition, trials[method], "final"))
                found.append(self._plan(method, repetition, "default"))
        return found

    def _trial(self, method: str, repetition: int, number: int, role: str) -> Plan:
        drawn = self.draws(repetition)[method][number]
        return self._plan(method, repetition, role, [*drawn, f"tag.trial={number}"])

    def draws(self, repetition: int) -> dict[str, list[list[str]]]:
        """The overrides of each trial of a repetition, by method: at trial i all methods have the same point
        of the axes that they share.
        """
        if repetition not in self._drawn:
            self._drawn[repetition] = self._draw(repetition)
        return self._drawn[repetition]

    @cached_property
    def _drawn(self) -> dict[int, dict[str, list[list[str]]]]:
        """What was asked of `draws` so far."""
        return {}

    def _draw(self, repetition: int) -> dict[str, list[list[str]]]:
        study = self.study
        names = space.names([study.space, *study.own.values()])
        points = space.points(names, study.trials, [study.draws, repetition])
        found: dict[str, list[list[str]]] = {}
        for method, axes in self.spaces.items():
            found[method] = []
            for number in range(study.trials):
                at = {name: float(points[name][number]) for name in axes}
                found[method].append(self._overrides_at(axes, at))
        return found

    def _overrides_at(self, axes: Mapping[str, Axis], at: Mapping[str, float]) -> list[str]:
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

    def _plan(self, method: str, repetition: int, role: str, overrides: Sequence[str] = ()) -> Plan:
        seed = self.study.final_seed(repetition)
        if role == "tune":
            seed = self.study.tuning_seed(repetition)
        tag = (
            f"tag.study={self.study.name}",
            f"tag.role={role}",
            f"tag.method={method}",
            f"tag.repetition={repetition}",
        )
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
    if key.partition(".")[0] == "transform":
        raise UserError(
            f"{line}: a study tunes training, and a transform comes after it. Compare transforms of trained "
            "models by a sweep, as clipbench sweep transform=none,round seed=range(5)"
        )
    if key == "seed" or key.startswith("tag"):
        raise UserError(
            f"{line}: a study sets this itself. "
            "How often all of it is repeated, each time at seeds of its own: study.repetitions=5"
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
