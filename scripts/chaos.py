"""Kill a small sweep at random moments, restart it each time it stops, and compare its tables with those of
an untouched one.

python scripts/chaos.py [--kills 50] [--seed 0] [--two] [FOLDER]

Linux only: processes are found in /proc. Exit code 1 where anything is lost, torn, different or left over.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import pandas as pd

from clipbench.errors import Unreadable
from clipbench.record import tables
from clipbench.record.folder import RunFolder, run_folders

STEPS = {"line": 900, "reddit": 120}
METHODS = {"line": "none,auto,linear_rand_norm", "reddit": "norm,quadratic_rand_auto"}
TARGETS = {"worker": 7, "sweep": 5, "everything": 4, "forkserver": 2, "sleep": 2}  # how often, in proportion
PATIENCE = 0.75  # share of the strikes that wait for something to be gained
AFTER_GAIN = (0.0, 4.0)  # seconds from then, or none
RUSH = (0.0, 25.0)  # seconds from one strike to the next of the other strikes, which mostly hit imports
STALL = 70.0  # seconds of sleep that outlast a lease
STUCK = 300.0  # seconds without any gain after which a sweep counts as hanging
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


def prepare(folder: Path, steps: Mapping[str, int]) -> None:
    """A user's folder: the task of tests/tiny.py, and an experiment of one arm for each task of `steps`."""
    own = folder / "own"
    for name in ("task", "experiment"):
        (own / name).mkdir(parents=True)
    (own / "task" / "line.yaml").write_text(
        "name: line\n_target_: chaos_line.Line\nbatch_size: ${batch_size}\n"
    )
    shutil.copy(Path(__file__).parents[1] / "tests" / "tiny.py", own / "chaos_line.py")
    arms = ""
    for task, n in steps.items():
        arms += f"  - [task={task}, steps={n}, 'optim.clipping_type={METHODS[task]}']\n"
    shared = "all: [eval_every=60, checkpoint_every=20, device=cpu]\narms:\n"
    (own / "experiment" / "chaos.yaml").write_text(shared + arms)


class Sweep:
    """`clipbench sweep` in a session of its own, by which its processes are found however they were left
    behind.
    """

    def __init__(self, folder: Path) -> None:
        self.place, self.log = folder / "results", folder.with_suffix(".log")
        self.done = False
        self.sessions: list[int] = []
        folder.mkdir(exist_ok=True)
        # for what killed processes leave in /tmp
        self.temporary = tempfile.TemporaryDirectory(prefix="chaos-")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "clipbench", "sweep", "--config-dir", "../own"]
        command += ["+experiment=chaos", "seed=0,1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": self.temporary.name}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.place.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )
        self.sessions.append(self.process.pid)

    def restart_if_stopped(self) -> int | None:
        """Start it again where it has stopped. The exit code where it stopped by itself and was not done."""
        code = None if self.done else self.process.poll()
        self.done = self.done or code == 0
        if code:
            self.start()
        return None if code in (0, -signal.SIGKILL) else code

    def processes(self) -> dict[str, list[int]]:
        return processes(self.sessions)

    def end(self) -> None:
        """Nothing stays behind, whatever happened."""
        for pids in self.processes().values():
            for pid in pids:
                kill(pid, signal.SIGKILL)
        self.process.wait()
        self.temporary.cleanup()


def processes(sessions: Sequence[int]) -> dict[str, list[int]]:
    """Those alive in the sessions, by what they are. A worker whose fork server is gone has another parent,
    but not the sweep.
    """
    found: dict[str, list[int]] = {"sweep": [], "forkserver": [], "worker": [], "other": []}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended at this moment
            after_name = (path / "stat").read_text().rpartition(")")[2]
            state, parent, _, session = after_name.split()[:4]
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


def kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def reached(place: Path) -> dict[str, int]:
    """{run: the step of its checkpoint} of the runs that are not recorded yet."""
    recorded = {path.stem for path in (place / "runs").glob("r*.parquet")}
    return {run: RunFolder(place, run).checkpoint_step() for run in run_folders(place) if run not in recorded}


def progress(place: Path) -> str:
    recorded = len(list((place / "runs").glob("r*.parquet")))
    return f"{recorded} runs recorded, {sum(reached(place).values())} steps in checkpoints"


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
    """Strikes sweeps into `folder` until `kills` are made, at what `targets` name. What is found to be wrong
    goes to `problems`.
    """

    def __init__(self, folder: Path, kills: int, targets: Iterator[str], rng: random.Random) -> None:
        self.folder, self.kills, self.targets, self.rng = folder, kills, targets, rng
        self.patience, self.after_gain = PATIENCE, AFTER_GAIN
        self.kills_made, self.began = 0, time.monotonic()
        self.problems: list[str] = []
        self.asleep: dict[int, float] = {}  # process: when to wake it
        self.strike_at: float | None = None  # None: some time after the next gain
        self.before: dict[str, int] = {}  # what was reached at the last strike

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def sweep(self, name: str, together: int = 1) -> Path:
        """Sweeps into one folder, struck and restarted until all kills are made, then left to finish. Their
        results folder.
        """
        sweeps = [Sweep(self.folder / name) for _ in range(together)]
        place = sweeps[0].place
        state, gained = progress(place), time.monotonic()
        self.before = {}
        self.wait()
        try:
            while any(not sweep.done or sweep.processes()["worker"] for sweep in sweeps):
                time.sleep(0.02)
                self.restart(sweeps)
                now = progress(place)
                if now != state:
                    state, gained = now, time.monotonic()
                    delay = self.rng.choice([0.0, self.rng.uniform(*self.after_gain)])
                    self.strike_at = self.strike_at or gained + delay
                if time.monotonic() - gained > STUCK:
                    self.problems.append(f"{name}: nothing gained for {STUCK:.0f} s: {state}")
                    break
                self.wake()
                living = [sweep for sweep in sweeps if not sweep.done]
                is_time = time.monotonic() > (self.strike_at or math.inf)
                if living and is_time and self.kills_made < self.kills:
                    self.strike(self.rng.choice(living), together)
        finally:
            for sweep in sweeps:
                sweep.end()
        return place

    def restart(self, sweeps: Sequence[Sweep]) -> None:
        """Those that have stopped before they were done."""
        for sweep in sweeps:
            code = sweep.restart_if_stopped()
            if code:
                last_line = sweep.log.read_text().strip().splitlines()[-1]
                self.say(f"exit code {code}: {last_line}")

    def wake(self) -> None:
        """The processes that have slept long enough."""
        for pid, until in list(self.asleep.items()):
            if time.monotonic() > until:
                del self.asleep[pid]
                kill(pid, signal.SIGCONT)

    def wait(self) -> None:
        """Set when the next strike is due."""
        self.strike_at = None
        if self.rng.random() >= self.patience:
            self.strike_at = time.monotonic() + self.rng.uniform(*RUSH)

    def strike(self, sweep: Sweep, together: int) -> None:
        """At the next target where it is there, else at the sweep; then every table must be readable, and no
        checkpoint be lost.
        """
        there, target, state = sweep.processes(), next(self.targets), progress(sweep.place)
        if target == "sleep" and there["worker"]:
            pid = self.rng.choice(there["worker"])
            seconds = self.rng.choice([1.0, STALL]) if together > 1 else 1.0
            kill(pid, signal.SIGSTOP)
            self.asleep[pid] = time.monotonic() + seconds
            self.say(f"sleep of {seconds:.0f} s: worker {pid}; {state}")
        else:
            role, pids = self.victims(there, target)
            if not pids:  # it ended at this moment
                return
            for pid in pids:
                kill(pid, signal.SIGKILL)
            self.kills_made += 1
            self.say(f"kill {self.kills_made}: {role} {' '.join(map(str, pids))}; {state}")
        now = reached(sweep.place)
        self.problems += unreadable(sweep.place)
        for run, step in now.items():
            before = self.before.get(run, 0)
            if step < before:
                self.problems.append(f"{run} went back from step {before} to {step}")
        self.before = now
        self.wait()

    def victims(self, there: Mapping[str, list[int]], target: str) -> tuple[str, list[int]]:
        """What is killed, and its processes: one of the target's, or all there are."""
        if target == "everything":
            every: list[int] = []
            for pids in there.values():
                every += pids
            return target, every
        role = target if there.get(target) else "sweep"
        pids = there[role]
        return role, [self.rng.choice(pids)] if pids else []


def main(folder: Path, kills: int, seed: int, together: int) -> int:
    prepare(folder, STEPS)
    rng = random.Random(seed)
    names, weights = list(TARGETS), list(TARGETS.values())
    targets = (rng.choices(names, weights)[0] for _ in count())
    chaos = Chaos(folder, kills, targets, rng)
    untouched = Sweep(folder / "untouched")
    try:
        if untouched.process.wait():
            raise SystemExit(f"The untouched sweep failed: {untouched.log.read_text()}")
    finally:
        untouched.end()
    chaos.say(f"untouched: {progress(untouched.place)}")
    sweeps = 0
    while chaos.kills_made < kills and not chaos.problems:
        sweeps += 1
        place = chaos.sweep(f"struck{sweeps}", together)
        chaos.problems += differences(untouched.place, place)
        found = "; ".join(chaos.problems) or "equal to the untouched, nothing left over"
        chaos.say(f"struck{sweeps}: {found}")
    steps = len(tables.read(untouched.place, "steps"))
    chaos.say(
        f"{chaos.kills_made} kills in {sweeps} x {together} sweeps of {steps} steps each, "
        f"{len(chaos.problems)} problems"
    )
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="FOLDER",
        help="a new folder, which is kept; a temporary one by default",
    )
    parser.add_argument("--kills", type=int, default=50, help="at least so many (50)")
    parser.add_argument("--seed", type=int, default=0, help="of targets and moments (0)")
    parser.add_argument(
        "--two",
        action="store_true",
        help="two sweeps at once into one folder; workers may sleep longer than a lease",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        place = (options.folder or Path(spare) / "chaos").resolve()
        sys.exit(main(place, options.kills, options.seed, 2 if options.two else 1))
