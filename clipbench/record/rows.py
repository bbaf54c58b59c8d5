"""The ONE definition of every column of every table, and of what a few of their values mean. No torch, no
pandas, no pyarrow.

Schemas (tables.py), checkpoints (runs/checkpoint.py) and the tables of results/README.md are derived from
these classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

CLIP_KEYS = ("clipping_type", "clipping_level", "p_autoclip", "beta")
"""The settings of clipping that many types share: keys of `optim`, columns of `runs`."""

NO_CLIPPING = {"clipping_level": math.inf, "p_autoclip": 1.0}
"""The values at which a type does not clip: the ends of their spaces, beyond which there is nothing."""

REFERENCE = "none"
"""The clipping type that the others are compared with."""

ENDED = ("done", "diverged", "failed")
"""What `runs.status` may be."""

NOT_CLIPPED_FROM = 1 - 1e-6  # float32 rounds a norm that was left alone


def is_clipped(clip_factor: Any) -> Any:
    """Whether a step with this clip_factor was clipped; elementwise for an array or a column.

    A step whose grad_norm is not finite was skipped, and counts neither as clipped nor as not clipped: leave
    it out before.
    """
    return clip_factor < NOT_CLIPPED_FROM


@dataclass(frozen=True)
class Column:
    """`kind`: text, int, real (float64), single (float32) or flag. `new`: files of earlier versions lack it
    and are read as null there.
    """

    name: str
    kind: str
    what: str
    new: bool = False


def column(kind: str, what: str, **more: Any) -> Any:
    """A field that is a column; `new=True` as in Column, `default` for one that may be left out."""
    default = {"default": more.pop("default")} if "default" in more else {}
    return field(metadata={"kind": kind, "what": what, **more}, **default)


@dataclass(frozen=True)
class StepRow:
    """One training step: a row of the table `steps`."""

    step: int = column("int", "1, 2, …")
    epoch: float = column("real", "passes over the training set so far")
    seconds: float = column(
        "real",
        "of training so far: the run's own compute and its batches, as if it were alone; evaluation left out",
    )
    loss: float = column("single", "of this step's batches")
    grad_norm: float = column("single", "‖g‖ over all parameters before clipping")
    clipped_norm: float = column("single", "‖clip(g)‖; 0 where the step was skipped")
    clip_factor: float = column(
        "single",
        "clipped_norm / grad_norm for every type; 0 where the step was skipped. A step whose grad_norm is "
        "finite counts as clipped below 1 − 1e-6; one that was skipped counts as neither. `normalize` and "
        "`uclip` may go above 1. `block_rms` leaves the gradient alone: its factor is that of Adam's update, "
        "and clipped_norm is grad_norm times it",
    )
    lr: float = column("real", "learning rate of the step")


@dataclass(frozen=True)
class EvalRow:
    """One metric of one split: a row of the table `evals`."""

    step: int = column("int", "training steps before the evaluation")
    seconds: float = column("real", "of training so far, as in `steps`")
    split: str = column(
        "text", "train (over the batches since the last evaluation), val, test, and what else a task has"
    )
    metric: str = column("text", "one of the task's metrics, or loss")
    value: float = column("real", "its value")


@dataclass(frozen=True)
class NoiseRow:
    """One batch at fixed weights: a row of the table `tails`."""

    label: str = column("text", "the run in words")
    data: str = column("text", "which data it saw")
    step: int = column("int", "training steps before; the weights are the same for all batches of a step")
    batch: int = column("int", "0, 1, …")
    passes: float = column(
        "real", "passes through the training set that the batches of a step make, null where it has no end"
    )
    full_passes: float = column(
        "real",
        "passes that ∇f is the mean of: from 1 on all training data take part; below 1, ∇f is the mean of "
        "the measured batches",
        new=True,
    )
    drawn: str = column(
        "text", "what was drawn for an example and so is part of the noise; empty for nothing", new=True
    )
    loss: float = column("real", "of this batch, in evaluation mode")
    grad_norm: float = column("real", "‖∇f_B‖ of this batch")
    full_norm: float = column("real", "‖∇f‖ at this step")
    noise_norm: float = column("real", "‖∇f_B − ∇f‖")


@dataclass(frozen=True)
class RunRow:
    """One run: a row of the table `runs`. What is not known is None."""

    task: str = column("text", "name of the task")
    scale: str = column("text", "mini, full, or another that the task has")
    optimizer: str = column("text", "name of the optimizer's file, `optim=`")
    lr: float | None = column(
        "real", "the learning rate before its schedule; null for the optimizer's default", default=None
    )
    clipping_type: str = column("text", "canonical name, or module:Class", default="")
    clipping_level: float | None = column(
        "real", "as used; null where the type has no use for it", default=None
    )
    p_autoclip: float | None = column("real", "likewise", default=None)
    beta: float | None = column("real", "likewise", default=None)
    seed: int = column(
        "int", "what pairs runs: two methods at one seed meet the same weights and batches", default=0
    )
    study: str | None = column(
        "text",
        "the study that the run belongs to; this and the next three are null outside one",
        new=True,
        default=None,
    )
    role: str | None = column(
        "text",
        "tune (a trial, at a tuning seed), final (the trial that was chosen, at a final seed), default (the "
        "method untuned, at a final seed)",
        new=True,
        default=None,
    )
    method: str | None = column(
        "text",
        "the clipping type that competes: one name for its trials, its final runs and its defaults",
        new=True,
        default=None,
    )
    trial: int | None = column(
        "int",
        "0, 1, …: the point of the quasi-random sequence, the same for all methods; null for a default",
        new=True,
        default=None,
    )
    status: str = column(
        "text", "done; diverged (the loss was not finite, or above max_loss); failed (see error)", default=""
    )
    headline: str | None = column("text", "the task's metric that verdicts are made of", default=None)
    higher_is_better: bool | None = column("flag", "its direction", default=None)
    final: float | None = column("real", "last validation value of the headline", default=None)
    best: float | None = column("real", "best validation value of the headline", default=None)
    final_test: float | None = column(
        "real",
        "its test value after the last step; null for role `tune` (rows of an earlier version may hold one: "
        "leave it alone)",
        default=None,
    )
    baseline: str | None = column(
        "text", "what anyone gets without learning, as majority class", default=None
    )
    baseline_test: float | None = column("real", "its test value of the headline", default=None)
    steps: int = column("int", "steps made", default=0)
    seconds: float = column("real", "of training, as in `steps`", default=0.0)
    skipped: int = column("int", "steps whose gradient was not finite", default=0)
    lockstep: int | None = column(
        "int", "how many runs were trained side by side with it, itself included", new=True, default=None
    )
    started: str | None = column(
        "text", "UTC; a run that was interrupted keeps its first start", default=None
    )
    ended: str | None = column("text", "UTC", default=None)
    data: str | None = column("text", "which data the run saw, with sizes", default=None)
    config: str | None = column(
        "text", 'every setting, as JSON; a number that is not finite is text there ("inf")', default=None
    )
    overrides: str | None = column(
        "text",
        "the overrides that asked for the run, as a JSON list: `clipbench run` with them makes it again",
        default=None,
    )
    error: str | None = column("text", "traceback of a failed run", default=None)
    device: str | None = column("text", "where it ran: the GPU's name, or cpu", default=None)
    driver: str | None = column("text", "of a GPU, with torch's CUDA", new=True, default=None)
    host: str | None = column("text", "name of the machine", default=None)
    platform: str | None = column("text", "operating system and Python", default=None)
    threads: int | None = column("int", "of torch on the CPU: sums differ with it", default=None)
    versions: str | None = column("text", "of the libraries that compute, as JSON", default=None)
    git: str | None = column(
        "text", "the checkout's commit, with a + where it was changed; empty outside one", default=None
    )


@dataclass(frozen=True)
class RunEnd:
    """How a run's training ended: the last item that it yields. `skipped`: steps whose gradient was not
    finite.

    status "done"; "diverged": a loss that is not finite or above `max_loss`; "failed": it raised, `error` is
    the traceback; "out of memory": likewise, for want of memory.
    """

    status: str
    steps: int
    seconds: float
    skipped: int
    error: str | None = None


Row = StepRow | EvalRow | RunEnd
"""What a learner yields."""

RUN = Column("run", "text", "the run's id, a letter and a hash of the settings that define it")
"""The first column of every table; the rows of a run do not repeat it."""

TABLES: dict[str, type] = {"steps": StepRow, "evals": EvalRow, "tails": NoiseRow, "runs": RunRow}


def columns(table: str) -> list[Column]:
    """The columns of a table in their order, `run` first."""
    found = [RUN]
    for each in fields(TABLES[table]):
        about = each.metadata
        found.append(Column(each.name, about["kind"], about["what"], about.get("new", False)))
    return found
