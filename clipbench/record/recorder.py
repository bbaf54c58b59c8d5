"""Recorder: rows from anybody's loop into the tables, without waiting for the device."""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from clipbench.errors import EXIT, UserError
from clipbench.record.environment import environment, now
from clipbench.record.files import check_writable, new_run, reason
from clipbench.record.folder import RunFolder
from clipbench.record.found import (
    UNCLIPPED,
    clipping_found,
    clipping_told,
    inside,
    latest,
    measured,
    optimizer_name,
)
from clipbench.record.kept import KeptRows
from clipbench.record.lease import Heartbeat
from clipbench.record.recorded import finish, finish_killed
from clipbench.record.rows import CLIP_KEYS, EvalRow, StepRow, from_json
from clipbench.record.unread import READ_EVERY_SECONDS, READ_EVERY_STEPS, UnreadStep, UnreadSteps
from clipbench.record.values import Number, check_positive, check_split, norm_within, number, stacked

NAN = float("nan")


class Recorder:
    """A row in `steps` for each `.step`, rows in `evals` for each `.evaluate`, one in `runs` at the end.

        with clipbench.Recorder("results", optimizer, clipping_type="norm", clipping_level=1.0) as record:
            for x, y in batches:
                loss = criterion(model(x), y)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                record.step(loss, grad_norm=norm)
                optimizer.zero_grad()

    Nothing waits for the device but the reading of the values, every 64 steps or half a second. The run ends
    with the `with` block, by `close`, or with the script; one that raises is recorded as failed. Under
    several processes build it on rank 0 alone. UserError for what cannot be right.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        optimizer: Optimizer,
        *,
        task: str | None = None,
        clipping_type: str | None = None,
        clipping_level: float | None = None,
        p_autoclip: float | None = None,
        beta: float | None = None,
        seed: int = 0,
        headline: str | None = None,
        higher_is_better: bool | None = None,
        steps_per_epoch: float | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """`folder`: a results folder, made where it is missing. `optimizer`: what steps, or a wrapper of it.

        `task`: a name, by default the script's. What clips is found where the optimizer clips itself, as ours
        do; else `clipping_type`, `clipping_level`, `p_autoclip` and `beta` say it. `headline`: the metric
        that counts, by default the first that is evaluated on other data than the training's; by default
        `higher_is_better`, unless its name has a word such as loss, error or perplexity. `config`: settings
        of your own, which tell runs apart in the report.
        """
        check_positive("steps_per_epoch", steps_per_epoch)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise UserError(f"seed must be a whole number, got {seed!r}.")
        told = dict(zip(CLIP_KEYS, (clipping_type, clipping_level, p_autoclip, beta), strict=True))
        self.optimizer = inside(optimizer)
        found = clipping_found(self.optimizer, told)
        self.clips_itself, self.is_told = found is not None, clipping_type is not None
        self.clipping = found or clipping_told(told)
        self.steps_per_epoch = steps_per_epoch
        group = self.optimizer.param_groups[0]
        lr = group.get("initial_lr", group.get("lr"))
        self.facts = {
            "task": _task_name(task),
            "scale": "",
            "optimizer": optimizer_name(self.optimizer),
            "lr": None if lr is None else float(lr),
            **self.clipping,
            "seed": seed,
            "place": "gradient",
            "method": self.clipping["clipping_type"],
            "headline": headline,
            "higher_is_better": higher_is_better,
            "started": now(),
            "config": _as_json(config),
            **environment(group["params"][0].device),
        }
        self._begin(Path(folder))

    def _begin(self, results: Path) -> None:
        check_writable(results, remedy="Choose another.")
        finish_killed(results)
        self.run = new_run()
        self.folder = RunFolder(results, self.run)
        self.heartbeat = Heartbeat()
        self.heartbeat.__enter__()
        self.heartbeat.acquire(self.folder.lease)
        label = " · ".join([self.facts["task"], self.facts["optimizer"], self.facts["method"]])
        self.folder.write_plan({"label": label, "started": self.facts["started"], "facts": self.facts})
        self.kept = KeptRows(self.folder.path)
        self.unread = UnreadSteps()
        self.unwritten: list[StepRow | EvalRow] = []
        self.count, self.is_closed = 0, False
        self.last_measured: object = None
        self.process, self.error_before = os.getpid(), getattr(sys, "last_value", None)
        self.since = self.read_at = time.perf_counter()
        atexit.register(self._at_exit)

    def step(
        self,
        loss: Number | None = None,
        *,
        grad_norm: Number | None = None,
        clipped_norm: Number | None = None,
    ) -> None:
        """One row. Call it after `optimizer.step()`, before `zero_grad()` and the scheduler's step.

        `grad_norm`: the norm before clipping, as torch's `clip_grad_norm_` returns it. Of an optimizer that
        clips itself it is known, and without clipping it is measured here, on the gradients. `clipped_norm`:
        the norm after it; by default as `clipping_level` tells, or measured here.
        """
        self._check_open("step")
        before, after = self._norms(grad_norm, clipped_norm)
        values = stacked(loss=NAN if loss is None else loss, grad_norm=before, clipped_norm=after)
        self.count += 1
        at = time.perf_counter()
        took, self.since = at - self.since, at
        lr = self.optimizer.param_groups[0].get("lr", NAN)
        lr = lr.detach().clone() if isinstance(lr, Tensor) else lr
        epoch = self.count / self.steps_per_epoch if self.steps_per_epoch else NAN
        self.unread.add(UnreadStep(self.count, epoch, lr, values, partial(float, took)))
        if len(self.unread) >= READ_EVERY_STEPS or at - self.read_at > READ_EVERY_SECONDS:
            self._keep(self.unread.read())

    def evaluate(self, split: str, **metrics: Number) -> None:
        """A row for each metric: `record.evaluate("val", accuracy=0.91, loss=0.3)`. Waits for the device.

        `split`: "val" is what curves show and "test" what is looked at once, at the end; or another name. The
        time since the last step is taken for the evaluation's.
        """
        self._check_open("evaluate")
        if not self.count:
            raise UserError("evaluate before any step: call record.step(loss) after each optimizer.step().")
        check_split(split)
        if not metrics:
            raise UserError(f"No metric: record.evaluate({split!r}, accuracy=0.9), for instance.")
        values = {name: float(number(name, value)) for name, value in metrics.items()}
        rows: list[StepRow | EvalRow] = [*self.unread.read()]
        for name, value in values.items():
            rows.append(EvalRow(self.count, self.unread.seconds, split, name, value))
        self._keep(rows)
        self.since = time.perf_counter()

    def close(self) -> None:
        """End the run: its rows stand in the three tables afterwards. A second call does nothing."""
        self._close(None)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_end = isinstance(error, EXIT) and not error.code
        self._close(None if is_end else error)

    def _at_exit(self) -> None:
        """Of a script that has not closed it. A process that was forked is not the script."""
        if os.getpid() != self.process:
            return
        error = getattr(sys, "last_value", None)
        is_session = hasattr(sys, "ps1")  # it goes on after an error
        self._close(None if is_session or error is self.error_before else error)

    def _close(self, error: BaseException | None) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        atexit.unregister(self._at_exit)
        try:
            rows: list[StepRow] = []
            with suppress(*([Exception] if error else [])):  # a device that failed does not give its values
                rows = self.unread.read()
            self._keep(rows)
            if self.unwritten:
                raise UserError(f"Cannot write {self.kept.path}: what was recorded since then is lost.")
            finish(self.folder, self.facts, "".join(traceback.format_exception(error)) if error else None)
        finally:
            self.heartbeat.__exit__()

    def _check_open(self, call: str) -> None:
        if self.is_closed:
            raise UserError(f"{call} after close: run {self.run} has ended. Build a new Recorder.")

    def _keep(self, rows: list[StepRow] | list[StepRow | EvalRow]) -> None:
        """Onto the disk. What it refuses is given again together with what comes next."""
        self.unwritten += rows
        try:
            self.kept.append(self.unwritten)
        except OSError as error:
            warnings.warn(
                f"Cannot write {self.kept.path} now: {reason(error)}. Training goes on; it is tried again.",
                RuntimeWarning,
                stacklevel=3,
            )
        else:
            self.unwritten.clear()
        self.read_at = time.perf_counter()

    def _norms(self, grad_norm: Number | None, clipped_norm: Number | None) -> tuple[Number, Number]:
        """Before and after clipping."""
        if self.clips_itself:
            if grad_norm is not None or clipped_norm is not None:
                raise UserError("The optimizer clips and measures by itself: leave the norms out.")
            return self._norms_found()
        kind, level = self.clipping["clipping_type"], self.clipping["clipping_level"]
        if grad_norm is None:
            if kind != UNCLIPPED or clipped_norm is not None:
                raise UserError("The norm before clipping is missing: grad_norm=clip_grad_norm_(…).")
            norm = measured(self.optimizer)
            return norm, norm
        if not self.is_told:
            raise UserError(
                "grad_norm is given, and not what clips: Recorder(…, clipping_type='norm', "
                "clipping_level=1.0), or clipping_type='none'."
            )
        if clipped_norm is not None:
            return grad_norm, clipped_norm
        if kind == UNCLIPPED:
            return grad_norm, grad_norm
        if kind == "norm" and level is not None:
            return grad_norm, norm_within(grad_norm, level)
        return grad_norm, measured(self.optimizer)

    def _norms_found(self) -> tuple[Number, Number]:
        """As the optimizer's own clipping has measured them; (NaN, 0) where it took no step: a GradScaler
        left it out.
        """
        found = latest(self.optimizer)
        if found is None or found is self.last_measured:
            return NAN, 0.0
        self.last_measured = found
        return found.norm, found.clipped_norm


def _task_name(task: str | None) -> str:
    if task is not None:
        if not isinstance(task, str) or not task.strip():
            raise UserError(f"task must be a name, got {task!r}.")
        return task
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not script:
        return "session"
    path = Path(script)
    return path.parent.name if path.stem == "__main__" else path.stem


def _as_json(config: Mapping[str, Any] | None) -> str | None:
    if config is None:
        return None
    text = json.dumps(dict(config), default=str)
    if from_json(text, dict) is None:
        raise UserError("config must be a mapping of settings that JSON can hold, not too deep.")
    return text
