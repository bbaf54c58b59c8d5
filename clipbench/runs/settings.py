"""Everything that can be set for a run, typed and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from clipbench.errors import UserError, nearest
from clipbench.task.spikes import KINDS

CHOICES = {"schedule": ("constant", "cosine", "linear"), "precision": ("fp32", "bf16", "int4", "fp4")}
FOUR_BITS = ("int4", "fp4")
ROLES = ("tune", "final", "default")
SWITCHES = ("channels_last", "compile")
WHOLE_NUMBERS = {
    "seed": 0,
    "steps": 1,
    "eval_every": 1,
    "batch_size": 1,
    "accumulate": 1,
    "warmup": 0,
    "threads": 1,
}
"""Settings that count something, with the least that each may be."""

MOST_THREADS = 1024

LARGEST = 2**63 - 1
"""The largest whole number that the tables hold."""

LONGEST_NAME = 100
"""Characters of a name: it is part of the names of figures."""

MACHINE = ("device", "threads", "results", "checkpoint_every", "sweep", "keep", "max_time")
"""Where and how fast a run is made, and what is kept of it: not what it is."""


@dataclass(frozen=True)
class TaskSettings:
    """Keys of `task`. `target`: the class; `lr`: learning rates by optimizer; `verify`: whether to read data
    again that are remembered; `keywords`: what the class is called with.
    """

    name: str
    target: str
    lr: Mapping[str, float]
    keywords: Mapping[str, Any]
    verify: bool = False

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> TaskSettings:
        own = ("name", "_target_", "lr", "verify")
        keywords = {key: value for key, value in node.items() if key not in own}
        return cls(node["name"], node["_target_"], node.get("lr") or {}, keywords, node.get("verify", False))

    def __post_init__(self) -> None:
        check_name("task.name", self.name)
        _check_path("task._target_", self.target)
        if "batch_size" in self.keywords:
            _counted("task.batch_size", self.keywords["batch_size"], 1)
        if not isinstance(self.lr, Mapping):
            raise UserError(
                "task.lr must be a mapping of optimizers to learning rates, as task.lr={adamw: 1e-3}, "
                f"got {self.lr!r}. One learning rate for this run: optim.lr=VALUE."
            )

    @property
    def module(self) -> str:
        return self.target.rpartition(".")[0]


@dataclass(frozen=True)
class OptimSettings:
    """Keys of `optim`. `target`: the optimizer's class, called with `keywords`; the rest says how its
    gradients are clipped.
    """

    name: str
    target: str
    keywords: Mapping[str, Any]  # the learning rate among them; None is left to the class
    clipping_type: str
    clipping_level: float | None
    p_autoclip: float | None
    beta: float | None
    clip: Mapping[str, Any]
    clip_exempt: list[str] | None
    clip_levels: Mapping[str, float] | None
    nonfinite: str

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> OptimSettings:
        own = {field.name for field in fields(cls)}
        named: dict[str, Any] = {}
        keywords: dict[str, Any] = {}
        for key, value in node.items():
            if key in own:
                named[key] = value
            elif key != "_target_":
                keywords[key] = value
        lacking = [field.name for field in fields(cls) if field.name not in ("target", "keywords", *named)]
        if lacking:
            raise UserError(
                f"optim={named.get('name')}: its file says nothing of {', '.join(lacking)}. "
                "Begin it with defaults: [clipping, _self_]"
            )
        if named["clip"] is None:
            named["clip"] = {}
        return cls(target=node["_target_"], keywords=keywords, **named)

    def __post_init__(self) -> None:
        check_name("optim.name", self.name)
        _check_path("optim._target_", self.target)
        if not isinstance(self.clip, Mapping):
            raise UserError(
                "optim.clip must be null or a mapping of a clipping type's further settings, got "
                f"{self.clip!r}. Set one by its name: optim.clip.window=100"
            )
        for name in self.clip:
            if not isinstance(name, str):
                raise UserError(f"optim.clip: a setting's name is a text, got {name!r}.")

    @property
    def lr(self) -> float | None:
        """The learning rate; None for the class's default."""
        return self.keywords.get("lr")

    @property
    def rule_settings(self) -> dict[str, Any]:
        """What a rule may be made with, whatever its type: the shared settings and those in `clip`."""
        shared = {"clipping_level": self.clipping_level, "p_autoclip": self.p_autoclip, "beta": self.beta}
        return {**shared, **self.clip}


@dataclass(frozen=True)
class TransformSettings:
    """Keys of `transform`. `target`: the class, None where the model stays as it was trained; `keywords`:
    what a class may be called with, whatever is chosen.
    """

    name: str
    target: str | None
    keywords: Mapping[str, Any]

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> TransformSettings:
        keywords = {key: value for key, value in node.items() if key not in ("name", "_target_")}
        return cls(node["name"], node.get("_target_"), keywords)

    def __post_init__(self) -> None:
        check_name("transform.name", self.name)
        if self.target is not None:
            _check_path("transform._target_", self.target)


@dataclass(frozen=True)
class TagSettings:
    """A run of a study says which, in what role and for which method; a run of no study says none of it."""

    study: str | None
    role: str | None
    method: str | None
    trial: int | None
    repetition: int | None

    def __post_init__(self) -> None:
        names = (self.study, self.role, self.method)
        for key in ("study", "method"):
            if getattr(self, key) is not None:
                check_name(f"tag.{key}", getattr(self, key))
        given = [value for value in (*names, self.trial, self.repetition) if value is not None]
        if given and not all(isinstance(value, str) and value for value in names):
            raise UserError(
                f"tag.study, tag.role and tag.method are texts that go together, got {asdict(self)}. "
                "`clipbench study` sets them."
            )
        if self.role is not None and self.role not in ROLES:
            close = nearest(self.role, ROLES)
            raise UserError(f"tag.role must be one of {', '.join(ROLES)}, got {self.role!r}.{close}")
        for key in ("trial", "repetition"):
            value = getattr(self, key)
            if value is not None and not is_whole(value, 0):
                raise UserError(f"tag.{key} must be null or a whole number of at least 0, got {value!r}.")


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep makes its runs. `lockstep`: whether side by side, or the most that are."""

    lockstep: bool | int
    workers_per_device: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.lockstep, bool) and not is_whole(self.lockstep, 1):
            raise UserError(
                "sweep.lockstep must be true, false or the most runs to train side by side, "
                f"got {self.lockstep!r}."
            )
        workers = self.workers_per_device
        if workers is not None and not is_whole(workers, 1):
            raise UserError(
                f"sweep.workers_per_device must be null or a whole number of at least 1, got {workers!r}."
            )

    def most_side_by_side(self, runs: int) -> int:
        """How many of `runs` runs train side by side, at most: all of them, 1, or the number given."""
        if isinstance(self.lockstep, bool):
            return runs if self.lockstep else 1
        return self.lockstep


@dataclass(frozen=True)
class RestartSettings:
    """Restarts at the mean of the weights (optim/restart.py); none where `first` is None."""

    first: int | None
    coeff: float
    max: int

    def __post_init__(self) -> None:
        if self.first is not None and not is_whole(self.first, 1):
            raise UserError(
                "restart.first must be null (no restarts) or a whole number of steps of at least 1, "
                f"got {self.first!r}."
            )
        if not is_whole(self.max, 1):
            raise UserError(f"restart.max must be a whole number of steps of at least 1, got {self.max!r}.")
        if not is_number(self.coeff) or not 1 <= self.coeff < math.inf:
            raise UserError(
                f"restart.coeff must be a number of at least 1, got {self.coeff!r}: "
                "stretches between restarts do not shrink."
            )


@dataclass(frozen=True)
class SpikeSettings:
    """Bad batches (task/spikes.py): at the steps `at`, none where it is empty."""

    at: Sequence[int]
    kind: str
    size: float

    def __post_init__(self) -> None:
        if not isinstance(self.at, list) or not all(is_whole(step, 1) for step in self.at):
            raise UserError(
                f"spike.at must be a list of steps from 1 on, as spike.at=[100,300], got {self.at!r}."
            )
        if len(set(self.at)) < len(self.at):
            raise UserError(f"spike.at={self.at} names a step twice.")
        _check_choice("spike.kind", self.kind, KINDS)
        if not is_number(self.size) or not 0 < self.size < math.inf:
            raise UserError(f"spike.size must be a number above 0, got {self.size!r}.")
        if self.kind != "inputs" and self.size > 1:
            raise UserError(
                f"spike.size is the share of a batch's examples with spike.kind={self.kind}, at most 1, got "
                f"{self.size!r}. Inputs are scaled by it with spike.kind=inputs."
            )


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, checked. null has become None, whole numbers are ints. `config`: the same
    as it was composed.
    """

    task: TaskSettings
    optim: OptimSettings
    transform: TransformSettings
    scale: str
    seed: int
    steps: int
    eval_every: int
    batch_size: int
    accumulate: int
    schedule: str
    warmup: int
    max_time: str | None
    max_loss: float
    precision: str
    channels_last: bool
    compile: bool
    tag: TagSettings
    device: str
    threads: int
    results: str
    keep: str | None
    checkpoint_every: str | int
    sweep: SweepSettings
    restart: RestartSettings
    spike: SpikeSettings
    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Of the composed configuration, a mapping with every key of run.yaml. UserError for a value that is
        not allowed.
        """
        check_values("", config)
        groups: dict[str, Any] = {
            "task": TaskSettings.from_config(_group(config, "task", ("name", "lr"))),
            "optim": OptimSettings.from_config(_group(config, "optim", ("name", "lr"))),
            "transform": TransformSettings.from_config(_group(config, "transform", ("name",))),
        }
        parts: dict[str, Any] = {
            "tag": TagSettings,
            "sweep": SweepSettings,
            "restart": RestartSettings,
            "spike": SpikeSettings,
        }
        for name, part in parts.items():
            keys = [field.name for field in fields(part)]
            node = _group(config, name, keys)
            if unknown := sorted(set(map(str, node)) - set(keys)):
                close = nearest(unknown[0], keys)
                raise UserError(f"Unknown key '{name}.{unknown[0]}'.{close} Known: {', '.join(keys)}.")
            groups[name] = part(**node)
        composed: dict[str, Any] = {}
        for field in fields(cls):
            if field.name != "config":
                composed[field.name] = config[field.name]
        values = composed | groups
        composed["task"] = {key: value for key, value in config["task"].items() if key != "verify"}
        return cls(**values, config=composed)

    def __post_init__(self) -> None:
        """UserError for a value that is not allowed, the first in the order of kinds; counts become ints."""
        for name, least in WHOLE_NUMBERS.items():
            number = _counted(name, getattr(self, name), least)
            object.__setattr__(self, name, number)
        if self.threads > MOST_THREADS:
            raise UserError(f"threads must be at most {MOST_THREADS}, got {self.threads}.")
        for name in SWITCHES:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise UserError(f"{name} must be true or false, got {value!r}.")
        if not isinstance(self.task.verify, bool):
            raise UserError(f"task.verify must be true or false, got {self.task.verify!r}.")
        for name, allowed in CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        if self.compile and self.precision in FOUR_BITS:
            raise UserError(
                f"compile=true does not go with precision={self.precision}, simulated layer by layer."
            )
        if not is_number(self.max_loss) or not self.max_loss > 0:
            raise UserError(
                f"max_loss must be a number above 0, got {self.max_loss!r}. inf: only a loss that is not "
                "finite ends a run."
            )
        late = [step for step in self.spike.at if step > self.steps]
        if late:
            raise UserError(f"spike.at={self.spike.at}: the run has steps 1 to {self.steps}.")
        lr = self.optim.lr
        if lr is not None and not (is_number(lr) and 0 < lr < math.inf):
            raise UserError(f"optim.lr must be a number above 0, got {lr!r}. null: the optimizer's default.")
        if not isinstance(self.results, str) or not self.results:
            raise UserError(f"results must be a folder, got {self.results!r}.")
        interval(self.checkpoint_every)
        if self.keep not in (None, "model"):
            raise UserError(
                f"keep must be null or model (the weights of the finished run), got {self.keep!r}."
            )
        if self.max_time is not None:
            _seconds("max_time", self.max_time)

    @property
    def most_seconds(self) -> float:
        """Of training, after which the run is left unfinished; ∞ for no limit."""
        return math.inf if self.max_time is None else _seconds("max_time", self.max_time)

    def as_dict(self) -> dict[str, Any]:
        """Every setting by its key, groups as they were composed."""
        plain = dict(self.config)
        for name in WHOLE_NUMBERS:
            plain[name] = getattr(self, name)
        return plain

    def as_json(self) -> str:
        """Every setting as strict JSON: a number that is not finite is text there, "inf"."""
        return json.dumps(_textual(self.as_dict()), sort_keys=True)


def _counted(name: str, value: Any, least: int) -> int:
    """`value` as an int: 3 and 3.0 are 3. UserError for what is no whole number of at least `least`."""
    if not is_number(value) or not value % 1 == 0 or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)


def _check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        close = nearest(str(value), allowed)
        raise UserError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.{close}")


def _group(config: Mapping[str, Any], name: str, keys: Sequence[str]) -> Mapping[str, Any]:
    """The keys of a group, `keys` among them. UserError for anything but a mapping."""
    node = config[name]
    if not isinstance(node, Mapping):
        example = ", ".join(f"{name}.{key}=VALUE" for key in keys)
        raise UserError(
            f"{name} is a group of keys, a mapping, got {node!r}. Set them one by one: {example}."
        )
    return node


def check_values(key: str, value: Any) -> None:
    """UserError for a whole number or a text, wherever it stands, that the tables cannot hold."""
    if isinstance(value, str) and not _is_recordable(value):
        raise UserError(f"{key}: the text {value!r} cannot be recorded: it is not UTF-8, or holds a NUL.")
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_values(f"{key}.{name}".lstrip("."), item)
    elif isinstance(value, list):
        for item in value:
            check_values(key, item)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(
            f"{key}: a whole number must lie between -{LARGEST} and {LARGEST}, got one of "
            f"{value.bit_length()} bits. A number that need not be whole is written as 1e30, no bound as inf."
        )


def _is_recordable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of characters, as which Python takes bytes that are no UTF-8
        return False
    return "\0" not in text


def check_name(key: str, value: Any) -> None:
    """UserError for what cannot be a name: it is recorded, printed, and part of the names of figures."""
    if isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable() and "/" not in value:
        return
    raise UserError(
        f"{key} must be a name: a text of 1 to {LONGEST_NAME} printable characters without a slash, got "
        f"{_shortened(value)}. A number is one in quotes: \"{key}='5'\""
    )


def _check_path(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise UserError(
            f"{key} must be the path of a class, as my_module.Line or my_module:Line, "
            f"got {_shortened(value)}."
        )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def is_number(value: Any) -> bool:
    """An int or a float, infinite and NaN included; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any, least: int) -> bool:
    """An int of at least `least`; 2.0 and True are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def interval(value: Any) -> tuple[str, float]:
    """ "5min" → ("seconds", 300); 500 → ("steps", 500)."""
    if is_whole(value, 1):
        return "steps", float(value)
    return "seconds", _seconds("checkpoint_every", value, ", or a number of steps of at least 1")


def _seconds(key: str, value: Any, alternative: str = "") -> float:
    """ "5min" → 300.0. UserError for what is no time; `alternative`: what else the key may be."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", value) if isinstance(value, str) else None
    if not found or not float(found[1]):
        raise UserError(f"{key} must be a time as 30s, 5min or 1h{alternative}, got {value!r}.")
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def _textual(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _textual(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_textual(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
