"""A few lines on a terminal that are written anew while something is made: never cut, whatever the width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from clipbench.escape import visible

GAP = "  "


class Area:
    """The lines at the bottom of a terminal; what is printed meanwhile stands above them."""

    def __init__(self, live: Live) -> None:
        self.live, self.console = live, live.console
        self.lengths: list[int] = []

    @property
    def width(self) -> int:
        """Of a line: with none left over, some terminals would already begin the next."""
        return max(20, self.console.width - 1)

    def show(self, lines: Sequence[Text]) -> None:
        """Instead of the lines before."""
        self._take_up_broken_lines()
        lines = [_visible(line) for line in lines]
        self.live.update(Text("\n").join(lines), refresh=True)
        self.lengths = [line.cell_len for line in lines]

    def _take_up_broken_lines(self) -> None:
        """A terminal that has become narrower has broken the lines, and Live does not know that they take
        more room now.
        """
        broken = 0
        for length in self.lengths:
            broken += max(1, math.ceil(length / self.console.width)) - 1
        if broken:
            one: list[tuple[ControlType, int]] = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
            self.console.control(Control(ControlType.CARRIAGE_RETURN, *one * broken))


def _visible(line: Text) -> Text:
    """`line`, but plain where it holds what a terminal would obey."""
    shown = visible(line.plain)
    return line if shown == line.plain else Text(shown)


def can_be_written_anew(console: Console) -> bool:
    """Whether it is a terminal that can go back to a line; TERM=dumb cannot."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def area(console: Console) -> Iterator[Area]:
    """On a terminal; it is empty again at the end."""
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        found = Area(live)
        try:
            yield found
        finally:
            found.show([])


def in_lines(words: Sequence[str], width: int, between: str = GAP) -> list[str]:
    """The words side by side, broken between two of them where a line is full."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}{between}{word}" if lines[-1] else word
        if len(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def bar(part: float, width: int, console: Console) -> Text:
    """`part`, 0 to 1, of a line that is `width` long."""
    full, empty = ("━", "━") if console.encoding.startswith("utf") else ("#", "-")
    done = round(min(1.0, max(0.0, part)) * width)
    return Text.assemble((full * done, "green"), (empty * (width - done), "bright_black"))
