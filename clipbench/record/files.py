"""The files of a results folder: how they are named, and that they are written whole or not at all. Imports
nothing heavy.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipbench.errors import UserError

RUN_ID = re.compile(r"[rw][0-9a-f]{12}")
RECORDED = "w"  # the first letter of runs of somebody's own loop
WORK = ".work"  # what is kept of runs that have not ended
TABLES_OF_A_RUN = ("steps", "evals", "runs")  # in the order in which they are written
MODELS = "models"  # what is kept of finished runs where keep=model asks for it
SET_ASIDE = "set-aside"  # the folder in a results folder for files that are damaged
TRIES, BETWEEN = 3, 0.5  # readings of a file that a disk refuses, and seconds from one to the next


def new_run() -> str:
    """An id for a run of somebody's own loop: what defines it is not known, so that it is new each time."""
    return RECORDED + secrets.token_hex(6)


def is_recorded(run: str) -> bool:
    """Whether it is a run of somebody's own loop: no command makes it again, and nothing pairs it."""
    return run.startswith(RECORDED)


def table_path(folder: Path, table: str, run: str) -> Path:
    """Where the rows of `run` in `table` lie: <folder>/<table>/<run>.parquet."""
    return folder / table / f"{run}.parquet"


def model_path(folder: Path, run: str) -> Path:
    """Where the weights of `run` are kept: <folder>/models/<run>.safetensors."""
    return folder / MODELS / f"{run}.safetensors"


def read_file(path: Path) -> bytes:
    """The whole file. A disk that refuses it is asked again: an error may pass, and says nothing of the file.

    OSError of the last try; FileNotFoundError at once, also where a folder of `path` is a file.
    """
    for _ in range(TRIES - 1):
        try:
            return path.read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            raise
        except OSError:
            time.sleep(BETWEEN)
    return path.read_bytes()


def reason(error: BaseException) -> str:
    """An error in one line: "Input/output error"."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def set_aside(results: Path, path: Path) -> Path:
    """Move a damaged file of a run out of the way, to <results>/set-aside; where it lies now.

    UserError where the disk refuses.
    """
    stem = f"{path.parent.name}-{path.name}"
    folder = results / SET_ASIDE
    place, number = folder / stem, 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while place.exists():
            number += 1
            place = folder / f"{stem}.{number}"
        os.rename(path, place)
    except OSError as error:
        raise UserError(
            f"{path} is damaged and cannot be moved to {folder}: {reason(error)}. Move it yourself."
        ) from error
    return place


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`. Afterwards it is on the disk and in place as `path`, or nothing has
    changed.

    UserError where the disk refuses.
    """
    partial = path.with_name(
        f".{path.name}.{secrets.token_hex(4)}.tmp"
    )  # readers of a folder ignore a leading dot
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
        _to_disk(path.parent)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {reason(error)}. Free the disk or choose another folder with results=DIR."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def check_writable(
    folder: Path, runs: Iterable[str] = (), remedy: str = "Choose another with results=DIR."
) -> None:
    """Fail before a run, not after it, where a table's file cannot be put in place as `atomic_write` does it:
    in `folder` and in each table's own, which may lie elsewhere.

    `runs`: whose files are to be written. UserError with the reason and the `remedy`.
    """
    places = [folder]
    for name in (*TABLES_OF_A_RUN, WORK):
        if os.path.lexists(folder / name):  # another can be made where `folder` can be written
            places.append(folder / name)
    for place in places:
        probe = place / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"
        moved = probe.with_suffix(".moved.tmp")
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe.touch()
            os.replace(probe, moved)
            moved.unlink()
        except (OSError, ValueError) as error:
            why = f"Cannot write to the results folder {place}: {reason(error)}."
            raise UserError(f"{why} {remedy}") from error
        finally:
            with suppress(OSError, ValueError):
                probe.unlink(missing_ok=True)
    for run in runs:
        for table in TABLES_OF_A_RUN:
            path = table_path(folder, table, run)
            if path.is_dir():
                raise UserError(f"{path} is a folder, where the run's file is to be. Move it away.")
