"""Ctrl-C once: finish the step and keep everything. Twice: stop now."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
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
