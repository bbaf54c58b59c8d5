"""From documents to tokens: bytes, or a tokenizer's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipbench.errors import UserError

Types = tuple[type[np.integer], type[np.integer]]


class Encoder(Protocol):
    """From documents to tokens."""

    kind: str
    """What its tokens are called."""

    vocabulary: int
    boundary: int
    """The token that stands before each document. No text has it."""

    types: Types
    """In which tokens, and how many bytes one stands for, are kept."""

    name: str
    """What it is, with its content: an encoder of another name gives other tokens."""

    def __call__(self, documents: Sequence[bytes]) -> Iterator[tuple[Any, Any]]:
        """(tokens, how many bytes of the document each stands for) of each."""


class Bytes:
    """256 tokens, and the boundary."""

    kind = "bytes"

    vocabulary, boundary, name = 257, 256, "bytes"
    types: Types = (np.uint16, np.uint8)

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
        self.types: Types = (np.uint16 if self.vocabulary <= 2**16 else np.int32, np.uint16)
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
            f"The document that begins {document[:40]!r} is not in UTF-8 from byte {error.start} on. "
            "Convert it, or take bytes: task.tokenizer=null."
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
