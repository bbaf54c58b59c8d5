"""A mistake that the user can mend, or a source out of reach: one clear message, never a traceback."""

from __future__ import annotations

import builtins
import difflib
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

EXIT = builtins.SystemExit  # in a user's module an error like any other; how we end, the command line knows
RAISED = (Exception, EXIT)
"""What a user's code may raise."""

PACKAGE = f"{Path(__file__).parent}{os.sep}"


class UserError(Exception):
    """What was given, what is allowed, what to do. The command line prints it alone and exits with 2."""


class Unreadable(UserWarning):
    """A file in a results folder that is not ours or is damaged. It is left alone, and the rest is read."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'auto'?" or "", for the end of a sentence that refuses `word`."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


@contextmanager
def users_code(what: str, *passed: type[Exception]) -> Iterator[None]:
    """`with users_code("task=mine"):` whatever a user's own module raises inside becomes a UserError with the
    part of the traceback that is theirs, `sys.exit` included. A UserError stays as it is, and so does an
    error of the types `passed`.
    """
    try:
        yield
    except RAISED as error:
        if isinstance(error, (UserError, *passed)):
            raise
        raise UserError(own_error(what, error)) from error


def own_error(what: str, error: BaseException) -> str:
    """Which error ended `what`, and its traceback from the first line on that is neither clipbench's nor an
    installed library's.
    """
    whole = error.__traceback__
    trace = _first(_is_users, whole) or _first(_is_not_ours, whole)
    if isinstance(error, SyntaxError) and not _first(_is_users, whole):
        trace = None  # it says itself in which line
    lines = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    name = "sys.exit" if isinstance(error, EXIT) else type(error).__name__
    return f"{what} ended with {name}. Its own lines:\n{lines}"


def _first(wanted: Callable[[str], bool], trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on whose file is wanted."""
    while trace and not wanted(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_users(file: str) -> bool:
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return _is_not_ours(file) and not file.startswith(("<", *libraries))


def _is_not_ours(file: str) -> bool:
    return not file.startswith((PACKAGE, "<frozen importlib"))
