"""What is shown cannot fail what is made: a terminal that closes, a pipe whose reader has left, a full disk
under a log, letters that a terminal lacks, an error of a display. Nor does a terminal obey what is in names.
"""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

from clipbench.errors import UserError
from clipbench.escape import visible

STREAMS = ("stdout", "stderr")
REFUSALS = (OSError, ValueError, RuntimeError)  # ValueError: closed; RuntimeError: written to by a signal's
# handler while it is being written to
PLAIN = {
    "·": "-",
    "…": "...",
    "×": "x",
    "±": "+-",
    "∞": "inf",
    "→": "->",
    "–": "-",
    "—": "-",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "√": "sqrt",
    "✓": "ok",
}
"""Signs of ours in letters that every encoding has."""

PLAINLY = "clipbench.plainly"  # what an encoding lacks, as PLAIN has it or as an escape


class LastingStream:
    """A text stream whose writing never raises: what `stream` refuses is lost, and the first refusal is kept
    in `refused`.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.refused: BaseException | None = None

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except REFUSALS as error:
            self.refused = self.refused or error
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except REFUSALS as error:
            self.refused = self.refused or error

    def isatty(self) -> bool:
        try:
            return bool(self.stream.isatty())
        except REFUSALS:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def lost_something(self) -> bool:
        """Whether something was refused, and not because its reader had read enough."""
        return self.refused is not None and not _reader_has_left(self.refused)

    def let_go(self) -> None:
        """Nothing is left that the interpreter would fail to write at its end."""
        self.flush()
        if self.refused is not None:
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)


def _reader_has_left(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


class VisibleStream:
    """A text stream that obeys nothing: control characters, of names in files, are written as Python writes
    them. `stream`, behind it, takes all as it is.
    """

    def __init__(self, stream: LastingStream) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def behind(stream: Any) -> Any:
    """For those that write control characters of their own: the stream behind a VisibleStream."""
    return stream.stream if isinstance(stream, VisibleStream) else stream


@contextmanager
def lasting_output() -> Iterator[None]:
    """Within, nothing that is printed can raise, by whomever, and no control character is obeyed. sys.stdout
    and sys.stderr are put back afterwards.
    """
    _hold_the_first_descriptors()
    codecs.register_error(PLAINLY, _plainly)
    before = {name: getattr(sys, name) for name in STREAMS}
    for name, stream in before.items():
        lasting = LastingStream(stream or io.StringIO())
        with suppress(*REFUSALS, AttributeError):  # not a file
            lasting.stream.reconfigure(errors=PLAINLY)
        setattr(sys, name, VisibleStream(lasting))
    try:
        yield
    finally:
        for name, stream in before.items():
            now = getattr(sys, name)
            if isinstance(now, VisibleStream):
                now.let_go()
            setattr(sys, name, stream)


def _hold_the_first_descriptors() -> None:
    """Where one was closed (`>&-`), the next file to be opened would take its number, and get what is printed
    from C.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for letter in error.object[error.start : error.end]:
        escaped = letter.encode("ascii", "backslashreplace").decode("ascii")
        found.append(PLAIN.get(letter, escaped))
    return "".join(found), error.end


DISPLAY = "The display has failed and shows no more; the work goes on"


@contextmanager
def only_shown(what: str) -> Iterator[None]:
    """Within, something is shown of what is made and kept: its exception is told in one line, no more."""
    try:
        yield
    except Exception as error:
        _tell(what, error)


def _tell(what: str, error: Exception) -> None:
    # logging's handlers never raise
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    logging.getLogger("clipbench").warning("clipbench: %s. %s", what, " ".join(reason.split()))


def listening(listener: Callable[..., Any] | None) -> Callable[..., None]:
    """`listener`, for those who make something and tell it how far they are: after its first exception it is
    told no more.
    """
    lost = listener is None

    def tell(*news: Any) -> None:
        nonlocal lost
        if lost or listener is None:
            return
        try:
            listener(*news)
        except Exception as error:
            lost = True
            _tell(DISPLAY, error)

    return tell


@contextmanager
def shown_by(display: AbstractContextManager[Callable[..., Any]]) -> Iterator[Callable[..., Any] | None]:
    """`display`, whose beginning and end cannot raise; None where it cannot begin."""
    with ExitStack() as stack:
        show = None
        with only_shown(DISPLAY):
            show = display.__enter__()
            stack.push(_closing(display))
        yield show


def _closing(display: AbstractContextManager[Any]) -> Callable[..., None]:
    def close(*raised: Any) -> None:
        with only_shown(DISPLAY):
            display.__exit__(*raised)

    return close
