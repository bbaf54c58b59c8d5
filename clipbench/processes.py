"""How worker processes are started: each from a clean process, deaf to the terminal's Ctrl-C, and only by a
main program that may be imported again.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Sequence
from multiprocessing.context import BaseContext

from clipbench.errors import UserError

OUR_NAMES = "clipbench "  # the names of our worker processes begin so
UNGUARDED = 77  # exit code of a worker in which the main program began its work anew
ADVICE = (
    "Every worker process imports the main program again, and this one starts its work wherever it is "
    'imported. Put what it does under `if __name__ == "__main__":`.'
)


def start_context(modules: Sequence[str]) -> BaseContext:
    """The multiprocessing context that starts our processes: where the system has it, a fork server that
    imports `modules` once. UserError as in `check_main_guard`.

    A terminal sends Ctrl-C to every process, and the fork server ignores it only after its imports; so it
    begins with it blocked.
    """
    check_main_guard()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.forkserver.set_forkserver_preload([*modules])
    # where the fork server had to start the tracker, that would unblock Ctrl-C again
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return multiprocessing.get_context("forkserver")


def check_main_guard() -> None:
    """To be called before work that starts processes: nothing in the main program itself, but not in a
    process that is only being started and imports a script which lacks a main guard.

    One of our own workers ends there with UNGUARDED, which whoever started it reports once; in any other
    process it is a UserError.
    """
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):
        return
    if process.name.startswith(OUR_NAMES):
        os._exit(UNGUARDED)
    raise UserError(ADVICE)
