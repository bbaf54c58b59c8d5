"""The text of `clipbench list`, and the keys in the help of `run`, `sweep` and `study`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clipbench.cli.sources import choices, clipping_types, config_file, config_folders, restarts, text_of

HIDDEN = ("#", "name:", "_target_:")  # what no override sets


def everything(config_dir: Path | None = None) -> str:
    """Tasks, optimizers, restarts, studies and clipping types, a line or two each."""
    tasks, optimizers = choices("task", config_dir), choices("optim", config_dir)
    studies = choices("study", config_dir)
    parts = [
        "Tasks (task=NAME; scale=mini is embedded and quick, scale=full the published setting)",
        _table({name: [about] for name, about in tasks.items()}),
        "Optimizers (optim=NAME)",
        _table({name: [about] for name, about in optimizers.items()}),
        "Restarts (with every optimizer)",
        _table({"restart": restarts()}),
        "Studies (clipbench study study=NAME)",
        _table({name: [about] for name, about in studies.items()}),
        "Clipping types (optim.clipping_type=NAME, or module:Class for a rule of your own)",
        _table(clipping_types()),
    ]
    return "\n".join(parts)


def _table(rows: Mapping[str, Sequence[str]]) -> str:
    """A name and its lines, the lines under each other."""
    width = max(map(len, rows), default=0)
    text = ""
    for name, lines in rows.items():
        shown = name
        for line in lines:
            text += f"  {shown:{width}}  {line}\n"
            shown = ""
    return text


def keys(config_dir: Path | None = None, studies: bool = False) -> str:
    """Every key with its default, from the configuration files; those of the studies first, if asked for."""
    return "\n".join(_parts(config_dir, studies))


def _parts(config_dir: Path | None, studies: bool) -> Iterator[str]:
    """A heading with the keys under it, for each file."""
    folders = config_folders(config_dir)
    if studies:
        for name in choices("study", config_dir):
            body = _body(config_file("study", name, config_dir))
            yield f"What study={name} is: study.KEY=VALUE\n{body}"
    groups = []
    for group in ("task", "optim", "scale"):
        groups.append(f"{group}={'|'.join(choices(group, config_dir))}")
    yield f"Groups: {' · '.join(groups)}\n"
    yield "Keys of every run, with their defaults\n" + _body(folders[0] / "run.yaml")
    yield "Keys of every optimizer: optim.KEY=VALUE\n" + _body(folders[0] / "optim" / "clipping.yaml")
    for name in choices("optim", config_dir):
        yield f"Keys of optim={name}: optim.KEY=VALUE\n" + _body(config_file("optim", name, config_dir))
    paths: list[Path] = []
    for folder in folders:
        paths += (folder / "task_scale").glob("*.yaml")
    for path in sorted(paths):
        name, _, scale = path.stem.rpartition("_")
        yield f"What task={name} scale={scale} sets (its own keys: task.KEY=VALUE)\n" + _body(path)


def _body(path: Path) -> str:
    """A configuration file without its defaults list and directives, indented."""
    text, in_defaults = "", False
    for line in text_of(path).splitlines():
        in_defaults = line.startswith("defaults:") or (in_defaults and line.startswith("  "))
        if in_defaults or not line or line.startswith(HIDDEN) or "_target_:" in line:
            continue
        text += f"  {line}\n"
    return text
