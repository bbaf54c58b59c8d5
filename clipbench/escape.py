"""Text from a file, on its way out: what a terminal would obey is made visible.

Each output has one place where all of its text passes: the terminal in cli/messages.py, figures in
plot/style.py, those of tails in plot/tails.py, tables for a paper in report/markup.py and report/table.py,
the page in report/fill.py, TAB in cli/completion.py. Names are kept as they are everywhere before.
"""

from __future__ import annotations

import re

OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line feed and tab, what turns the direction of writing, and halves of characters."""


def visible(text: str) -> str:
    r"""With each character that is not shown but obeyed as Python writes it, as \x1b."""
    return OBEYED.sub(_as_python_writes_it, text)


def on_one_line(text: str) -> str:
    """`visible`, and lines and tabs as blanks."""
    return visible(" ".join(text.splitlines()).replace("\t", " "))


def _as_python_writes_it(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
