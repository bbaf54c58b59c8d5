"""Rows of the table `runs` in words. Imports nothing heavy but pandas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from clipbench.record.rows import CLIP_KEYS, from_json


def run_label(row: Mapping[str, Any]) -> str:
    """As Plan.label: "cola (mini) · adamw · norm clipping_level=1 · seed 0", with a study's tag behind it."""
    tag = [row[name] for name in ("study", "role") if pd.notna(row[name])]
    if pd.notna(row["trial"]):
        tag.append(f"{row['trial']:g}")
    parts = [task_label(row), row["optimizer"], method_label(row), f"seed {row['seed']}"]
    if tag:
        parts.append(" ".join(tag))
    if transform := transform_label(row):
        parts.append(transform)
    return " · ".join(parts)


def task_label(row: Mapping[str, Any]) -> str:
    """ "cola (mini)"; the task alone where it has no scale, as a loop of one's own."""
    return f"{row['task']} ({row['scale']})" if row["scale"] else str(row["task"])


def method_label(row: Mapping[str, Any]) -> str:
    """ "auto p_autoclip=0.75"."""
    words = [row["clipping_type"]]
    for name in CLIP_KEYS[1:]:
        if pd.notna(row[name]):
            words.append(f"{name}={row[name]:g}")
    return " ".join(words)


def transform_label(row: Mapping[str, Any]) -> str:
    """ "round bits=8"; "" for a run that trained."""
    found = from_json(row.get("transform"), dict) or {}
    words = [str(found.pop("name", ""))]
    words += [f"{name}={value}" for name, value in found.items()]
    return " ".join(words)


def last_lines(error: str, count: int = 3) -> str:
    """The last lines of a traceback; of the report on a worker that died, the first: what follows them is its
    whole stack.
    """
    lines = [line for line in error.strip().splitlines() if line.strip(" ~^")]
    return "\n".join(lines[-count:] if error.startswith("Traceback") else lines[:count])
