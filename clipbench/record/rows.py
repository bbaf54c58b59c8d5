"""The ONE definition of every column of every table, and of what a few of their values mean. No torch, no
pandas, no pyarrow.

Schemas (tables.py), checkpoints (runs/checkpoint.py) and the tables of results/README.md are derived from
these classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

CLIP_KEYS = ("clipping_type", "clipping_level", "p_autoclip", "beta")
"""The settings of clipping that many types share: keys of `optim`, columns of `runs`."""

NO_CLIPPING = {"clipping_level": math.inf, "p_autoclip": 1.0}
"""The values at which a type does not clip: the ends of their spaces, beyond which there is nothing."""

ENDED = ("done", "diverged", "stopped", "timeout", "failed")
"""What `runs.status` may be."""

TO_GO_ON = ("stopped", "timeout")
"""Statuses of runs that keep a checkpoint, from which they go on when more of them is asked for."""

PLACES = ("gradient", "example", "activation", "weight")
"""Where one clips: what `runs.place` may be."""

NOT_CLIPPED_FROM = 1 - 1e-6  # float32 rounds a norm that was left alone


def is_clipped(clip_factor: Any) -> Any:
    """Whether a step with this clip_factor was clipped; elementwise for an array or a column.

    A step whose grad_norm is not finite was skipped, and counts neither as clipped nor as not clipped: leave
    it out before.
    """
    return clip_factor < NOT_CLIPPED_FROM


LARGEST = 2**63 - 1  # of an int column
DEEPEST = 20  # level of what is written as JSON


@dataclass(frozen=True)
class Column:
    """`kind`: text, int, real (float64), single (float32) or flag. `new`: files of earlier versions lack it
    and are read as null there.

    What a cell may hold: null where `null`; a number from `least` to `most`, one that is not finite unless
    `finite`; one of the texts in `among`; text that is JSON of the type `form`, a list of texts or a mapping.
    """

    name: str
    kind: str
    what: str
    new: bool = False
    null: bool = False
    least: float = -math.inf
    most: float = math.inf
    finite: bool = False
    among: tuple[str, ...] = ()
    form: type | None = None

    def fault(self, value: Any) -> str:
        """What is wrong with a cell's value, as "seed is -1"; "" for one that a run may have."""
        if value is None:
            return "" if self.null else f"{self.name} is null"
        if self.kind == "text":
            return self._fault_of_text(value)
        types: tuple[type, ...] = (bool,) if self.kind == "flag" else (int,)
        if self.kind in ("real", "single"):
            types = (int, float)
        is_right = isinstance(value, types) and isinstance(value, bool) == (self.kind == "flag")
        if not is_right:
            return f"{self.name} is {_short(value)}, not {WORDS[self.kind]}"
        if self.kind == "flag":
            return ""
        outside = not math.isnan(value) and not self.least <= value <= self.most
        if outside or (self.kind == "int" and abs(value) > LARGEST):
            return f"{self.name} is {_short(value)}"
        if self.finite and not math.isfinite(value):
            return f"{self.name} is {value}"
        return ""

    def _fault_of_text(self, value: Any) -> str:
        if not isinstance(value, str):
            return f"{self.name} is {_short(value)}, not text"
        if not self.null and not value.strip():
            return f"{self.name} is empty"
        if self.among and value not in (*self.among, *[""] * self.null):
            return f"{self.name} is {_short(value)}, none of {', '.join(self.among)}"
        if self.form and value and from_json(value, self.form) is None:
            return f"{self.name} is {_short(value)}, not a {WORDS[self.form.__name__]} as JSON"
        return ""


WORDS = {
    "text": "text",
    "int": "a whole number",
    "real": "a number",
    "single": "a number",
    "flag": "true or false",
    "list": "list of texts",
    "dict": "mapping",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def from_json(text: Any, form: type) -> Any:
    """What a cell or a file holds as JSON: a mapping (`form` dict) or a list of texts (`form` list); an empty
    one for a cell that is null or empty. None for anything else. Numbers beyond a column's are floats.
    """
    if not text or not isinstance(text, str):
        return form()
    try:
        found = json.loads(text, parse_int=_number)
        too_deep = _depth(found) > DEEPEST
    except (ValueError, RecursionError):
        return None
    if too_deep or not isinstance(found, form):
        return None
    if isinstance(found, list) and not all(isinstance(word, str) for word in found):
        return None
    return found


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def _depth(tree: Any) -> int:
    """How many mappings and lists lie in each other."""
    children: list[Any] = []
    if isinstance(tree, Mapping):
        children = list(tree.values())
    elif isinstance(tree, list):
        children = tree
    else:
        return 0
    return 1 + max(map(_depth, children), default=0)


def column(kind: str, what: str, **more: Any) -> Any:
    """A field that is a column; `more` as in Column, `default` for one that may be left out."""
    default = {"default": more.pop("default")} if "default" in more else {}
    return field(metadata={"kind": kind, "what": what, **more}, **default)


@dataclass(frozen=True)
class StepRow:
    """One training step: a row of the table `steps`."""

    step: int = column("int", "1, 2, …", least=1)
    epoch: float = column(
        "real", "passes over the training set so far; NaN where a loop of one's own does not say"
    )
    seconds: float = column(
        "real",
        "of training so far: the run's own compute and its batches, as if it were alone; evaluation left out",
        least=0,
        finite=True,
    )
    loss: float = column("single", "of this step's batches")
    grad_norm: float = column("single", "‖g‖ over all parameters before clipping", least=0)
    clipped_norm: float = column("single", "‖clip(g)‖; 0 where the step was skipped", least=0)
    clip_factor: float = column(
        "single",
        "clipped_norm / grad_norm for every type; 0 where the step was skipped. A step whose grad_norm is "
        "finite counts as clipped below 1 − 1e-6; one that was skipped counts as neither. `normalize` and "
        "`uclip` may go above 1. `block_rms` leaves the gradient alone: its factor is that of Adam's update, "
        "and clipped_norm is grad_norm times it",
        least=0,
    )
    lr: float = column("real", "learning rate of the step")


@dataclass(frozen=True)
class EvalRow:
    """One metric of one split: a row of the table `evals`."""

    step: int = column("int", "training steps before the evaluation", least=0)
    seconds: float = column("real", "of training so far, as in `steps`", least=0, finite=True)
    split: str = column(
        "text", "train (over the batches since the last evaluation), val, test, and what else a task has"
    )
    metric: str = column("text", "one of the task's metrics, or loss")
    value: float = column("real", "its value")
    resolution: float | None = column(
        "real",
        "the change of the value from one prediction; null where the metric does not say it",
        least=0,
        new=True,
        default=None,
    )
    worth: float | None = column(
        "real",
        "the smallest difference of the value worth telling; likewise",
        least=0,
        new=True,
        default=None,
    )
    condition: str | None = column(
        "text",
        "under which it was evaluated, as a transform names it; empty or null where there is but one",
        new=True,
        default="",
    )


@dataclass(frozen=True)
class NoiseRow:
    """One batch at fixed weights: a row of the table `tails`."""

    label: str = column("text", "the run in words")
    data: str = column("text", "which data it saw")
    step: int = column("int", "training steps before; the weights are the same for all batches of a step")
    batch: int = column("int", "0, 1, …")
    passes: float = column(
        "real",
        "passes through the training set that the batches of a step make, null where it has no end",
        null=True,
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
    scale: str = column(
        "text", "mini, full, or another that the task has; empty for a loop of one's own", null=True
    )
    optimizer: str = column("text", "name of the optimizer's file, `optim=`, or of its class")
    lr: float | None = column(
        "real",
        "the learning rate before its schedule; null for the optimizer's default",
        least=0,
        default=None,
    )
    clipping_type: str = column("text", "canonical name, or module:Class", default="")
    clipping_level: float | None = column(
        "real", "as used; null where the type has no use for it", least=0, default=None
    )
    p_autoclip: float | None = column("real", "likewise", least=0, most=1, default=None)
    beta: float | None = column("real", "likewise", default=None)
    seed: int = column(
        "int", "what pairs runs: two methods at one seed meet the same weights and batches", default=0
    )
    study: str | None = column(
        "text",
        "the study that the run belongs to; this and the next four are null outside one",
        new=True,
        default=None,
    )
    role: str | None = column(
        "text",
        "tune (a trial, at a tuning seed), final (the trial that was chosen, at a final seed), default (the "
        "method untuned, at a final seed)",
        among=("tune", "final", "default"),
        new=True,
        default=None,
    )
    method: str | None = column(
        "text",
        "what competes at this place: the clipping type, or the transform; in a study one name for its "
        "trials, its final runs and its defaults; null outside one in rows of earlier versions",
        new=True,
        default=None,
    )
    trial: int | None = column(
        "int",
        "0, 1, …: the point of the repetition's quasi-random sequence, the same for all methods; null for a "
        "default",
        least=0,
        new=True,
        default=None,
    )
    repetition: int | None = column(
        "int",
        "0, 1, …: of the whole of tuning, with draws, a tuning seed and a final seed of its own; null too in "
        "studies of earlier versions, which tuned once",
        least=0,
        new=True,
        default=None,
    )
    place: str | None = column(
        "text",
        "where it clips: gradient, example (the gradient of each), activation or weight; null in rows of "
        "earlier versions, which is gradient",
        among=PLACES,
        new=True,
        default=None,
    )
    transform: str | None = column(
        "text",
        "what was done to the trained model, as JSON: its name and settings; null where nothing was",
        form=dict,
        new=True,
        default=None,
    )
    parent: str | None = column(
        "text", "the run whose weights were transformed; null for a run that trained", new=True, default=None
    )
    model: str | None = column(
        "text",
        "the file in this folder that keeps the evaluated weights (keep=model); null where they are not kept",
        new=True,
        default=None,
    )
    status: str = column(
        "text",
        "done; diverged (the loss was not finite, or above max_loss, or every step from one on to the last "
        "was skipped; of a transformed model: its parent did); stopped (a trial that its study gave up "
        "before the last step, to go on from there if it is asked for again); timeout (max_time was over "
        "before the last step; unfinished: it goes on with a larger max_time); failed (see error)",
        among=ENDED,
        default="",
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
    resolution: float | None = column(
        "real",
        "of `final_test`, or of `final` where there is no test, as in `evals`",
        least=0,
        new=True,
        default=None,
    )
    worth: float | None = column("real", "likewise", least=0, new=True, default=None)
    baseline: str | None = column(
        "text", "what anyone gets without learning, as majority class", default=None
    )
    baseline_test: float | None = column("real", "its test value of the headline", default=None)
    steps: int = column("int", "steps made, of a transformed model by its parent", least=0, default=0)
    seconds: float = column(
        "real",
        "of training, as in `steps`; of a transformed model its parent's",
        least=0,
        finite=True,
        default=0.0,
    )
    skipped: int = column("int", "steps whose gradient was not finite", least=0, default=0)
    lockstep: int | None = column(
        "int",
        "how many runs were trained side by side with it, itself included",
        new=True,
        least=1,
        default=None,
    )
    started: str | None = column(
        "text", "UTC; a run that was interrupted keeps its first start", default=None
    )
    ended: str | None = column("text", "UTC", default=None)
    data: str | None = column("text", "which data the run saw, with sizes", default=None)
    config: str | None = column(
        "text",
        'every setting, as JSON; a number that is not finite is text there ("inf")',
        form=dict,
        default=None,
    )
    overrides: str | None = column(
        "text",
        "the overrides that asked for the run, as a JSON list: `clipbench run` with them makes it again",
        form=list,
        default=None,
    )
    error: str | None = column("text", "traceback of a failed run", default=None)
    device: str | None = column("text", "where it ran: the GPU's name, or cpu", default=None)
    driver: str | None = column("text", "of a GPU, with torch's CUDA", new=True, default=None)
    host: str | None = column("text", "name of the machine", default=None)
    platform: str | None = column("text", "operating system and Python", default=None)
    threads: int | None = column("int", "of torch on the CPU: sums differ with it", least=1, default=None)
    versions: str | None = column("text", "of the libraries that compute, as JSON", form=dict, default=None)
    git: str | None = column(
        "text", "the checkout's commit, with a + where it was changed; empty outside one", default=None
    )


@dataclass(frozen=True)
class RunEnd:
    """How a run's training ended: the last item that it yields. `skipped`: steps whose gradient was not
    finite.

    status "done"; "diverged": a loss that is not finite or above `max_loss`, or no step taken any more;
    "stopped": before its last step, as it was asked to; "timeout": before its last step, after `max_time`;
    "failed": it raised, `error` is the traceback; "out of memory": likewise, for want of memory.
    """

    status: str
    steps: int
    seconds: float
    skipped: int
    error: str | None = None


Row = StepRow | EvalRow | RunEnd
"""What a learner yields."""

RUN = Column(
    "run",
    "text",
    "the run's id: r and a hash of the settings that define it, or w and random digits: a loop of one's own",
)
"""The first column of every table; the rows of a run do not repeat it."""

TABLES: dict[str, type] = {"steps": StepRow, "evals": EvalRow, "tails": NoiseRow, "runs": RunRow}


def columns(table: str) -> list[Column]:
    """The columns of a table in their order, `run` first. What may be None, and what earlier versions lack,
    may be null.
    """
    found = [RUN]
    for each in fields(TABLES[table]):
        about = dict(each.metadata)
        null = about.pop("null", False) or about.get("new", False) or "None" in str(each.type)
        found.append(Column(each.name, null=null, **about))
    return found


def fault_of_run(row: Mapping[str, Any]) -> str:
    """What a row of `runs`, whose cells are right one by one, lacks to be a run; "" for nothing."""
    needed = []
    if row["status"] != "failed":
        needed += ["headline", "higher_is_better"]
    if row["role"]:
        needed += ["study", "method"]
    if row["role"] == "tune":
        needed.append("trial")
    for name in needed:
        if row[name] in (None, ""):
            return f"{name} is null"
    if row["status"] == "stopped" and row["role"] != "tune":
        return "status is stopped, and it is no trial"
    if bool(row["parent"]) != bool(row["transform"]):
        return "parent and transform do not go together"
    return ""
