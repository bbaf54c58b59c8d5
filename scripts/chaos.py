"""Strike a small sweep at random moments, restart it each time it stops, and compare its tables with those of
an untouched one.

python scripts/chaos.py [--strikes 50] [--kinds worker,disk] [--seed 0] [--two] [FOLDER]

Linux only: processes are found in /proc. Exit code 1 where anything is lost, torn, different or left over.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from clipbench.errors import Unreadable
from clipbench.record import tables
from clipbench.record.folder import RunFolder, run_folders
from clipbench.record.lease import EXPIRES

STEPS = {"line": 900, "reddit": 120}
METHODS = {"line": "none,auto,linear_rand_norm", "reddit": "norm,quadratic_rand_auto"}
KINDS = {
    "worker": (4, "one worker is killed"),
    "sweep": (3, "the sweep's own process is killed"),
    "everything": (3, "all its processes are killed"),
    "forkserver": (2, "what starts its workers is killed"),
    "sleep": (2, "a worker is stopped for a second"),
    "stall": (3, "a worker is stopped until another has taken its runs over, then goes on"),
    "terminal": (3, "the terminal that it shows itself on is closed"),
    "group": (3, "all its processes are asked to end (SIGTERM)"),
    "disk": (3, "the disk is full, and has room again some seconds later"),
    "data": (3, "a file of the data is replaced"),
}
"""How often, in proportion, and what is done."""

DEADLY = ("worker", "sweep", "everything", "forkserver")
VERSIONS = ("1.0", "1.5")  # what the file of the data says
PATIENCE = 0.75  # share of the strikes that wait for something to be gained
AFTER_GAIN = (0.0, 4.0)  # seconds from then, or none
RUSH = (0.0, 25.0)  # seconds from one strike to the next of the other strikes, which mostly hit imports
AGED = 0.75  # share of the stalls whose lease is made old, instead of waiting until it is
ON_TERMINAL = 0.7  # share of the sweeps that show themselves on a terminal, where one is to be closed
TAKEN_OVER = EXPIRES + 60.0  # seconds in which runs must be taken over from a worker that is stopped
FULL = (0.5, 8.0)  # seconds that a disk stays full
OBEYS = 60.0  # seconds in which a sweep must end that is asked to
STUCK = 300.0  # seconds without any gain after which a sweep counts as hanging
ROOM = 48  # MB of the small disk
OF_THE_MACHINE = [
    "started",
    "ended",
    "seconds",
    "lockstep",
    "overrides",
    "device",
    "driver",
    "host",
    "platform",
    "versions",
    "git",
]
MAY_DIFFER = {"steps": ["seconds"], "evals": ["seconds"], "runs": OF_THE_MACHINE}
TASK = '''

class Scaled(Line):
    """Targets times what a file says."""

    def __init__(self, data, batch_size=16):
        from pathlib import Path

        super().__init__(batch_size)
        self.y = self.y * float(Path(data, "factor.txt").read_text())
'''


def prepare(folder: Path, steps: Mapping[str, int]) -> None:
    """A user's folder: the task of tests/tiny.py with a file of data, and an experiment of one arm for each
    task of `steps`.
    """
    own = folder / "own"
    for name in ("task", "experiment"):
        (own / name).mkdir(parents=True)
    (own / "task" / "line.yaml").write_text(
        "name: line\n_target_: chaos_line.Scaled\nbatch_size: ${batch_size}\ndata: data\n"
    )
    line = (Path(__file__).parents[1] / "tests" / "tiny.py").read_text()
    (own / "chaos_line.py").write_text(line + TASK)
    arms = ""
    for task, n in steps.items():
        arms += f"  - [task={task}, steps={n}, 'optim.clipping_type={METHODS[task]}']\n"
    shared = "all: [eval_every=60, checkpoint_every=20, device=cpu, sweep.lockstep=2]\narms:\n"
    (own / "experiment" / "chaos.yaml").write_text(shared + arms)


class Data:
    """The folder that `task=line` reads, in the folder of a sweep. `changes`: how often it was replaced."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "factor.txt"
        self.changes = 0
        self.path.parent.mkdir(parents=True)
        self.path.write_text(VERSIONS[0])

    def put(self, version: str, in_place: bool = False) -> None:
        """In place, or as a new file under the old name."""
        self.changes += 1
        if in_place:
            self.path.write_text(version)
            return
        new = self.path.with_name(".new")
        new.write_text(version)
        os.replace(new, self.path)

    def other(self) -> str:
        """The version that is not there."""
        now = self.path.read_text()
        return VERSIONS[1] if now == VERSIONS[0] else VERSIONS[0]


class Disk:
    """A small disk of the folder's own, where that is allowed; else a limit on the size of every file.

    A disk that only pretends (`mounted` is False) is full for the processes that it is told.
    """

    def __init__(self, folder: Path, mount: bool) -> None:
        self.folder, self.mounted = folder, mount and mount_small(folder)
        self.full = False

    def fill(self, pids: Sequence[int]) -> None:
        self.full = True
        if not self.mounted:
            self._limit(pids, 0)
            return
        with open(self.folder / "ballast", "wb", buffering=0) as file:
            block = bytes(1 << 16)
            while block:
                try:
                    file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block = block[: len(block) // 2]

    def make_room(self, pids: Sequence[int]) -> None:
        self.full = False
        if self.mounted:
            (self.folder / "ballast").unlink(missing_ok=True)
        else:
            self._limit(pids, resource.RLIM_INFINITY)

    def _limit(self, pids: Sequence[int], size: int) -> None:
        for pid in pids:
            with suppress(OSError, ValueError):  # it ended at this moment
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                soft = hard if size == resource.RLIM_INFINITY else size
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    def take_away(self) -> None:
        """What is on it stays in the folder."""
        if not self.mounted:
            return
        kept = self.folder.with_name(f"{self.folder.name}.kept")
        shutil.copytree(self.folder, kept, symlinks=True)
        # others that look through all disks may be in it at this moment
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        self.folder.rmdir()
        kept.rename(self.folder)
        self.mounted = False


def mount_small(folder: Path) -> bool:
    """Whether a tmpfs could be mounted there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}m", "chaos", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


class Sweep:
    """`clipbench sweep` in a session of its own, by which its processes are found however they were left
    behind. `on_terminal`: whether it shows itself on a terminal or writes into a log.
    """

    def __init__(self, folder: Path, on_terminal: bool = False) -> None:
        self.folder, self.place, self.log = folder, folder / "results", folder.with_suffix(".log")
        self.done, self.master = False, -1
        self.sessions: list[int] = []
        self.codes: Counter[int] = Counter()
        self.obeys_by = math.inf  # when it must have ended, once it is asked to
        # for what killed processes leave in /tmp
        self.temporary = tempfile.TemporaryDirectory(prefix="chaos-")
        self.start(on_terminal)

    def start(self, on_terminal: bool = False) -> None:
        own = str(self.folder.parent / "own")
        command = [sys.executable, "-m", "clipbench", "sweep", "--config-dir", own]
        command += ["+experiment=chaos", "seed=0,1"]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TMPDIR": self.temporary.name,
            "XDG_CACHE_HOME": str(self.folder.parent / "cache"),
            "TERM": "xterm",
        }
        self.close_terminal()
        slave = -1
        if on_terminal:
            self.master, slave = os.openpty()
            os.set_blocking(self.master, False)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=slave if on_terminal else subprocess.DEVNULL,
                stdout=slave if on_terminal else log,
                stderr=slave if on_terminal else log,
                start_new_session=True,
                preexec_fn=_take_terminal if on_terminal else None,
                env=environment,
            )
        if on_terminal:
            os.close(slave)
        self.obeys_by = math.inf
        self.sessions.append(self.process.pid)

    @property
    def on_terminal(self) -> bool:
        return self.master >= 0

    def close_terminal(self) -> None:
        """As when its window is closed: SIGHUP to the session, and an error at every further write."""
        if self.on_terminal:
            self.read_terminal()
            os.close(self.master)
            self.master = -1

    def read_terminal(self) -> None:
        """Into the log, as somebody looking at it would."""
        with suppress(OSError):  # nothing there, or nobody has it open
            while self.on_terminal and (text := os.read(self.master, 1 << 16)):
                with open(self.log, "ab") as log:
                    log.write(text)

    def restart_if_stopped(self, on_terminal: bool) -> int | None:
        """Start it again where it has stopped. The exit code where it was not killed and was not done."""
        code = None if self.done else self.process.poll()
        if code is None:
            return None
        self.read_terminal()
        self.codes[code] += 1
        if code == 0:
            self.done = True
            return None
        self.start(on_terminal)
        return None if code == -signal.SIGKILL else code

    def processes(self) -> dict[str, list[int]]:
        return processes(self.sessions)

    def end(self) -> None:
        """Nothing stays behind, whatever happened."""
        while there := everyone(self.processes()):
            for pid in there:
                kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.01)
        self.process.wait()
        self.close_terminal()
        self.temporary.cleanup()


def _take_terminal() -> None:
    """In the new process: its first stream is the terminal of its session, whose end it hears even if we run
    under nohup.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def processes(sessions: Sequence[int]) -> dict[str, list[int]]:
    """Those alive in the sessions, by what they are. A worker whose fork server is gone has another parent,
    but not the sweep.
    """
    found: dict[str, list[int]] = {"sweep": [], "forkserver": [], "worker": [], "other": []}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended at this moment
            state, parent, _, session = status(int(path.name))[:4]
            if state == "Z" or int(session) not in sessions:
                continue
            role = "worker"
            if path.name == session:
                role = "sweep"
            elif b"forkserver" not in (path / "cmdline").read_bytes():
                role = "other"
            elif parent == session:
                role = "forkserver"
            found[role].append(int(path.name))
    return found


def status(pid: int) -> list[str]:
    """state, parent, process group, session, …; OSError where it has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def state_of(pid: int) -> str:
    """One letter; "" where it has ended."""
    with suppress(OSError):
        return status(pid)[0].replace("Z", "")
    return ""


def everyone(there: Mapping[str, list[int]]) -> list[int]:
    found: list[int] = []
    for pids in there.values():
        found += pids
    return found


def kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def recorded(place: Path) -> set[str]:
    return {path.stem for path in (place / "runs").glob("r*.parquet")}


def reached(place: Path) -> dict[str, int]:
    """{run: the step of its checkpoint} of the runs that are not recorded yet."""
    ended = recorded(place)
    return {run: RunFolder(place, run).checkpoint_step() for run in run_folders(place) if run not in ended}


def progress(place: Path) -> str:
    return f"{len(recorded(place))} runs recorded, {sum(reached(place).values())} steps in checkpoints"


def leases(place: Path, pid: int) -> dict[str, Path]:
    """{run: its lease} of the runs that process `pid` makes."""
    found = {}
    for run in run_folders(place):
        numbered = sorted((place / ".work" / run).glob("lease.*"), key=_number)
        with suppress(OSError, IndexError):
            if f'"pid": {pid},' in numbered[-1].read_text():
                found[run] = numbered[-1]
    return found


def _number(lease: Path) -> int:
    return int(lease.suffix[1:])


@dataclass
class Stall:
    """A worker that is stopped while others take its runs over. `leases`: those that it held."""

    pid: int
    place: Path
    leases: dict[str, Path]
    changes: int  # of the data: a sweep of others takes nothing over
    recorded: set[str]
    until_made: bool  # whether it is to go on when others have finished its runs, not before
    until: float = field(default_factory=lambda: time.monotonic() + TAKEN_OVER)

    def is_taken_over(self) -> bool:
        """Whether a run of its is another's now, or was finished by another."""
        ended = recorded(self.place) - self.recorded
        for run, lease in self.leases.items():
            later = [path for path in lease.parent.glob("lease.*") if _number(path) > _number(lease)]
            if run in ended or later:
                return True
        return False

    def may_go_on(self) -> bool:
        if self.until_made:
            return recorded(self.place).issuperset(self.leases)
        return self.is_taken_over()


def unreadable(place: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Unreadable)
        for table in MAY_DIFFER:
            tables.read(place, table)
    return [str(warning.message) for warning in caught]


def differences(expected: Path, got: Path) -> list[str]:
    """What distinguishes two results folders, times and the like aside: files, rows, or that one cannot be
    read.
    """
    expected_names, got_names = _names(expected), _names(got)
    found = [f"missing: {name}" for name in sorted(expected_names - got_names)]
    found += [f"left over: {name}" for name in sorted(got_names - expected_names)]
    if torn := unreadable(got):
        return found + torn
    for table, free in MAY_DIFFER.items():
        left = tables.read(expected, table).drop(columns=free)
        right = tables.read(got, table).drop(columns=free)
        try:
            pd.testing.assert_frame_equal(left, right, check_exact=True)
        except AssertionError as error:
            found.append(f"{table}: {' '.join(str(error).split())}")
    return found


def _names(folder: Path) -> set[str]:
    """Of all files and folders in it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Chaos:
    """Strikes sweeps into `folder` until all of `strikes` are made, in their order where each is possible.
    What is found to be wrong goes to `problems`.
    """

    def __init__(self, folder: Path, strikes: Sequence[str], rng: random.Random) -> None:
        self.folder, self.left, self.rng = folder, list(strikes), rng
        self.kinds = set(strikes)
        self.patience, self.after_gain = PATIENCE, AFTER_GAIN
        self.aged, self.on_terminal = AGED, ON_TERMINAL
        self.began = self.looked = time.monotonic()
        self.made: Counter[str] = Counter()
        self.restarts, self.taken_over = 0, 0
        self.codes: Counter[int] = Counter()
        self.problems: list[str] = []
        self.asleep: dict[int, float] = {}  # process: when to wake it
        self.stalls: list[Stall] = []
        self.room_at = math.inf  # when a full disk has room again
        self.strike_at: float | None = None  # None: some time after the next gain
        self.before: dict[str, int] = {}  # what was reached at the last strike

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def sweep(self, name: str, together: int = 1) -> Path:
        """Sweeps into one folder, struck and restarted until all strikes are made, then left to finish. Their
        results folder.
        """
        folder = self.folder / name
        folder.mkdir()
        self.disk = Disk(folder, mount="disk" in self.kinds)
        self.data = Data(folder)
        sweeps = [Sweep(folder, self.wants_terminal()) for _ in range(together)]
        try:
            self.strike_until_done(sweeps)
            self.make_the_rest(sweeps[0])
        finally:
            for sweep in sweeps:
                sweep.end()
                self.codes += sweep.codes
            self.disk.take_away()
        return folder / "results"

    def strike_until_done(self, sweeps: Sequence[Sweep]) -> None:
        place = sweeps[0].place
        state, gained = progress(place), time.monotonic()
        self.before = {}
        self.wait()
        while self.stalls or any(not sweep.done or sweep.processes()["worker"] for sweep in sweeps):
            time.sleep(0.02)
            self.restart(sweeps)
            now = progress(place)
            if now != state:
                state, gained = now, time.monotonic()
                delay = self.rng.choice([0.0, self.rng.uniform(*self.after_gain)])
                self.strike_at = self.strike_at or gained + delay
            if time.monotonic() - gained > STUCK:
                self.problems.append(f"{place}: nothing gained for {STUCK:.0f} s: {state}")
                return
            self.wake(sweeps)
            living = [sweep for sweep in sweeps if not sweep.done]
            is_time = time.monotonic() > (self.strike_at or math.inf)
            if living and is_time and self.left:
                self.strike(self.rng.choice(living), living)
        self.make_room(sweeps)

    def make_the_rest(self, sweep: Sweep) -> None:
        """The runs of each version of the data, with nobody striking."""
        for version in VERSIONS if "data" in self.kinds else ():
            self.data.put(version)
            sweep.start()
            if sweep.process.wait(STUCK):
                self.problems.append(f"{sweep.folder}: the last sweep did not end well, see its log")

    def wants_terminal(self) -> bool:
        return "terminal" in self.kinds and self.rng.random() < self.on_terminal

    def restart(self, sweeps: Sequence[Sweep]) -> None:
        """Those that have stopped before they were done."""
        for sweep in sweeps:
            sweep.read_terminal()
            if self.asleep or self.stalls:  # it waits for them
                sweep.obeys_by += time.monotonic() - self.looked
            if time.monotonic() > sweep.obeys_by and sweep.process.poll() is None:
                self.problems.append(f"{sweep.place}: asked to end, and lives after {OBEYS:.0f} s")
                sweep.obeys_by = math.inf
            before = len(sweep.sessions)
            code = sweep.restart_if_stopped(self.wants_terminal())
            self.restarts += len(sweep.sessions) - before
            if code:
                lines = sweep.log.read_text(errors="replace").strip().splitlines()
                last = lines[-1] if lines else ""
                self.say(f"exit code {code}: {last}")
                if code == 1 and any(line.startswith("Traceback") for line in lines[-60:]):
                    self.problems.append(f"{sweep.log}: a sweep ended in a traceback: {last}")
        self.looked = time.monotonic()

    def wake(self, sweeps: Sequence[Sweep]) -> None:
        """What has slept long enough, was taken over, or is to have room again."""
        for pid, until in list(self.asleep.items()):
            if time.monotonic() > until:
                del self.asleep[pid]
                kill(pid, signal.SIGCONT)
        for stall in list(self.stalls):
            late = time.monotonic() > stall.until
            is_void = not state_of(stall.pid) or stall.changes != self.data.changes
            if not (stall.may_go_on() or late or is_void):
                continue
            over = stall.is_taken_over()
            self.stalls.remove(stall)
            self.taken_over += over
            self.asleep[stall.pid] = time.monotonic() + self.rng.uniform(0.0, 3.0)
            if late and not over and not is_void:
                self.problems.append(f"nobody took over from worker {stall.pid} in {TAKEN_OVER:.0f} s")
        if time.monotonic() > self.room_at:
            self.make_room(sweeps)

    def make_room(self, sweeps: Sequence[Sweep]) -> None:
        self.room_at = math.inf
        if self.disk.full:
            for sweep in sweeps:
                self.disk.make_room(everyone(sweep.processes()))
            self.say("the disk has room again")

    def wait(self) -> None:
        """Set when the next strike is due."""
        self.strike_at = None
        if self.rng.random() >= self.patience:
            self.strike_at = time.monotonic() + self.rng.uniform(*RUSH)

    def strike(self, sweep: Sweep, living: Sequence[Sweep]) -> None:
        """The next one that is possible; then every table must be readable, and no checkpoint be lost."""
        there, state = sweep.processes(), progress(sweep.place)
        for kind in dict.fromkeys(self.left):
            how = self.done_to(kind, sweep, there, living)
            if how:
                self.left.remove(kind)
                self.made[kind] += 1
                self.say(f"strike {self.made.total()}, {kind}: {how}; {state}")
                break
        now = reached(sweep.place)
        self.problems += unreadable(sweep.place)
        for run, step in now.items():
            before = self.before.get(run, 0)
            if step < before:
                self.problems.append(f"{run} went back from step {before} to {step}")
        self.before = now
        self.wait()

    def done_to(
        self, kind: str, sweep: Sweep, there: Mapping[str, list[int]], living: Sequence[Sweep]
    ) -> str:
        """What was done, "" where it is not possible at this moment."""
        if kind in DEADLY:
            return self.kill(kind, there)
        if kind in ("sleep", "stall"):
            awake = [pid for pid in there["worker"] if state_of(pid) not in ("T", "")]
            if not awake:
                return ""
            pid = self.rng.choice(awake)
            return self.sleep(pid) if kind == "sleep" else self.stall(pid, sweep, living)
        if kind == "terminal":
            return self.hang_up(sweep)
        if kind == "group":
            return self.ask_to_end(sweep)
        if kind == "disk":
            return self.fill_disk(living)
        return self.replace_data()

    def kill(self, kind: str, there: Mapping[str, list[int]]) -> str:
        victims = everyone(there) if kind == "everything" else there[kind]
        if kind != "everything" and victims:
            victims = [self.rng.choice(victims)]
        for pid in victims:
            kill(pid, signal.SIGKILL)
        return " ".join(map(str, victims))

    def sleep(self, pid: int) -> str:
        kill(pid, signal.SIGSTOP)
        self.asleep[pid] = time.monotonic() + 1.0
        return f"worker {pid}"

    def stall(self, pid: int, sweep: Sweep, living: Sequence[Sweep]) -> str:
        """Without another sweep its own is killed: the restarted one is the other."""
        if self.disk.full or not leases(sweep.place, pid):
            return ""
        kill(pid, signal.SIGSTOP)
        while state_of(pid) not in ("T", ""):
            time.sleep(0.001)
        held = leases(sweep.place, pid)
        if not held:
            kill(pid, signal.SIGCONT)
            return ""
        if len(living) == 1:
            kill(sweep.process.pid, signal.SIGKILL)
        aged = self.rng.random() < self.aged
        if aged:
            long_ago = time.time() - 2 * EXPIRES
            for lease in held.values():
                os.utime(lease, (long_ago, long_ago))
        until_made = self.rng.random() < 0.5
        self.stalls.append(
            Stall(pid, sweep.place, held, self.data.changes, recorded(sweep.place), until_made)
        )
        how = "its lease made old" if aged else f"for more than {EXPIRES:.0f} s"
        return f"worker {pid} of {len(held)} runs, {how}"

    def hang_up(self, sweep: Sweep) -> str:
        if not sweep.on_terminal or sweep.process.poll() is not None:
            return ""
        sweep.close_terminal()
        sweep.obeys_by = time.monotonic() + OBEYS
        return f"of sweep {sweep.process.pid}"

    def ask_to_end(self, sweep: Sweep) -> str:
        if sweep.process.poll() is not None:
            return ""
        os.killpg(sweep.process.pid, signal.SIGTERM)
        sweep.obeys_by = time.monotonic() + OBEYS
        return f"SIGTERM to group {sweep.process.pid}"

    def fill_disk(self, living: Sequence[Sweep]) -> str:
        if self.disk.full:
            return ""
        for sweep in living:
            self.disk.fill(everyone(sweep.processes()))
        seconds = self.rng.uniform(*FULL)
        self.room_at = time.monotonic() + seconds
        return f"full for {seconds:.1f} s"

    def replace_data(self) -> str:
        if self.disk.full:
            return ""
        version, in_place = self.data.other(), self.rng.random() < 0.5
        self.data.put(version, in_place)
        return f"now {version}, {'in place' if in_place else 'a new file'}"


def planned(kinds: Sequence[str], number: int, rng: random.Random) -> list[str]:
    """At least `number` strikes, as often as KINDS says, in random order."""
    total = sum(KINDS[kind][0] for kind in kinds)
    found: list[str] = []
    for kind in kinds:
        found += [kind] * math.ceil(number * KINDS[kind][0] / total)
    rng.shuffle(found)
    return found


def possible(kinds: Sequence[str], folder: Path, say: bool = True) -> None:
    """Say how a disk is filled here."""
    if "disk" not in kinds:
        return
    place = folder / "mount"
    place.mkdir()
    how = "by a limit on the size of files (RLIMIT_FSIZE): a tmpfs may not be mounted here"
    if mount_small(place):
        subprocess.run(["umount", str(place)], check=True)
        how = f"on a tmpfs of {ROOM} MB"
    place.rmdir()
    print(f"The disk is filled {how}.", flush=True)


def untouched(folder: Path, kinds: Sequence[str]) -> Path:
    """The results folder of a sweep that nobody strikes, with each version of the data that may come."""
    folder.mkdir()
    data = Data(folder)
    for version in VERSIONS if "data" in kinds else VERSIONS[:1]:
        data.put(version)
        sweep = Sweep(folder)
        try:
            if sweep.process.wait():
                raise SystemExit(f"The untouched sweep failed: {sweep.log.read_text()}")
        finally:
            sweep.end()
    return folder / "results"


def main(folder: Path, kinds: Sequence[str], number: int, seed: int, together: int) -> int:
    prepare(folder, STEPS)
    possible(kinds, folder)
    rng = random.Random(seed)
    chaos = Chaos(folder, planned(kinds, number, rng), rng)
    expected = untouched(folder / "untouched", kinds)
    chaos.say(f"untouched: {progress(expected)}")
    sweeps = 0
    found: list[str] = []
    while chaos.left and not chaos.problems and not found:
        sweeps += 1
        place = chaos.sweep(f"struck{sweeps}", together)
        found = differences(expected, place)
        result = "; ".join([*chaos.problems, *found]) or "equal to the untouched, nothing left over"
        chaos.say(f"struck{sweeps}: {result}")
    report(chaos, found, sweeps, together, len(tables.read(expected, "steps")))
    return 1 if chaos.problems or found else 0


def report(chaos: Chaos, found: Sequence[str], sweeps: int, together: int, steps: int) -> None:
    for kind, count in sorted(chaos.made.items()):
        print(f"{count:5} {kind}: {KINDS[kind][1]}")
    print(f"{chaos.made.total():5} strikes in {sweeps} x {together} sweeps of {steps} steps")
    print(f"{chaos.restarts:5} restarts; exit codes {dict(sorted(chaos.codes.items()))}")
    print(f"{chaos.taken_over:5} of the stalled workers found their runs taken over when they went on")
    left_over = [text for text in found if text.startswith("left over: ")]
    different = [text for text in found if text not in left_over]
    for name, texts in (("differences", different), ("left over", left_over), ("other", chaos.problems)):
        print(f"{len(texts):5} {name}")
        for text in texts:
            print(f"        {text}")


def _kinds(text: str) -> list[str]:
    chosen = text.split(",")
    for kind in chosen:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"no kind '{kind}'; known: {', '.join(KINDS)}")
    return chosen


if __name__ == "__main__":
    listed = "\n".join(f"  {kind:11} {what}" for kind, (_, what) in KINDS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nkinds:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="FOLDER",
        help="a new folder, which is kept; a temporary one by default",
    )
    parser.add_argument("--strikes", type=int, default=50, help="at least so many (50)")
    parser.add_argument("--kinds", type=_kinds, default=list(KINDS), help="of them, a,b,… (all)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments (0)")
    parser.add_argument("--two", action="store_true", help="two sweeps at once into one folder")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # nothing of ours is to stay
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as spare:
        place = (options.folder or Path(spare) / "chaos").resolve()
        sys.exit(main(place, options.kinds, options.strikes, options.seed, 2 if options.two else 1))
