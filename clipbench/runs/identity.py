"""A run's id: a letter and a hash of what defines its result, the same on any machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from clipbench.errors import UserError
from clipbench.optim import ALIASES, Rule
from clipbench.runs.build import task_class_of
from clipbench.runs.settings import MACHINE, SWITCHES, Settings, TaskSettings
from clipbench.runs.sources import source_text
from clipbench.task import Task
from clipbench.task.content import Contents, Place, Seen, Unread, files_below, in_order
from clipbench.transform import TRANSFORMS, Transform

RESULTS_VERSION = 1
"""Part of every id: raise it when a change to clipbench changes what the same settings give."""

RULE_NAMES = {
    "none": "NoClip",
    "norm": "Norm",
    "linear_rand_norm": "LinearRandNorm",
    "quadratic_rand_norm": "QuadraticRandNorm",
    "layer_wise": "LayerWise",
    "coordinate_wise": "CoordinateWise",
    "value": "Value",
    "normalize": "Normalize",
    "auto": "Auto",
    "linear_rand_auto": "LinearRandAuto",
    "quadratic_rand_auto": "QuadraticRandAuto",
    "zclip": "ZClip",
    "adagc": "AdaGC",
    "agc": "AGC",
    "uclip": "UClip",
    "block_rms": "BlockRMS",
}
"""What ids call our rules, by clipping type: it stays when a class is renamed. A new type goes by its class.
"""

ENTRIES = 2000  # of a folder that no task can read that are looked at


def identity(
    settings: Settings,
    rule: Rule,
    sources: Sequence[Path],
    clips_by_itself: bool = False,
    contents: Contents | None = None,
) -> str:
    """The id of the run that `settings` and `rule` define.

    In: the rule with the fields it uses, the optimizer's and the task's settings, the text of `sources` (a
    user's own task or rule, and the modules of theirs that these import).
    Out: device, threads, worker processes, folders, the tag of a run of no study, switches that are off and
    keys at a default that changes nothing, and patterns where neither the rule nor the optimizer clips
    (`clips_by_itself`); a file or folder among the task's settings counts by what it holds, which `contents`
    knows or reads.
    """
    defined = settings.as_dict()
    for name in _idle_keys(settings):
        del defined[name]
    if "tag" in defined and settings.tag.repetition is None:  # a study of an earlier version
        defined["tag"] = {key: value for key, value in defined["tag"].items() if key != "repetition"}
    clipping_type = ALIASES.get(settings.optim.clipping_type, settings.optim.clipping_type)
    rule_name = RULE_NAMES.get(clipping_type, type(rule).__qualname__)
    defined |= {
        "version": RESULTS_VERSION,
        "task": _task(settings, contents or Contents()),
        "optim": _optim(settings, patterns=rule.clips or clips_by_itself),
        "rule": {"name": rule_name, **asdict(rule)},
        "sources": [source_text(path) for path in sources],
    }
    return _hashed(defined)


def child_identity(parent: str, settings: Settings, transform: Transform, sources: Sequence[Path]) -> str:
    """The id of the run that transforms the weights of the run `parent`.

    In: the parent, and so all that defines it; the transform with the fields it uses; the tag of a study; the
    text of `sources` (a user's own transform, and the modules of theirs that it imports).
    """
    known = {kind: name for name, kind in TRANSFORMS.items()}
    name = known.get(type(transform), type(transform).__qualname__)
    defined = {
        "version": RESULTS_VERSION,
        "parent": parent,
        "transform": {"name": name, **asdict(transform)},
        "sources": [source_text(path) for path in sources],
    }
    if settings.tag.study:
        defined["tag"] = asdict(settings.tag)
    return _hashed(defined)


def _hashed(defined: Mapping[str, Any]) -> str:
    text = json.dumps(_canonical(defined), sort_keys=True)
    return "r" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _idle_keys(settings: Settings) -> Iterable[str]:
    """Keys that do not define the result, or are at a value that means they are not used."""
    yield from MACHINE
    for name in SWITCHES:
        if not getattr(settings, name):
            yield name
    if settings.accumulate == 1:
        yield "accumulate"
    if not settings.restart.first:
        yield "restart"
    yield "transform"  # what was done to the weights defines a child, not the run that trained them
    if not settings.spike.at:
        yield "spike"
    if not settings.tag.study:
        yield "tag"


def _task(settings: Settings, contents: Contents) -> dict[str, Any]:
    defined = {"_target_": settings.task.target}
    for key, value in settings.task.keywords.items():
        if key not in ("device", "workers"):
            defined[key] = fingerprint(value, partial(_content_of, settings.task, key, contents))
    return defined


def _optim(settings: Settings, patterns: bool) -> dict[str, Any]:
    """What the optimizer is made with; of clipping only what is not the rule's."""
    optim = settings.optim
    defined = {"_target_": optim.target, "nonfinite": optim.nonfinite, **optim.keywords}
    if patterns:
        defined |= {"clip_exempt": optim.clip_exempt, "clip_levels": optim.clip_levels}
    return {key: value for key, value in defined.items() if value is not None}


def everything_in(root: Path) -> str:
    """A hash of every file of data in a file or folder."""
    return f"content {Contents().digest('', root, lambda: files_below(root))}"


def fingerprint(value: Any, content: Callable[[Path], str] = everything_in) -> Any:
    """A setting as it is, but `content` of an existing file or folder in its place, in lists and mappings
    too.
    """
    if isinstance(value, dict):
        return {name: fingerprint(item, content) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item, content) for item in value]
    if not isinstance(value, str) or not _exists(value):
        return value
    return content(Path(value).expanduser())


def _content_of(task: TaskSettings, key: str, contents: Contents, root: Path) -> str:
    """A hash of the names and the content of the files that the task reads of `root`.

    What is not hashed yet and must not be counts by its path. What the task cannot use counts by its outline:
    no run can be made of it.
    """
    try:
        content = contents.digest(
            f"{task.target} {key}", root, lambda: _listing(task, key, root), verify=task.verify
        )
    except Unusable:
        return f"content {_outline(root)}"
    return f"content {content}" if content else f"unread {root.absolute()}"


def _exists(path: str) -> bool:
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # a null character
        return False


def unread_data(task: TaskSettings, contents: Contents) -> tuple[Unread, ...]:
    """What the task's settings name that is not hashed yet, once its id was asked for."""
    named = _named(task)
    return tuple(unread for unread in contents.unread if unread.root in named)


def seen_data(task: TaskSettings, contents: Contents) -> dict[Place, Seen]:
    """What the files and folders that the task's settings name were found to hold, once its id was asked
    for.
    """
    named = _named(task)
    return {place: seen for place, seen in contents.seen.items() if place[1] in named}


def _named(task: TaskSettings) -> set[Path]:
    return {Path(text).expanduser() for text in _texts(list(task.keywords.values()))}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


class Unusable(Exception):
    """The task cannot use a folder: it says why as soon as it is to load it."""


def _listing(task: TaskSettings, key: str, root: Path) -> list[Path]:
    """The files that the task's own loader takes."""
    task_class: Any = task_class_of(task)
    try:
        return list(task_class.data_files(key, root))
    except UserError as error:
        if task_class.data_files.__func__ is Task.data_files.__func__:  # type: ignore[attr-defined]
            raise
        raise Unusable(str(error)) from error


def _outline(root: Path, entries: int = ENTRIES) -> str:
    """A hash of names and sizes, level by level, up to `entries` of them: for what cannot be trained on."""
    found: list[Any] = []
    level: list[Path] = []
    if root.is_dir():
        level.append(root)
    else:
        found.append(_size(root))
    while level and len(found) < entries:
        children = [child for folder in level for child in _children(folder)]
        for child in children[: entries - len(found)]:
            found.append((child.relative_to(root).as_posix(), _size(child)))
        level = [child for child in children if child.is_dir()]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _children(folder: Path) -> list[Path]:
    with suppress(OSError):
        names = in_order(folder.iterdir())
        return [path for path in names if path.name != "processed" and not path.name.startswith(".")]
    return []


def _canonical(value: Any) -> Any:
    """1 and 1.0 are the same, True is not."""
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(float(value))
    return value
