"""What a sweep is: a list of override lists, written in Hydra's syntax or as the arms of an experiment file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from clipbench.errors import UserError, nearest
from clipbench.optim import RULES
from clipbench.runs import config
from clipbench.runs.plan import Plan, make_plan
from clipbench.runs.settings import MACHINE

DEFAULT_GRID = (f"optim.clipping_type={','.join(RULES)}", "seed=0,1")


def make_plans(overrides: Sequence[str], config_dir: Path | None = None) -> list[Plan]:
    """Every point, once: points that differ only in what they ignore are one run. All core types where nothing is swept."""
    plans: dict[str, Plan] = {}
    composed: dict[tuple[str, ...], Any] = {}
    for point in points(overrides, config_dir):
        plan = make_plan(point, config_dir, composed)
        plans.setdefault(plan.run, plan)
        first = next(iter(plans.values())).settings
        for name in MACHINE:
            if (value := getattr(plan.settings, name)) != getattr(first, name):
                raise UserError(
                    f"{name} must be the same for all runs of a sweep, got {getattr(first, name)} and {value}."
                )
    return list(plans.values())


def split_launcher(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words on the runs; and those on the engine that is to make them, hydra/launcher=NAME and hydra.launcher.KEY=VALUE."""
    words: tuple[list[str], list[str]] = ([], [])
    for override in config.parse(overrides):
        key = override.key_or_group
        words[key == "hydra/launcher" or key.startswith("hydra.launcher.")].append(str(override.input_line))
    return words


def points(overrides: Sequence[str], config_dir: Path | None = None) -> list[list[str]]:
    """The override lists of the runs. A sweep's runs get one thread each unless `threads` is given, so that cores serve runs."""
    parsed = config.parse(overrides)
    names = [override.value() for override in parsed if override.key_or_group == "experiment"]
    words = [str(override.input_line) for override in parsed if override.key_or_group != "experiment"]
    if any(not isinstance(name, str) for name in names):
        raise UserError(
            "experiment takes one name. Several experiments are several sweeps into the same results folder."
        )
    scales = [
        scale
        for override in parsed
        if override.key_or_group == "scale"
        for [scale] in expand([str(override.input_line)])
    ] or [""]
    if not names and not any(override.is_sweep_override() for override in parsed):
        words += [
            axis
            for axis in DEFAULT_GRID
            if axis.split("=")[0] not in {override.key_or_group for override in parsed}
        ]
    found = []
    for scale in scales:
        arms = [arm for name in names for arm in experiment(name, config_dir, scale == "scale=full")] or [[]]
        found += [
            point
            for arm in arms
            for point in expand(later_wins(["threads=1", *arm, *words, *[scale] * bool(scale)]))
        ]
    return found


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Hydra's sweep syntax (a,b · range(5) · choice(…) · glob) as the list of its points: one list of overrides each."""
    axes = []
    for override in config.parse(overrides):
        line = str(override.input_line)
        if override.is_sweep_override():
            values = (
                value.replace("\\:", ":") for value in override.sweep_string_iterator()
            )  # escaped without need
            axes.append([f"{line.split('=', 1)[0]}={value}" for value in values])
        else:
            axes.append([line])
    return [list(point) for point in product(*axes)]


def experiment(name: Any, config_dir: Path | None = None, full: bool = False) -> list[list[str]]:
    """The arms of conf/experiment/<name>.yaml, each after the words that all share, or that all share at scale=full.

    all: [task=cola, schedule=constant]
    full: [steps=220]
    arms:
      - [optim=sgd, optim.clipping_type=norm, "optim.clipping_level=0.5,1,2"]
      - [optim=adam, optim.lr=5e-5]
    """
    known = config.options("experiment", config_dir)
    if name not in known:
        raise UserError(
            f"Unknown experiment '{name}'.{nearest(name, known)} Known: {', '.join(known) or 'none'}. "
            f"One of your own: --config-dir DIR with DIR/experiment/{name}.yaml."
        )
    path = next(
        path
        for root in reversed(config.roots(config_dir))
        if (path := root / "experiment" / f"{name}.yaml").is_file()
    )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    shape = "It takes `arms:`, a list of lists of overrides as on the command line; `all:`, a list of those that all arms share; "
    shape += "`full:`, likewise at scale=full."
    if not isinstance(content, dict) or set(content) - {"all", "full", "arms"} or not content.get("arms"):
        raise UserError(f"{path}: {shape}")
    shared, more, arms = content.get("all") or [], content.get("full") or [], content["arms"]
    if not all(_is_words(words) for words in ([shared, more, *arms] if isinstance(arms, list) else [None])):
        raise UserError(f"{path}: {shape}")
    return [later_wins([*shared, *(more if full else []), *arm]) for arm in arms]


def _is_words(words: Any) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def later_wins(overrides: Sequence[str]) -> list[str]:
    """Without the words that a later one for the same key replaces: an arm's own for the shared, the command line's for the arm's."""
    last = {override.key_or_group: str(override.input_line) for override in config.parse(overrides)}
    return list(last.values())
