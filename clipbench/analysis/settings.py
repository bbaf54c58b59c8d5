"""What defines a run, as one flat mapping, and the words for it: labels that name what sets a run apart."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from clipbench.analysis.places import GRADIENT, Place
from clipbench.record.files import is_recorded
from clipbench.record.rows import CLIP_KEYS, from_json

RESOLVED = (*CLIP_KEYS, "lr")
"""Settings that are columns of `runs`: as used, null where the type has no use for them."""

OWN = GRADIENT.prefix
"""What the hyperparameters of a user's own rule begin with."""

UNRELATED = {
    "seed",
    "device",
    "threads",
    "results",
    "checkpoint_every",
    "keep",
    "max_time",
    "task.name",
    "task.device",
    "task.workers",
}
"""What may differ among the runs of a configuration."""

IDLE = ("task.lr.", "sweep.", "tag.", "transform.")
"""Settings that begin so have been used before the run, are not about it, or stand in a column as used."""

SYMBOLS = {
    "clipping_type": "",
    "clipping_level": "",
    "p_autoclip": "quantile ",
    "beta": "β=",
    "lr": "lr=",
    "run": "",
}

Settings = Mapping[str, Any]


def settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that defines a run but its seed, flat: {"clipping_level": 1.0, "optim.momentum": 0.9, …}.
    `run`: its row. Of somebody's own loop not everything is known: its id stands for the rest.
    """
    found = {}
    for name in RESOLVED:
        found[name] = None if pd.isna(run[name]) else run[name]
    config = dict(_flat(from_json(run["config"], dict)))
    idle: tuple[str, ...] = IDLE
    if "restart.first" not in config:
        idle += ("restart.",)
    if not config.get("spike.at"):
        idle += ("spike.",)
    hidden = UNRELATED | {f"optim.{name}" for name in RESOLVED}
    for key, value in config.items():
        if key not in hidden and not key.startswith(idle):
            found[key] = value
    if is_recorded(run.get("run", "")):
        found.update({"optim.name": run["optimizer"], "run": run["run"]})
    made = from_json(run.get("transform"), dict)
    return {**found, **dict(_flat({"transform": made}))}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Off and null are as if they were not there: an earlier version may not have had the key."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", tuple(map(_hashable, value))
        elif value is not None and value is not False:
            yield f"{prefix}{name}", value


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def merged(every: Iterable[Settings]) -> tuple[Settings, dict[str, tuple[Any, ...]]]:
    """What they share, None where they differ; and by key, where they do, the value of each."""
    first, *others = every
    shared, varied = dict(first), {}
    for key in {key: None for settings in (first, *others) for key in settings}:
        values = [settings.get(key) for settings in (first, *others)]
        if any(value != values[0] for value in values):
            shared[key], varied[key] = None, tuple(values)
    return shared, varied


def hyperparameters(settings: Settings, place: Place = GRADIENT) -> dict[str, Any]:
    """{name: value} of what a method is tuned over, None among them; those of a user's own rule, and of a
    transform, under their own names.
    """
    found = {name: settings.get(name) for name in place.tuned}
    for key, value in settings.items():
        if key.startswith(place.prefix) and key != place.type_key:
            found[key.removeprefix(place.prefix)] = value
    return found


def order(settings: Settings, place: Place) -> list[tuple[bool, Any]]:
    """By level, quantile, beta, learning rate or what a transform has of numbers, then the rest as text: what
    configurations of one type are sorted by.
    """
    places = []
    for name in place.tuned or hyperparameters(settings, place):
        value = settings[name] if place.tuned else settings[place.prefix + name]
        is_number = isinstance(value, (int, float))
        places.append((is_number, value if is_number else 0))
    rest = []
    for key, value in settings.items():
        if key not in RESOLVED:
            rest.append((key, str(value)))
    rest.sort()
    places.append((True, str(rest)))
    return places


def label(settings: Settings, peers: Iterable[Settings], everyone: Iterable[Settings], place: Place) -> str:
    """What tells these settings from others, as "norm 0.5 lr=0.1".

    The optimizer, where there are several; the type; then what differs: a clipping setting among the settings
    of the type (`peers`), any other among all (`everyone`). Only those with the same optimizer are looked at.
    Of a transform its own settings, whether they differ or not, as "round bits=8".
    """
    kind, optimizer = settings[place.type_key], settings.get("optim.name")
    everyone = list(everyone)
    same = [rival for rival in everyone if rival.get("optim.name") == optimizer]
    peers = [rival for rival in peers if rival.get("optim.name") == optimizer]
    words = [kind]
    if len(same) < len(everyone):
        words = [str(optimizer), kind]
    for key, value in settings.items():
        if value is None or key == place.type_key:
            continue
        is_own = place.is_of_the_rule(key)
        rivals = peers if is_own else same
        is_told = is_own and not place.trains
        if is_told or any(rival.get(key) != value for rival in rivals):
            words.append(_word(key, value))
    return " ".join(dict.fromkeys(words))  # batch_size and task.batch_size are one


def _word(key: str, value: Any) -> str:
    last = key.rpartition(".")[2]
    symbol = SYMBOLS.get(key, f"{last}=")
    text = as_text(value) if isinstance(value, float) else str(value)
    return symbol + _as_quantile(key, text)


def _as_quantile(key: str, text: str) -> str:
    """ "0.1" → ".1" of a quantile, "0.1–0.5" → ".1–.5" of several."""
    return re.sub(r"\b0\.", ".", text) if key == "p_autoclip" else text


def as_text(value: Any) -> str:
    """A setting's value, a number in short: "0.001", "∞"."""
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:g}".replace("inf", "∞")


def in_words(
    settings: Settings, varied: Mapping[str, Iterable[Any]] | None = None, place: Place = GRADIENT
) -> str:
    """ "level 2  lr=0.01": what was tuned over; of what is `varied`, the range: "lr=0.003–0.01"."""
    texts = {}
    for name, value in hyperparameters(settings, place).items():
        texts[name] = "" if value is None else as_text(value)
    for key, values in (varied or {}).items():
        texts[key.removeprefix(OWN)] = as_range(values)
    words = []
    for name, text in texts.items():
        if not text:
            continue
        symbol = SYMBOLS.get(name, f"{name}=")
        if name == "clipping_level":
            symbol = "level "
        words.append(symbol + _as_quantile(name, text))
    return "  ".join(words)


def training_in_words(settings: Settings) -> str:
    """ "norm  level 1  lr=0.1  batch_size=64": how models were trained, as far as `settings` say it."""
    kind = settings.get(GRADIENT.type_key)
    words = [GRADIENT.in_words(kind)] if kind else []
    words.append(in_words(settings))
    for key, value in sorted(settings.items()):
        if value is not None and not GRADIENT.is_of_the_method(key):
            words.append(f"{key.rpartition('.')[2]}={value}")
    return "  ".join(filter(None, words))


def as_range(values: Iterable[Any]) -> str:
    """ "0.003–0.01", "0.5–∞"; of what is no number, each once: "fast, slow"."""
    numbers, texts = [], []
    for value in values:
        if value is None:
            continue
        texts.append(str(value))
        if value == "inf":
            numbers.append(math.inf)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers.append(value)
    if len(numbers) < len(texts):
        return ", ".join(dict.fromkeys(texts))
    low, high = as_text(min(numbers)), as_text(max(numbers))
    return low if low == high else f"{low}–{high}"
