"""One run: settings → task, model, optimizer → rows → results."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from clipbench import config, results
from clipbench.build import CLIP_KEYS, build_learner, build_task, find_device, import_module_of
from clipbench.config import Settings
from clipbench.errors import UserError
from clipbench.optim import ALIASES, Rule, make_rule
from clipbench.optim.clip import POLICIES
from clipbench.seeds import generator
from clipbench.task import Task
from clipbench.train import End, EvalRow, Learner, Row, Schedule, StepRow, train

Watch = Callable[[Sequence[Row]], None]


@dataclass(frozen=True)
class Plan:
    """A run before it is made: its settings, its rule, its id and the words that ask for it."""

    settings: Settings
    rule: Rule
    run: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Path(self.settings.results)

    @property
    def checkpoint(self) -> Path:
        return self.folder / ".work" / self.run / "checkpoint.pt"


class Interrupted(Exception):
    """The user stopped the run; what it had done is in its checkpoint."""


def make_plan(overrides: Sequence[str], config_dir: Path | None = None) -> Plan:
    """UserError for whatever can be known to be wrong before data are loaded."""
    settings = config.load(overrides, config_dir)
    optim = settings.optim
    try:
        rule = make_rule(optim["clipping_type"], **{key: optim[key] for key in CLIP_KEYS[1:]}, **(optim["clip"] or {}))
    except ValueError as error:
        raise UserError(str(error)) from error
    if optim["nonfinite"] not in POLICIES:
        raise UserError(f"optim.nonfinite must be one of {', '.join(POLICIES)}, got {optim['nonfinite']!r}.")
    modules = {type(rule).__module__, settings.task["_target_"].rpartition(".")[0]}
    own = [module for module in sorted(modules) if module.split(".")[0] != "clipbench"]
    sources = [Path(str(import_module_of(module, settings.task["name"]).__file__)) for module in own]
    return Plan(settings, rule, config.identity(settings, rule, sources), tuple(overrides))


def execute(plan: Plan, watch: Watch = lambda rows: None) -> dict[str, Any]:
    """Make the run and write its three files; the row of `runs` comes back. `watch` is handed the rows as they become readable.

    A run that was interrupted goes on from its checkpoint. An error of the run's own is recorded (status "failed") and raised again;
    the user's mistakes are not recorded. Interrupted after Ctrl-C, with a checkpoint written.
    """
    settings = plan.settings
    results.check_writable(plan.folder)
    device = find_device(settings.device)
    torch.set_num_threads(settings.threads)
    started = datetime.now(timezone.utc)
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    try:
        task = build_task(settings, device)
        facts |= describe(task)
        learner = build_learner(settings, plan.rule, task, device)
        for new in _steps(plan, task, learner, rows):
            watch(new)
    except (UserError, Interrupted, KeyboardInterrupt):
        raise
    except Exception:
        _record(plan, rows, facts | {"status": "failed", "error": traceback.format_exc()}, device, started)
        raise
    row = _record(plan, rows, facts | outcome(task, rows), device, started)
    _forget(plan)
    return row


def _steps(plan: Plan, task: Task, learner: Learner, rows: list[Row]) -> Iterator[Sequence[Row]]:
    """Train, collecting into `rows`; on Ctrl-C finish the step, write a checkpoint and raise Interrupted."""
    settings = plan.settings
    if plan.checkpoint.exists():
        state = torch.load(plan.checkpoint, map_location="cpu", weights_only=False)
        learner.load_state_dict(state["learner"])
        rows += state["rows"]
        yield rows
    schedule = Schedule(settings.schedule, settings.warmup, settings.steps)
    with closing(_stream(task, settings.seed, learner.step)) as batches, _first_interrupt() as interrupted:
        loop = train(
            learner,
            batches,
            steps=settings.steps,
            eval_every=settings.eval_every,
            schedule=schedule,
            max_loss=settings.max_loss,
        )
        for new in loop:
            rows += new
            yield new
            if interrupted and learner.step < settings.steps:
                rows += learner.read()
                _save(plan, learner, rows)
                raise Interrupted(f"step {learner.step} of {settings.steps}")


def _stream(task: Task, seed: int, start: int) -> Generator[Any, None, None]:
    """The task's training batches from number `start` on. The earlier ones are drawn again: only so is the order the same for any task."""
    batches = task.train_batches(generator(seed, "data"))
    try:
        yield from islice(batches, start, None)
    finally:
        if hasattr(batches, "close"):
            batches.close()  # ends worker processes


@contextmanager
def _first_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C fills the list, so that the step can be finished; the second one stops at once."""
    seen: list[bool] = []

    def note(*_: Any) -> None:
        seen.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C here
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _save(plan: Plan, learner: Learner, rows: list[Row]) -> None:
    path = plan.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    torch.save({"learner": learner.state_dict(), "rows": rows}, partial)
    os.replace(partial, path)


def _forget(plan: Plan) -> None:
    plan.checkpoint.unlink(missing_ok=True)
    for folder in (plan.checkpoint.parent, plan.checkpoint.parent.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def describe(task: Task) -> dict[str, Any]:
    """What is known of a run before its first step. Loads the data."""
    metrics = task.metrics()
    if task.headline not in (known := [str(name) for name in metrics]):
        raise UserError(f"{type(task).__name__}.headline is '{task.headline}', which is not among its metrics: {', '.join(known)}.")
    name, baseline = task.baseline()
    return {
        "headline": task.headline,
        "higher_is_better": bool(metrics[task.headline].higher_is_better),
        "data": task.data,
        "baseline": name,
        "baseline_test": baseline.get(task.headline),
    }


def outcome(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
    """Final and best validation value and the final test value of the headline metric, where the run came so far."""
    end = rows[-1]
    assert isinstance(end, End)
    headline = [row for row in rows if isinstance(row, EvalRow) and row.metric == task.headline]
    val = [row.value for row in headline if row.split == "val"]
    test = [row.value for row in headline if row.split == "test"]
    best = max if task.metrics()[task.headline].higher_is_better else min
    return {
        **asdict(end),
        "final": val[-1] if val else None,
        "best": best(val) if val else None,
        "final_test": test[-1] if test else None,
    }


def _record(plan: Plan, rows: Sequence[Row], facts: dict[str, Any], device: torch.device, started: datetime) -> dict[str, Any]:
    """Write the three tables, `runs` last."""
    settings, rule = plan.settings, asdict(plan.rule)
    row = {
        "task": settings.task["name"],
        "scale": settings.scale,
        "optimizer": settings.optim["name"],
        "lr": settings.optim["lr"],
        "clipping_type": ALIASES.get(name := settings.optim["clipping_type"], name),
        **{key: rule.get(key) for key in CLIP_KEYS[1:]},
        "seed": settings.seed,
        **facts,
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": settings.as_json(),
        "overrides": json.dumps(plan.overrides),
        **environment(device),
    }
    results.write_rows(plan.folder, "steps", plan.run, [asdict(item) for item in rows if isinstance(item, StepRow)])
    results.write_rows(plan.folder, "evals", plan.run, [asdict(item) for item in rows if isinstance(item, EvalRow)])
    results.write_rows(plan.folder, "runs", plan.run, [row])
    return {"run": plan.run, **row}


def environment(device: torch.device) -> dict[str, Any]:
    """What is needed to judge a run's times and to repeat it elsewhere."""
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
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "host": socket.gethostname(),
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "versions": json.dumps({name: version(name) for name in names}),
        "git": revision(),
    }


def revision() -> str:
    """The commit of the checkout that clipbench runs from, with "+" where it was changed; "" outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
