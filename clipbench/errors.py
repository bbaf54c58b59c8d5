"""A mistake that the user can mend, or a source out of reach: one clear message, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was given, what is allowed, what to do. The command line prints it alone and exits with 2."""


class Unreadable(UserWarning):
    """A file in a results folder that is not ours or is damaged. It is left alone, and the rest is read."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'auto'?" or "", for the end of a sentence that refuses `word`."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
