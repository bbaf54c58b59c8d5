"""Text as numbers, bytes or a tokenizer's tokens: made once, kept in the cache folder, read as needed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbench.errors import UserError
from clipbench.task.content import cache_folder
from clipbench.task.prepared import one_at_a_time
from clipbench.tasks.documents import Source, split_of

SPLITS, FILES = ("train", "val", "test"), ("tokens", "sizes")
IGNORED = -100
"""The target of a place that is not predicted."""

AT_ONCE = 500  # documents that are encoded together
VERSION = 1  # of how tokens are made and kept: raise it when that changes


class Encoder(Protocol):
    """From documents to tokens."""

    kind: str
    """What its tokens are called."""

    vocabulary: int
    boundary: int
    """The token that stands before each document. No text has it."""

    types: tuple[type, type]
    """In which tokens, and how many bytes one stands for, are kept."""

    def __call__(self, documents: Sequence[bytes]) -> Iterable[tuple[Any, Any]]:
        """(tokens, how many bytes of the document each stands for) of each."""

    @property
    def name(self) -> str:
        """What it is, with its content: an encoder of another name gives other tokens."""


class Bytes:
    """256 tokens, and the boundary."""

    kind = "bytes"

    vocabulary, boundary, name = 257, 256, "bytes"
    types = (np.uint16, np.uint8)

    def __call__(self, documents: Sequence[bytes]) -> Iterator[tuple[Any, Any]]:
        for document in documents:
            yield np.frombuffer(document, np.uint8), np.ones(len(document))


class Tokenizer:
    """A tokenizer.json, as `tokenizers` and transformers write it."""

    kind = "tokens"

    def __init__(self, path: Path, boundary: int | None = None) -> None:
        """`boundary`: a token of its own, behind all others, where none is given. ValueError for a file that
        is no tokenizer.
        """
        from tokenizers import Tokenizer as Theirs

        try:
            self.theirs = Theirs.from_file(str(path))
        except Exception as error:  # it raises this very class
            raise ValueError(f"{path} is no tokenizer.json: {error}") from error
        self.theirs.encode_special_tokens = True  # what looks like one in a text is text
        self.theirs.no_truncation()
        self.theirs.no_padding()
        size = self.theirs.get_vocab_size()
        self.boundary = size if boundary is None else boundary
        self.vocabulary = max(size, self.boundary + 1)
        self.types = (np.uint16 if self.vocabulary <= 2**16 else np.int32, np.uint16)
        self.name = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {self.boundary}"

    def __call__(self, documents: Sequence[bytes]) -> Iterator[tuple[Any, Any]]:
        """UserError for a document that is not in UTF-8."""
        texts = [_decoded(document) for document in documents]
        encodings = self.theirs.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            yield encoding.ids, bytes_of_tokens(text, [end for _, end in encoding.offsets])


def _decoded(document: bytes) -> str:
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"The document that begins {document[:40]!r} is not in UTF-8 from byte {error.start} on. Convert it, "
            "or take bytes: task.tokenizer=null."
        ) from error


def bytes_of_tokens(text: str, ends: Sequence[int]) -> NDArray[np.int64]:
    """How many bytes of UTF-8 each token stands for, of tokens that end at these characters.

    Each byte counts once, whatever the tokenizer leaves out: it goes to the token behind it, or to the last.
    """
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (characters > 0x7F).astype(np.int64) + (characters > 0x7FF) + (characters > 0xFFFF)
    before = np.concatenate([[0], np.cumsum(sizes)])
    until = before[np.maximum.accumulate(np.asarray(ends, dtype=np.int64))] if len(ends) else before[:0]
    until[-1:] = before[-1]
    return np.diff(until, prepend=0)


class Windows(NamedTuple):
    """What `forward` takes: N windows of so many tokens, and what is to be predicted at each place."""

    inputs: Tensor
    """(N, length)"""

    targets: Tensor
    """The next token, or IGNORED. (N, length)"""

    amounts: Tensor
    """How many tokens are predicted in each, and how many bytes they stand for. (N, 2)"""


class Stream(NamedTuple):
    """A split: a boundary before each document, and its tokens. The boundary is not predicted."""

    tokens: NDArray
    """(n,)"""

    sizes: NDArray
    """The bytes that each stands for; 0 of a boundary. (n,)"""

    boundary: int
    documents: int
    bytes: int

    @property
    def predicted(self) -> int:
        """Tokens."""
        return len(self.tokens) - self.documents

    def windows(self, starts: NDArray[np.int64], length: int, known: NDArray[np.int64] | int = 0) -> Windows:
        """From each of `starts`; the first `known` targets of each are not predicted again. Places behind the
        end hold the boundary.
        """
        places = starts[:, None] + np.arange(length + 1)
        inside = places < len(self.tokens)
        places = places.clip(max=len(self.tokens) - 1)
        tokens = np.where(inside, self.tokens[places], self.boundary).astype(np.int64)
        targets, sizes = tokens[:, 1:], self.sizes[places[:, 1:]]
        new = np.arange(length) >= np.broadcast_to(known, len(starts))[:, None]
        counts = new & (targets != self.boundary)
        amounts = np.stack([counts.sum(1), np.where(counts, sizes, 0).sum(1)], 1)
        found = (tokens[:, :-1].copy(), np.where(counts, targets, IGNORED), amounts.astype(np.int64))
        return Windows(*map(torch.from_numpy, found))


def stream_of(documents: Sequence[bytes], encoder: Encoder) -> Stream:
    """Of a few documents, in memory."""
    tokens, sizes = [], []
    for ids, counts in encoder(documents):
        tokens.append(np.concatenate([[encoder.boundary], ids]))
        sizes.append(np.concatenate([[0], counts]))
    kept = [
        np.concatenate(each).astype(kind) for each, kind in zip((tokens, sizes), encoder.types, strict=True)
    ]
    return Stream(*kept, encoder.boundary, len(documents), sum(map(len, documents)))


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
            parts = []
            for name, kind in zip(FILES, encoder.types, strict=True):
                parts.append(_mapped(folder / f"{split}.{name}", kind, count["tokens"]))
            found[split] = Stream(*parts, encoder.boundary, count["documents"], count["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _mapped(path: Path, kind: type, count: int) -> NDArray:
    """ValueError where it is not as long."""
    if path.stat().st_size != count * np.dtype(kind).itemsize:
        raise ValueError(path.name)
    return np.memmap(path, kind, "r", shape=(count,)) if count else np.zeros(0, kind)
