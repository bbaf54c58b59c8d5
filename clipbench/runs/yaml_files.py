"""Configuration files, as anybody may have written them: read only where they are files, texts and mappings
of a size that a configuration has.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader  # numbers as Hydra reads them: 1e-3 is one

from clipbench.errors import UserError

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""Of a file once its aliases are written out: a few lines of them can stand for more than a memory holds."""


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a configuration file, {} of an empty one. UserError, naming it, for what is none."""
    content = read_content(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must be a mapping, lines of key: value, and is {_kind(content)}. Begin with "
            "name: VALUE, for instance."
        )
    return {str(key): value for key, value in content.items()}


def read_content(path: Path) -> Any:
    """Whatever a YAML file holds. UserError, naming it, for one that is no text, no YAML or too large."""
    text = _read_text(path)
    try:
        content = yaml.load(text, Loader=get_yaml_loader())
        count = _count(content, {})
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read, it is no YAML: {reason}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply, or holds itself by an alias.") from error
    if count > MOST_VALUES:
        raise UserError(
            f"{path} stands for more than {MOST_VALUES} values once its aliases are written out. A "
            "configuration is smaller."
        )
    return content


def _read_text(path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for without end
            raise UserError(f"{path} is no regular file. Remove it, or put a text file in its place.")
        if about.st_size > MOST_BYTES:
            raise UserError(f"{path} has {about.st_size} bytes. A configuration is smaller.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}). Save it in that encoding; what is there may be "
            "latin-1."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _count(value: Any, counted: dict[int, int]) -> int:
    """How many values there are with every alias written out; each node is looked at once."""
    if id(value) in counted:
        return counted[id(value)]
    total = 1
    if isinstance(value, dict):
        total += sum(_count(item, counted) for item in value.values())
    elif isinstance(value, list):
        total += sum(_count(item, counted) for item in value)
    counted[id(value)] = total
    return total


def _kind(content: Any) -> str:
    return "a list" if isinstance(content, list) else f"the value {str(content)[:40]!r} alone"


def check_with_defaults(
    group: str, name: str, find: Callable[[str, str], Path | None], seen: set[Path] | None = None
) -> None:
    """UserError for a file of the user's that Hydra would load for `group=name`, those in its defaults list
    included, and cannot be. `find`: where a group's file lies, None where it is none of the user's.
    """
    seen = set() if seen is None else seen
    path = find(group, name)
    if path is None or path in seen:
        return
    seen.add(path)
    defaults = read_mapping(path).get("defaults") or []
    if not isinstance(defaults, list):
        raise UserError(f"{path}: defaults must be a list, as [clipping, _self_].")
    for entry in defaults:
        included = entry if isinstance(entry, dict) else {group: entry}
        for key, value in included.items():
            words = str(key).split("@")[0].split()
            if not words:
                raise UserError(f"{path}: the entry {entry!r} of its defaults names no group.")
            of_group = words[-1].strip("/")
            for each in value if isinstance(value, list) else [value]:
                folder, _, last = str(each).split("@")[0].strip("/").rpartition("/")
                check_with_defaults(folder or of_group, last, find, seen)
