"""From the command line's words to settings: composed by Hydra, every wrong word answered with what is known, and the run's identity."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipbench.errors import UserError, nearest

RESULTS_VERSION = 1
"""Part of every run's identity: raise it when a change to clipbench changes what the same settings give."""

CHOICES = {"schedule": ("constant", "cosine", "linear"), "precision": ("fp32", "bf16")}
ROLES = ("tune", "final", "default")
OPTIONAL = ("channels_last", "compile")  # part of a run's identity where they are on
MACHINE = ("device", "threads", "results", "checkpoint_every", "sweep")  # where and how fast, not what
OPEN = "optim.clip."  # the one node whose keys a rule decides, not a file


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, checked. `task` and `optim` hold their groups' keys; null has become None, numbers are numbers."""

    task: dict[str, Any]
    optim: dict[str, Any]
    scale: str
    seed: int
    steps: int
    eval_every: int
    batch_size: int
    schedule: str
    warmup: int
    max_loss: float
    precision: str
    channels_last: bool
    compile: bool
    tag: dict[str, Any]
    device: str
    threads: int
    results: str
    checkpoint_every: str | int
    sweep: dict[str, Any]
    restart: dict[str, Any]

    def __post_init__(self) -> None:
        for name, least in {
            "seed": 0,
            "steps": 1,
            "eval_every": 1,
            "batch_size": 1,
            "warmup": 0,
            "threads": 1,
        }.items():
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not value % 1 == 0
                or value < least
            ):
                raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}.")
            object.__setattr__(self, name, int(value))
        for name in OPTIONAL:
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(
                    f"{name} must be one of {', '.join(allowed)}, got {value!r}.{nearest(str(value), allowed)}"
                )
        for name, value in {"max_loss": self.max_loss, "optim.lr": self.optim.get("lr")}.items():
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0
            ):
                raise UserError(f"{name} must be a number above 0, got {value!r}.")
        if not isinstance(self.results, str) or not self.results:
            raise UserError(f"results must be a folder, got {self.results!r}.")
        _check_tag(self.tag)
        interval(self.checkpoint_every)
        self._check_restart()
        lockstep, workers = self.sweep["lockstep"], self.sweep["workers_per_device"]
        if not (isinstance(lockstep, bool) or (isinstance(lockstep, int) and lockstep > 0)):
            raise UserError(
                f"sweep.lockstep must be true, false or the most runs to train side by side, got {lockstep!r}."
            )
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise UserError(
                f"sweep.workers_per_device must be null or a whole number of at least 1, got {workers!r}."
            )

    def _check_restart(self) -> None:
        for name in ("first", "max"):
            value = self.restart[name]
            if (isinstance(value, bool) or not isinstance(value, int) or value < 1) and not (
                name == "first" and value is None
            ):
                null = "null (no restarts) or " if name == "first" else ""
                raise UserError(
                    f"restart.{name} must be {null}a whole number of steps of at least 1, got {value!r}."
                )
        coeff = self.restart["coeff"]
        if isinstance(coeff, bool) or not isinstance(coeff, (int, float)) or not 1 <= coeff < math.inf:
            raise UserError(
                f"restart.coeff must be a number of at least 1, got {coeff!r}: stretches between restarts do not shrink."
            )

    def as_json(self) -> str:
        """Every setting as strict JSON: a number that is not finite is text there, "inf"."""
        return json.dumps(_textual(asdict(self)), sort_keys=True)


def _check_tag(tag: dict[str, Any]) -> None:
    """A run of a study says which, in what role and for which method; a run of no study says none of it."""
    names, role, trial = (tag["study"], tag["role"], tag["method"]), tag["role"], tag["trial"]
    if any(value is not None for value in (*names, trial)) and not all(
        isinstance(value, str) and value for value in names
    ):
        raise UserError(
            f"tag.study, tag.role and tag.method are texts that go together, got {tag}. `clipbench study` sets them."
        )
    if role is not None and role not in ROLES:
        raise UserError(f"tag.role must be one of {', '.join(ROLES)}, got {role!r}.{nearest(role, ROLES)}")
    if isinstance(trial, bool) or not (trial is None or (isinstance(trial, int) and trial >= 0)):
        raise UserError(f"tag.trial must be null or a whole number of at least 0, got {trial!r}.")


def interval(value: Any) -> tuple[str, float]:
    """ "5min" → ("seconds", 300); 500 → ("steps", 500)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return "steps", float(value)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", value) if isinstance(value, str) else None
    if not found or not float(found[1]):
        raise UserError(
            f"checkpoint_every must be a time as 30s, 5min or 1h, or a number of steps of at least 1, got {value!r}."
        )
    return "seconds", float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def load(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    composed: dict[tuple[str, ...], DictConfig] | None = None,
) -> Settings:
    """The settings of one run. UserError for anything that is not known or not allowed.

    `composed`: a dict that a sweep hands to every call, so that its points do not each compose the same groups.
    """
    parsed = parse(overrides)
    if sweeping := [o.input_line for o in parsed if o.is_sweep_override()]:
        raise UserError(
            f"{sweeping[0]} has several values: `clipbench sweep` runs them all, `clipbench run` takes one."
        )
    make_importable(config_dir)
    composed = {} if composed is None else composed
    names = group_names(config_dir)
    groups = [o for o in parsed if o.key_or_group in names]
    lines = tuple(str(o.input_line) for o in groups)
    if lines not in composed:
        for override in groups:
            _check_choice(override, config_dir)
        composed[lines] = _compose(lines, config_dir)
    base = copy.deepcopy(composed[lines])
    _check_scale(base, config_dir)
    values, known = [override for override in parsed if override not in groups], set(_leaves(base))
    for override in values:
        _check_key(override, base, known, config_dir)
    config = _with_values(base, values)
    return Settings(**{field.name: config[field.name] for field in fields(Settings)})


def _with_values(base: DictConfig, overrides: Sequence[Override]) -> dict[str, Any]:
    """The composed groups with the values of the other words. Not by Hydra: a folder `results` in --config-dir would be a group to it."""
    OmegaConf.set_struct(base, False)
    try:
        for override in overrides:
            OmegaConf.update(base, override.key_or_group, override.value(), merge=True)
        config = OmegaConf.to_container(base, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"The configuration cannot be composed: {' '.join(str(error).split())}") from error
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return [_parsed(word) for word in overrides]
    except OverrideParseException as error:
        raise UserError(
            f"Cannot read '{error.override}'. Write key=value, as in optim.clipping_level=0.5; `clipbench run --help` lists the keys."
        ) from error


@lru_cache(4096)
def _parsed(word: str) -> Override:
    """The runs of a sweep repeat most of their words, and the grammar is slow."""
    [override] = OverridesParser.create().parse_overrides([word])
    return override


def roots(config_dir: Path | None) -> list[Path]:
    """The folders that hold configuration groups: ours, then the user's."""
    return [Path(str(files("clipbench.conf"))), *([Path(config_dir)] if config_dir else [])]


def group_names(config_dir: Path | None) -> set[str]:
    return {
        entry.name
        for root in roots(config_dir)
        for entry in root.iterdir()
        if entry.is_dir() and entry.name.isidentifier() and any(entry.glob("*.yaml"))
    }


def options(group: str, config_dir: Path | None) -> list[str]:
    return sorted(
        {path.stem for root in roots(config_dir) for path in (root / group).glob("*.yaml")} - {"clipping"}
    )


def make_importable(config_dir: Path | None) -> None:
    """A user's own task or rule is imported from the current folder or from `config_dir`; a console script sees neither by itself."""
    if config_dir and not config_dir.is_dir():
        raise UserError(
            f"--config-dir {config_dir} is not a folder. It must hold task/<name>.yaml and the like."
        )
    for folder in (str(config_dir.resolve()) if config_dir else None, os.getcwd()):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)


def _compose(groups: Sequence[str], config_dir: Path | None) -> DictConfig:
    search = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    try:
        with initialize_config_module("clipbench.conf", version_base="1.3"):
            return compose("run", overrides=[*search, *groups])
    except MissingConfigException as error:
        raise UserError(" ".join(str(error).split())) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise UserError(f"The configuration cannot be composed: {' '.join(str(cause).split())}") from error


def _check_choice(override: Override, config_dir: Path | None) -> None:
    group, choice, known = override.key_or_group, override.value(), options(override.key_or_group, config_dir)
    if group == "study":
        raise UserError(
            f"{override.input_line}: a study is many runs. Make it with clipbench study {override.input_line} …"
        )
    if choice not in known:
        own = f" One of your own: --config-dir DIR with DIR/{group}/{choice}.yaml." if group == "task" else ""
        raise UserError(
            f"Unknown {group} '{choice}'.{nearest(str(choice), known)} Known: {', '.join(known)}.{own}"
        )


def _check_scale(config: DictConfig, config_dir: Path | None) -> None:
    name, scale = config.task.get("name"), config.scale
    if scale != "mini" and f"{name}_{scale}" not in options("task_scale", config_dir):
        raise UserError(
            f"Task '{name}' has no scale '{scale}'. Write task_scale/{name}_{scale}.yaml in your --config-dir, or leave scale out."
        )


def _check_key(override: Override, config: DictConfig, known: set[str], config_dir: Path | None) -> None:
    key, line = override.key_or_group, override.input_line
    if key.startswith(OPEN) and not override.is_delete():
        return
    if key not in known and OmegaConf.select(config, key) is None:
        raise UserError(
            f"Unknown key '{key}'.{_elsewhere(key, config, config_dir) or nearest(key, known)} `clipbench run --help` lists them all."
        )
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(f"'{line}': keys are neither added nor deleted here. Write {key}=VALUE.")


def _elsewhere(key: str, config: DictConfig, config_dir: Path | None) -> str:
    """Where a key of a task would be known."""
    for scale in options("scale", config_dir):
        for root in roots(config_dir):
            path = root / "task_scale" / f"{config.task.get('name')}_{scale}.yaml"
            if path.is_file() and key in _leaves(OmegaConf.load(path)):
                return f" It is known at scale={scale}."
    return ""


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key, inner nodes included."""
    for key in node:
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _leaves(child, f"{prefix}{key}.")


def identity(settings: Settings, rule: Any, sources: Sequence[Path], clips_by_itself: bool = False) -> str:
    """The run's id: a letter and a hash of what defines its result, the same on any machine.

    In: the rule with the fields it uses, the optimizer's and the task's settings, the text of `sources` (a user's own task or rule).
    Out: device, threads, worker processes, folders, the tag of a run of no study, and patterns where neither the rule nor the optimizer
    clips; a file or folder among the task's settings counts by what it holds.
    """
    task = {
        key: fingerprint(value)
        for key, value in settings.task.items()
        if key not in ("name", "lr", "device", "workers")
    }
    clip_keys = ["name", "clipping_type", "clipping_level", "p_autoclip", "beta", "clip"]
    clip_keys += [] if rule.clips or clips_by_itself else ["clip_exempt", "clip_levels"]
    optim = {
        key: value for key, value in settings.optim.items() if key not in clip_keys and value is not None
    }
    off = [name for name in OPTIONAL if not getattr(settings, name)] + (
        [] if settings.restart["first"] else ["restart"]
    )
    rest = {
        key: value
        for key, value in asdict(settings).items()
        if key not in ("task", "optim", "tag", *MACHINE, *off)
    }
    defined = {
        "version": RESULTS_VERSION,
        "task": task,
        "optim": optim,
        "rule": {"name": type(rule).__qualname__, **asdict(rule)},
        "sources": [path.read_text() for path in sources],
        **rest,
        **({"tag": settings.tag} if settings.tag["study"] else {}),
    }
    text = json.dumps(_canonical(defined), sort_keys=True)
    return "r" + hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(value: Any, entries: int = 2000) -> Any:
    """A setting as it is, but an existing file or folder as a hash of the names and sizes in it, level by level, up to `entries`.

    What loaders write beside the data (PyG's `processed`, hidden files) does not count: a run must not change its own id.
    """
    if not isinstance(value, str) or not os.path.exists(os.path.expanduser(value)):
        return value
    root = Path(value).expanduser()
    found: list[Any] = [root.stat().st_size] if root.is_file() else []
    level = [root] if root.is_dir() else []
    while level and len(found) < entries:
        children = [
            child
            for folder in level
            for child in sorted(folder.iterdir())
            if child.name != "processed" and child.name[0] != "."
        ]
        for child in children[: entries - len(found)]:
            found.append(
                (child.relative_to(root).as_posix(), child.stat().st_size if child.is_file() else None)
            )
        level = [child for child in children if child.is_dir()]
    return f"content {hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]}"


def _canonical(value: Any) -> Any:
    """1 and 1.0 are the same, True is not."""
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return repr(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _textual(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _textual(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_textual(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
