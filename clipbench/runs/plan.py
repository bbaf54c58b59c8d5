"""A run before it is made: from the overrides that ask for it to its settings, its rule and its id."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clipbench.errors import UserError
from clipbench.optim import ALIASES, Rule
from clipbench.optim.clip import POLICIES
from clipbench.optim.protocols import extra
from clipbench.record import tables
from clipbench.record.files import is_recorded, model_path
from clipbench.record.folder import RunFolder
from clipbench.record.rows import CLIP_KEYS, columns, from_json
from clipbench.runs import config
from clipbench.runs.build import (
    check_device,
    check_optimizer,
    check_tie,
    optimizer_class_of,
    rule_of,
    task_class_of,
    transform_of,
)
from clipbench.runs.identity import child_identity, identity, seen_data, unread_data
from clipbench.runs.patterns import check_patterns
from clipbench.runs.settings import LARGEST, Settings, is_number
from clipbench.runs.sources import with_helpers
from clipbench.task.content import Contents, Place, Seen, Unread
from clipbench.transform import Transform

KINDS = {column.name: column.kind for column in columns("runs")}


@dataclass(frozen=True)
class Plan:
    """`run`: the run's id. `overrides`: what asks for it on a command line, with `config_dir`.

    `unread`: its data that are not hashed yet, where they must not be for a mere look; `run` is then not its
    id. `seen`: what its data held, and how they looked from outside. `until`: the step that it is to be
    trained to for now, None for its last one. It is no part of the id: the run goes on from there when it is
    asked for again.

    `transform`: what is done to the weights of the run `parent`, which is made first where it is missing;
    None for a run that trains.
    """

    settings: Settings
    rule: Rule
    run: str
    overrides: tuple[str, ...]
    config_dir: Path | None = None
    unread: tuple[Unread, ...] = ()
    until: int | None = None
    parent: Plan | None = None
    transform: Transform | None = None
    seen: Mapping[Place, Seen] = field(default_factory=dict, compare=False, repr=False)

    @property
    def last_step(self) -> int:
        """The step that it is to be trained to."""
        return self.settings.steps if self.until is None else self.until

    def ends_with(self, row: Mapping[str, Any]) -> bool:
        """Whether this row of `runs` is the end that the plan asks for. A run is to be made, or to go on,
        that failed, was stopped before `last_step`, has time left, or whose weights are not there but asked
        for.
        """
        status = row["status"]
        if status == "stopped":
            return bool(row["steps"] >= self.last_step)
        if status == "timeout":
            return bool(row["seconds"] >= self.settings.most_seconds)
        if status == "done" and self.settings.keep and not self.transform:
            return self.model_path.is_file()
        return bool(status != "failed")

    @property
    def steps_left(self) -> int:
        """That are to be trained, from its last checkpoint on. A child trains none."""
        if self.transform:
            return 0
        return max(0, self.last_step - self.run_folder.checkpoint_step())

    @property
    def model_path(self) -> Path:
        """Where the run's weights are kept."""
        return model_path(self.results, self.run)

    @property
    def place(self) -> str:
        """Where it clips: one of rows.PLACES."""
        return self.transform.place if self.transform else "gradient"

    @property
    def command(self) -> str:
        """What makes this run alone."""
        return shlex.join(["clipbench", "run", *self.arguments])

    @property
    def arguments(self) -> list[str]:
        """What asks for it on a command line: --config-dir, if there is one, and the overrides."""
        own = ["--config-dir", str(self.config_dir)] if self.config_dir else []
        return [*own, *self.overrides]

    @property
    def results(self) -> Path:
        """The folder that its tables are written to, as `results=` gave it."""
        return Path(self.settings.results)

    @property
    def run_folder(self) -> RunFolder:
        """What is kept of the run until it has ended."""
        return RunFolder(self.results, self.run)

    @property
    def facts(self) -> dict[str, Any]:
        """The columns of `runs` that the plan alone decides."""
        settings, rule = self.settings, asdict(self.rule)
        clipping_type = settings.optim.clipping_type
        facts = {
            "task": settings.task.name,
            "scale": settings.scale,
            "optimizer": settings.optim.name,
            "lr": settings.optim.lr,
            "clipping_type": ALIASES.get(clipping_type, clipping_type),
            "place": self.place,
        }
        for key in CLIP_KEYS[1:]:
            facts[key] = rule.get(key)
        facts |= {"seed": settings.seed, **asdict(settings.tag)}
        if self.parent and self.transform:
            facts["parent"] = self.parent.run
            facts["transform"] = json.dumps({"name": settings.transform.name, **asdict(self.transform)})
        if facts["method"] is None:
            facts["method"] = settings.transform.name if self.transform else facts["clipping_type"]
        return facts

    @property
    def label(self) -> str:
        """ "cola (mini) · adamw · auto p_autoclip=0.75 window=10000 · seed 0", of a study's run with
        " · quick tune 3" behind it.
        """
        settings = self.settings
        method = [settings.optim.clipping_type]
        for name, value in asdict(self.rule).items():
            method.append(f"{name}={value:g}" if isinstance(value, (int, float)) else f"{name}={value}")
        parts = [
            f"{settings.task.name} ({settings.scale})",
            settings.optim.name,
            " ".join(method),
            f"seed {settings.seed}",
        ]
        if self.transform:
            fields = [f"{name}={value}" for name, value in asdict(self.transform).items()]
            parts.append(" ".join([settings.transform.name, *fields]))
        tag = [settings.tag.study, settings.tag.role, settings.tag.trial]
        if given := [str(value) for value in tag if value is not None]:
            parts.append(" ".join(given))
        return " · ".join(parts)


def statuses(plans: Sequence[Plan]) -> dict[str, str]:
    """{run: status} of those that have a row, those that have failed among them; without those that were
    stopped before the step that they are to be trained to. UserError as of `tables.row_of`.
    """
    found = {}
    for plan in plans:
        row = tables.row_of(plan.results, plan.run)
        if row is not None and (row["status"] == "failed" or plan.ends_with(row)):
            found[plan.run] = str(row["status"])
    return found


def is_finished(plan: Plan) -> bool:
    """Whether the run has come to the end that the plan asks for, so that it is not to be made. A failed one
    is.
    """
    return statuses([plan]).get(plan.run, "failed") != "failed"


def make_plan(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    composed: dict[tuple[str, ...], Any] | None = None,
    contents: Contents | None = None,
) -> Plan:
    """The plan of the run that `overrides` ask for. `composed` as for `config.load`; `contents`: what data
    hold, shared by the plans of a sweep.

    UserError for whatever can be known to be wrong before data are loaded.
    """
    settings = config.load(overrides, config_dir, composed)
    optim = settings.optim
    rule = rule_of(optim)
    check_patterns(optim, rule)
    check_tie(optim, rule)
    if optim.nonfinite not in POLICIES:
        raise UserError(f"optim.nonfinite must be one of {', '.join(POLICIES)}, got {optim.nonfinite!r}.")
    check_optimizer(optim, rule)
    check_device(settings.device)
    transform = transform_of(settings.transform)
    contents = contents or Contents()
    parent = None
    if transform:
        of_parent = _of_the_parent(overrides)
        parent = make_plan(of_parent, config_dir, composed, contents)
        run = _child_id(parent.run, settings, transform, config_dir)
    else:
        run = _run_id(settings, rule, config_dir, contents)
    unread, seen = unread_data(settings.task, contents), seen_data(settings.task, contents)
    plan = Plan(
        settings,
        rule,
        run,
        tuple(overrides),
        config_dir,
        unread,
        parent=parent,
        transform=transform,
        seen=seen,
    )
    check_recordable(plan)
    return plan


def _of_the_parent(overrides: Sequence[str]) -> list[str]:
    """What asks for the run that a child starts from: the same without a transform, of no study, its weights
    kept.
    """
    found = []
    for text, override in zip(overrides, config.parse(overrides), strict=True):
        if override.key_or_group.split(".")[0] not in ("transform", "tag", "keep"):
            found.append(text)
    return [*found, "transform=none", "keep=model"]  # a file may choose one too


def with_parents(plans: Iterable[Plan]) -> list[Plan]:
    """Each run once, and before them the parents of those that are not finished: what is to be made, in an
    order that can be.

    A run that is asked for and is such a parent too keeps its weights. UserError as of `statuses`.
    """
    found: dict[str, Plan] = {}
    asked = list(plans)
    for plan in asked:
        if plan.parent and plan.parent.run not in found and not is_finished(plan):
            found[plan.parent.run] = plan.parent
    for plan in asked:
        if plan.run not in found or plan.settings.keep:
            found[plan.run] = plan
    return list(found.values())


def _child_id(parent: str, settings: Settings, transform: Transform, config_dir: Path | None) -> str:
    module = type(transform).__module__
    sources = [] if _is_ours(module) else _source_files({module}, config_dir)
    return child_identity(parent, settings, transform, sources)


def _run_id(settings: Settings, rule: Rule, config_dir: Path | None, contents: Contents) -> str:
    by_itself = bool(extra(optimizer_class_of(settings.optim), "clips_by_itself"))
    return identity(settings, rule, _sources(settings, rule, config_dir), by_itself, contents)


def plan_of(results: Path, run: str) -> Plan:
    """The plan of a run that has a row in a results folder, from what asked for it. UserError where it has
    none, or where that asks for another run by now.
    """
    row = tables.row_of(results, run)
    if row is not None and is_recorded(run):
        raise UserError(f"{run} is of a loop of somebody's own: what it trained is not known here.")
    if row is None:
        raise UserError(
            f"{results} has no finished run {run}. `clipbench status {results}` says what is there."
        )
    words = from_json(row["overrides"], list)
    config_dir = None
    if words[:1] == ["--config-dir"]:
        config_dir, words = Path(words[1]), words[2:]
    plan = make_plan(words, config_dir)
    plan = replace(plan, settings=replace(plan.settings, results=str(results)))
    if plan.run != run:
        raise UserError(
            f"{plan.label}: run {run} cannot be taken up. Its data, its source or clipbench changed since: "
            f"what asked for it then asks for {plan.run} now."
        )
    return plan


def changed_since(plan: Plan, contents: Contents | None = None) -> str:
    """What is other than when the run was planned, so that it would be another run: a sentence for the user.
    "" where it is the same run.

    To be asked once its data are loaded, for what was loaded is then what the id names. It costs a stat of
    each file; only what looks other from outside is read. `contents`: shared by plans of the same data.
    """
    contents = contents or Contents(before=plan.seen)
    if plan.parent and plan.transform:
        if change := changed_since(plan.parent, contents):
            return change
        run = _child_id(plan.parent.run, plan.settings, plan.transform, plan.config_dir)
    else:
        run = _run_id(plan.settings, plan.rule, plan.config_dir, contents)
    if run == plan.run:
        return ""
    other = []
    for place, seen in plan.seen.items():
        now = contents.seen.get(place)
        if now is None or now.content != seen.content:
            other.append(str(place[1]))
    what = ", ".join(dict.fromkeys(other)) or "The source of the task, rule or transform"
    return (
        f"{what} changed after the runs were planned, which are named by what it held. Nothing was trained "
        "on what it holds now; give the same command again to plan anew."
    )


def check_recordable(plan: Plan) -> None:
    """UserError for a value that the tables cannot hold: it is found before training, not after it."""
    for name, value in plan.facts.items():
        kind = KINDS[name]
        whole = is_number(value) and -LARGEST <= value <= LARGEST
        fits = {"text": isinstance(value, str) and _is_text(value), "int": whole, "real": is_number(value)}
        if value is not None and not fits[kind]:
            raise UserError(f"{name}={value!r} cannot be recorded: the column {name} of `runs` takes {kind}.")


def _is_text(value: str) -> bool:
    return value.isprintable()


def _sources(settings: Settings, rule: Rule, config_dir: Path | None) -> list[Path]:
    """The files of a user's own rule and task, and those of theirs that these import. UserError where there
    is no such task.
    """
    names = {type(rule).__module__}
    if not _is_ours(settings.task.module):  # ours need not be imported to plan a run
        task_class_of(settings.task)
        names.add(settings.task.module)
    return _source_files({name for name in names if not _is_ours(name)}, config_dir)


def _source_files(modules: Iterable[str], config_dir: Path | None) -> list[Path]:
    """The files of a user's modules, which are imported, and of those of theirs that these import."""
    own = {name: Path(str(sys.modules[name].__file__)) for name in modules}
    folders = [config_dir] if config_dir else []
    return with_helpers(own, [*folders, Path.cwd()])


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "clipbench"
