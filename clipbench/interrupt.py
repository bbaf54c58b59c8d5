"""Ctrl-C once: finish the step and keep everything. Twice: stop now. Processes that were started for the work
do not hear it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def first_interrupt(say: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, or SIGTERM sent as clusters do before they kill.

    `say()` is called at the first one, to tell the user what happens now; the second raises
    KeyboardInterrupt.
    """
    pressed = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        say()

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C here
        pass
    try:
        yield lambda: pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def never() -> bool:
    """Nobody interrupts."""
    return False
