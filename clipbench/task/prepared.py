"""What is made of data once and kept: tensors in the user's cache folder, tied to the files' content."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from clipbench.task.content import Contents, cache_folder
from clipbench.task.tensor_file import Tensors, read_tensors, write_tensors


def prepared(name: str, root: Path, files: Sequence[Path], build: Callable[[], Tensors]) -> Tensors:
    """What `build()` makes of `files`, all in `root`: made by one process, read by every other.

    A copy that is damaged is made again. Where nothing can be kept, every process makes its own; what was
    made while the files changed is not kept. `name` says how it is made: another way, another name. UserError
    where a file cannot be read, and what `build` raises.
    """
    before = Contents()
    content = before.digest(name, root, lambda: files)
    place = cache_folder() / "prepared" / f"{name}-{content}.safetensors"
    with one_at_a_time(place):
        found = read_tensors(place)
        if found is None:
            found = build()
            if Contents(before=before.seen).digest(name, root, lambda: files) == content:
                _keep(found, place)
    return found


@contextmanager
def one_at_a_time(place: Path) -> Iterator[None]:
    """Waits until no other process of this user makes what goes to `place`. Without locks (Windows, some
    networks) each makes its own: the last one stays, and they are alike.
    """
    key = hashlib.sha256(os.fsencode(os.path.abspath(place))).hexdigest()[:32]
    path = cache_folder() / "locks" / key
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w")  # noqa: SIM115
    except (ImportError, OSError):
        yield
        return
    with lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system gives it back when the process ends, however
        yield


def _keep(tensors: Tensors, place: Path) -> None:
    from safetensors import SafetensorError

    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    with suppress(OSError, SafetensorError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, partial)
        os.replace(partial, place)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
