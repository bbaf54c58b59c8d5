"""One run: from the words that ask for it to its plan, and from its rows to the three tables."""

from __future__ import annotations

import json
import platform
import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.optim import ALIASES, Rule, make_rule
from clipbench.optim.clip import POLICIES
from clipbench.record import tables
from clipbench.record.rows import CLIP_KEYS, RunEnd
from clipbench.runs import config
from clipbench.runs.build import check_tie, import_module_of, optimizer_class_of
from clipbench.runs.checkpoint import Rows, Work
from clipbench.runs.config import Settings
from clipbench.runs.patterns import check_patterns
from clipbench.task import Task


@dataclass(frozen=True)
class Plan:
    """A run before it is made: its settings, its rule, its id and the words that ask for it."""

    settings: Settings
    rule: Rule
    run: str
    overrides: tuple[str, ...]
    config_dir: Path | None = None

    @property
    def command(self) -> str:
        """What makes this run alone."""
        return shlex.join(["clipbench", "run", *self.words])

    @property
    def words(self) -> list[str]:
        """What asks for it on a command line."""
        return [*(["--config-dir", str(self.config_dir)] if self.config_dir else []), *self.overrides]

    @property
    def folder(self) -> Path:
        return Path(self.settings.results)

    @property
    def work(self) -> Work:
        return Work(self.folder, self.run)

    @property
    def label(self) -> str:
        """ "cola (mini) · adamw · auto p_autoclip=0.75 window=10000 · seed 0", of a study's run with " · quick tune 3" behind it."""
        fields = " ".join(
            f"{name}={value:g}" if isinstance(value, (int, float)) else f"{name}={value}"
            for name, value in asdict(self.rule).items()
        )
        settings = self.settings
        method = f"{settings.optim['clipping_type']} {fields}".strip()
        tag = " ".join(
            str(settings.tag[name]) for name in ("study", "role", "trial") if settings.tag[name] is not None
        )
        label = f"{settings.task['name']} ({settings.scale}) · {settings.optim['name']} · {method} · seed {settings.seed}"
        return label + f" · {tag}" * bool(tag)


def make_plan(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    composed: dict[tuple[str, ...], Any] | None = None,
) -> Plan:
    """UserError for whatever can be known to be wrong before data are loaded. `composed` as for `config.load`."""
    settings = config.load(overrides, config_dir, composed)
    optim = settings.optim
    try:
        rule = make_rule(
            optim["clipping_type"], **{key: optim[key] for key in CLIP_KEYS[1:]}, **(optim["clip"] or {})
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    check_patterns(optim, rule)
    check_tie(optim, rule)
    if optim["nonfinite"] not in POLICIES:
        raise UserError(f"optim.nonfinite must be one of {', '.join(POLICIES)}, got {optim['nonfinite']!r}.")
    modules = {type(rule).__module__, settings.task["_target_"].rpartition(".")[0]}
    own = [module for module in sorted(modules) if module.split(".")[0] != "clipbench"]
    sources = [Path(str(import_module_of(module, settings.task["name"]).__file__)) for module in own]
    by_itself = getattr(optimizer_class_of(optim), "clips_by_itself", False)
    return Plan(
        settings, rule, config.identity(settings, rule, sources, by_itself), tuple(overrides), config_dir
    )


def describe(task: Task) -> dict[str, Any]:
    """What is known of a run before its first step. Loads the data."""
    metrics = task.metrics()
    if task.headline not in (known := [str(name) for name in metrics]):
        raise UserError(
            f"{type(task).__name__}.headline is '{task.headline}', which is not among its metrics: {', '.join(known)}."
        )
    name, baseline = task.baseline()
    return {
        "headline": task.headline,
        "higher_is_better": bool(metrics[task.headline].higher_is_better),
        "data": task.data,
        "baseline": name,
        "baseline_test": baseline.get(task.headline),
    }


def outcome(end: RunEnd, rows: Rows, facts: dict[str, Any]) -> dict[str, Any]:
    """How it ended; final and best validation value and the final test value of the headline metric, where the run came so far."""
    headline = [row for row in rows.evals if row.metric == facts["headline"]]
    val = [row.value for row in headline if row.split == "val"]
    test = [row.value for row in headline if row.split == "test"]
    return {
        **asdict(end),
        "final": val[-1] if val else None,
        "best": (max if facts["higher_is_better"] else min)(val) if val else None,
        "final_test": test[-1] if test else None,
    }


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def record(plan: Plan, rows: Rows, facts: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Write the three tables, `runs` last. Its row comes back."""
    settings, rule = plan.settings, asdict(plan.rule)
    row = {
        "task": settings.task["name"],
        "scale": settings.scale,
        "optimizer": settings.optim["name"],
        "lr": settings.optim["lr"],
        "clipping_type": ALIASES.get(name := settings.optim["clipping_type"], name),
        **{key: rule.get(key) for key in CLIP_KEYS[1:]},
        "seed": settings.seed,
        **settings.tag,
        **facts,
        "ended": now(),
        "config": settings.as_json(),
        "overrides": json.dumps(plan.words),
        **environment(device),
    }
    tables.write_rows(plan.folder, "steps", plan.run, (asdict(item) for item in rows))
    tables.write_rows(plan.folder, "evals", plan.run, [asdict(item) for item in rows.evals])
    tables.write_rows(plan.folder, "runs", plan.run, [row])
    return {"run": plan.run, **row}


def environment(device: torch.device) -> dict[str, Any]:
    """What is needed to judge a run's times and to repeat it elsewhere."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "driver": driver() if device.type == "cuda" else "",
        "host": socket.gethostname(),
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git": revision(),
    }


@cache
def versions() -> str:
    names = (
        "clipbench",
        "torch",
        "torchvision",
        "transformers",
        "datasets",
        "torch-geometric",
        "torchmetrics",
        "numpy",
    )
    return json.dumps({name: version(name) for name in names})


@cache
def driver() -> str:
    """The GPU's driver and torch's CUDA: "570.86.15, CUDA 12.8"."""
    found = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return f"{found[0] if found else 'unknown driver'}, CUDA {torch.version.cuda}"


@cache
def revision() -> str:
    """The commit of the checkout that clipbench runs from, with "+" where it was changed; "" outside a checkout."""
    return _output(
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    )


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
