"""What a study is: a file of methods, budget, repetitions and spaces, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipbench.analysis.places import GRADIENT
from clipbench.errors import UserError, nearest, users_code
from clipbench.optim import ALIASES
from clipbench.optim.make import rule_named
from clipbench.record.rows import CLIP_KEYS
from clipbench.runs import config
from clipbench.runs.settings import check_values, is_number, is_whole
from clipbench.runs.yaml_files import read_content
from clipbench.studies import space
from clipbench.studies.space import Axis
from clipbench.sweeps.grid import expand

HYPERPARAMETERS = CLIP_KEYS[1:]
"""What a study draws besides the learning rate, for the methods that use it."""

DEFAULT_STUDY = "quick"

TUNING_SEED = 1000
"""Of repetition 0; repetition r has the seed behind it by r, and r itself as the seed of its final runs."""

EARLIER = {
    "tuning_seeds": "study.repetitions=N repeats the whole of tuning N times",
    "final_seeds": "study.repetitions=N makes N final runs of each method, one of each repetition's choice",
}
"""Keys of earlier versions, and what stands in their place."""


@dataclass(frozen=True)
class Study:
    """A file of conf/study, checked. `space`: axes by hyperparameter; `own`: by method, what stands instead
    or besides.

    Tuning is done `repetitions` times, each with draws of its own from `draws` and the repetition's number, a
    tuning seed and a final seed, which all methods share. `halving`: at each rung the best one in so many
    trials goes on; 1: all are trained to their end.
    """

    name: str
    methods: tuple[str, ...]
    trials: int
    repetitions: int
    halving: int
    length: float
    draws: int
    space: dict[str, Axis]
    own: dict[str, dict[str, Axis]] = field(default_factory=dict)

    def tuning_seed(self, repetition: int) -> int:
        """What the trials of a repetition are run at. No repetition has it as its final seed."""
        return TUNING_SEED + repetition

    def final_seed(self, repetition: int) -> int:
        """What a repetition's choices, and the defaults, are run at."""
        return repetition

    def axes(self, method: str) -> dict[str, Axis]:
        """What is drawn for a method: the learning rate, and those of its hyperparameters that there is a
        space for.
        """
        known = hyperparameters(method)
        axes = self.space | self.own.get(method, {})
        return {name: axis for name, axis in axes.items() if name in known}


def hyperparameters(method: str) -> set[str]:
    """The learning rate and the fields of the method's rule. UserError where there is no such rule."""
    try:
        with users_code(f"clipping_type '{method}'", ValueError):
            rule = rule_named(method)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {"lr", *(each.name for each in fields(rule))}


@dataclass
class StudyOverrides:
    """What is given on the command line of a study, by what it is on: the choice of a file, its keys, the
    methods, the runs.
    """

    choice: list[Override] = field(default_factory=list)
    changes: list[Override] = field(default_factory=list)
    methods: list[Override] = field(default_factory=list)
    runs: list[Override] = field(default_factory=list)

    @classmethod
    def sorted(cls, overrides: Sequence[Override]) -> StudyOverrides:
        """Each override where it belongs, in the order given."""
        found = cls()
        for override in overrides:
            key = override.key_or_group
            if key == "study":
                found.choice.append(override)
            elif key.startswith("study."):
                found.changes.append(override)
            elif key == "optim.clipping_type":
                found.methods.append(override)
            else:
                found.runs.append(override)
        return found

    def method_names(self) -> list[str]:
        found = []
        for override in self.methods:
            for [one] in expand([str(override.input_line)]):
                found.append(one.split("=", 1)[1])
        return found


def read_study(overrides: Sequence[Override], config_dir: Path | None) -> tuple[Study, list[Override]]:
    """conf/study/NAME.yaml with what the overrides change in it; and the overrides that are on its runs.

    UserError for a name, key or value that a study does not have.
    """
    given = StudyOverrides.sorted(overrides)
    for override in (*given.choice, *given.changes):
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line} has several values, and a study takes one. "
                "Lists stand in brackets: study.final_seeds=[0,1,2]"
            )
    name = given.choice[-1].value() if given.choice else DEFAULT_STUDY
    path = _file(name, config_dir)
    methods = given.method_names()
    config.make_importable(config_dir)
    try:
        content = OmegaConf.create(read_content(path) or {})
        for override in given.changes:
            key = override.key_or_group.removeprefix("study.")
            OmegaConf.update(content, key, override.value(), merge=False)
        values = OmegaConf.to_container(content, resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return _checked(path, values, methods), given.runs


def _file(name: Any, config_dir: Path | None) -> Path:
    known = config.options("study", config_dir)
    if name not in known:
        close = nearest(str(name), known)
        raise UserError(
            f"Unknown study '{name}'.{close} Known: {', '.join(known)}. "
            f"One of your own: --config-dir DIR with DIR/study/{name}.yaml."
        )
    return config.find_file("study", name, config_dir)


def _checked(path: Path, given: Any, methods: Sequence[str]) -> Study:
    """The study that a file's content describes. `methods` stand instead of the file's if there are any."""
    where = f"Study '{path.stem}'"
    _check_keys(where, path, given)
    check_values("study", given)
    names = _methods(where, list(methods) or given["methods"])
    if not isinstance(given["space"], dict) or "lr" not in given["space"]:
        raise UserError(f"{where}: space must be a mapping with lr in it, got {given['space']!r}.")
    known = {"lr", *HYPERPARAMETERS}
    for name in names:
        known |= hyperparameters(name)
    repetitions = _whole_number(f"{where}: repetitions", given["repetitions"], 1)
    if repetitions > TUNING_SEED:
        raise UserError(
            f"{where}: repetitions must be at most {TUNING_SEED}, got {repetitions}: "
            "a final seed would be one that tuning has seen."
        )
    return Study(
        name=path.stem,
        methods=names,
        trials=_whole_number(f"{where}: trials", given["trials"], 1),
        repetitions=repetitions,
        halving=_whole_number(f"{where}: halving", given["halving"], 1),
        length=_length(where, given["length"]),
        draws=_whole_number(f"{where}: draws", given["draws"], 0),
        space=_axes(f"{where}: space", given["space"], known),
        own=_own(f"{where}: own", given.get("own") or {}),
    )


def _check_keys(where: str, path: Path, given: Any) -> None:
    """Every key that a study needs, and none that it does not have."""
    keys = [each.name for each in fields(Study) if each.name != "name"]
    if not isinstance(given, dict):
        raise UserError(f"{where}: {path} must say {', '.join(keys)}.")
    for key, instead in EARLIER.items():
        if key in given:
            raise UserError(
                f"{where}: {key} was a key of earlier versions, which tuned once. Now {instead}, and "
                "study.halving=3 stops poor trials early (1: none). "
                "In a file of your own: repetitions: 5, halving: 3."
            )
    missing = [key for key in keys if key not in given]
    if "own" in missing:
        missing.remove("own")
    if missing:
        raise UserError(f"{where}: {path} must say {', '.join(missing)}.")
    for key in map(str, given):
        if key not in keys:
            raise UserError(f"{where}: unknown key '{key}'.{nearest(key, keys)} Known: {', '.join(keys)}.")


def _methods(where: str, names: Any) -> tuple[str, ...]:
    """Each once, by its own name, and first the reference: the others are compared with it."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: methods must be a list of clipping types or module:Class, got {names!r}.")
    found: list[str] = []
    for name in [GRADIENT.reference, *names]:
        found.append(ALIASES.get(name) or name)
    return tuple(dict.fromkeys(found))


def _length(where: str, length: Any) -> float:
    if not is_number(length) or not 0 < length < float("inf"):
        raise UserError(
            f"{where}: length must be a number above 0, a share of the task's steps, got {length!r}."
        )
    return float(length)


def _own(where: str, given: Any) -> dict[str, dict[str, Axis]]:
    if not isinstance(given, dict):
        raise UserError(f"{where} must be a mapping of methods to spaces, got {given!r}.")
    found = {}
    for method, axes in given.items():
        known = hyperparameters(str(method))
        name = ALIASES.get(str(method), str(method))
        found[name] = _axes(f"{where}.{method}", axes, known)
    return found


def _axes(where: str, given: Any, known: set[str]) -> dict[str, Axis]:
    if not isinstance(given, Mapping):
        raise UserError(
            f"{where} must be a mapping of hyperparameters to their spaces, got {given!r}. {space.SHAPE}"
        )
    found = {}
    for name, axis in given.items():
        if name not in known:
            close = nearest(str(name), known)
            raise UserError(
                f"{where}.{name}: there is no such hyperparameter.{close} Known: {', '.join(sorted(known))}."
            )
        found[str(name)] = space.read_axis(f"{where}.{name}", axis)
    return found


def _whole_number(where: str, value: Any, least: int) -> int:
    if not is_whole(value, least):
        raise UserError(f"{where} must be a whole number of at least {least}, got {value!r}.")
    return int(value)
