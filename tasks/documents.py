"""Documents of text: from files, or from the Hugging Face hub, one after the other."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbench.errors import UserError, nearest
from clipbench.task.content import Contents, files_below
from clipbench.tasks.hub import loading, name_and_revision

UNITS = ("file", "paragraph", "line")
ROWS = (".jsonl", ".parquet")  # a document each row


@dataclass(frozen=True)
class Source:
    """Where documents come from: the settings `task.data` and those beside it."""

    data: str
    """A file, a folder of files, or the name of a data set on the hub (NAME@REVISION for a commit)."""

    documents: str | None = None
    """What of a file of text is a document: one of `UNITS`. None: each file of a folder, each paragraph (what
    stands between blank lines) of a single file. Of .jsonl, .parquet and data sets each row is one.
    """

    column: str = "text"
    """Of rows: where the text is."""

    subset: str | None = None
    """Of a data set: which of its configurations."""

    split: str = "train"
    """Of a data set: which of its own splits is divided here."""

    def __post_init__(self) -> None:
        if self.documents is not None and self.documents not in UNITS:
            close, known = nearest(str(self.documents), UNITS), ", ".join(UNITS)
            raise UserError(f"Unknown task.documents '{self.documents}'.{close} Known: {known}, or null.")
        if not self.path and (
            str(self.data).startswith((".", "/", "~")) or len(str(self.data).split("/")) > 2
        ):
            raise UserError(
                f"task.data={self.data}: there is no such file or folder. Give a file or a folder of text, "
                ".jsonl or .parquet files, or the name of a data set on the Hugging Face hub."
            )

    @property
    def path(self) -> Path | None:
        """None where it is a data set on the hub."""
        path = Path(str(self.data)).expanduser()
        return path if path.exists() else None

    @property
    def unit(self) -> str:
        if self.documents:
            return self.documents
        return "file" if self.path and self.path.is_dir() else "paragraph"

    def content(self) -> str:
        """What these documents are: what the files hold, or the name of a data set."""
        what = [self.data if self.path is None else self.digest(self.path), self.unit]
        return " ".join([*what, self.column, str(self.subset), self.split])

    @staticmethod
    def digest(path: Path) -> str:
        found = Contents().digest("lm", path, lambda: list(files_below(path)))
        assert found is not None
        return found

    def __iter__(self) -> Iterator[bytes]:
        """Each document that is not blank. UserError for what is out of reach or no text."""
        texts = self._rows() if self.path is None else self._in_files(list(files_below(self.path)))
        for text in texts:
            if text.strip():
                yield text

    def _in_files(self, files: Iterable[Path]) -> Iterator[bytes]:
        for path in files:
            try:
                yield from self._in_file(path)
            except (OSError, EOFError, ValueError) as error:
                raise UserError(f"Cannot read {path}: {error}. Mend the file, or take it out.") from error

    def _in_file(self, path: Path) -> Iterator[bytes]:
        if path.suffix == ".parquet":
            yield from _parquet(path, self.column)
            return
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            if Path(path.name.removesuffix(".gz")).suffix in (".jsonl", ".json"):
                for line in file:
                    yield _text(json.loads(line), self.column)
            elif self.unit == "file":
                yield _no_binary(file.read())
            else:
                yield from parts(map(_no_binary, file), self.unit)

    def _rows(self) -> Iterator[bytes]:
        import datasets

        datasets.disable_progress_bars()
        name, revision = name_and_revision(self.data)
        instead = "task.data=DIR, a folder of text, .jsonl or .parquet files"
        with loading("lm", f"task.data={self.data}", instead):
            rows = datasets.load_dataset(
                name, self.subset, split=self.split, revision=revision, streaming=True
            )
            for row in rows:
                yield _text(row, self.column)


def parts(lines: Iterable[bytes], unit: str) -> Iterator[bytes]:
    """A text's lines, or its paragraphs: what stands between blank lines. Without the ends of their last
    lines.
    """
    found: list[bytes] = []
    for line in lines:
        if line.strip():
            found.append(line)
        if found and (unit == "line" or not line.strip()):
            yield b"".join(found).rstrip(b"\r\n")
            found = []
    if found:
        yield b"".join(found).rstrip(b"\r\n")


def split_of(document: bytes, held_out: float) -> str:
    """ "train", "val" or "test" by a hash of the document, so that equal ones are in one split, on every
    machine, whatever stands beside them. `held_out`: the share of each of the last two.
    """
    number = int.from_bytes(hashlib.sha256(document).digest()[:8], "big") / 2**64
    if number < held_out:
        return "val"
    return "test" if number < 2 * held_out else "train"


def _parquet(path: Path, column: str) -> Iterator[bytes]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise ValueError(_no_column(column, file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=1000, columns=[column]):
            for text in batch.column(0).to_pylist():
                yield _text({column: text}, column)


def _text(row: Any, column: str) -> bytes:
    if not isinstance(row, dict) or column not in row:
        raise ValueError(_no_column(column, row if isinstance(row, dict) else ()))
    text = row[column]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"its column '{column}' holds {type(text).__name__}, not text")
    return (text or "").encode()


def _no_column(column: str, known: Iterable[str]) -> str:
    there = ", ".join(known) or "none"
    return f"it has no column '{column}'; there are: {there}. task.column=NAME says which holds the text"


def _no_binary(text: bytes) -> bytes:
    if b"\0" in text:
        raise ValueError("it holds zero bytes, so it is no text")
    return text
