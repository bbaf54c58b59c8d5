"""What is loaded from a folder or from the Hugging Face hub, and what is said where it is out of reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipbench.errors import UserError

NONE: Mapping[str, str] = MappingProxyType({})


def name_and_revision(name: str, revisions: Mapping[str, str] = NONE) -> tuple[str, str]:
    """NAME@REVISION in its parts; of a name alone the one in `revisions`, or "main"."""
    name, _, revision = name.partition("@")
    return name, revision or revisions.get(name, "main")


def pretrained(name: str, revisions: Mapping[str, str] = NONE) -> dict[str, Any]:
    """What `from_pretrained` is to load: a folder, or a name on the hub with its revision."""
    if Path(name).expanduser().is_dir():
        return {"pretrained_model_name_or_path": str(Path(name).expanduser())}
    name, revision = name_and_revision(name, revisions)
    return {"pretrained_model_name_or_path": name, "revision": revision}


def weights(name: str, revisions: Mapping[str, str] = NONE) -> dict[str, Any]:
    """`pretrained`, of a model: no pickle is read from a folder."""
    where = pretrained(name, revisions)
    return where if "revision" in where else {**where, "use_safetensors": True}


def file(where: str, name: str) -> Path:
    """A file itself, or that of this `name` in a folder or on the hub."""
    path = Path(where).expanduser()
    if path.exists():
        return path / name if path.is_dir() else path
    from huggingface_hub import hf_hub_download

    repository, revision = name_and_revision(where)
    return Path(hf_hub_download(repository, name, revision=revision))


@contextmanager
def loading(task: str, what: str, instead: str) -> Iterator[None]:
    """Without progress bars and notices; any failure becomes one UserError, with what to give `instead`."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    hub.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # no common type: offline, not cached, a file missing or damaged, another kind
        said = str(error).strip() or type(error).__name__
        reason = said.splitlines()[0].rstrip(".:")
        raise UserError(
            f"Cannot load {what}, neither from disk nor from the Hugging Face hub: {reason}. "
            f"Run `clipbench prepare task={task} scale=full` where there is a network, or give {instead}."
        ) from error
