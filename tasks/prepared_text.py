"""Documents as streams of tokens: made once, kept in the user's cache folder, read as they are needed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipbench.errors import UserError
from clipbench.task.content import cache_folder
from clipbench.task.prepared import one_at_a_time
from clipbench.tasks.documents import Source, split_of
from clipbench.tasks.encoders import Encoder
from clipbench.tasks.streams import Stream

SPLITS, FILES = ("train", "val", "test"), ("tokens", "sizes")
AT_ONCE = 500  # documents that are encoded together
VERSION = 1  # of how tokens are made and kept: raise it when that changes


@dataclass(frozen=True)
class Limits:
    """How much of the documents goes where."""

    held_out: float
    """The share of val, and that of test."""

    eval_bytes: float
    """Of val, and of test: whoever has so many gets no further document, and nobody else does."""

    max_bytes: float
    """No document is read after so many, in all."""

    def __post_init__(self) -> None:
        """UserError for what cannot be."""
        if (
            isinstance(self.held_out, bool)
            or not isinstance(self.held_out, float)
            or not 0 < self.held_out < 0.5
        ):
            raise UserError(f"task.held_out must be a number above 0 and below 0.5, got {self.held_out!r}.")
        for name in ("eval_bytes", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UserError(f"task.{name} must be a number above 0, got {value!r}.")


def prepared(source: Source, encoder: Encoder, limits: Limits) -> dict[str, Stream]:
    """Every split, memory-mapped: made by one process, read by every other. A copy that is cut short is made
    again.

    Where nothing can be kept, every process makes its own; what was made while the files changed is not kept.
    """
    before = source.content()
    defined = json.dumps([VERSION, before, encoder.name, astuple(limits)])
    name = f"lm-{hashlib.sha256(defined.encode()).hexdigest()[:24]}"
    place = cache_folder() / "prepared" / name
    with one_at_a_time(place):
        found = _read(place, encoder)
        if found is None:
            made = _folder_beside(place)
            try:
                _write(source, encoder, limits, made)
                keep = source.content() == before
                found = _read(_moved(made, place) if keep else made, encoder)
            finally:
                shutil.rmtree(made, ignore_errors=True)  # what is mapped stays readable
    assert found is not None
    return found


def _folder_beside(place: Path) -> Path:
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
        made.mkdir()
        return made
    return Path(tempfile.mkdtemp())


def _moved(made: Path, place: Path) -> Path:
    """Where the folder is afterwards."""
    with suppress(OSError):
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        os.replace(made, place)
        return place
    return made


def _write(documents: Iterable[bytes], encoder: Encoder, limits: Limits, folder: Path) -> None:
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    rest = iter(documents)
    read = 0
    with ExitStack() as stack:
        files = {}
        for split in SPLITS:
            files[split] = [stack.enter_context(open(folder / f"{split}.{kind}", "wb")) for kind in FILES]
        while read < limits.max_bytes and (together := list(islice(rest, AT_ONCE))):
            for document, encoded in zip(together, encoder(together), strict=True):
                split = split_of(document, limits.held_out)
                count = counts[split]
                is_full = split != "train" and count["bytes"] >= limits.eval_bytes
                if read < limits.max_bytes and not is_full:
                    for file, first, values, kind in zip(
                        files[split], (encoder.boundary, 0), encoded, encoder.types, strict=True
                    ):
                        file.write(np.concatenate([[first], values]).astype(kind))
                    count["documents"] += 1
                    count["tokens"] += 1 + len(encoded[0])
                    count["bytes"] += len(document)
                read += len(document)
    (folder / "counts.json").write_text(json.dumps(counts))


def _read(folder: Path, encoder: Encoder) -> dict[str, Stream] | None:
    """None where there is nothing, or less than was written."""
    found = {}
    try:
        counts = json.loads((folder / "counts.json").read_text())
        for split in SPLITS:
            count = counts[split]
            tokens, sizes = (
                _mapped(folder / f"{split}.{name}", kind, count["tokens"])
                for name, kind in zip(FILES, encoder.types, strict=True)
            )
            found[split] = Stream(tokens, sizes, encoder.boundary, count["documents"], count["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _mapped(path: Path, kind: type, count: int) -> NDArray:
    """ValueError where it is not as long."""
    if path.stat().st_size != count * np.dtype(kind).itemsize:
        raise ValueError(path.name)
    return np.memmap(path, kind, "r", shape=(count,)) if count else np.zeros(0, kind)
