"""How worker processes are started: each from a clean process, deaf to what a terminal or a cluster sends to
all processes at once, without the main program.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext

from clipbench.errors import UserError

ADVICE = (
    "This process is being started and imports the main program again, which starts its work wherever it is "
    'imported. Put what it does under `if __name__ == "__main__":`.'
)


def start_context(modules: Sequence[str]) -> BaseContext:
    """The multiprocessing context that starts our processes: where the system has it, a fork server that
    imports `modules` once. UserError as in `check_main_guard`.

    A terminal sends Ctrl-C, and SIGHUP as it closes, to every process; a cluster sends SIGTERM so. The fork
    server ignores the first only after its imports, and would die of the others with what it knows of our
    processes; so it begins with all of them blocked, as does what it starts: `unblock_ends`.
    """
    check_main_guard()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.forkserver.set_forkserver_preload([*modules])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        # where the fork server had to start the tracker, that would unblock these two again
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return multiprocessing.get_context("forkserver")


def unblock_ends() -> None:
    """In a process that the fork server started, once it has its handlers for SIGHUP and SIGTERM, if any."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGTERM})


@contextmanager
def main_left_out() -> Iterator[None]:
    """A process that is started within does not import the main program again: ours need nothing of it.

    So a script needs no main guard, and may come from a pipe. multiprocessing looks at these two attributes
    alone (`multiprocessing.spawn.get_preparation_data`).
    """
    main = sys.modules["__main__"]
    before = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    if "__file__" in before:
        del main.__file__
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(main, name, value)


def check_main_guard() -> None:
    """UserError in a process that is only being started, by somebody else's pool, and imports a script which
    lacks a main guard. To be called before work that starts processes.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(ADVICE)
