"""What data files hold, as a hash: each file is read once and remembered by its size, time and inode.

The memory lies in the user's cache folder, never beside the data.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from clipbench.errors import UserError

BLOCK = 1 << 20
READERS = 8  # threads: hashing releases the interpreter, and disks like company
BYTES_PER_SECOND, FILES_PER_SECOND = 300e6, 2000.0  # of an ordinary disk, for a rough time
SECONDS_SAID = 5.0  # a reading that takes longer is announced
FINE, COARSE = 20_000_000, 2_000_000_000  # nanoseconds in which a clock of files may show one time twice
NO_DATA = frozenset({"__MACOSX", "__pycache__", "lost+found"})

Stamp = tuple[int, int, int]
"""Size, mtime_ns and inode of a file: while they stay, what it holds is taken to stay."""


def cache_folder() -> Path:
    """XDG_CACHE_HOME/clipbench, by default ~/.cache/clipbench. It may be deleted at any time."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    return Path(root) / "clipbench"


def is_data(name: str) -> bool:
    """Whether a file or folder of that name is data: not what is hidden or what systems leave behind."""
    return not name.startswith(".") and name not in NO_DATA


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sorted by the bytes of their names: the same in every locale."""
    return sorted(paths, key=os.fsencode)


def files_below(root: Path) -> Iterator[Path]:
    """Every file of data in `root` and below, or `root` itself; links are followed, each folder once.

    UserError for what cannot be read, and for a pipe or a broken link among them.
    """
    if not root.is_dir():
        yield _readable(root)
        return
    yield from _below(root, set())


def _below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        found = os.stat(folder)
        children = in_order(path for path in folder.iterdir() if is_data(path.name))
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}. Mend its permissions.") from error
    if (found.st_dev, found.st_ino) in seen:
        return
    seen.add((found.st_dev, found.st_ino))
    for path in children:
        if not path.is_dir():
            yield _readable(path)
        elif not is_copy_of_pyg(path):
            yield from _below(path, seen)


def is_copy_of_pyg(folder: Path) -> bool:
    """Whether these are what PyG made of the data in `raw` beside it: a run must not change its own id."""
    if folder.name != "processed":
        return False
    return (folder.parent / "raw").is_dir() or (folder / "data.pt").exists()


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"{path} is a pipe, a device or a link to nothing among the data. Take it out, or put a file "
            "in its place."
        )
    return path


@dataclass(frozen=True)
class Unread:
    """Files that are not hashed yet."""

    root: Path
    files: int
    size: int

    def __str__(self) -> str:
        """ "/data/imagenet: 144.1 GB in 1331167 files, about 8 min"."""
        minutes = self.seconds / 60
        rough = f"{minutes:.0f} min" if minutes >= 1.5 else f"{max(1, self.seconds):.0f} s"
        count = "1 file" if self.files == 1 else f"{self.files} files"
        return f"{self.root}: {self.size / 1e9:.3g} GB in {count}, about {rough}"

    @property
    def seconds(self) -> float:
        """A rough guess of how long it takes to hash them."""
        return self.size / BYTES_PER_SECOND + self.files / FILES_PER_SECOND


Place = tuple[str, Path]
"""The name of a listing, and the file or folder whose files it lists."""


@dataclass(frozen=True)
class Seen:
    """`content`: the digest of a place. `outside`: a hash of the names and stamps of its files; None where a
    file was so new that it may have changed without a change of its stamp.
    """

    content: str
    outside: str | None


class Contents:
    """Hashes of what files hold, for as long as plans are made: each folder is looked at once.

    `read`: whether to hash what is not remembered; where not, `unread` collects it. `announce`: told what is
    about to be read where that takes seconds. `before`: the `seen` of an earlier look; what has kept its
    stamps since is not read again.
    """

    def __init__(
        self,
        read: bool = True,
        announce: Callable[[str], None] = lambda text: None,
        before: Mapping[Place, Seen] = MappingProxyType({}),
    ) -> None:
        self.read, self.announce, self.before = read, announce, before
        self.unread: list[Unread] = []
        self.seen: dict[Place, Seen] = {}
        self._known: dict[tuple[str, Path], str | None] = {}

    def digest(
        self, name: str, root: Path, listing: Callable[[], Iterable[Path]], verify: bool = False
    ) -> str | None:
        """A hash of the names and the content of the files of `listing`, all in `root` or `root` itself.

        None where some are not hashed yet and must not be read. `name`: of the listing, for it is asked once.
        `verify`: read all again. UserError for a file that cannot be read.
        """
        if (name, root) not in self._known:
            files = list(dict.fromkeys(listing()))
            self._known[name, root] = self._look((name, root), files, verify)
        return self._known[name, root]

    def _look(self, place: Place, files: Sequence[Path], verify: bool) -> str | None:
        root = place[1]
        names = [b"" if path == root else os.fsencode(path.relative_to(root)) for path in files]
        now = time.time_ns()
        stamps = [_stamp(path) for path in files]
        outside = _outside(names, stamps)
        before = self.before.get(place)
        if before and before.outside == outside:
            self.seen[place] = before
            return before.content
        content = self._digest(root, files, names, stamps, verify)
        if content:
            settled = all(now - mtime > _grain(mtime) for _, mtime, _ in stamps)
            self.seen[place] = Seen(content, outside if settled else None)
        return content

    def _digest(
        self, root: Path, files: Sequence[Path], names: Sequence[bytes], stamps: Sequence[Stamp], verify: bool
    ) -> str | None:
        memory = Memory(root)
        todo = []
        for i, name in enumerate(names):
            if verify or memory.find(name, stamps[i]) is None:
                todo.append(i)
        if todo:
            unread = Unread(root, len(todo), sum(stamps[i][0] for i in todo))
            if not self.read:
                self.unread.append(unread)
                return None
            if unread.seconds > SECONDS_SAID:
                self.announce(f"hashing {unread}, once …")
        fresh = _hash_all([(files[i], names[i], stamps[i]) for i in todo], memory)
        whole = hashlib.sha256()
        for name, stamp in sorted(zip(names, stamps, strict=True)):
            content = fresh.get(name) or memory.find(name, stamp) or ""
            whole.update(b"%d %s %s\n" % (len(name), name, content.encode()))
        return whole.hexdigest()


def _outside(names: Sequence[bytes], stamps: Sequence[Stamp]) -> str:
    whole = hashlib.sha256()
    for name, stamp in sorted(zip(names, stamps, strict=True)):
        whole.update(b"%d %s %d %d %d\n" % (len(name), name, *stamp))
    return whole.hexdigest()


def _hash_all(todo: Sequence[tuple[Path, bytes, Stamp]], memory: Memory) -> dict[bytes, str]:
    """{name: hash} of the files to do. What was read before an interruption is remembered."""
    fresh: dict[bytes, str] = {}
    if not todo:
        return fresh
    pool = ThreadPoolExecutor(min(READERS, len(todo)))
    try:
        hashes = pool.map(_hash, [path for path, _, _ in todo])
        for (_, name, stamp), (content, settled) in zip(todo, hashes, strict=True):
            fresh[name] = content
            if settled == stamp:
                memory.add(name, stamp, content)
    finally:
        pool.shutdown(cancel_futures=True)
        memory.save()
    return fresh


def _hash(path: Path) -> tuple[str, Stamp | None]:
    """(hash, stamp) of a file. The stamp is None where it may have changed without a change of its time."""
    found = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            while block := file.read(BLOCK):
                found.update(block)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Mend it or its permissions.") from error
    age = time.time_ns() - after.st_mtime_ns
    settled = _stamp_of(before) == _stamp_of(after) and age > _grain(after.st_mtime_ns)
    return found.hexdigest(), _stamp_of(after) if settled else None


def _grain(mtime: int) -> int:
    """Nanoseconds in which the clock that gave this time may give it again."""
    return FINE if mtime % 1_000_000_000 else COARSE


def _stamp(path: Path) -> Stamp:
    try:
        return _stamp_of(os.stat(path))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Mend it or its permissions.") from error


def _stamp_of(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns, found.st_ino


class Memory:
    """The hashes that are known of the files of one folder.

    A line each, under a hash of all lines: what is damaged is as good as not there.
    """

    def __init__(self, root: Path) -> None:
        place = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:32]
        self.path = cache_folder() / "content" / place
        self.known: dict[bytes, tuple[Stamp, str]] = {}
        with suppress(OSError, ValueError):
            head, _, body = self.path.read_bytes().partition(b"\n")
            if head.decode() == _checksum(body):
                for line in body.splitlines():
                    content, size, mtime, inode, name = line.split(b" ", 4)
                    self.known[bytes.fromhex(name.decode())] = (
                        (int(size), int(mtime), int(inode)),
                        content.decode(),
                    )

    def find(self, name: bytes, stamp: Stamp) -> str | None:
        """The hash of the file of that name while its stamp is this one."""
        known = self.known.get(name)
        return known[1] if known and known[0] == stamp else None

    def add(self, name: bytes, stamp: Stamp, content: str) -> None:
        self.known[name] = (stamp, content)

    def save(self) -> None:
        """In place, whole, or not at all: without a memory the next look reads again."""
        lines = []
        for name, (stamp, content) in self.known.items():
            lines.append(b"%s %d %d %d %s" % (content.encode(), *stamp, name.hex().encode()))
        body = b"\n".join(lines)
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_checksum(body).encode() + b"\n" + body)
            os.replace(partial, self.path)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _checksum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
