"""Worker processes, one for each slot of a device. Each makes one group of runs at a time; what kills it costs that group only."""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.interrupt import starter
from clipbench.record.rows import StepRow
from clipbench.runs.build import find_device
from clipbench.runs.lockstep import train_group
from clipbench.runs.plan import Plan

SAY_EVERY = 0.5  # seconds between reports of losses and steps


@dataclass(frozen=True)
class Slot:
    """Where one worker runs: its device, and the CPU cores it may use (all where None)."""

    name: str
    device: str
    cores: tuple[int, ...] | None


def slots(device: str, threads: int, per_device: int | None) -> list[Slot]:
    """One for each GPU, or for each `threads` cores of the CPU; or `per_device` of them. The cores are shared out among all."""
    kind = find_device(device)
    cores = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    gpus = torch.cuda.device_count() if kind.type == "cuda" and kind.index is None else 0
    devices = [f"cuda:{index}" for index in range(gpus)] or [str(kind)]
    count = per_device or (max(1, len(cores) // threads) if kind.type == "cpu" else 1)
    names = [(f"{each} #{i + 1}" if count > 1 else each, each) for each in devices for i in range(count)]
    shared = len(names) > 1 and hasattr(os, "sched_setaffinity") and len(cores) >= len(names)
    return [Slot(*name, tuple(cores[i :: len(names)]) if shared else None) for i, name in enumerate(names)]


class Worker:
    """A process on a slot, seen from the sweep. `told()` is what it reports, ("died", text) last."""

    def __init__(self, slot: Slot, modules: Sequence[str]) -> None:
        self.slot = slot
        self.group: list[Plan] = []
        self.connection, theirs = Pipe()
        self.trace, last_words = Pipe(duplex=False)  # what a crash leaves: the Python lines it happened in
        arguments = (theirs, last_words, slot, os.getcwd())
        for tries_left in reversed(range(3)):
            try:
                context = starter(["clipbench.sweeps.workers", *modules])
                self.process = context.Process(target=_main, args=arguments, name=f"clipbench {slot.name}")
                self.process.start()
                break
            except (
                EOFError,
                OSError,
            ):  # the process that forks workers was killed at this moment: the next try starts another
                if not tries_left:
                    raise
        theirs.close()
        last_words.close()

    def make(self, group: Sequence[Plan]) -> None:
        self.group = list(group)
        with suppress(OSError):  # it died; `told` will say so
            self.connection.send(
                pickle.dumps(
                    [
                        replace(plan, settings=replace(plan.settings, device=self.slot.device))
                        for plan in group
                    ]
                )
            )

    def stop(self) -> None:
        """Finish the step, write checkpoints, and wait for more work or the end."""
        with suppress(OSError):
            self.connection.send("stop")

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Without a group it ends by itself when nobody listens."""
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.trace.close()

    def told(self) -> list[tuple[Any, ...]]:
        messages = []
        alive = self.process.is_alive()
        try:
            while self.connection.poll():
                messages.append(self.connection.recv())
        except (EOFError, OSError):
            alive = False
        if not alive:
            self.process.join()
            messages.append(("died", self._death()))
        return messages

    def _death(self) -> str:
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = " (the system does so when memory runs out)" if code == -signal.SIGKILL else ""
        trace = os.read(self.trace.fileno(), 1 << 16).decode(errors="replace") if self.trace.poll() else ""
        return f"The worker process on {self.slot.name} {how}{hint}.\n{trace}".rstrip()


def _main(connection: Connection, last_words: Connection, slot: Slot, folder: str) -> None:
    """The worker: groups come in, news goes out. It stops with a checkpoint when told, and when whoever would hear its news is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the sweep decides
    stopped, inbox = threading.Event(), queue.Queue()  # type: ignore[var-annotated]
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    os.chdir(folder)
    if slot.cores:
        os.sched_setaffinity(0, slot.cores)
    if slot.device.startswith("cuda:"):
        torch.cuda.set_device(slot.device)
    threading.Thread(target=_listen, args=(connection, inbox, stopped), daemon=True).start()
    faulthandler.enable(last_words.fileno())
    while not stopped.is_set() and (message := inbox.get()) is not None:
        _make(connection, message, stopped)


def _listen(connection: Connection, inbox: queue.Queue, stopped: threading.Event) -> None:
    try:
        while True:
            if (message := connection.recv()) == "stop":
                stopped.set()
            else:
                inbox.put(message)
    except (EOFError, OSError):
        stopped.set()
        inbox.put(None)


def _make(connection: Connection, message: bytes, stopped: threading.Event) -> None:
    def tell(*news: Any) -> None:
        with suppress(
            OSError
        ):  # nobody listens any more: then `stopped` is about to be set, and the runs are to be kept
            connection.send(news)

    said, latest = time.monotonic(), {}  # type: ignore[var-annotated]
    try:
        for news in train_group(pickle.loads(message), stopped.is_set):
            if news.elsewhere:
                tell("elsewhere", news.plan.run, news.elsewhere)
            elif news.row:
                tell("ended", news.plan.run, news.row)
            else:
                steps = [row for row in news.rows if isinstance(row, StepRow)]
                latest[news.plan.run] = (
                    (steps[-1].step, steps[-1].loss)
                    if steps
                    else latest.get(news.plan.run, (0, float("nan")))
                )
            if latest and time.monotonic() - said > SAY_EVERY:
                tell("at", latest)
                said, latest = time.monotonic(), {}
        tell("idle")
    except UserError as error:
        tell("mistake", str(error))
    except Exception:
        tell("failed", traceback.format_exc())
