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

from clipbench import config, space
from clipbench.errors import UserError, nearest
from clipbench.grid import expand
from clipbench.optim import ALIASES, RULES
from clipbench.space import Axis


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


def read_study(words: Sequence[Override], config_dir: Path | None) -> tuple[Study, list[Override]]:
    """conf/study/NAME.yaml with what the words change in it; and the words that are on its runs.

    UserError for a name, key or value that a study does not have.
    """
    kinds: dict[str, list[Override]] = {"study": [], "numbers": [], "types": [], "rest": []}
    for word in words:
        kind = {"study": "study", "optim.clipping_type": "types"}.get(word.key_or_group, "rest")
        kinds["numbers" if word.key_or_group.startswith("study.") else kind].append(word)
    chosen, numbers, types, rest = kinds.values()
    if several := [word.input_line for word in (*chosen, *numbers) if word.is_sweep_override()]:
        raise UserError(f"{several[0]} has several values, and a study takes one. Lists stand in brackets: study.final_seeds=[0,1,2]")
    path = _file(chosen[-1].value() if chosen else "quick", config_dir)
    methods = [word.split("=", 1)[1] for override in types for [word] in expand([str(override.input_line)])]
    try:
        content = OmegaConf.load(path)
        for override in numbers:
            OmegaConf.update(content, override.key_or_group.removeprefix("study."), override.value(), merge=False)
        given = OmegaConf.to_container(content, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return _checked(path, given, methods), rest


def _file(name: Any, config_dir: Path | None) -> Path:
    known = config.options("study", config_dir)
    if name not in known:
        own = f"One of your own: --config-dir DIR with DIR/study/{name}.yaml."
        raise UserError(f"Unknown study '{name}'.{nearest(str(name), known)} Known: {', '.join(known)}. {own}")
    return next(path for root in reversed(config.roots(config_dir)) if (path := root / "study" / f"{name}.yaml").is_file())


def _checked(path: Path, given: Any, methods: Sequence[str]) -> Study:
    """`methods` stand instead of the file's, where there are any."""
    where = f"Study '{path.stem}'"
    keys = [each.name for each in fields(Study) if each.name != "name"]
    if not isinstance(given, dict) or (missing := [key for key in keys if key not in given and key != "own"]):
        raise UserError(f"{where}: {path} must say {', '.join(missing if isinstance(given, dict) else keys)}.")
    if unknown := [str(key) for key in given if key not in keys]:
        raise UserError(f"{where}: unknown key '{unknown[0]}'.{nearest(unknown[0], keys)} Known: {', '.join(keys)}.")
    names = list(methods) or given["methods"]
    if not isinstance(names, list) or not all(isinstance(method, str) for method in names):
        raise UserError(f"{where}: methods must be a list of clipping types or module:Class, got {names!r}.")
    spaces, own = given["space"], given.get("own") or {}
    if not isinstance(spaces, dict) or "lr" not in spaces or not isinstance(own, dict):
        raise UserError(f"{where}: space must be a mapping with lr in it and own one of methods, got {spaces!r} and {own!r}.")
    for method in own:
        if method not in (RULES.keys() | set(names)):
            raise UserError(f"{where}: own.{method} is the space of no method.{nearest(str(method), {*RULES, *names})}")
    tuning, final = (_seeds(f"{where}: {key}", given[key]) for key in ("tuning_seeds", "final_seeds"))
    if both := sorted(set(tuning) & set(final)):
        raise UserError(f"{where}: the final seeds must be fresh, but {both[0]} is a tuning seed too.")
    length = given["length"]
    if isinstance(length, bool) or not isinstance(length, (int, float)) or not 0 < length < float("inf"):
        raise UserError(f"{where}: length must be a number above 0, a share of the task's steps, got {length!r}.")
    return Study(
        name=path.stem,
        # none is what the others are compared with
        methods=tuple(dict.fromkeys(["none", *(ALIASES.get(method, method) for method in names)])),
        trials=_whole(f"{where}: trials", given["trials"], 1),
        tuning_seeds=tuning,
        final_seeds=final,
        length=float(length),
        draws=_whole(f"{where}: draws", given["draws"], 0),
        space={key: space.read_axis(f"{where}: space.{key}", value) for key, value in spaces.items()},
        own={
            method: {key: space.read_axis(f"{where}: own.{method}.{key}", value) for key, value in axes.items()}
            for method, axes in own.items()
        },
    )


def _whole(where: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where} must be a whole number of at least {least}, got {value!r}.")
    return value


def _seeds(where: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or len(set(map(repr, given))) < len(given):
        raise UserError(f"{where} must be a list of different seeds, got {given!r}.")
    return tuple(_whole(where, seed, 0) for seed in given)
