"""Ctrl-C once: finish the step and keep everything. Twice: stop now. Processes that were started for the work do not hear it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def first_interrupt(message: str) -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, or SIGTERM sent as clusters do before they kill. The second raises."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        print(f"\n{message} Ctrl-C again stops now.", file=sys.stderr, flush=True)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C here
        pass
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def starter(modules: Sequence[str]) -> Any:
    """The multiprocessing context that starts our processes: where the system has it, a fork server that imports `modules` once.

    A terminal sends Ctrl-C to every process, and the fork server ignores it only after its imports; so it begins with it blocked.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.forkserver.set_forkserver_preload([*modules])
    multiprocessing.resource_tracker.ensure_running()  # where the fork server had to start it, that would unblock again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return multiprocessing.get_context("forkserver")
