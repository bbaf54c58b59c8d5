"""What the commands say and how they end: exit codes, messages on stderr, counts and durations in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from clipbench.escape import visible

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

WIDTH_OF_FILES = 140  # of a table that goes to a file or a pipe


class VisibleStream:
    """A stream of text that obeys nothing: control characters, of names in files, are written as Python
    writes them. `stream` is the one behind it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def visible_streams() -> Iterator[None]:
    """All that is printed inside passes a VisibleStream, on stdout and on stderr. Rich, which writes control
    characters of its own, writes to `behind` them what `console` has made visible.
    """
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = VisibleStream(out), VisibleStream(err)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def behind(stream: TextIO) -> TextIO:
    """The stream itself, of a VisibleStream."""
    return stream.stream if isinstance(stream, VisibleStream) else stream


def say(message: str, code: int) -> int:
    """Print `message` to stderr under the program's name; the exit code comes back."""
    print(f"clipbench: {message}", file=sys.stderr)
    return code


def say_loading() -> None:
    """Seconds of imports are coming: say so on a terminal, on a line that the next one overwrites."""
    if sys.stderr.isatty():
        print("loading torch …", end="\r", file=behind(sys.stderr), flush=True)


def say_interrupt(message: str) -> Callable[[], None]:
    """What `first_interrupt` calls at the first Ctrl-C: it says `message`, and what another one does."""

    def say_it() -> None:
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
