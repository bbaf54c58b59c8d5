"""What a study is: a file of methods, budget, seeds and spaces, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipbench.errors import UserError, nearest
from clipbench.optim import ALIASES
from clipbench.optim.make import rule_named
from clipbench.record.rows import CLIP_KEYS
from clipbench.runs import config
from clipbench.studies import space
from clipbench.studies.space import Axis
from clipbench.sweeps.grid import expand

NUMBERS = CLIP_KEYS[1:]  # what a study draws besides the learning rate, for the types that use it


@dataclass(frozen=True)
class Study:
    """A file of conf/study, checked. `space`: axes by number; `own`: by method, what stands instead or besides."""

    name: str
    methods: tuple[str, ...]
    trials: int
    tuning_seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    length: float
    draws: int
    space: dict[str, Axis]
    own: dict[str, dict[str, Axis]] = field(default_factory=dict)

    def axes(self, method: str) -> dict[str, Axis]:
        """What is drawn for a method: the learning rate, and those of its numbers that there is a space for."""
        known = numbers(method)
        return {
            name: axis for name, axis in {**self.space, **self.own.get(method, {})}.items() if name in known
        }


def numbers(method: str) -> set[str]:
    """The learning rate and the fields of the method's rule. UserError where there is no such rule."""
    try:
        return {"lr", *(each.name for each in fields(rule_named(method)))}
    except ValueError as error:
        raise UserError(str(error)) from error


def read_study(words: Sequence[Override], config_dir: Path | None) -> tuple[Study, list[Override]]:
    """conf/study/NAME.yaml with what the words change in it; and the words that are on its runs.

    UserError for a name, key or value that a study does not have.
    """
    kinds: dict[str, list[Override]] = {"study": [], "changes": [], "types": [], "rest": []}
    for word in words:
        kind = {"study": "study", "optim.clipping_type": "types"}.get(word.key_or_group, "rest")
        kinds["changes" if word.key_or_group.startswith("study.") else kind].append(word)
    chosen, changes, types, rest = kinds.values()
    if several := [word.input_line for word in (*chosen, *changes) if word.is_sweep_override()]:
        raise UserError(
            f"{several[0]} has several values, and a study takes one. Lists stand in brackets: study.final_seeds=[0,1,2]"
        )
    path = _file(chosen[-1].value() if chosen else "quick", config_dir)
    methods = [word.split("=", 1)[1] for override in types for [word] in expand([str(override.input_line)])]
    config.make_importable(config_dir)
    try:
        content = OmegaConf.load(path)
        for override in changes:
            OmegaConf.update(
                content, override.key_or_group.removeprefix("study."), override.value(), merge=False
            )
        given = OmegaConf.to_container(content, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return _checked(path, given, methods), rest


def _file(name: Any, config_dir: Path | None) -> Path:
    known = config.options("study", config_dir)
    if name not in known:
        own = f"One of your own: --config-dir DIR with DIR/study/{name}.yaml."
        raise UserError(
            f"Unknown study '{name}'.{nearest(str(name), known)} Known: {', '.join(known)}. {own}"
        )
    return next(
        path
        for root in reversed(config.roots(config_dir))
        if (path := root / "study" / f"{name}.yaml").is_file()
    )


def _checked(path: Path, given: Any, methods: Sequence[str]) -> Study:
    """`methods` stand instead of the file's, where there are any."""
    where = f"Study '{path.stem}'"
    keys = [each.name for each in fields(Study) if each.name != "name"]
    if not isinstance(given, dict) or (missing := [key for key in keys if key not in given and key != "own"]):
        raise UserError(
            f"{where}: {path} must say {', '.join(missing if isinstance(given, dict) else keys)}."
        )
    if unknown := [str(key) for key in given if key not in keys]:
        raise UserError(
            f"{where}: unknown key '{unknown[0]}'.{nearest(unknown[0], keys)} Known: {', '.join(keys)}."
        )
    names = list(methods) or given["methods"]
    if not isinstance(names, list) or not all(isinstance(method, str) for method in names):
        raise UserError(f"{where}: methods must be a list of clipping types or module:Class, got {names!r}.")
    names = list(
        dict.fromkeys(["none", *(ALIASES.get(method, method) for method in names)])
    )  # the others are compared with none
    if not isinstance(given["space"], dict) or "lr" not in given["space"]:
        raise UserError(f"{where}: space must be a mapping with lr in it, got {given['space']!r}.")
    tuning, final = (_seeds(f"{where}: {key}", given[key]) for key in ("tuning_seeds", "final_seeds"))
    if both := sorted(set(tuning) & set(final)):
        raise UserError(f"{where}: the final seeds must be fresh, but {both[0]} is a tuning seed too.")
    length = given["length"]
    if isinstance(length, bool) or not isinstance(length, (int, float)) or not 0 < length < float("inf"):
        raise UserError(
            f"{where}: length must be a number above 0, a share of the task's steps, got {length!r}."
        )
    return Study(
        name=path.stem,
        methods=tuple(names),
        trials=_whole(f"{where}: trials", given["trials"], 1),
        tuning_seeds=tuning,
        final_seeds=final,
        length=float(length),
        draws=_whole(f"{where}: draws", given["draws"], 0),
        space=_axes(f"{where}: space", given["space"], {"lr", *NUMBERS}.union(*map(numbers, names))),
        own=_own(f"{where}: own", given.get("own") or {}),
    )


def _own(where: str, given: Any) -> dict[str, dict[str, Axis]]:
    if not isinstance(given, dict):
        raise UserError(f"{where} must be a mapping of methods to spaces, got {given!r}.")
    return {
        ALIASES.get(str(method), str(method)): _axes(f"{where}.{method}", axes, numbers(str(method)))
        for method, axes in given.items()
    }


def _axes(where: str, given: Any, known: set[str]) -> dict[str, Axis]:
    if not isinstance(given, dict):
        raise UserError(f"{where} must be a mapping of numbers to their spaces, got {given!r}. {space.SHAPE}")
    if unknown := [str(name) for name in given if name not in known]:
        raise UserError(
            f"{where}.{unknown[0]}: there is no such number.{nearest(unknown[0], known)} Known: {', '.join(sorted(known))}."
        )
    return {name: space.read_axis(f"{where}.{name}", axis) for name, axis in given.items()}


def _whole(where: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where} must be a whole number of at least {least}, got {value!r}.")
    return value


def _seeds(where: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or len(set(map(repr, given))) < len(given):
        raise UserError(f"{where} must be a list of different seeds, got {given!r}.")
    return tuple(_whole(where, seed, 0) for seed in given)
