"""Worker processes, one for each slot of a device. Each makes one group of runs at a time; what kills it
costs that group only.
"""

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
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from clipbench.errors import RAISED, UserError
from clipbench.interrupt import stop_signals
from clipbench.output import lasting_output
from clipbench.processes import main_left_out, start_context, unblock_ends
from clipbench.runs.events import Rows
from clipbench.runs.lockstep import train_group
from clipbench.runs.plan import Plan
from clipbench.sweeps.messages import GroupFailed, GroupLeft, Message, MistakeFound, WorkerDied
from clipbench.sweeps.slots import Slot

REPORT_EVERY = 0.5  # seconds between reports of rows
START_TRIES, BETWEEN_TRIES = 3, 0.5  # seconds in which a fork server that is being killed is gone
STOP = "stop"  # what the sweep sends besides groups


class Worker:
    """A process on a slot, seen from the sweep. `modules`: what its groups need, imported once for all."""

    def __init__(self, slot: Slot, modules: Sequence[str]) -> None:
        self.slot = slot
        self.connection, theirs = Pipe()
        # what a crash leaves: the Python lines it happened in
        self.crash_report, their_report = Pipe(duplex=False)
        self.process = _start(slot, modules, (theirs, their_report, slot, os.getcwd()))
        theirs.close()
        their_report.close()

    def assign(self, group: Sequence[Plan]) -> None:
        """Hand it a group; it must have none."""
        theirs = []
        for plan in group:
            settings = replace(plan.settings, device=self.slot.device)
            theirs.append(replace(plan, settings=settings))
        with suppress(OSError):  # it died; `messages` will say so
            self.connection.send(pickle.dumps(theirs))

    def stop(self) -> None:
        """Finish the step, write checkpoints, and wait for more work or the end."""
        with suppress(OSError):
            self.connection.send(STOP)

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Without a group it ends by itself when nobody listens."""
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.crash_report.close()

    def messages(self) -> list[Message]:
        """What it has reported since the last call; WorkerDied is the last one."""
        found: list[Message] = []
        alive = self.process.is_alive()
        try:
            while self.connection.poll():
                found += self.connection.recv()
        except (EOFError, OSError):
            alive = False
        if not alive:
            self.process.join()
            found.append(self._death())
        return found

    def _death(self) -> WorkerDied:
        code = self.process.exitcode or 0
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (the system does so when memory runs out)"
        lines = ""
        if self.crash_report.poll():
            lines = os.read(self.crash_report.fileno(), 1 << 16).decode(errors="replace")
        report = f"The worker process on {self.slot.name} {how}.\n{lines}"
        return WorkerDied(report.rstrip())


def _start(slot: Slot, modules: Sequence[str], arguments: tuple[Any, ...]) -> BaseProcess:
    """The started process. Where the fork server is killed at this moment, the next try starts another."""
    for tries_left in reversed(range(START_TRIES)):
        try:
            context: Any = start_context(["clipbench.sweeps.workers", *modules])
            process = context.Process(target=_main, args=arguments, name=f"clipbench {slot.name}")
            with main_left_out():
                process.start()
            break
        except (EOFError, OSError):
            if not tries_left:
                raise
            time.sleep(BETWEEN_TRIES)
    return process


def _main(connection: Connection, crash_report: Connection, slot: Slot, folder: str) -> None:
    """The worker: groups come in, messages go out.

    It stops with a checkpoint when it is asked to, and when whoever would read its messages is gone.
    """
    stop = threading.Event()
    inbox: queue.Queue[bytes | None] = queue.Queue()
    for number in stop_signals():
        signal.signal(number, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the sweep decides
    unblock_ends()
    os.chdir(folder)
    if slot.cores:
        os.sched_setaffinity(0, slot.cores)
    if slot.device.startswith("cuda:"):
        torch.cuda.set_device(slot.device)
    threading.Thread(target=_receive, args=(connection, inbox, stop), daemon=True).start()
    faulthandler.enable(crash_report.fileno())
    with lasting_output():
        while not stop.is_set():
            group = inbox.get()
            if group is None:
                return
            _train_and_report(connection, group, stop)


def _receive(connection: Connection, inbox: queue.Queue[bytes | None], stop: threading.Event) -> None:
    try:
        while True:
            message = connection.recv()
            if message == STOP:
                stop.set()
            else:
                inbox.put(message)
    except (EOFError, OSError):
        stop.set()
        inbox.put(None)


def _train_and_report(connection: Connection, group: bytes, stop: threading.Event) -> None:
    """Train the pickled plans side by side, and send what happens; rows thinned, all together now and then,
    but before what comes after them.
    """

    def send(*messages: Message) -> None:
        # nobody listens any more: then `stop` is about to be set, and the runs are to be kept
        with suppress(OSError):
            connection.send(messages)

    reported = time.monotonic()
    unsent: dict[str, Rows] = {}
    try:
        for event in train_group(pickle.loads(group), stop.is_set):
            after = [event]
            if isinstance(event, Rows):
                unsent[event.run], after = event.thinned(unsent.get(event.run)), []
            if after or time.monotonic() - reported > REPORT_EVERY:
                send(*unsent.values(), *after)
                unsent, reported = {}, time.monotonic()
        send(*unsent.values(), GroupLeft())
    except UserError as error:
        send(MistakeFound(str(error)))
    except RAISED:  # a run that calls sys.exit must not end the worker as if all were well
        send(GroupFailed(traceback.format_exc()))
