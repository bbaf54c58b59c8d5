"""A run is made by one process at a time, on one machine or several that share the results folder."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbench.errors import UserError
from clipbench.record.files import read_file, reason

GIVES_WAY = 1.0  # seconds in which one who took a lease too late gives it back
HEARTBEAT, EXPIRES = (
    5.0,
    60.0,
)  # seconds between signs of life, and after how long without one a lease is anybody's


@dataclass(frozen=True)
class Owner:
    """Who makes a run: process `pid` of `host`, whose last sign of life is `silent_seconds` old.

    As text it is "process 71 on host a, last heard of 3 s ago".
    """

    pid: int
    host: str
    silent_seconds: float

    @property
    def name(self) -> str:
        """ "process 71 on host a"."""
        return f"process {self.pid} on {self.host}"

    def __str__(self) -> str:
        return f"{self.name}, last heard of {self.silent_seconds:.0f} s ago"


@dataclass(frozen=True)
class UnknownOwner:
    """Who makes a run and has not said yet which process it is; `name` says what is known of it."""

    name: str

    def __str__(self) -> str:
        return self.name


AnyOwner = Owner | UnknownOwner


LARGEST_PID = 2**32  # of any system's


class Lease:
    """The files lease.1, lease.2, … in a folder; the highest number is the lease, its modification time the
    owner's last sign of life.

    An expired lease is taken over by creating the next number, which only one process can. An owner that
    stalled for longer than EXPIRES and goes on finds that it is not `is_ours` before it writes; in the moment
    between, it writes the same rows as its successor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path: Path | None = None  # of the lease while it is ours

    def acquire(self) -> AnyOwner | None:
        """None once it is ours, else who holds it. UserError where the folder cannot be written."""
        try:
            return self._acquire()
        except OSError as error:
            raise UserError(
                f"Cannot write to {self.folder.parent}: {reason(error)}. Free it, or choose another folder "
                "with results=DIR."
            ) from error

    def _acquire(self) -> AnyOwner | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if owner := holder(self.folder):
            return owner
        older = _leases(self.folder)
        mine = self.folder / f"lease.{max(older, default=0) + 1}"
        try:
            file = open(mine, "x", encoding="utf-8")  # noqa: SIM115
        except FileExistsError:
            return UnknownOwner(f"another process, which took {mine} at this moment")
        try:
            with file:
                json.dump(_identity(), file)
        except OSError:  # an empty one would keep everybody away until it expires
            mine.unlink(missing_ok=True)
            raise
        if owner := self._rival(mine):
            mine.unlink()
            return owner
        for path in older.values():
            with suppress(OSError):  # it counts for nothing beside a higher number
                path.unlink(missing_ok=True)
        self.path = mine
        return None

    def _rival(self, mine: Path) -> AnyOwner | None:
        """Who came while we looked at one who was gone. A later rival that finds us gives its lease back, so
        it is waited for.
        """
        deadline = time.monotonic() + GIVES_WAY
        while True:
            found: dict[int, AnyOwner] = {}
            for number, path in _leases(self.folder).items():
                owner = living_owner(path) if path != mine else None
                if owner:
                    found[number] = owner
            if not found:
                return None
            if min(found) < int(mine.suffix[1:]) or time.monotonic() > deadline:
                return found[min(found)]
            time.sleep(GIVES_WAY / 50)

    @property
    def is_ours(self) -> bool:
        """Whether we have it and nobody has taken it over, which removes its file. An error of the disk says
        nothing.
        """
        with suppress(OSError):
            return self.path is not None and self.path.exists()
        return True

    def renew(self) -> None:
        if self.path:
            with suppress(OSError):  # taken over, or the disk is away for a moment
                os.utime(self.path)

    def release(self) -> None:
        if self.path:
            self.path.unlink(missing_ok=True)
            self.path = None


class Heartbeat:
    """Renews leases from a thread of its own while the process lives."""

    def __init__(self) -> None:
        self.leases: set[Lease] = set()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True, name="clipbench leases")

    def __enter__(self) -> Heartbeat:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        for lease in self.leases:
            lease.release()

    def acquire(self, lease: Lease) -> str | None:
        """None once the lease is ours, to be renewed until we leave; else who holds it, in words."""
        if owner := lease.acquire():
            return str(owner)
        self.leases.add(lease)
        return None

    def _beat(self) -> None:
        while not self.stopped.wait(HEARTBEAT):
            for lease in list(self.leases):
                lease.renew()


def holder(folder: Path) -> AnyOwner | None:
    """Who makes the run whose folder this is, if anybody."""
    leases = _leases(folder)
    return living_owner(leases[max(leases)]) if leases else None


def living_owner(path: Path) -> AnyOwner | None:
    """The lease's owner; None where the lease has expired, or the owner was a process of this
    machine that has ended.
    """
    silent: float | None = None
    try:
        silent = _now(path.parent) - path.stat().st_mtime
        content = read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if silent is not None and silent > EXPIRES:
            return None
        return UnknownOwner(f"a process whose lease {path} cannot be read now ({reason(error)})")
    if silent > EXPIRES:
        return None
    # An owner renews its lease by the clock of the file system: none dates it far ahead.
    ahead = silent < -EXPIRES
    owner = _identity_in(content)
    if owner is None:
        # created a moment ago and not yet written, left so by a crash, or no lease of ours: it expires
        return None if ahead else UnknownOwner(f"a process that has not written {path} yet")
    if owner["machine"] != _machine():
        return None if ahead else Owner(owner["pid"], owner["host"], max(0.0, silent))
    if _started(owner["pid"]) != owner["started"]:
        return None
    return Owner(owner["pid"], owner["host"], max(0.0, silent))


def _identity_in(content: bytes) -> dict[str, Any] | None:
    """What `_identity` wrote, None for anything else."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    pid, started = found.get("pid"), found.get("started")
    texts = isinstance(found.get("host"), str) and isinstance(found.get("machine"), str)
    if not texts or isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < LARGEST_PID:
        return None
    return found if started is None or isinstance(started, str) else None


def _leases(folder: Path) -> dict[int, Path]:
    """The lease files of a folder by their numbers; a later number is a later owner's."""
    found = {}
    for path in folder.glob("lease.*"):
        if number := re.fullmatch(r"lease\.([0-9]{1,18})", path.name):
            found[int(number[1])] = path
    return found


def _now(folder: Path) -> float:
    """The time by the clock of the file system: two machines' own may differ."""
    probe = folder / f".clock.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # a folder that may only be read
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _identity() -> dict[str, object]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _machine() -> str:
    """Within one of these, process numbers mean the same: the host, and on Linux its boot and the namespace
    of processes.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When process `pid` of this machine was started, "alive" where only that can be told; None if there is
    none or it is a zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"
