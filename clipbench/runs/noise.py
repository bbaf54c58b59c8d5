"""The gradient's noise at fixed weights: ‖∇f_B − ∇f‖ over many batches B, before training and after so many of a run's steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.rows import RunEnd
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.plan import Plan
from clipbench.stats.tails import LEAST
from clipbench.task import Batch, Task
from clipbench.task.seeds import generator
from clipbench.train.batches import serve
from clipbench.train.learner import Learner

Batches = Callable[[int], Iterator[Batch]]  # the first so many, the same at every call
Tick = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much
SETTLING = 100  # batches for the statistics of batch normalisation
FURTHER = 10  # ∇f takes a whole pass where one has at most so many times the batches to measure


def parse_steps(word: str | None, steps: int) -> list[int]:
    """ "0,100,500" → [0, 100, 500]; None → start, half-way and end. UserError for what is no step of a run of `steps`."""
    if word is None:
        return sorted({0, steps // 2, steps})
    try:
        at = sorted({int(part) for part in word.split(",")})
    except ValueError:
        raise UserError(
            f"--at takes numbers of training steps separated by commas, as in --at 0,100,500; got '{word}'."
        ) from None
    if at[0] < 0 or at[-1] > steps:
        raise UserError(f"--at {word}: the run has steps 0 to {steps}. Leave the others out or set steps=.")
    return at


def make(plan: Plan, at: Sequence[int], count: int, tick: Tick = lambda what, done, of: None) -> pd.DataFrame:
    """Measure where it has not been done with as many batches yet, and write results/tails/<run>.parquet after each step of `at`. Its rows.

    At least `count` batches: whole passes through the training set where it has fewer, or `count` of them where it has more. ∇f is the mean
    over whole passes all the same, unless one has more than ten times `count` batches: then over the measured ones. An incomplete last
    batch, which training leaves out, has no part in it.
    """
    if count < LEAST:
        raise UserError(f"--batches {count}: at least {LEAST} are needed, 1000 to see a tail.")
    tables.check_writable(plan.folder)
    there = plan.folder / "tails" / f"{plan.run}.parquet"
    rows = tables.read(plan.folder, "tails", runs=[plan.run]).to_dict("records") if there.exists() else []
    rows = [row for row in rows if pd.notna(row["drawn"])]  # earlier versions measured on augmented batches
    found = pd.Series([row["step"] for row in rows], dtype=int).value_counts()
    missing = [step for step in at if found.get(step, 0) < count]
    for step, measured in measure(plan, missing, count, tick) if missing else ():
        rows = sorted(
            [*(row for row in rows if row["step"] != step), *measured],
            key=lambda row: (row["step"], row["batch"]),
        )
        tables.write_rows(plan.folder, "tails", plan.run, rows)
    table = tables.read(plan.folder, "tails", runs=[plan.run])
    return table[table["step"].isin(at)]


def measure(
    plan: Plan, at: Sequence[int], count: int, tick: Tick
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(step, rows) at each step of `at`, while the run trains from one to the next. UserError where it diverges before."""
    settings = plan.settings
    device = find_device(settings.device)
    torch.set_num_threads(settings.threads)
    task = build_task(settings, device)
    learner = build_learner(settings, plan.rule, task, device)
    epoch = float(task.steps_per_epoch) if math.isfinite(task.steps_per_epoch) else math.nan
    number, full = amounts(epoch, count)

    def batches(first: int) -> Iterator[Batch]:
        with closing(serve(task, task.plain_batches(generator(settings.seed, "tails")), device)) as served:
            yield from (each.batch for each in islice(served, first))

    with closing(serve(task, task.train_batches(generator(settings.seed, "data")), device)) as training:
        for step in at:
            while learner.step < step:
                learner.learn(next(training))
                _check(learner, step)
                tick("training", learner.step, step)
            model = fixed(task, learner.model, batches, full)
            norms = noise(
                task, model, batches, number, full, lambda done: tick(f"step {step}", done, full + number)
            )  # noqa: B023 (called at once)
            about = {"label": plan.label, "data": task.data, "step": step, "drawn": task.drawn}
            about |= {"passes": number / epoch, "full_passes": full / epoch}
            yield step, [about | {"run": plan.run, "batch": i} | values for i, values in enumerate(norms)]


def amounts(epoch: float, count: int) -> tuple[int, int]:
    """(batches to measure, batches that ∇f is the mean of) where a pass has `epoch` batches, NaN for no end."""
    if not epoch <= FURTHER * count:
        return count, count
    number = int(epoch) * math.ceil(count / epoch) if count >= epoch else count
    return number, max(number, int(epoch))


def _check(learner: Learner, step: int) -> None:
    rows = learner.read() if len(learner.unread) >= 64 or learner.step == step else []
    if rows and isinstance(end := rows[-1], RunEnd):
        raise UserError(
            f"The run diverged at step {end.steps}. Give earlier steps, as in --at 0,{end.steps // 2}, or lower optim.lr."
        )


def fixed(task: Task, model: nn.Module, batches: Batches, most: int) -> nn.Module:
    """A copy in evaluation mode, so that f is the mean of the batches' losses and nothing is drawn.

    Batch normalisation takes the statistics of the training data at these weights, from up to 100 batches, at `most`: before training it
    has none.
    """
    model = copy.deepcopy(model).eval()
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # plain means over the batches
        layer.train()
    if layers:
        with torch.no_grad():
            for batch in batches(min(SETTLING, most)):
                task.forward(model, batch)
    return model.eval()


def noise(
    task: Task,
    model: nn.Module,
    batches: Batches,
    number: int,
    full: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[dict[str, float]]:
    """loss, ‖∇f_B‖, ‖∇f‖ and ‖∇f_B − ∇f‖ of the first `number` batches; ∇f is the mean of the first `full` ∇f_B.

    Batches are gone through twice, so that memory holds two gradients and not all. A batch's gradient is computed in float32; sums and
    differences are float64, so that a mean over many batches loses nothing. That is not exact: at the starting weights of the mini
    tasks the norms differ from those of float64 throughout by up to 2e-7 (cola), 2e-4 (voc) and 2e-3 (imagenet) of themselves.
    UserError where a gradient is not finite.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    kept = torch.device("cpu") if params[0].device.type == "mps" else params[0].device  # mps has no float64
    mean = [torch.zeros_like(p, device=kept, dtype=torch.float64) for p in params]
    done = 0
    for _, grads in _gradients(task, model, params, batches(full), kept):
        done += 1
        for total, grad in zip(mean, grads, strict=True):
            total += grad
        tick(done)
    for total in mean:
        total /= done
    full_norm = norm(mean)
    rows = []
    for i, (loss, grads) in enumerate(_gradients(task, model, params, batches(number), kept)):
        size = norm(grads)
        if not math.isfinite(size):
            raise UserError(
                f"The gradient of batch {i} is not finite at these weights. Lower optim.lr or leave the step out of --at."
            )
        difference = norm([grad - total for grad, total in zip(grads, mean, strict=True)])
        rows.append({"loss": loss, "grad_norm": size, "full_norm": full_norm, "noise_norm": difference})
        tick(done + i + 1)
    return rows


def _gradients(
    task: Task, model: nn.Module, params: list[nn.Parameter], batches: Iterator[Batch], device: torch.device
) -> Iterator[Any]:
    """(loss, gradients in float64 on `device`) of each batch."""
    for batch in batches:
        outputs, targets = task.forward(model, batch)
        loss = task.loss(outputs.float(), targets)
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        yield loss.item(), [grad.to(device, torch.float64) for grad in grads]


def norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
