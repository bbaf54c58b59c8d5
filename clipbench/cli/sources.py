"""What stands in our own source and configuration files and in the user's, read as text: nothing heavy is
imported, so that help, lists and TAB answer at once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

from clipbench.errors import UserError

GROUPS = ("task", "optim", "scale", "transform")
"""What every run chooses one of."""

PRIVATE = ("clipping", "keys")  # included by the files of a group, no choice of its own
LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s].*?))?(?: +# (?P<note>.*))?")
UNCHANGED = ("name", "_target_", "defaults")  # nothing that an override sets


def config_folders(config_dir: Path | None) -> list[Path]:
    """The folders that hold configuration groups: ours, then the user's."""
    if config_dir and not config_dir.is_dir():
        raise UserError(
            f"--config-dir {config_dir} is not a folder. It must hold task/<name>.yaml and the like."
        )
    ours = _package("clipbench.conf")
    return [ours, config_dir] if config_dir else [ours]


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def choices(group: str, config_dir: Path | None) -> dict[str, str]:
    """{name: the file's first comment} of a configuration group."""
    found = {}
    for folder in config_folders(config_dir):
        for path in sorted((folder / group).glob("*.yaml")):
            if path.stem not in PRIVATE:
                found[path.stem] = _first_comment(path)
    return found


def _first_comment(path: Path) -> str:
    for line in text_of(path).splitlines():
        if line.startswith("#") and not line[1:].strip().startswith("@"):
            return line[1:].strip()
    return ""


def text_of(path: Path) -> str:
    """Of a configuration file, for what is only shown, however it is encoded; "" of what is no file: a pipe
    would be waited for.
    """
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def config_file(group: str, name: str, config_dir: Path | None) -> Path:
    """The file of one of a group's `choices`: the user's before ours."""
    for folder in reversed(config_folders(config_dir)):
        path = folder / group / f"{name}.yaml"
        if path.exists():
            return path
    raise FileNotFoundError(f"{group}/{name}.yaml")


def keys_of(path: Path) -> Iterator[tuple[str, str]]:
    """Each dotted key of a configuration file that has a value, with it and the comment behind it."""
    parents: list[tuple[int, str]] = []
    for line in text_of(path).splitlines():
        found = LINE.fullmatch(line)
        if not found:
            continue
        indent, key, value = len(found["indent"]), found["key"], found["value"]
        parents = [parent for parent in parents if parent[0] < indent]
        if value is None:
            parents.append((indent, key))
        elif key not in UNCHANGED and not value.startswith("{"):
            names = [parent for _, parent in parents]
            note = found["note"] or ""
            yield ".".join([*names, key]), f"{value}  {note}".strip()


def clipping_types() -> dict[str, list[str]]:
    """{name: [formula, parameters with defaults, aliases]} from the source of clipbench/optim."""
    classes, tables = {}, {}
    for node in _optim_source():
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            tables[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            tables[node.target.id] = node.value
    aliases: dict[str, list[str]] = {}
    for alias, name in ast.literal_eval(tables["ALIASES"]).items():
        aliases.setdefault(name, []).append(alias)
    types = {}
    for name, class_name in [*_entries(tables["RULES"]), *_entries(tables["TIED"])]:
        parameters = ", ".join(_fields(class_name, classes))
        types[name] = [_formula(classes[class_name]), parameters or "no parameters"]
        if name in aliases:
            types[name].append("also: " + ", ".join(aliases[name]))
    return types


def _entries(table: ast.expr) -> list[tuple[str, str]]:
    """("norm", "Norm") of a literal dict of names to classes."""
    assert isinstance(table, ast.Dict)
    found = []
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant)
        assert isinstance(value, ast.Name)
        found.append((str(key.value), value.id))
    return found


def _formula(node: ast.ClassDef) -> str:
    """The first line of the docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


def restarts() -> list[str]:
    """[rule, keys with their defaults]."""
    [restarter] = [
        node for node in _optim_source() if isinstance(node, ast.ClassDef) and node.name == "Restarter"
    ]
    text = (config_folders(None)[0] / "run.yaml").read_text(encoding="utf-8")
    block = text.split("\nrestart:")[1].splitlines()[1:]
    keys = []
    for line in takewhile(_is_indented, block):
        pair = line.split("#")[0].strip().replace(": ", "=")
        keys.append(f"restart.{pair}")
    return [_formula(restarter), ", ".join(keys)]


def _is_indented(line: str) -> bool:
    return line.startswith("  ")


def _optim_source() -> list[ast.stmt]:
    """What stands at the top level of the files of clipbench/optim."""
    found = []
    for path in sorted((_package("clipbench") / "optim").glob("*.py")):
        found += ast.parse(path.read_text(encoding="utf-8")).body
    return found


def _fields(name: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    """ "clipping_level=1.0" for each field of a rule that has a default, those of its bases first."""
    found = []
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found += _fields(base.id, classes)
    for node in classes[name].body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            continue
        if "ClassVar" not in ast.unparse(node.annotation):
            found.append(f"{node.target.id}={ast.unparse(node.value)}")
    return found


def literal(file: str, name: str) -> Any:
    """The value of a constant in a source file of ours, as "optim/clip.py"."""
    tree = ast.parse((_package("clipbench") / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"{file} has no constant {name}")
