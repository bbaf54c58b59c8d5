"""What `clipbench list` and `--help` print: read from the files themselves as text, so that nothing heavy is imported."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from clipbench.errors import UserError

PRIVATE = {"clipping"}  # included by the optimizers' files, no choice of its own


def everything(config_dir: Path | None = None) -> str:
    """Tasks, optimizers, restarts, studies and clipping types, a line or two each."""
    rows = {**choices("task", config_dir)}
    text = "Tasks (task=NAME; scale=mini is embedded and quick, scale=full the published setting)\n" + _table(
        rows
    )
    text += "\nOptimizers (optim=NAME)\n" + _table(choices("optim", config_dir))
    text += "\nRestarts (with every optimizer)\n" + _table({"restart": restarts()})
    text += "\nStudies (clipbench study study=NAME)\n" + _table(choices("study", config_dir))
    text += "\nClipping types (optim.clipping_type=NAME, or module:Class for a rule of your own)\n" + _table(
        clipping_types()
    )
    return text


def keys(config_dir: Path | None = None, studies: bool = False) -> str:
    """Every key with its default, from the configuration files; those of the studies first, if asked for."""
    folders = folders_of(config_dir)
    text = ""
    for name in choices("study", config_dir) if studies else ():
        text += f"What study={name} is: study.KEY=VALUE\n" + _body(_find(folders, "study", name)) + "\n"
    text += (
        "Groups: "
        + " · ".join(
            f"{group}={'|'.join(choices(group, config_dir))}" for group in ("task", "optim", "scale")
        )
        + "\n"
    )
    text += "\nKeys of every run, with their defaults\n" + _body(folders[0] / "run.yaml")
    text += "\nKeys of every optimizer: optim.KEY=VALUE\n" + _body(folders[0] / "optim" / "clipping.yaml")
    for name in choices("optim", config_dir):
        text += f"\nKeys of optim={name}: optim.KEY=VALUE\n" + _body(_find(folders, "optim", name))
    for path in sorted(path for folder in folders for path in (folder / "task_scale").glob("*.yaml")):
        name, _, scale = path.stem.rpartition("_")
        text += f"\nWhat task={name} scale={scale} sets (its own keys: task.KEY=VALUE)\n" + _body(path)
    return text


def clipping_types() -> dict[str, list[str]]:
    """{name: [formula, parameters with defaults, aliases]} from the source of clipbench/optim."""
    body = _source()
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    tables = {
        target.id: node.value
        for node in body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Dict)
    }
    pairs = [
        pair
        for table in ("RULES", "TIED")
        for pair in zip(tables[table].keys, tables[table].values, strict=True)
    ]
    names = {ast.literal_eval(key): value.id for key, value in pairs}  # type: ignore
    aliases: dict[str, list[str]] = {}
    for alias, name in ast.literal_eval(tables["ALIASES"]).items():
        aliases.setdefault(name, []).append(alias)
    rows = {}
    for name, class_name in names.items():
        formula = (ast.get_docstring(classes[class_name]) or "").splitlines()[0]
        rows[name] = [formula, ", ".join(_fields(class_name, classes)) or "no parameters"]
        if name in aliases:
            rows[name].append("also: " + ", ".join(aliases[name]))
    return rows


def restarts() -> list[str]:
    """[rule, keys with their defaults]."""
    (restarter,) = (node for node in _source() if isinstance(node, ast.ClassDef) and node.name == "Restarter")
    block = (
        (folders_of(None)[0] / "run.yaml").read_text(encoding="utf-8").split("\nrestart:")[1].splitlines()[1:]
    )
    pairs = [
        line.split("#")[0].strip().replace(": ", "=")
        for line in takewhile(lambda line: line.startswith("  "), block)
    ]
    return [
        (ast.get_docstring(restarter) or "").splitlines()[0],
        ", ".join(f"restart.{pair}" for pair in pairs),
    ]


def _source() -> list[ast.stmt]:
    """What stands at the top level of the files of clipbench/optim."""
    spec = find_spec("clipbench")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "optim"
    return [
        node
        for path in sorted(folder.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    ]


def _fields(name: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    inherited = [
        field
        for base in classes[name].bases
        if isinstance(base, ast.Name)
        for field in _fields(base.id, classes)
    ]
    own = [
        f"{node.target.id}={ast.unparse(node.value)}"
        for node in classes[name].body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.value
        and "ClassVar" not in ast.unparse(node.annotation)
    ]
    return inherited + own


def choices(group: str, config_dir: Path | None) -> dict[str, list[str]]:
    """{name: [the file's first comment]}."""
    found = {}
    for folder in folders_of(config_dir):
        for path in sorted((folder / group).glob("*.yaml")):
            if path.stem not in PRIVATE:
                comments = [
                    line[1:].strip()
                    for line in path.read_text(encoding="utf-8").splitlines()
                    if line.startswith("#")
                ]
                found[path.stem] = [next((line for line in comments if not line.startswith("@")), "")]
    return found


def folders_of(config_dir: Path | None) -> list[Path]:
    if config_dir and not config_dir.is_dir():
        raise UserError(
            f"--config-dir {config_dir} is not a folder. It must hold task/<name>.yaml and the like."
        )
    spec = find_spec("clipbench.conf")
    assert spec is not None
    assert spec.submodule_search_locations
    return [Path(spec.submodule_search_locations[0]), *([config_dir] if config_dir else [])]


def _find(folders: list[Path], group: str, name: str) -> Path:
    return next(path for folder in reversed(folders) if (path := folder / group / f"{name}.yaml").is_file())


def _body(path: Path) -> str:
    """A configuration file without its defaults list and directives, indented."""
    lines, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        inside = line.startswith("defaults:") or (inside and line.startswith("  "))
        if (
            line
            and not inside
            and not line.startswith(("#", "name:", "_target_:"))
            and "_target_:" not in line
        ):
            lines.append(f"  {line}\n")
    return "".join(lines)


def _table(rows: dict[str, list[str]]) -> str:
    width = max(map(len, rows), default=0)
    return "".join(
        "".join(f"  {name if i == 0 else '':{width}}  {line}\n" for i, line in enumerate(lines))
        for name, lines in rows.items()
    )
