"""The keys that an override may set and their values, for TAB: those of the runs that the line asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from clipbench.cli.commands import Command
from clipbench.cli.sources import GROUPS, choices, clipping_types, config_folders, keys_of, literal, text_of

FOLDERS = ":folders"  # instead of words: here stands a folder, which the shell knows best
DRAWN = ("seed", "optim.clipping_level", "optim.p_autoclip", "optim.beta")  # what a study sets itself
SEVERAL_IN_STUDIES = ("task", "optim", "optim.clipping_type")
DEVICES = ("auto", "cpu", "cuda", "mps")

Words = dict[str, str]  # a word, and a few on what it is


class Line:
    """The words of the line, as far as they decide what is on offer: the user's folder, task, optimizer,
    scale, clipping type, study.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.config_dir = _config_dir(words)
        self.roots = config_folders(self.config_dir)
        self.chosen = {"study": ["quick"]}
        defaults = (self.roots[0] / "run.yaml").read_text(encoding="utf-8")
        for group, name in re.findall(r"^  - (\w+): (\w+)", defaults, re.MULTILINE):
            self.chosen[group] = [name]
        for word in words:
            key, _, value = word.partition("=")
            if value:
                self.chosen[key] = value.split(",")

    def overrides(self, current: str, command: Command) -> Words:
        """The keys that `current` may become or, behind its =, the values."""
        key, equals, value = current.partition("=")
        notes = self.keys(command)
        if not equals:
            return {f"{name}=": note for name, note in notes.items()}
        if "folder" in notes.get(key, "") and "," not in value:
            return {FOLDERS: ""}
        several = command.several_values or (command.draws and key in SEVERAL_IN_STUDIES)
        return complete_value(f"{key}=", value, self.values(key, notes.get(key, "")), several)

    def keys(self, command: Command) -> Words:
        """Every key that may be set, with its default and what its file says on it."""
        groups = {group: ", ".join(self.choices(group)) for group in GROUPS}
        notes = groups | self._keys_of_files()
        notes |= self._keys_of_rules(notes)
        notes |= groups  # a scale's file sets `scale` too
        if command.draws:
            notes = self._keys_of_studies(notes)
        if command.takes_launcher:
            notes["hydra/launcher"] = "another engine: " + ", ".join(self.values("hydra/launcher"))
        if command.several_values and self.choices("experiment"):
            notes["+experiment"] = "arms of a file"
        return notes

    def _keys_of_files(self) -> Words:
        notes = {}
        for group, path in self._files():
            is_global = "@package _global_" in text_of(path)
            prefix = f"{group}." if group and not is_global else ""
            for key, note in keys_of(path):
                if note != f"${{{key}}}":  # `steps: ${steps}` is not the task's own
                    notes[f"{prefix}{key}"] = note
        return notes

    def _files(self) -> Iterator[tuple[str, Path]]:
        """(group, file) of all that this line's runs are composed from."""
        yield "", self.roots[0] / "run.yaml"
        names = [("optim", "clipping"), ("transform", "keys")]
        for group in GROUPS:
            for name in self.chosen.get(group, []):
                names.append((group, name))
        for task in self.chosen["task"]:
            for scale in self.chosen["scale"]:
                names.append(("task_scale", f"{task}_{scale}"))
        for group, name in names:
            for root in self.roots:
                path = root / group / f"{name}.yaml"
                if path.is_file():
                    yield group, path

    def _keys_of_rules(self, known: Words) -> Words:
        """optim.clip.KEY for what the chosen clipping types take beside the keys of every optimizer."""
        notes = {}
        types = clipping_types()
        for name in self.chosen.get("optim.clipping_type", []):
            parameters = types[name][1] if name in types else ""
            for parameter in parameters.split(", "):
                key, equals, value = parameter.partition("=")
                if equals and f"optim.{key}" not in known:
                    notes[f"optim.clip.{key}"] = f"{value} of {name}"
        return notes

    def _keys_of_studies(self, notes: Words) -> Words:
        """Those of `notes` that a study takes and does not set itself, and its own."""
        found = {"study": ", ".join(self.choices("study"))}
        for key, note in notes.items():
            if key not in DRAWN and key.partition(".")[0] != "transform":
                found[key] = note
        for root in self.roots:
            for name in self.chosen["study"]:
                path = root / "study" / f"{name}.yaml"
                if not path.is_file():
                    continue
                for key, note in keys_of(path):
                    if "." not in key:
                        found[f"study.{key}"] = note
        return found

    def values(self, key: str, note: str = "") -> Words:
        """The values of a key that has few; `note`: its default."""
        if key in (*GROUPS, "study", "experiment", "+experiment"):
            return self.choices(key.removeprefix("+"))
        if key == "optim.clipping_type":
            return {name: lines[0] for name, lines in clipping_types().items()}
        known: Sequence[str] = ()
        if key == "hydra/launcher":
            known = list(literal("sweeps/engine.py", "EXTRAS"))
        elif key == "optim.nonfinite":
            known = literal("optim/clip.py", "POLICIES")
        elif key == "device":
            known = DEVICES
        elif note.split(" ")[0] in ("true", "false"):
            known = ("true", "false")
        else:
            known = literal("runs/settings.py", "CHOICES").get(key, ())
        return dict.fromkeys(known, "")

    def choices(self, group: str) -> Words:
        return choices(group, self.config_dir)


def _config_dir(words: Sequence[str]) -> Path | None:
    """The first --config-dir of the line that is a folder."""
    given = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    for option, word in pairwise(words):
        if option == "--config-dir":
            given.append(word)
    for folder in given:
        path = Path(folder).expanduser()
        if folder and path.is_dir():
            return path
    return None


def complete_value(key: str, value: str, known: Words, several: bool) -> Words:
    """`key` and what `value` may become; after a comma, where `several` may stand, what is not there yet."""
    there, comma = "", ""
    if several:
        there, comma, _ = value.rpartition(",")
    before = there.split(",")
    found = {}
    for name, note in known.items():
        if name not in before:
            found[f"{key}{there}{comma}{name}"] = note
    return found
