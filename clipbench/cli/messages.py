"""What the commands say and how they end: exit codes, messages on stderr, counts and durations in words."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from clipbench.escape import visible
from clipbench.output import behind, only_shown

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

WIDTH_OF_FILES = 140  # of a table that goes to a file or a pipe


def say(message: str, code: int) -> int:
    """Print `message` to stderr under the program's name; the exit code comes back."""
    print(f"clipbench: {message}", file=sys.stderr)
    return code


def show_remarks(remarks: Sequence[str]) -> None:
    """On stderr, a line each: what is made is not quite what one may think."""
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)


def say_loading() -> None:
    """Seconds of imports are coming: say so on a terminal, on a line that the next one overwrites."""
    if sys.stderr.isatty():
        print("loading torch …", end="\r", file=behind(sys.stderr), flush=True)


def say_interrupt(message: str) -> Callable[[], None]:
    """What `first_interrupt` calls at the first Ctrl-C: it says `message`, and what another one does."""

    def say_it() -> None:
        with only_shown("The answer to a signal"):  # which may come while something else is being printed
            print(f"\n{message} Ctrl-C again stops now.", file=sys.stderr, flush=True)

    return say_it


def console(stderr: bool = False) -> Console:
    """For tables: as wide as the terminal, on stdout 140 columns elsewhere. Text is printed as it is, but for
    control characters, which are made visible.
    """
    from rich.console import Console
    from rich.text import Text

    class VisibleConsole(Console):
        def render_str(self, text: str, **more: Any) -> Text:  # type: ignore[override]
            return super().render_str(visible(text), **more)

    file = behind(sys.stderr if stderr else sys.stdout)
    width = None if stderr or file.isatty() else WIDTH_OF_FILES
    return VisibleConsole(file=file, width=width, highlight=False, markup=False, emoji=False)


def runs(count: int) -> str:
    """ "1 run", "2 runs"."""
    return f"{count} run" if count == 1 else f"{count} runs"


def duration(seconds: float) -> str:
    """ "40 s", "3 min", "2.5 h", "3.1 days"."""
    for unit, size, digits in (("days", 86400.0, 1), ("h", 3600.0, 1), ("min", 60.0, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes in words: "3 kB", "130 MB", "374 GB"."""
    for unit, of in (("GB", 1e9), ("MB", 1e6)):
        if count >= 0.9995 * of:
            return f"{count / of:.3g} {unit}"
    return f"{math.ceil(count / 1e3)} kB"
