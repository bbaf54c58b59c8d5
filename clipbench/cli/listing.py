"""The text of `clipbench list`, and the keys in the help of `run`, `sweep` and `study`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clipbench.cli.sources import (
    GROUPS,
    choices,
    clipping_types,
    config_file,
    config_folders,
    restarts,
    text_of,
)
from clipbench.errors import UserError, nearest

HIDDEN = ("#", "name:", "_target_:")  # what no override sets


def everything(config_dir: Path | None = None) -> str:
    """Tasks, optimizers, restarts, studies, clipping types and transforms, a line or two each."""
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
        "Transforms of the trained model (transform=NAME)",
        _table({name: [about] for name, about in choices("transform", config_dir).items()}),
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


def chosen_in(words: Sequence[str]) -> dict[str, list[str]]:
    """{group: names} of the choices among a command's words, as task=cola,voc."""
    found = {}
    for word in words:
        group, equals, names = word.partition("=")
        if equals and group in (*GROUPS, "study"):
            found[group] = names.split(",")
    return found


def keys(
    config_dir: Path | None = None, studies: bool = False, chosen: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Every key with its default, from the configuration files; those of the studies first, if asked for. Of
    a group with names in `chosen` those alone, and then no other task or optimizer. UserError for a name that
    the group has not.
    """
    for group, names in (chosen or {}).items():
        known = choices(group, config_dir)
        for name in names:
            if name not in known:
                raise UserError(f"Unknown {group} '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    return "\n".join(_parts(config_dir, studies, chosen or {}))


def _parts(config_dir: Path | None, studies: bool, chosen: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A heading with the keys under it, for each file."""
    folders = config_folders(config_dir)
    shown: dict[str, Sequence[str]] = {}
    for group in ("task", "optim", "scale", "study"):
        left_out = bool(chosen) and group in ("task", "optim")
        shown[group] = chosen.get(group) or ([] if left_out else list(choices(group, config_dir)))
    if studies:
        for name in shown["study"]:
            body = _body(config_file("study", name, config_dir))
            yield f"What study={name} is: study.KEY=VALUE\n{body}"
    groups = []
    for group in GROUPS:
        groups.append(f"{group}={'|'.join(choices(group, config_dir))}")
    yield f"Groups: {' · '.join(groups)}\n"
    for name in chosen.get("task", ()):
        yield f"Keys of task={name}: task.KEY=VALUE\n" + _body(config_file("task", name, config_dir))
    for name in shown["task"]:
        for scale in shown["scale"]:
            for folder in folders:
                path = folder / "task_scale" / f"{name}_{scale}.yaml"
                if path.is_file():
                    yield f"What task={name} scale={scale} sets (its own keys: task.KEY=VALUE)\n" + _body(
                        path
                    )
    yield "Keys of every run, with their defaults\n" + _body(folders[0] / "run.yaml")
    yield "Keys of every optimizer: optim.KEY=VALUE\n" + _body(folders[0] / "optim" / "clipping.yaml")
    yield "Keys of every transform: transform.KEY=VALUE\n" + _body(folders[0] / "transform" / "keys.yaml")
    for name in chosen.get("transform", ()):
        if body := _body(config_file("transform", name, config_dir)):
            yield f"Keys of transform={name}: transform.KEY=VALUE\n{body}"
    for name in shown["optim"]:
        yield f"Keys of optim={name}: optim.KEY=VALUE\n" + _body(config_file("optim", name, config_dir))
    yield "Of one task and one optimizer alone: --help task=NAME optim=NAME\n"


def _body(path: Path) -> str:
    """A configuration file without its defaults list and directives, indented."""
    text, in_defaults = "", False
    for line in text_of(path).splitlines():
        in_defaults = line.startswith("defaults:") or (in_defaults and line.startswith("  "))
        if in_defaults or not line or line.startswith(HIDDEN) or "_target_:" in line:
            continue
        text += f"  {line}\n"
    return text
