"""What may stand at a place of the command line, for TAB: commands, options, places and values from the table
of commands, keys and their values from the configuration files. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from clipbench.cli.commands import COMMANDS, Command, Option
from clipbench.cli.keys import FOLDERS, Line, Words, complete_value
from clipbench.record.files import RUN_ID
from clipbench.record.folder import run_folders
from clipbench.record.rows import ENDED, columns

GROUP_OF = {
    "task": "task",
    "scale": "scale",
    "optimizer": "optim",
    "clipping_type": "optim.clipping_type",
}
"""Columns of `runs` that have few values, with the key that sets them."""


def candidates(before: Sequence[str], current: str, after: Sequence[str] = ()) -> Words:
    """The words that `current` may become, after the words `before` it: all of the line but the program's own
    name. `after`: the rest of the line.
    """
    found = {}
    for word, note in _offered(before, current, after).items():
        if word.startswith((current, ":")):
            found[word] = note
    return found


def _offered(before: Sequence[str], current: str, after: Sequence[str]) -> Words:
    """All that may stand there; what does not go on from `current` is left in."""
    if not before:
        return {name: command.summary for name, command in COMMANDS.items()}
    name, *words = before
    if name not in COMMANDS:
        return {}
    command = COMMANDS[name]
    for option in _with_value(command):
        if current.startswith(f"{option.name}=") and option.what == "folder":
            return {FOLDERS: ""}
        if words and words[-1] == option.name and option.what != "text":
            return _of_kind(option.what, option.names, current)
    if current.startswith("-"):
        return dict.fromkeys([*sorted(option.name for option in command.options), "--help"], "")
    line = Line([*words, *after])
    if command.overrides:
        return line.overrides(current, command)
    return _place(command, _places(words, command), line, current)


def _with_value(command: Command) -> list[Option]:
    return [option for option in command.options if option.value]


def _places(words: Sequence[str], command: Command) -> list[str]:
    """The words that are neither options nor values of one."""
    names = [option.name for option in _with_value(command)]
    found = []
    for previous, word in pairwise(["", *words]):
        if not word.startswith("-") and previous not in names:
            found.append(word)
    return found


def _place(command: Command, filled: Sequence[str], line: Line, current: str) -> Words:
    """What the next place takes, after those that are `filled`."""
    if len(filled) < len(command.places):
        place = command.places[len(filled)]
    elif command.places and command.places[-1].count in ("+", "*"):
        place = command.places[-1]
    else:
        return {}
    if place.what == "classes":
        tasks = {f"task={name}": note for name, note in line.choices("task").items()}
        return line.values("optim.clipping_type") | tasks
    if place.what == "filters":
        return _filters(line, current, Path(filled[0]))
    return _of_kind(place.what, place.names, current)


def _of_kind(what: str, names: Iterable[str], current: str) -> Words:
    if what == "folder":
        return {FOLDERS: ""}
    several = "," in current
    return complete_value("", current, dict.fromkeys(names, ""), several)


def _filters(line: Line, current: str, folder: Path) -> Words:
    """For `rm`: columns of `runs`, values of those that have few, and the ids in the folder once there is a
    first letter.
    """
    key, equals, value = current.partition("=")
    if equals:
        known: Words = {}
        if key == "status":
            known = dict.fromkeys([*ENDED, "unfinished"], "")
        elif key in GROUP_OF:
            known = line.values(GROUP_OF[key])
        return complete_value(f"{key}=", value, known, several=True)
    found = {f"{column.name}=": "" for column in columns("runs")}
    if current:
        found |= dict.fromkeys(_run_ids(folder), "")
    return found


def _run_ids(folder: Path) -> list[str]:
    found = set(run_folders(folder))
    for path in (folder / "runs").glob("*.parquet"):
        if RUN_ID.fullmatch(path.stem):
            found.add(path.stem)
    return sorted(found)
