"""The Reber grammar, plain and embedded: its strings, and strings that miss it by one symbol.

Reber 1967, doi 10.1016/S0022-5371(67)80149-X; embedded: Hochreiter and Schmidhuber 1997,
doi 10.1162/neco.1997.9.8.1735.
"""

from __future__ import annotations

from functools import cache

from clipbench.tasks.draws import Draws

SYMBOLS = "BTPSXVE"
END = 7
ARROWS = {  # state: (symbol, the state that it leads to)
    0: (("B", 1),),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", END),),
    END: (),
}
SHORTEST, LONGEST = 5, 30
"""Symbols of a string; an embedded one has four more."""

Pair = tuple[str, str]
"""A string of the grammar, and one that is none and differs from it in one symbol."""


def is_reber(text: str, embedded: bool = False) -> bool:
    """Whether `text` is a string of the grammar, of any length."""
    if embedded:
        framed = text[:2] in ("BT", "BP") and text[-2:] == text[1:2] + "E"
        return framed and is_reber(text[2:-2])
    state: int | None = 0
    for symbol in text:
        state = dict(ARROWS[state]).get(symbol) if state is not None else None
    return state == END


@cache
def ways(state: int, length: int) -> int:
    """How many strings of `length` lead from `state` to the end."""
    if length == 0:
        return int(state == END)
    return sum(ways(after, length - 1) for _, after in ARROWS[state])


def string(rank: int, length: int) -> str:
    """The string number `rank` among the `ways(0, length)` of this length."""
    state, symbols = 0, []
    for left in range(length - 1, -1, -1):
        for symbol, after in ARROWS[state]:
            count = ways(after, left)
            if rank < count:
                symbols.append(symbol)
                state = after
                break
            rank -= count
    return "".join(symbols)


def draw(draws: Draws, embedded: bool) -> str:
    """A string: each length from `SHORTEST` to `LONGEST` as often, and each string of a length."""
    length = SHORTEST + draws.below(LONGEST - SHORTEST + 1)
    text = string(draws.below(ways(0, length)), length)
    if not embedded:
        return text
    mark = draws.choice("TP")
    return f"B{mark}{text}{mark}E"


def change_one(draws: Draws, text: str) -> str:
    """Another symbol in one place; places and symbols each as often."""
    place = draws.below(len(text))
    return replaced(text, place, draws.choice(SYMBOLS.replace(text[place], "")))


def change_frame(draws: Draws, text: str) -> str:
    """T for P or P for T, second or last but one: an embedded string that is right wherever one looks, but
    not from end to end.
    """
    place = draws.choice((1, len(text) - 2))
    return replaced(text, place, "P" if text[place] == "T" else "T")


def replaced(text: str, place: int, symbol: str) -> str:
    return text[:place] + symbol + text[place + 1 :]


def pairs(count: int, embedded: bool = False) -> list[Pair]:
    """`count` pairs in any order, of 2 · count different strings. The lengths of both halves are the same, so
    that they tell nothing.

    Of embedded ones every other is broken by `change_frame`, all others by `change_one`.
    """
    draws = Draws(20240720)
    taken: set[str] = set()
    found: list[Pair] = []
    while len(found) < count:
        valid = draw(draws, embedded)
        framed = embedded and len(found) % 2 == 0
        broken = (change_frame if framed else change_one)(draws, valid)
        if valid in taken or broken in taken or is_reber(broken, embedded):
            continue
        taken.update((valid, broken))
        found.append((valid, broken))
    draws.shuffle(found)  # the short strings are used up first
    return found
