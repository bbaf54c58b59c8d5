"""A run's id: a letter and a hash of what defines its result, the same on any machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipbench.optim import ALIASES, Rule
from clipbench.runs.settings import MACHINE, SWITCHES, Settings

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

ENTRIES = 2000  # of a folder of data that are looked at


def identity(settings: Settings, rule: Rule, sources: Sequence[Path], clips_by_itself: bool = False) -> str:
    """The id of the run that `settings` and `rule` define.

    In: the rule with the fields it uses, the optimizer's and the task's settings, the text of `sources` (a
    user's own task or rule).
    Out: device, threads, worker processes, folders, the tag of a run of no study, switches that are off and
    keys at a default that changes nothing, and patterns where neither the rule nor the optimizer clips
    (`clips_by_itself`); a file or folder among the task's settings counts by what it holds.
    """
    defined = settings.as_dict()
    for name in _idle_keys(settings):
        del defined[name]
    clipping_type = ALIASES.get(settings.optim.clipping_type, settings.optim.clipping_type)
    rule_name = RULE_NAMES.get(clipping_type, type(rule).__qualname__)
    defined |= {
        "version": RESULTS_VERSION,
        "task": _task(settings),
        "optim": _optim(settings, patterns=rule.clips or clips_by_itself),
        "rule": {"name": rule_name, **asdict(rule)},
        "sources": [path.read_text() for path in sources],
    }
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
    if not settings.tag.study:
        yield "tag"


def _task(settings: Settings) -> dict[str, Any]:
    defined = {"_target_": settings.task.target}
    for key, value in settings.task.keywords.items():
        if key not in ("device", "workers"):
            defined[key] = fingerprint(value)
    return defined


def _optim(settings: Settings, patterns: bool) -> dict[str, Any]:
    """What the optimizer is made with; of clipping only what is not the rule's."""
    optim = settings.optim
    defined = {"_target_": optim.target, "nonfinite": optim.nonfinite, **optim.keywords}
    if patterns:
        defined |= {"clip_exempt": optim.clip_exempt, "clip_levels": optim.clip_levels}
    return {key: value for key, value in defined.items() if value is not None}


def fingerprint(value: Any, entries: int = ENTRIES) -> Any:
    """A setting as it is, but an existing file or folder as a hash of the names and sizes in it, level by
    level, up to `entries`.

    What loaders write beside the data (PyG's `processed`, hidden files) does not count: a run must not change
    its own id.
    """
    if not isinstance(value, str) or not os.path.exists(os.path.expanduser(value)):
        return value
    root = Path(value).expanduser()
    found: list[Any] = []
    level: list[Path] = []
    if root.is_file():
        found.append(root.stat().st_size)
    else:
        level.append(root)
    while level and len(found) < entries:
        children = [child for folder in level for child in _data_in(folder)]
        for child in children[: entries - len(found)]:
            size = child.stat().st_size if child.is_file() else None
            found.append((child.relative_to(root).as_posix(), size))
        level = [child for child in children if child.is_dir()]
    return f"content {hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]}"


def _data_in(folder: Path) -> list[Path]:
    names = sorted(folder.iterdir())
    return [path for path in names if path.name != "processed" and not path.name.startswith(".")]


def _canonical(value: Any) -> Any:
    """1 and 1.0 are the same, True is not."""
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(float(value))
    return value
