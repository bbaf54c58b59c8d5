"""What may stand at a place of the command line. Read from files as text: neither torch nor hydra is imported, for an answer at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from clipbench.cli import listing
from clipbench.cli.main import HELP
from clipbench.record.rows import columns

FOLDERS = ":folders"  # instead of words: here stands a folder, which the shell knows best
OPTIONS = {
    "run": ("--config-dir", "--help"),
    "sweep": ("--config-dir", "--dry-run", "--multirun", "--help"),
    "study": ("--config-dir", "--dry-run", "--help"),
    "prepare": ("--config-dir", "--help"),
    "tails": ("--at", "--batches", "--config-dir", "--help"),
    "plot": ("--apart", "--format", "--out", "--help"),
    "table": ("--apart", "--format", "--help"),
    "list": ("--config-dir", "--help"),
    "check": ("--config-dir", "--help"),
    "status": ("--help",),
    "rm": ("--yes", "--help"),
    "completion": ("--help",),
}
WITH_FOLDER = ("--config-dir", "--out")
FORMATS = {"plot": ("png", "svg", "pdf"), "table": ("md", "latex", "csv")}
SHELLS = ("bash", "zsh", "fish")
GROUPS = ("task", "optim", "scale")
DRAWN = ("seed", "optim.clipping_level", "optim.p_autoclip", "optim.beta")  # what a study sets itself
ENDED = ("done", "diverged", "failed", "unfinished")
DEVICES = ("auto", "cpu", "cuda", "mps")
LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s].*?))?(?: +# (?P<note>.*))?")
UNCHANGED = ("name", "_target_", "defaults")  # nothing that a word on the command line sets

Words = dict[str, str]  # a word, and a few on what it is


def candidates(before: Sequence[str], current: str, after: Sequence[str] = ()) -> Words:
    """The words that go on from `current`, after the words `before` it: all of the line but the program's own name."""
    return {
        word: note for word, note in _all(before, current, after).items() if word.startswith((current, ":"))
    }


def _all(before: Sequence[str], current: str, after: Sequence[str]) -> Words:
    if not before:
        return dict(re.findall(r"^  clipbench ([a-z]+) .*?  +(\w.+)$", HELP, re.MULTILINE))
    command, *rest = before
    if (rest and rest[-1] in WITH_FOLDER) or current.startswith(
        tuple(f"{option}=" for option in WITH_FOLDER)
    ):
        return {FOLDERS: ""}
    if rest and rest[-1] == "--format":
        return _values("", current, dict.fromkeys(FORMATS.get(command, ()), ""), True)
    if current.startswith("-"):
        return dict.fromkeys(OPTIONS.get(command, ()), "")
    line = Line([*rest, *after])
    if command in ("run", "sweep", "study", "prepare", "tails"):
        return line.overrides(current, command)
    places = [
        word
        for previous, word in pairwise(before)
        if not word.startswith("-") and previous not in (*WITH_FOLDER, "--format")
    ]
    if command in ("plot", "table", "status", "rm") and not places:
        return {FOLDERS: ""}
    if command == "check":
        return line.values("optim.clipping_type") | {
            f"task={name}": note for name, note in line.choices("task").items()
        }
    if command == "rm":
        return line.filters(current, Path(places[0]))
    return dict.fromkeys(SHELLS, "") if command == "completion" and not places else {}


class Line:
    """The other words of the line, as far as they decide what is on offer: the user's folder, task, optimizer, scale, clipping type."""

    def __init__(self, words: Sequence[str]) -> None:
        pairs = [word.partition("=") for word in words]
        folders = [value for key, _, value in pairs if key == "--config-dir" and value]
        folders += [folder for word, folder in pairwise(words) if word == "--config-dir"]
        self.config_dir = next(
            (path for folder in folders if (path := Path(folder).expanduser()).is_dir()), None
        )
        self.roots = listing.folders_of(self.config_dir)
        self.chosen = {key: value.split(",") for key, _, value in pairs if value}
        default = re.findall(
            r"^  - (\w+): (\w+)", (self.roots[0] / "run.yaml").read_text(encoding="utf-8"), re.MULTILINE
        )
        self.chosen = {group: [name] for group, name in default} | {"study": ["quick"]} | self.chosen

    def overrides(self, current: str, command: str) -> Words:
        key, equals, value = current.partition("=")
        notes = self.keys(command)
        if not equals:
            return {f"{name}=": note for name, note in notes.items()}
        if "folder" in notes.get(key, "") and "," not in value:
            return {FOLDERS: ""}
        several = command == "sweep" or (
            command == "study" and key in ("task", "optim", "optim.clipping_type")
        )
        return _values(f"{key}=", value, self.values(key, notes.get(key, "")), several)

    def keys(self, command: str) -> Words:
        """Every key that may be set, with its default and what its file says on it."""
        groups = {group: ", ".join(self.choices(group)) for group in GROUPS}
        notes = dict(groups)
        for group, path in self.files():
            prefix = (
                ""
                if "@package _global_" in path.read_text(encoding="utf-8")
                else f"{group}."
                if group
                else ""
            )
            notes |= {f"{prefix}{key}": note for key, note in _keys(path) if note != f"${{{key}}}"}
        for name in self.chosen.get("optim.clipping_type", []):
            for field in listing.clipping_types().get(name, ["", ""])[1].split(", "):
                if "=" in field and f"optim.{field.partition('=')[0]}" not in notes:
                    notes["optim.clip." + field.partition("=")[0]] = f"{field.partition('=')[2]} of {name}"
        notes |= groups  # a scale's file sets `scale` too
        if command == "study":
            notes = {"study": ", ".join(self.choices("study"))} | {
                key: note for key, note in notes.items() if key not in DRAWN
            }
            for path in (
                root / "study" / f"{name}.yaml" for root in self.roots for name in self.chosen["study"]
            ):
                notes |= (
                    {f"study.{key}": note for key, note in _keys(path) if "." not in key}
                    if path.is_file()
                    else {}
                )
        if command in ("sweep", "study"):
            notes |= {"hydra/launcher": "another engine: " + ", ".join(self.values("hydra/launcher"))}
        if command == "sweep":
            notes |= {"+experiment": "arms of a file"} if self.choices("experiment") else {}
        return notes

    def files(self) -> Iterator[tuple[str, Path]]:
        """(group, file) of all that this line's runs are composed from."""
        yield "", self.roots[0] / "run.yaml"
        names = [
            ("optim", "clipping"),
            *((group, name) for group in GROUPS for name in self.chosen.get(group, [])),
        ]
        names += [
            ("task_scale", f"{task}_{scale}")
            for task in self.chosen["task"]
            for scale in self.chosen["scale"]
        ]
        for group, name in names:
            yield from (
                (group, path) for root in self.roots if (path := root / group / f"{name}.yaml").is_file()
            )

    def values(self, key: str, note: str = "") -> Words:
        if key in (*GROUPS, "study", "experiment", "+experiment"):
            return self.choices(key.lstrip("+"))
        if key == "optim.clipping_type":
            return {name: lines[0] for name, lines in listing.clipping_types().items()}
        if key == "hydra/launcher":
            return dict.fromkeys(_literal("sweeps/launch.py", "EXTRAS"), "")
        if key in (known := _literal("runs/settings.py", "CHOICES")):
            return dict.fromkeys(known[key], "")
        if key == "optim.nonfinite":
            return dict.fromkeys(_literal("optim/clip.py", "POLICIES"), "")
        if key == "device":
            return dict.fromkeys(DEVICES, "")
        return dict.fromkeys(("true", "false") if note.split(" ")[0] in ("true", "false") else (), "")

    def choices(self, group: str) -> Words:
        return {name: lines[0] for name, lines in listing.choices(group, self.config_dir).items()}

    def filters(self, current: str, folder: Path) -> Words:
        """For `rm`: columns of `runs`, values of those that have few, and the ids in the folder once one is begun."""
        key, equals, value = current.partition("=")
        if equals:
            groups = {
                "task": "task",
                "scale": "scale",
                "optimizer": "optim",
                "clipping_type": "optim.clipping_type",
            }
            known = (
                dict.fromkeys(ENDED, "")
                if key == "status"
                else self.values(groups[key])
                if key in groups
                else {}
            )
            return _values(f"{key}=", value, known, True)
        ids = (
            {path.stem: "" for name in ("runs", ".work") for path in (folder / name).glob("r[0-9]*")}
            if current
            else {}
        )
        return {f"{column.name}=": "" for column in columns("runs")} | ids


def _values(key: str, value: str, known: Words, several: bool) -> Words:
    """`key` and what goes on from `value`; after a comma, where `several` may stand, what is not there yet."""
    there, comma, _ = value.rpartition(",") if several else ("", "", "")
    return {
        f"{key}{there}{comma}{name}": note for name, note in known.items() if name not in there.split(",")
    }


def _keys(path: Path) -> Iterator[tuple[str, str]]:
    """Each dotted key of a configuration file that has a value, with it and the comment behind it."""
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := LINE.fullmatch(line):
            indent, key, value, note = len(found["indent"]), found["key"], found["value"], found["note"] or ""
            parents = [parent for parent in parents if parent[0] < indent]
            if value is None:
                parents.append((indent, key))
            elif key not in UNCHANGED and not value.startswith("{"):
                yield ".".join([*(parent for _, parent in parents), key]), f"{value}  {note}".strip()


def _literal(file: str, name: str) -> Any:
    """The value of a constant in a source file of ours."""
    tree = ast.parse((Path(listing.__file__).parents[1] / file).read_text(encoding="utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    return ast.literal_eval(values[0])
