"""From a study to its runs: one arena for each task and optimizer, on which all methods meet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from clipbench.errors import UserError
from clipbench.runs import config
from clipbench.runs.build import optimizer_class_of
from clipbench.runs.plan import Plan, make_plan
from clipbench.studies import space
from clipbench.studies.space import Axis
from clipbench.studies.spec import NUMBERS, Study, read_study
from clipbench.sweeps.grid import expand, later_wins

SEVERAL = ("task", "optim")  # what may have several values: an arena for each


@dataclass(frozen=True)
class Arena:
    """One task and optimizer, on which all methods meet. `base`: the words that all its runs share."""

    study: Study
    base: tuple[str, ...]
    config_dir: Path | None
    composed: dict[tuple[str, ...], Any]

    @cached_property
    def plan(self) -> Plan:
        """A run of no method in particular, for what all runs have in common."""
        return self._plan("none", self.study.final_seeds[0], "default")

    @property
    def label(self) -> str:
        settings = self.plan.settings
        return f"{settings.task.name} ({settings.scale}) · {settings.optim.name}"

    @cached_property
    def spaces(self) -> dict[str, dict[str, Axis]]:
        """The axes of each method: the learning rate, and those of its numbers that the study has a space for."""
        return {method: self.study.axes(method) for method in self.study.methods}

    @cached_property
    def lr(self) -> float:
        """The learning rate that the space is centred on: the task's, or the optimizer's own default."""
        optim = self.plan.settings.optim
        lr = optim.lr or inspect.signature(optimizer_class_of(optim)).parameters["lr"].default
        if not isinstance(lr, (int, float)):
            raise UserError(
                f"{self.label} has no default learning rate to draw others around. Give one: optim.lr=0.1"
            )
        return float(lr)

    def tuning(self) -> list[Plan]:
        """Every method at every trial and tuning seed."""
        trials = range(self.study.trials)
        return [
            self.trial(m, i, seed, "tune")
            for seed in self.study.tuning_seeds
            for m in self.study.methods
            for i in trials
        ]

    def finals(self, chosen: Mapping[str, int]) -> list[Plan]:
        """The chosen trial of each method, and each method at its defaults, on the final seeds."""
        return [
            plan
            for seed in self.study.final_seeds
            for method in self.study.methods
            for plan in (
                self.trial(method, chosen[method], seed, "final"),
                self._plan(method, seed, "default"),
            )
        ]

    def trial(self, method: str, number: int, seed: int, role: str) -> Plan:
        return self._plan(method, seed, role, [*self.draws[method][number], f"tag.trial={number}"])

    @cached_property
    def draws(self) -> dict[str, list[list[str]]]:
        """The words of each trial, by method: at trial i all methods have the same point of the axes that they share."""
        points = space.points(
            space.names([self.study.space, *self.study.own.values()]), self.study.trials, self.study.draws
        )
        units = {"lr": self.lr}
        return {
            method: [
                [_word(name, axis.at(points[name][i], units.get(name, 1.0))) for name, axis in axes.items()]
                for i in range(self.study.trials)
            ]
            for method, axes in self.spaces.items()
        }

    def _plan(self, method: str, seed: int, role: str, words: Sequence[str] = ()) -> Plan:
        tag = (f"tag.study={self.study.name}", f"tag.role={role}", f"tag.method={method}")
        return make_plan(
            [*self.base, f"optim.clipping_type={method}", f"seed={seed}", *tag, *words],
            self.config_dir,
            self.composed,
        )


def _word(name: str, value: float) -> str:
    return f"optim.{name if name in ('lr', *NUMBERS) else f'clip.{name}'}={value:g}"


def arenas(overrides: Sequence[str], config_dir: Path | None = None) -> list[Arena]:
    """The study that the words ask for, on each task and with each optimizer. UserError for what is unknown or not a study's to set."""
    study, rest = read_study(config.parse(overrides), config_dir)
    for override in rest:
        _check_word(override)
    composed: dict[tuple[str, ...], Any] = {}
    points = expand(later_wins(["threads=1", *(str(override.input_line) for override in rest)]))
    found = [
        Arena(study, (*point, *_shortened(point, study, config_dir, composed)), config_dir, composed)
        for point in points
    ]
    return list({arena.label: arena for arena in found}.values())


def _check_word(override: Override) -> None:
    key, line = override.key_or_group, override.input_line
    if key == "seed" or key.startswith("tag"):
        raise UserError(
            f"{line}: a study sets this itself. Its seeds: study.tuning_seeds=[1000,1001] study.final_seeds=[0,1,2]"
        )
    if (name := key.removeprefix("optim.")) in NUMBERS:
        raise UserError(
            f"{line}: a study draws {name} itself, from study.space.{name}; for a space of your own write study/NAME.yaml."
        )
    if override.is_sweep_override() and key not in SEVERAL:
        raise UserError(
            f"{line} has several values: a study takes several of {', '.join(SEVERAL)} and optim.clipping_type only."
        )


def _shortened(
    words: Sequence[str], study: Study, config_dir: Path | None, composed: dict[tuple[str, ...], Any]
) -> Iterator[str]:
    """The study's share of the task's steps, where the words do not say how many."""
    given = {override.key_or_group for override in config.parse(words)}
    settings = make_plan(words, config_dir, composed).settings
    for name in ("steps", "eval_every", "warmup"):
        if "steps" not in given and name not in given and (value := getattr(settings, name)):
            yield f"{name}={max(1, round(study.length * value))}"
