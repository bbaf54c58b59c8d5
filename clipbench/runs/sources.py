"""The modules that a user wrote: those of a task or a rule, and those of theirs that these import."""

from __future__ import annotations

import ast
import hashlib
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages: what lies beside one of them there is not the user's."""


def source_text(path: Path) -> str:
    """The text of a module, decoded as Python itself does, whatever the locale. What is no text counts by a
    hash of its bytes.
    """
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Module:
    """A module's dotted name, its file, and the folder that its imports start from."""

    name: str
    path: Path
    root: Path

    @classmethod
    def at(cls, name: str, path: Path) -> Module:
        depth = name.count(".") + (path.name == "__init__.py")
        return cls(name, path, path.parents[depth])

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def with_helpers(modules: Mapping[str, Path], folders: Sequence[Path] = ()) -> list[Path]:
    """The files of `modules`, by name, and behind them those of the user's own that they import.

    A user's own are those that lie where the module lies, or in `folders`; of an installed package, the
    package itself. An import counts wherever it stands in a file.
    """
    todo = [Module.at(name, path.resolve()) for name, path in sorted(modules.items())]
    seen = {module.path for module in todo}
    helpers: list[Module] = []
    while todo:
        module = todo.pop()
        for root in dict.fromkeys([module.root, *(folder.resolve() for folder in folders)]):
            for name in _imports(module):
                for found in _files_of(name, root, module):
                    if found.path not in seen:
                        seen.add(found.path)
                        helpers.append(found)
                        todo.append(found)
    helpers.sort(key=lambda each: (each.name, each.path))
    return [*(modules[name] for name in sorted(modules)), *(each.path for each in helpers)]


def _files_of(name: str, root: Path, importer: Module) -> Iterator[Module]:
    """The modules in `root` that an import of `name` runs: its packages and itself."""
    parts = name.split(".")
    own_package = importer.name.split(".")[0]
    if parts[0] == "clipbench" or (root.name in INSTALLED and parts[0] != own_package):
        return
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                yield Module(".".join(parts[:depth]), path, root)
                break


def _imports(module: Module) -> list[str]:
    """Every module that a file may import, by its absolute name; names that are no module are among them."""
    try:
        tree = ast.parse(source_text(module.path))
    except (SyntaxError, ValueError):
        return []
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.name] = None
        elif isinstance(node, ast.ImportFrom):
            package = _absolute(node, module.package)
            if package:
                found[package] = None
            for alias in node.names:
                found[f"{package}.{alias.name}".lstrip(".")] = None
    return list(found)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """What `from … import` names, dots at its start resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])
