"""Asked to stop: finish the step and keep everything. Ctrl-C again: stop now. Processes that were started for
the work do not hear Ctrl-C.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""The terminal, or the connection to it, is gone; None where the system has no such signal."""


def stop_signals() -> list[int]:
    """Those that ask for an end: Ctrl-C; SIGTERM, which clusters send before they kill; and SIGHUP, unless
    whoever started us wants it ignored, as nohup does.
    """
    asking: list[int] = [signal.SIGINT, signal.SIGTERM]
    if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        asking.append(HANGUP)
    return asking


@contextmanager
def first_interrupt(say: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """A function that says whether one of `stop_signals` has come.

    `say()` is called at the first one, to tell the user what happens now. Another Ctrl-C, or a second
    SIGTERM, raises KeyboardInterrupt. A terminal that closes says so more than once and sends other signals
    too: none of those is a second one.
    """
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        insists = number == signal.SIGINT or (number == signal.SIGTERM and number in received)
        if received and insists:
            raise KeyboardInterrupt
        received.append(number)
        if len(received) == 1:
            say()

    before = {}
    try:
        for number in stop_signals():
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C here
        pass
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def never() -> bool:
    """Nobody interrupts."""
    return False
