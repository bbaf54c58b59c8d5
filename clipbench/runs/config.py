"""From the command line's overrides to settings: composed by Hydra, every wrong one answered with what is
known.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any

from hydra import compose, initialize_config_module, version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from clipbench.errors import UserError, nearest
from clipbench.runs.settings import Settings
from clipbench.runs.yaml_files import check_with_defaults, read_mapping

OPEN = "optim.clip."  # the one node whose keys a rule decides, not a file
EVERYWHERE = {"task.verify"}  # of any task, whether its file has it or not
INCLUDED = {"clipping", "keys"}  # by the files of a group: no choice of its own

LONGEST_SHOWN = 80  # characters of an override in a message

HYDRA = Lock()  # its compose API has one global state, whatever thread asks


@dataclass(frozen=True)
class Base:
    """What Hydra makes of the groups that some overrides choose, checked. `keys`: all that it knows.

    A copy of `pickled` costs a sixth of a deep copy, of which a large study needs thousands.
    """

    pickled: bytes
    keys: frozenset[str]


Composed = dict[tuple[str, ...], Base]
"""What was composed for the groups of some overrides: the points of a sweep mostly share it."""


def load(
    overrides: Sequence[str], config_dir: Path | None = None, composed: Composed | None = None
) -> Settings:
    """The settings of one run. UserError for anything that is not known or not allowed.

    `composed`: a dict that a sweep hands to every call, so that its points do not each compose the same
    groups.
    """
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line} has several values: `clipbench sweep` runs them all, "
                "`clipbench run` takes one."
            )
    make_importable(config_dir)
    names = group_names(config_dir)
    groups = [override for override in parsed if override.key_or_group in names]
    values = [override for override in parsed if override.key_or_group not in names]
    found = _composed(groups, config_dir, {} if composed is None else composed)
    base: DictConfig = pickle.loads(found.pickled)
    for override in values:
        _check_key(override, base, found.keys, config_dir)
    return Settings.from_config(_with_values(base, values))


def _composed(groups: Sequence[Override], config_dir: Path | None, composed: Composed) -> Base:
    lines = tuple(str(override.input_line) for override in groups)
    if lines not in composed:
        for override in groups:
            _check_choice(override, config_dir)
        _check_files(groups, config_dir)
        base = _compose(lines, config_dir)
        _check_groups(base, groups)
        _check_scale(base, config_dir)
        composed[lines] = Base(pickle.dumps(base), frozenset([*_leaves(base), *EVERYWHERE]))
    return composed[lines]


def _with_values(base: DictConfig, overrides: Sequence[Override]) -> dict[str, Any]:
    """The composed groups with the values of the other overrides.

    Not by Hydra: a folder `results` in --config-dir would be a group to it.
    """
    OmegaConf.set_struct(base, False)
    try:
        for override in overrides:
            OmegaConf.update(base, override.key_or_group, override.value(), merge=True)
        config = OmegaConf.to_container(base, resolve=True)
    except Exception as error:  # theirs, and what Python raises inside them: the input is at fault
        raise UserError(f"The configuration cannot be composed: {_in_one_line(error)}") from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def parse(overrides: Sequence[str]) -> list[Override]:
    """By Hydra's grammar. UserError for what is none of it, and for what no run or sweep could take."""
    return [_checked(text) for text in overrides]


def _checked(text: str) -> Override:
    try:
        override = _parsed(text)
    except (
        Exception
    ) as error:  # the grammar's own, and what Python raises: nested too deeply, too many digits
        raise UserError(_advice(text, error)) from error
    if not override.key_or_group:
        raise UserError(f"'{text}' has no key before the =. {HOW_TO_WRITE}")
    if override.package is not None:
        raise UserError(f"'{text}': an @ behind a key, where Hydra would put it, is not taken here.")
    if not override.is_sweep_override() and _holds_a_sweep(override.value()):
        raise UserError(f"'{text}': several values stand outside of brackets, as seed=range(3) or seed=0,1.")
    return override


HOW_TO_WRITE = "Write key=value, as in optim.clipping_level=0.5; `clipbench run --help` lists the keys."
FUNCTION_OR_BRACKETS = re.compile(r"[\[{'\"]|\w+\(.*\)$")


def _advice(text: str, error: Exception) -> str:
    """What is said of an override that cannot be read: quotes where they help."""
    shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    key, equals, value = text.partition("=")
    if equals and value and not FUNCTION_OR_BRACKETS.match(value):
        quoted = f"{key}='{value}'" if "'" not in value else f'{key}="{value}"'
        with suppress(Exception):
            _parsed(quoted)
            as_typed = shlex.quote(quoted) if set(quoted) & set('"$`!\\') else f'"{quoted}"'
            return (
                f"Cannot read '{shown}'. A value with =, blanks, brackets, ~ or letters beyond a to z is "
                f"quoted twice, for the shell and for us: {as_typed}"
            )
    evaluated = [line for line in str(error).splitlines() if " while evaluating " in line]
    reason = f" {evaluated[0]}." if evaluated else ""
    return f"Cannot read '{shown}'.{reason} {HOW_TO_WRITE}"


def _holds_a_sweep(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_a_sweep, value.values()))
    if isinstance(value, list):
        return any(map(_holds_a_sweep, value))
    return isinstance(value, (Sweep, Glob))


@lru_cache(4096)
def _parsed(text: str) -> Override:
    """The runs of a sweep repeat most of their overrides, and the grammar is slow."""
    [override] = OverridesParser.create().parse_overrides([text])
    return override


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def roots(config_dir: Path | None) -> list[Path]:
    """The folders that hold configuration groups: ours, then the user's."""
    ours = Path(str(files("clipbench.conf")))
    return [ours, Path(config_dir)] if config_dir else [ours]


def group_names(config_dir: Path | None) -> set[str]:
    """The folders in them that hold configuration files."""
    found = set()
    for root in roots(config_dir):
        for entry in root.iterdir():
            if entry.is_dir() and entry.name.isidentifier() and any(entry.glob("*.yaml")):
                found.add(entry.name)
    return found


def options(group: str, config_dir: Path | None) -> list[str]:
    """The names of a group's files."""
    found: set[str] = set()
    for root in roots(config_dir):
        found |= {path.stem for path in (root / group).glob("*.yaml") if path.exists()}
    return sorted(found - INCLUDED)


def find_file(group: str, name: str, config_dir: Path | None) -> Path:
    """The file of one of a group's `options`: the user's before ours."""
    for root in reversed(roots(config_dir)):
        path = root / group / f"{name}.yaml"
        if path.exists():
            return path
    raise FileNotFoundError(f"{group}/{name}.yaml")


def make_importable(config_dir: Path | None) -> None:
    """A user's own task or rule is imported from the current folder or from `config_dir`: a console script
    sees neither by itself.
    """
    folders = [os.getcwd()]
    if config_dir:
        if not config_dir.is_dir():
            raise UserError(
                f"--config-dir {config_dir} is not a folder. It must hold task/<name>.yaml and the like."
            )
        folders.insert(0, str(config_dir.resolve()))
    for folder in folders:
        if folder not in sys.path:
            sys.path.insert(0, folder)


@contextmanager
def our_hydra() -> Iterator[None]:
    """Within, Hydra composes our configuration, for one thread at a time. A program that uses Hydra itself
    finds it afterwards as it was.
    """
    with HYDRA:
        state, base = GlobalHydra.instance(), version.getbase()
        theirs = state.hydra
        state.clear()
        try:
            with initialize_config_module("clipbench.conf", version_base="1.3"):
                yield
        finally:
            GlobalHydra.set_instance(state)
            state.hydra = theirs
            if isinstance(base, version.Version):  # else nobody has composed anything before
                version.VersionBase.instance().setbase(base)


def _compose(groups: Sequence[str], config_dir: Path | None) -> DictConfig:
    search = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    try:
        with our_hydra():
            return compose("run", overrides=[*search, *groups])
    except MissingConfigException as error:
        raise UserError(" ".join(str(error).split())) from error
    except Exception as error:  # theirs, and what Python raises inside them: the files are at fault
        cause = error.__cause__ or error
        raise UserError(f"The configuration cannot be composed: {_in_one_line(cause)}") from error


def _check_files(groups: Sequence[Override], config_dir: Path | None) -> None:
    """UserError for a file of the user's that is to be composed and is no configuration."""
    if config_dir is None:
        return
    own = Path(config_dir)

    def find(group: str, name: str) -> Path | None:
        path = own / group / f"{name}.yaml"
        return path if path.exists() else None

    chosen = {"task": "cola", "optim": "adamw", "scale": "mini", "transform": "none"}
    for override in groups:
        chosen[override.key_or_group] = str(override.value())
    chosen["task_scale"] = f"{chosen['task']}_{chosen['scale']}"
    seen: set[Path] = set()
    for group, name in chosen.items():
        check_with_defaults(group, name, find, seen)


def _check_choice(override: Override, config_dir: Path | None) -> None:
    group, choice = override.key_or_group, override.value()
    if group == "study":
        line = override.input_line
        raise UserError(f"{line}: a study is many runs. Make it with clipbench study {line} …")
    if group == "task_scale":
        raise UserError(f"{override.input_line}: task and scale choose it. Write scale=NAME instead.")
    known = options(group, config_dir)
    if choice not in known:
        message = f"Unknown {group} '{choice}'.{nearest(str(choice), known)} Known: {', '.join(known)}."
        if group == "task":
            message += f" One of your own: --config-dir DIR with DIR/{group}/{choice}.yaml."
        raise UserError(message)


def _check_groups(config: DictConfig, groups: Sequence[Override]) -> None:
    """UserError for files of the user's that leave out what every task, optimizer and scale must say."""
    chosen = {override.key_or_group: str(override.value()) for override in groups}
    for group, examples in NEEDED.items():
        place = f"{group}={chosen[group]}" if group in chosen else group
        for key, example in examples.items():
            name = key.rpartition(".")[2]
            if OmegaConf.select(config, key, throw_on_missing=False) is None:
                file = f"{group}/{chosen.get(group, 'NAME')}.yaml"
                value = example if name == "_target_" else chosen.get(group, example)
                raise UserError(f"{place}: its file has no `{name}`. Write into {file}, as {name}: {value}")


CHOSEN = ("transform.name", "transform._target_")
OWN_TRANSFORM = "One of your own is a file transform/NAME.yaml in --config-dir."

NEEDED = {
    "task": {"task.name": "line", "task._target_": "my_module.Line"},
    "optim": {"optim.name": "mine", "optim._target_": "torch.optim.SGD"},
    "scale": {"scale": "mini"},
    "transform": {"transform.name": "mine"},
}
"""What the files of a group must say, with an example."""


def _check_scale(config: DictConfig, config_dir: Path | None) -> None:
    name, scale = config.task.get("name"), config.scale
    if scale != "mini" and f"{name}_{scale}" not in options("task_scale", config_dir):
        raise UserError(
            f"Task '{name}' has no scale '{scale}'. Write task_scale/{name}_{scale}.yaml in your "
            "--config-dir, or leave scale out."
        )


def _check_key(
    override: Override, config: DictConfig, known: frozenset[str], config_dir: Path | None
) -> None:
    key, line = override.key_or_group, override.input_line
    if key.startswith(OPEN) and not override.is_delete():
        return
    if key not in known and OmegaConf.select(config, key) is None:
        hint = _elsewhere(key, config, config_dir) or nearest(key, known)
        raise UserError(f"Unknown key '{key}'.{hint} `clipbench run --help` lists them all.")
    if key in CHOSEN:
        raise UserError(f"'{line}': a transform is chosen by its name, transform=round. {OWN_TRANSFORM}")
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(f"'{line}': keys are neither added nor deleted here. Write {key}=VALUE.")


def _elsewhere(key: str, config: DictConfig, config_dir: Path | None) -> str:
    """Where a key of a task would be known."""
    for scale in options("scale", config_dir):
        for root in roots(config_dir):
            path = root / "task_scale" / f"{config.task.get('name')}_{scale}.yaml"
            if path.is_file() and key in _leaves(OmegaConf.create(read_mapping(path))):
                return f" It is known at scale={scale}."
    return ""


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key, inner nodes included."""
    for key in node:
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _leaves(child, f"{prefix}{key}.")
